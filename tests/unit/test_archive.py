"""The Pareto archive against the reference implementation of GEPA and against brute force."""

import copy
import random
import time
from collections import Counter
from fractions import Fraction

import pytest
from gepa.core.state import GEPAState, ValsetEvaluation
from gepa.gepa_utils import remove_dominated_programs, select_program_candidate_from_pareto_front
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.archive import Archive, Candidate, FrontChange, lineage
from promptjobs.core.front_keys import FrontType
from promptjobs.core.objectives import Objective

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


Row = dict[int, dict[Objective, float]]
"""A candidate's oriented values by seed and objective."""

FRONTS: list[FrontType] = ["instance", "objective", "hybrid", "cartesian"]
OBJECTIVES = (Objective.SCORE, Objective.COST, Objective.TOKENS)


@st.composite
def rows_of_values(draw: st.DrawFn, is_sparse: bool = False) -> list[Row]:
    """Values of 1 to 10 candidates on 1 to 6 seeds, with many ties; sparse ones are without some of the seeds."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    seeds = range(100, 100 + draw(st.integers(1, 6)))
    rows = []
    for n in range(draw(st.integers(1, 10))):
        known = seeds if n == 0 or not is_sparse else rng.sample(seeds, rng.randint(1, len(seeds)))
        rows.append(
            {seed: {o: rng.randrange(4) / 4 - (o is not Objective.SCORE) for o in OBJECTIVES} for seed in known}
        )
    return rows


def scores_in(row: Row) -> dict[int, float]:
    return {seed: values[Objective.SCORE] for seed, values in row.items()}


def objectives_in(row: Row) -> dict[Objective, dict[int, float]]:
    return {o: {seed: values[o] for seed, values in row.items()} for o in OBJECTIVES}


def mean_of(row: Row, objective: Objective) -> float:
    return sum(row[seed][objective] for seed in sorted(row)) / len(row)


def archive_of_rows(rows: list[Row], front: FrontType, is_sparse: bool = False) -> Archive:
    archive = Archive(sorted(rows[0]), front=front, objectives=OBJECTIVES, is_sparse=is_sparse)
    for n, row in enumerate(rows):
        archive.add(candidate(n), scores_in(row), objectives_in(row))
    return archive


def reference_state(rows: list[Row], front: FrontType) -> GEPAState[None, int]:
    def evaluation(row: Row) -> ValsetEvaluation[None, int]:
        ordered = sorted(row.items())
        return ValsetEvaluation({}, dict(sorted(scores_in(row).items())), {s: dict(values) for s, values in ordered})

    state = GEPAState({"text": "0"}, evaluation(rows[0]), frontier_type=front)
    for n, row in enumerate(rows[1:], 1):
        state.update_state_with_new_program([0], {"text": str(n)}, evaluation(row), None, n)
    return state


def key_of_reference(key: object) -> object:
    """(“val_id”, seed), (“objective”, name) and (“cartesian”, seed, name) without their kind."""
    if not isinstance(key, tuple):
        return key
    return key[1] if len(key) == 2 else key[1:]


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("front", FRONTS)
@LAW
@given(data=st.data())
def test_every_kind_of_front_equals_the_reference(front: FrontType, is_sparse: bool, data: st.DataObject) -> None:
    rows = data.draw(rows_of_values(is_sparse))
    archive, state = archive_of_rows(rows, front, is_sparse), reference_state(rows, front)
    theirs = {key_of_reference(key): set(held) for key, held in state.get_pareto_front_mapping().items()}
    assert {key: set(numbers(archive, held)) for key, held in archive.holders().items()} == theirs
    tracked = dict(enumerate(state.per_program_tracked_scores))
    assert {n: archive.mean(f"c{n}") for n in tracked} == tracked
    others = [] if front == "instance" else [o for o in OBJECTIVES if o is not Objective.SCORE]
    scores = {n: (mean, *(mean_of(rows[n], o) for o in others), -n) for n, mean in tracked.items()}
    kept = remove_dominated_programs(theirs, scores=scores)
    mass = Counter(n for held in kept.values() for n in held)
    assert {archive.members[c].n: keys for c, keys in archive.keys_held().items()} == mass


# --- laws ------------------------------------------------------------------------------------------------------------


@LAW
@given(rows_of_values(is_sparse=True), st.sampled_from(FRONTS), st.randoms(use_true_random=False))
def test_scores_that_come_later_end_in_the_same_front(rows: list[Row], front: FrontType, rng: random.Random) -> None:
    archive = Archive(sorted(rows[0]), front=front, objectives=OBJECTIVES, is_sparse=True)
    left = []
    for n, row in enumerate(rows):
        seeds = rng.sample(sorted(row), len(row))
        first = {seed: row[seed] for seed in seeds[:1]}
        archive.add(candidate(n), scores_in(first), objectives_in(first))
        left += [(n, seed) for seed in seeds[1:]]
    rng.shuffle(left)
    for n, seed in left:
        more = {seed: rows[n][seed]}
        archive.extend(f"c{n}", scores_in(more), objectives_in(more))
    whole = archive_of_rows(rows, front, is_sparse=True)
    assert archive.front == whole.front
    assert archive.ranked() == whole.ranked()
    assert archive.keys_held() == whole.keys_held()
    assert {k: set(held) for k, held in archive.holders().items()} == {k: set(h) for k, h in whole.holders().items()}
    assert [archive.row(f"c{n}") for n in range(len(rows))] == [whole.row(f"c{n}") for n in range(len(rows))]


@LAW
@given(rows_of_values(is_sparse=True), st.sampled_from(FRONTS), st.integers(1, 6), st.sampled_from([0.0, 0.3]))
def test_eviction_takes_only_the_redundant_and_leaves_the_front_as_it_is(
    rows: list[Row], front: FrontType, size: int, eps: float
) -> None:
    def add(archive: Archive, n: int) -> FrontChange:
        base = Candidate(f"c{n}", n, None, None, operator="baseline" if n == 0 else "reflection")
        return archive.add(base, scores_in(rows[n]), objectives_in(rows[n]))

    archive = Archive(sorted(rows[0]), eps, front=front, objectives=OBJECTIVES, is_sparse=True, size=size)
    told: set[str] = set()
    for n in range(len(rows)):
        unbounded = copy.deepcopy(archive)
        unbounded.size = None
        add(unbounded, n)
        change = add(archive, n)
        told = (told | set(change.added)) - set(change.removed)
        assert archive.front == unbounded.front
        assert told == set(archive.front)
        assert archive.keys_held() == unbounded.keys_held()
        assert set(unbounded.members) - set(archive.members) == set(change.evicted)
        assert {c for held in archive.holders().values() for c in held} <= set(archive.members)
        spare = [c for c in unbounded.ranked() if c not in (*unbounded.front, unbounded.best(), "c0")]
        assert list(reversed(change.evicted)) == spare[len(spare) - max(0, min(len(spare), n_over(unbounded, size))) :]
        assert len(archive.members) <= max(size, len({*archive.front, archive.best(), "c0"}))


def n_over(archive: Archive, size: int) -> int:
    return len(archive.members) - size


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


def test_a_cheap_candidate_that_scores_less_survives_where_cost_is_an_objective() -> None:
    def front(kind: FrontType) -> tuple[str, ...]:
        archive = Archive([1, 2], front=kind, objectives=("score", "cost"))
        archive.add(candidate(0), {1: 0.9, 2: 0.9}, {Objective.COST: {1: -5.0, 2: -5.0}})
        archive.add(candidate(1), {1: 0.8, 2: 0.8}, {Objective.COST: {1: -1.0, 2: -1.0}})
        return archive.front

    assert front("instance") == ("c0",)
    assert front("objective") == front("hybrid") == front("cartesian") == ("c0", "c1")


def test_a_specialist_survives_on_seeds_and_not_on_means() -> None:
    def front(kind: FrontType) -> tuple[str, ...]:
        archive = Archive([1, 2], front=kind)
        archive.add(candidate(0), {1: 0.9, 2: 0.9})
        archive.add(candidate(1), {1: 1.0, 2: 0.0})
        return archive.front

    assert front("objective") == ("c0",)
    assert front("instance") == front("hybrid") == front("cartesian") == ("c0", "c1")


def test_what_is_cheap_on_one_seed_only_survives_on_the_cartesian_front_alone() -> None:
    def front(kind: FrontType) -> tuple[str, ...]:
        archive = Archive([1, 2], front=kind, objectives=("score", "cost"))
        archive.add(candidate(0), {1: 0.9, 2: 0.9}, {Objective.COST: {1: -2.0, 2: -2.0}})
        archive.add(candidate(1), {1: 0.8, 2: 0.8}, {Objective.COST: {1: -1.0, 2: -9.0}})
        return archive.front

    assert front("cartesian") == ("c0", "c1")
    assert front("instance") == front("objective") == front("hybrid") == ("c0",)


def test_eps_ties_scores_and_not_costs() -> None:
    archive = Archive([1], eps=0.1, front="hybrid", objectives=("score", "cost"))
    archive.add(candidate(0), {1: 0.50}, {Objective.COST: {1: -0.02}})
    archive.add(candidate(1), {1: 0.45}, {Objective.COST: {1: -0.01}})
    assert archive.holders() == {1: ("c0", "c1"), Objective.SCORE: ("c0", "c1"), Objective.COST: ("c1",)}
    archive = Archive([1], eps=0.1, front="cartesian", objectives=("score", "cost"))
    archive.add(candidate(0), {1: 0.50}, {Objective.COST: {1: -0.02}})
    archive.add(candidate(1), {1: 0.45}, {Objective.COST: {1: -0.01}})
    assert archive.holders() == {(1, Objective.SCORE): ("c0", "c1"), (1, Objective.COST): ("c1",)}


@pytest.mark.parametrize("front", ["hybrid", "cartesian"])
def test_of_two_that_score_the_same_the_cheaper_one_survives_though_a_worse_one_is_the_cheapest(
    front: FrontType,
) -> None:
    archive = Archive([1, 2], front=front, objectives=("score", "cost"))
    for n, (score, cost) in enumerate([(0.2, -1.0), (0.8, -4.0), (0.8, -2.0), (0.8, -3.0)]):
        archive.add(candidate(n), {1: score, 2: score}, {Objective.COST: {1: cost, 2: cost}})
    assert archive.front == ("c0", "c2")


def test_an_unknown_cost_holds_no_key_and_a_front_without_any_draws_the_best() -> None:
    archive = Archive([1], front="objective", objectives=("cost",))
    archive.add(candidate(0), {1: 0.5})
    archive.add(candidate(1), {1: 0.9})
    assert archive.front == ()
    assert archive.weights() == {"c1": 1.0}
    archive.add(candidate(2), {1: 0.1}, {Objective.COST: {1: -1.0}})
    assert archive.front == ("c2",)


def test_an_estimate_ranks_and_the_mean_stays_the_mean() -> None:
    archive = Archive([1, 2], is_sparse=True, front="objective")
    archive.add(candidate(0), {1: 0.8, 2: 0.6})
    archive.add(candidate(1), {1: 1.0})
    assert (archive.best(), archive.front) == ("c1", ("c1",))
    archive.set_estimate("c1", 0.5)
    assert (archive.ranked(), archive.front) == (["c0", "c1"], ("c0",))
    assert (archive.mean("c1"), archive.ranking["c1"]) == (1.0, 0.5)
    archive.extend("c1", {2: 0.9})
    assert (archive.mean("c1"), archive.ranking["c1"], archive.best()) == (0.95, 0.5, "c0")


def test_estimates_decide_who_is_redundant_and_who_is_evicted() -> None:
    """Both hold the only key; whoever is ranked higher survives, and the newcomer is not spared."""
    archive = Archive([1], is_sparse=True, size=2)
    archive.add(candidate(0), {1: 0.5})
    archive.add(Candidate("c1", 1, None, None, operator="reflection"), {1: 0.5})
    assert archive.front == ("c0",)
    archive.set_estimate("c1", 0.6)
    assert archive.front == ("c1",)
    change = archive.add(Candidate("c2", 2, None, None, operator="reflection"), {1: 0.5})
    assert change == FrontChange(("c1",), ("c0",), ("c2",))
    assert list(archive.members) == ["c0", "c1"]
    assert archive.mean("c2") == 0.5


def test_an_estimate_given_with_the_scores_spares_a_newcomer_whose_mean_is_low() -> None:
    def archive_with(estimate: float | None) -> list[str]:
        archive = Archive([1, 2], is_sparse=True, size=2)
        archive.add(candidate(0), {1: 1.0, 2: 1.0})
        archive.add(Candidate("c1", 1, None, None, operator="reflection"), {1: 0.5, 2: 0.5})
        archive.add(Candidate("c2", 2, None, None, operator="reflection"), {1: 0.0}, estimate=estimate)
        return list(archive.members)

    assert archive_with(None) == ["c0", "c1"]
    assert archive_with(0.6) == ["c0", "c2"]


def test_an_estimate_given_with_more_scores_replaces_the_one_before() -> None:
    archive = Archive([1, 2], is_sparse=True)
    archive.add(candidate(0), {1: 0.5}, estimate=0.4)
    archive.extend("c0", {2: 0.9}, estimate=0.6)
    assert (archive.ranking["c0"], archive.mean("c0")) == (0.6, 0.7)


def test_a_sole_winner_is_not_evicted_though_the_archive_is_too_large() -> None:
    archive = Archive([1, 2, 3], size=1)
    for n in range(3):
        change = archive.add(candidate(n), {seed: float(seed == n + 1) for seed in archive.seeds})
        assert change.evicted == ()
    assert len(archive.members) == 3


def test_a_member_takes_no_other_score_for_what_is_known() -> None:
    archive = Archive([1, 2], is_sparse=True)
    with pytest.raises(ValueError, match=r"c0 has no score for seeds \[1, 2\]"):
        archive.add(candidate(0), {})
    archive.add(candidate(0), {1: 0.5})
    with pytest.raises(ValueError, match=r"other scores already for seeds \[1\]"):
        archive.extend("c0", {1: 0.6, 2: 0.7})
    archive.extend("c0", {1: 0.5, 2: 0.7, 9: 1.0})
    assert archive.known_scores("c0") == {1: 0.5, 2: 0.7}
    assert archive.scores["c0"] == archive.row("c0") == (0.5, 0.7)


def test_what_no_archive_can_be_is_refused() -> None:
    with pytest.raises(ValueError, match="a front needs an objective"):
        Archive([1], objectives=())
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        Archive([1], size=0)
    with pytest.raises(ValueError, match="beauty"):
        Archive([1], objectives=("beauty",))


def test_lineage_lists_every_ancestor_once_nearest_first() -> None:
    family = [candidate(0), candidate(1, "c0"), candidate(2, "c0"), candidate(3, "c1", "c2"), candidate(4, "c3", "c0")]
    known = {c.candidate_id: c for c in family}
    assert lineage(known, "c4") == ["c4", "c3", "c0", "c1", "c2"]
    assert lineage(known, "unknown") == []
