"""The ways to draw a parent, against the reference's selectors."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from gepa.core.state import GEPAState, ValsetEvaluation
from gepa.strategies.candidate_selector import (
    CurrentBestCandidateSelector,
    EpsilonGreedyCandidateSelector,
    ParetoCandidateSelector,
    TopKParetoCandidateSelector,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from promptjobs.core.archive import Archive, Candidate
from promptjobs.core.front_keys import FrontType
from promptjobs.core.objectives import Objective
from promptjobs.core.selection import ParentSelection, draw_parent

LAW = settings(deadline=None, derandomize=True, max_examples=80)
DRAWS = 4_000

Matrix = list[list[float]]

SPECIALISTS: Matrix = [[0.9, 0.9, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.5], [0.8, 0.8, 0.8, 0.4]]
"""Each of the first three holds seeds; the last has the best mean and holds none."""


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    """Scores of 1 to 10 candidates on 1 to 6 seeds; their means differ, for the reference has no rule for ties."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    seeds = draw(st.integers(1, 6))
    levels = draw(st.sampled_from([1, 4, 100]))
    matrix = [[rng.randrange(levels + 1) / levels for _ in range(seeds)] for _ in range(draw(st.integers(1, 10)))]
    assume(len({sum(row) for row in matrix}) == len(matrix))
    return matrix


def archive_of(matrix: Matrix, pressure: float = 1.0) -> Archive:
    archive = Archive(range(len(matrix[0])), pressure=pressure)
    for n, row in enumerate(matrix):
        archive.add(Candidate(f"c{n}", n, None, None), dict(enumerate(row)))
    return archive


def state_of(matrix: Matrix) -> GEPAState[None, int]:
    def evaluation(row: list[float]) -> ValsetEvaluation[None, int]:
        return ValsetEvaluation({}, dict(enumerate(row)))

    state = GEPAState({"text": "0"}, evaluation(matrix[0]))
    for n, row in enumerate(matrix[1:], 1):
        state.update_state_with_new_program([0], {"text": str(n)}, evaluation(row), None, n)
    return state


class Watched(random.Random):
    """Keeps what the reference draws from: each candidate as often as it has tickets."""

    tickets: Counter[int]

    def choice(self, seq: Sequence[Any]) -> Any:
        self.tickets = Counter(seq)
        return super().choice(seq)


def drawn(archive: Archive, how: ParentSelection, **options: Any) -> dict[int, float]:
    """Shares of many draws."""
    rng = random.Random(0)
    counts = Counter(draw_parent(archive, rng, how, **options).n for _ in range(DRAWS))
    return {n: count / DRAWS for n, count in counts.items()}


# --- the reference ---------------------------------------------------------------------------------------------------


@LAW
@given(matrices())
def test_pareto_mass_equals_the_reference(matrix: Matrix) -> None:
    archive, rng = archive_of(matrix), Watched(0)
    ParetoCandidateSelector(rng).select_candidate_idx(state_of(matrix))
    assert {archive.members[c].n: keys for c, keys in archive.keys_held().items()} == rng.tickets


@LAW
@given(matrices(), st.integers(1, 6))
def test_top_k_mass_equals_the_reference(matrix: Matrix, k: int) -> None:
    archive, rng = archive_of(matrix), Watched(0)
    chosen = TopKParetoCandidateSelector(k, rng).select_candidate_idx(state_of(matrix))
    ours = {archive.members[c].n: keys for c, keys in archive.keys_held(archive.ranked()[:k]).items()}
    if ours:
        assert ours == rng.tickets
    else:
        assert draw_parent(archive, random.Random(0), "top_k_pareto", top_k=k).n == chosen


@LAW
@given(matrices(), st.integers(0, 2**32))
def test_the_current_best_equals_the_reference(matrix: Matrix, seed: int) -> None:
    best = CurrentBestCandidateSelector().select_candidate_idx(state_of(matrix))
    assert draw_parent(archive_of(matrix), random.Random(seed), "current_best").n == best


@LAW
@given(matrices(), st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 1.0]))
def test_epsilon_greedy_explores_when_the_reference_does(matrix: Matrix, seed: int, epsilon: float) -> None:
    """The same first number decides, and both then draw uniformly, each in its own way."""
    theirs = EpsilonGreedyCandidateSelector(epsilon, random.Random(seed)).select_candidate_idx(state_of(matrix))
    archive = archive_of(matrix)
    ours = draw_parent(archive, random.Random(seed), "epsilon_greedy", epsilon=epsilon).n
    if random.Random(seed).random() >= epsilon:
        assert ours == theirs == archive.members[archive.best()].n


