"""The Pareto archive against the reference implementation of GEPA and against brute force."""

import random
import time
from collections import Counter
from fractions import Fraction

import pytest
from gepa.gepa_utils import remove_dominated_programs, select_program_candidate_from_pareto_front
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.archive import Archive, Candidate, lineage

LAW = settings(deadline=None, derandomize=True, max_examples=80)

KINDS = {
    "binary": lambda rng: float(rng.random() < 0.5),
    "ties": lambda rng: rng.randrange(5) / 4,
    "distinct": lambda rng: rng.random(),
    "mostly one": lambda rng: float(rng.random() < 0.9),
    "all the same": lambda rng: 0.5,
}

Matrix = list[list[float]]


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    """Scores of 1 to 12 candidates on 1 to 8 seeds."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    kind = KINDS[draw(st.sampled_from(list(KINDS)))]
    seeds = draw(st.integers(1, 8))
    return [[kind(rng) for _ in range(seeds)] for _ in range(draw(st.integers(1, 12)))]


def candidate(n: int, *parents: str) -> Candidate:
    return Candidate(f"c{n}", n, None, None, parents)


def seeds_of(matrix: Matrix) -> list[int]:
    return [100 + at for at in range(len(matrix[0]))]


def archive_of(matrix: Matrix, order: list[int] | None = None, eps: float = 0.0, pressure: float = 1.0) -> Archive:
    archive = Archive(seeds_of(matrix), eps, pressure)
    for n in order or range(len(matrix)):
        archive.add(candidate(n), dict(zip(archive.seeds, matrix[n], strict=True)))
    return archive


def holders_by_force(matrix: Matrix, eps: float = 0.0) -> dict[int, set[int]]:
    """Per seed who reaches the best score: the fronts that the reference keeps."""
    columns = zip(*matrix, strict=True)
    return {
        seed: {n for n, score in enumerate(column) if score >= max(column) - eps}
        for seed, column in zip(seeds_of(matrix), columns, strict=True)
    }


def means(matrix: Matrix) -> list[float]:
    return [sum(row) / len(row) for row in matrix]


def numbers(archive: Archive, ids: object) -> list[int]:
    return [archive.members[c].n for c in ids]  # type: ignore[attr-defined]


# --- the reference ---------------------------------------------------------------------------------------------------


@LAW
@given(matrices())
def test_front_survivors_and_selection_mass_equal_the_reference(matrix: Matrix) -> None:
    """Ties between means are broken by age on both sides: the reference leaves them to the order of a set."""
    archive = archive_of(matrix)
    fronts = holders_by_force(matrix)
    assert {seed: set(numbers(archive, held)) for seed, held in archive.holders().items()} == fronts
    scores = {n: (mean, -n) for n, mean in enumerate(means(matrix))}
    kept = remove_dominated_programs({seed: set(held) for seed, held in fronts.items()}, scores=scores)
    mass = Counter(n for held in kept.values() for n in held)
    assert numbers(archive, archive.front) == sorted(mass)
    most = max(mass.values())
    ours = {archive.members[c].n: weight for c, weight in archive.weights().items()}
    best = archive.members[archive.best()].n
    for n in sorted(mass):
        if n != best:
            assert ours[n] == pytest.approx(mass[n] / most)
    assert ours[best] >= mass[best] / most


def test_parents_are_drawn_as_often_as_the_reference_draws_them() -> None:
    matrix = [[0.9, 0.9, 0.9, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 1.0, 0.2, 0.2], [0.3, 0.2, 0.1, 0.1, 0.9, 0.9]]
    archive, rng, theirs = archive_of(matrix), random.Random(0), random.Random(0)
    fronts = holders_by_force(matrix)
    draws = 6_000
    ours = Counter(archive.draw_parent(rng).n for _ in range(draws))
    reference = Counter(
        select_program_candidate_from_pareto_front(fronts, means(matrix), theirs)  # type: ignore[arg-type]
        for _ in range(draws)
    )
    for n, exact in enumerate((Fraction(3, 6), Fraction(1, 6), Fraction(2, 6))):
        assert ours[n] / draws == pytest.approx(float(exact), abs=0.02)
        assert reference[n] / draws == pytest.approx(float(exact), abs=0.02)


# --- laws ------------------------------------------------------------------------------------------------------------


@LAW
@given(matrices(), st.randoms(use_true_random=False), st.sampled_from([0.0, 1e-6, 0.1, 0.3, 1.0]))
def test_additions_in_any_order_end_in_what_brute_force_finds(matrix: Matrix, rng: random.Random, eps: float) -> None:
    order = list(range(len(matrix)))
    rng.shuffle(order)
    archive = archive_of(matrix, order, eps)
    held = {seed: set(numbers(archive, held)) for seed, held in archive.holders().items()}
    assert held == holders_by_force(matrix, eps)
    assert archive.front == archive_of(matrix, None, eps).front
    assert archive.ranked() == [f"c{n}" for n in sorted(order, key=lambda n: (-means(matrix)[n], n))]
    assert archive.best() == archive.ranked()[0]
    assert [archive.mean(f"c{n}") for n in range(len(matrix))] == means(matrix)


@LAW
@given(matrices(), st.sampled_from([0.0, 0.1]))
def test_every_seed_keeps_a_survivor_and_no_survivor_is_redundant(matrix: Matrix, eps: float) -> None:
    archive = archive_of(matrix, eps=eps)
    fronts = {seed: set(held) & set(archive.front) for seed, held in archive.holders().items()}
    assert all(fronts.values())
    for survivor in archive.front:
        assert any(held == {survivor} for held in fronts.values())


@LAW
@given(matrices(), st.sampled_from([0.0, 0.5, 1.0, 3.0, 100.0]))
def test_the_best_mean_has_at_least_the_mean_mass(matrix: Matrix, pressure: float) -> None:
    archive = archive_of(matrix, pressure=pressure)
    weights = archive.weights()
    front = [weights[c] for c in archive.front]
    assert weights[archive.best()] > 0
    assert weights[archive.best()] >= sum(front) / len(front) * (1 - 1e-9) or len(front) == 1
    assert set(weights) <= {*archive.front, archive.best()}


@LAW
@given(matrices())
def test_each_addition_says_what_it_did_to_the_front(matrix: Matrix) -> None:
    archive = Archive(seeds_of(matrix))
    for n, row in enumerate(matrix):
        before = set(archive.front)
        change = archive.add(candidate(n), dict(zip(archive.seeds, row, strict=True)))
        assert set(change.added) == set(archive.front) - before
        assert set(change.removed) == before - set(archive.front)


# --- cases -----------------------------------------------------------------------------------------------------------


def test_a_sole_holder_is_never_removed() -> None:
    """The worst by mean, but alone on one seed."""
    archive = archive_of([[0.0, 0.0, 0.0, 0.2], [1.0, 1.0, 1.0, 0.1], [0.9, 1.0, 1.0, 0.1]])
    assert archive.front == ("c0", "c1")


def test_the_best_mean_is_drawn_even_where_it_holds_no_seed() -> None:
    archive = archive_of([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.9, 0.9, 0.9]])
    assert archive.front == ("c0", "c1", "c2")
    assert archive.best() == "c3"
    assert archive.weights() == {"c0": 1.0, "c1": 1.0, "c2": 1.0, "c3": 1.0}


def test_scores_within_eps_tie_and_no_further_ones() -> None:
    matrix = [[0.50], [0.54], [0.56], [0.61]]
    assert archive_of(matrix, eps=0.06).holders() == {100: ("c2", "c3")}
    assert archive_of(matrix, eps=0.0).holders() == {100: ("c3",)}


def test_a_better_score_within_eps_raises_the_mark_for_those_who_follow() -> None:
    archive = archive_of([[0.50], [0.59], [0.45]], eps=0.1)
    assert archive.holders() == {100: ("c0", "c1")}


def test_pressure_sharpens_the_mass_and_none_makes_it_even() -> None:
    matrix = [[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.9, 0.9]]
    assert archive_of(matrix, pressure=0.0).weights() == {"c0": 1.0, "c1": 1.0, "c2": 1.0}
    assert archive_of(matrix, pressure=2.0).weights() == {"c0": 1.0, "c1": 0.25, "c2": 1.0}


def test_the_greatest_pressure_on_the_widest_front_is_still_a_number() -> None:
    seeds = range(5_000)
    archive = Archive(seeds, pressure=100.0)
    archive.add(candidate(0), {seed: float(seed > 0) for seed in seeds})
    archive.add(candidate(1), {seed: float(seed == 0) for seed in seeds})
    assert archive.draw_parent(random.Random(0)).n == 0


def test_missing_scores_are_refused_and_named() -> None:
    archive = Archive([1, 2, 3])
    with pytest.raises(ValueError, match=r"c0 has no score for seeds \[2\]"):
        archive.add(candidate(0), {1: 0.5, 3: 0.5})
    assert "c0" not in archive
    archive.add(candidate(0), {1: 0.5, 2: 0.5, 3: 0.5, 4: 1.0})
    assert archive.scores["c0"] == (0.5, 0.5, 0.5)


def test_a_member_is_not_added_twice() -> None:
    archive = archive_of([[0.5]])
    with pytest.raises(ValueError, match="already"):
        archive.add(candidate(0), {100: 0.9})


def test_bookkeeping_stays_flat_as_the_archive_grows() -> None:
    """200 seeds with scores of 0 and 1, where hundreds hold each seed: 500 additions were minutes when it was not."""
    rng, archive = random.Random(0), Archive(range(200))
    start = time.process_time()
    for n in range(500):
        archive.add(candidate(n), {seed: float(rng.random() < 0.6) for seed in archive.seeds})
        archive.draw_parent(rng)
        archive.best()
    assert (time.process_time() - start) / 500 < 0.005


def test_lineage_lists_every_ancestor_once_nearest_first() -> None:
    family = [candidate(0), candidate(1, "c0"), candidate(2, "c0"), candidate(3, "c1", "c2"), candidate(4, "c3", "c0")]
    known = {c.candidate_id: c for c in family}
    assert lineage(known, "c4") == ["c4", "c3", "c0", "c1", "c2"]
    assert lineage(known, "unknown") == []