@LAW
@given(matrices(), st.integers(1, 6))
def test_draws_follow_the_mass_and_the_best_has_its_floor(matrix: Matrix, k: int) -> None:
    archive = archive_of(matrix)
    for among in (None, archive.ranked()[:k]):
        keys, weights = archive.keys_held(among), archive.weights(among)
        assert set(weights) == {*keys, archive.best()}
        assert {c: w for c, w in weights.items() if c != archive.best()} == pytest.approx(
            {c: held / max(keys.values()) for c, held in keys.items() if c != archive.best()}
        )
        assert weights[archive.best()] > 0


# --- what each choice changes ----------------------------------------------------------------------------------------


def test_pareto_draws_by_keys_held_and_gives_the_best_its_floor() -> None:
    shares = drawn(archive_of(SPECIALISTS), "pareto")
    mass = {0: 1.0, 1: 0.5, 2: 0.5, 3: 2 / 3}
    assert shares == pytest.approx({n: m / sum(mass.values()) for n, m in mass.items()}, abs=0.03)


def test_the_current_best_is_drawn_though_it_holds_no_key() -> None:
    assert drawn(archive_of(SPECIALISTS), "current_best") == {3: 1.0}


def test_epsilon_greedy_draws_anyone_now_and_then() -> None:
    shares = drawn(archive_of(SPECIALISTS), "epsilon_greedy", epsilon=0.4)
    assert shares == pytest.approx({0: 0.1, 1: 0.1, 2: 0.1, 3: 0.7}, abs=0.03)
    assert drawn(archive_of(SPECIALISTS), "epsilon_greedy", epsilon=0.0) == {3: 1.0}


def test_top_k_leaves_out_the_specialists_of_a_low_mean() -> None:
    archive = archive_of(SPECIALISTS)
    assert set(drawn(archive, "top_k_pareto", top_k=2)) == {0, 3}
    assert drawn(archive, "top_k_pareto", top_k=1) == {3: 1.0}
    assert drawn(archive, "top_k_pareto", top_k=4) == drawn(archive, "pareto")


def test_pressure_sharpens_the_draw() -> None:
    even, sharp = (drawn(archive_of(SPECIALISTS, pressure), "pareto") for pressure in (0.0, 8.0))
    assert even == pytest.approx(dict.fromkeys(range(4), 0.25), abs=0.03)
    assert sharp[0] > 0.7


def test_a_cheap_candidate_is_drawn_where_cost_is_an_objective() -> None:
    def shares(front: FrontType) -> dict[int, float]:
        archive = Archive([1, 2], front=front, objectives=("score", "cost"))
        archive.add(Candidate("c0", 0, None, None), {1: 0.9, 2: 0.9}, {Objective.COST: {1: -5.0, 2: -5.0}})
        archive.add(Candidate("c1", 1, None, None), {1: 0.8, 2: 0.8}, {Objective.COST: {1: -1.0, 2: -1.0}})
        return drawn(archive, "pareto")

    assert shares("instance") == {0: 1.0}
    assert shares("objective") == pytest.approx({0: 1 / 2, 1: 1 / 2}, abs=0.03)
    assert shares("hybrid") == pytest.approx({0: 3 / 4, 1: 1 / 4}, abs=0.03)
    assert shares("cartesian") == pytest.approx({0: 1 / 2, 1: 1 / 2}, abs=0.03)


def test_an_estimate_turns_the_draw_to_another_best() -> None:
    archive = archive_of(SPECIALISTS)
    archive.set_estimate("c1", 0.99)
    assert drawn(archive, "current_best") == {1: 1.0}
    assert drawn(archive, "top_k_pareto", top_k=2) == {1: 1.0}


def test_settings_out_of_range_and_an_empty_archive_are_refused() -> None:
    archive, rng = archive_of(SPECIALISTS), random.Random(0)
    with pytest.raises(ValueError, match=r"epsilon must be in \[0, 1\], got 1.5"):
        draw_parent(archive, rng, "epsilon_greedy", epsilon=1.5)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        draw_parent(archive, rng, "top_k_pareto", top_k=0)
    with pytest.raises(ValueError, match="empty archive"):
        draw_parent(Archive([1]), rng, "pareto")
