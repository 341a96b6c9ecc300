"""Tests of differences against SciPy, against their own intervals, and against simulations."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from promptjobs.core.comparison import (
    ALPHA,
    MAX_NEEDED,
    NOTHING,
    POWER,
    Method,
    compare,
    exact_p,
    holm,
    t_power,
)
from promptjobs.core.run_comparison import RunComparison, compare_runs
from promptjobs.core.verdict import Estimate, paired_difference

LAW = settings(deadline=None, derandomize=True, max_examples=60)

GRADED = st.lists(st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 1.0]), min_size=3, max_size=30)

Rng = np.random.Generator


def by_seed(scores: Sequence[float]) -> dict[int, float]:
    return dict(enumerate(map(float, scores)))


def counts(wins: int, losses: int, ties: int) -> tuple[dict[int, float], dict[int, float]]:
    ours = [1.0] * wins + [0.0] * losses + [1.0] * ties
    theirs = [0.0] * wins + [1.0] * losses + [1.0] * ties
    return by_seed(ours), by_seed(theirs)


def excludes_zero(found: Estimate | None) -> bool:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.low > 0 or found.high < 0


# --- two prompts -----------------------------------------------------------------------------------------------------


@LAW
@given(GRADED, st.integers(0, 2**32))
def test_graded_scores_are_tested_like_scipys_pairs_and_the_interval_agrees(values: list[float], seed: int) -> None:
    others = np.random.default_rng(seed).random(len(values))
    found = compare(by_seed(values), by_seed(others.tolist()))
    expected = stats.ttest_rel(values, others)
    assert found.method is Method.PAIRED_T
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.difference == paired_difference(by_seed(values), by_seed(others.tolist()))
    assert excludes_zero(found.difference) == (found.p_value < ALPHA)
    assert (found.num_seeds, found.wins + found.losses + found.ties) == (len(values), len(values))


@pytest.mark.parametrize("total", range(0, 31, 3))
def test_counts_are_tested_like_scipys_binomial_test_and_a_verdict_never_contradicts_the_interval(total: int) -> None:
    for wins in range(total + 1):
        losses = total - wins
        p_value = exact_p(wins, losses)
        expected = stats.binomtest(wins, total).pvalue if total else 1.0
        assert p_value == pytest.approx(expected, abs=1e-12)
        for ties in (0, 5, 400):
            if total + ties == 0:
                continue
            found = compare(*counts(wins, losses, ties))
            assert (found.p_value, found.method) == (p_value, Method.MCNEMAR)
            assert (found.wins, found.losses, found.ties) == (wins, losses, ties)
            if p_value < ALPHA:
                assert excludes_zero(found.difference)


def test_only_common_seeds_count() -> None:
    found = compare({1: 0.9, 2: 0.8, 3: 0.1}, {2: 0.5, 1: 0.5, 4: 1.0})
    assert (found.num_seeds, found.wins) == (2, 2)
    assert compare({1: 0.5}, {2: 0.5}) == NOTHING
    assert compare({}, {}) == NOTHING


def test_one_seed_tells_nothing_sure() -> None:
    graded = compare({1: 0.5}, {1: 0.25})
    assert (graded.difference, graded.p_value, graded.method) == (Estimate(0.25, None, None, 1), None, None)
    assert graded.seeds_needed is None
    counted = compare({1: 1.0}, {1: 0.0})
    assert (counted.p_value, counted.method) == (1.0, Method.MCNEMAR)


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
def test_ties_alone_are_no_difference_and_no_certainty(score: float) -> None:
    found = compare(dict.fromkeys(range(12), score), dict.fromkeys(range(12), score))
    assert (found.p_value, found.ties, found.seeds_needed) == (1.0, 12, None)
    assert found.difference is not None
    assert found.difference.mean == 0.0
    assert found.difference.low is not None
    assert found.difference.low < 0


def test_differences_of_one_size_are_judged_by_how_many_there_are() -> None:
    for n in (2, 5, 6, 30):
        found = compare(dict.fromkeys(range(n), 0.9), dict.fromkeys(range(n), 0.8))
        assert found.method is Method.SIGN
        assert found.p_value == stats.binomtest(n, n).pvalue
        assert found.seeds_needed == 6
        assert found.difference is not None
        assert found.difference.mean == pytest.approx(0.1)
        assert found.difference.high == pytest.approx(0.1)
        if found.p_value < ALPHA:
            assert excludes_zero(found.difference)
        lost = compare(dict.fromkeys(range(n), 0.8), dict.fromkeys(range(n), 0.9)).difference
        assert lost is not None
        assert (lost.low, lost.high) == (-found.difference.high, -(found.difference.low or 0.0))


def test_swapping_the_two_swaps_the_signs() -> None:
    rng = np.random.default_rng(4)
    for binary in (True, False):
        a, b = (by_seed(rng.integers(0, 2, 20) if binary else rng.random(20)) for _ in range(2))
        one, other = compare(a, b), compare(b, a)
        assert (one.wins, one.losses) == (other.losses, other.wins)
        assert one.p_value == pytest.approx(other.p_value)
        assert one.seeds_needed == other.seeds_needed
        assert one.difference is not None
        assert other.difference is not None
        assert one.difference.mean == pytest.approx(-other.difference.mean)


# --- how often it is wrong, and how much it takes to be right ---------------------------------------------------------


def _binary(rng: Rng, n: int, lift: float) -> tuple[np.ndarray, np.ndarray]:
    luck = rng.random((2, n))
    hard = rng.beta(1, 1, n) * (1 - lift)
    return (luck[0] < hard + lift).astype(float), (luck[1] < hard).astype(float)


def _graded(rng: Rng, n: int, lift: float) -> tuple[np.ndarray, np.ndarray]:
    grid = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    drawn = [grid[np.clip(rng.binomial(4, 0.5 + shift, n), 0, 4)] for shift in (lift, 0.0)]
    return drawn[0], drawn[1]


def _normal(rng: Rng, n: int, lift: float) -> tuple[np.ndarray, np.ndarray]:
    base = rng.normal(0.5, 0.2, n)
    return base + lift + rng.normal(0, 0.1, n), base + rng.normal(0, 0.1, n)


WORLDS = [_binary, _graded, _normal]


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("n", [4, 10, 40, 150])
def test_prompts_that_are_equally_good_are_told_apart_in_at_most_one_of_twenty_cases(
    world: Callable[[Rng, int, float], tuple[np.ndarray, np.ndarray]], n: int
) -> None:
    rng, runs = np.random.default_rng(11), 2_000
    wrong = 0
    for _ in range(runs):
        ours, theirs = world(rng, n, 0.0)
        p_value = compare(by_seed(ours), by_seed(theirs)).p_value
        wrong += p_value is not None and p_value < ALPHA
    # Three standard deviations of the share that so many runs show.
    assert wrong / runs <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wins", "losses", "ties"), [(30, 0, 70), (30, 10, 60), (50, 20, 30), (10, 2, 88), (5, 0, 95), (1, 0, 1)]
)
def test_so_many_seeds_of_right_and_wrong_have_the_power_that_is_promised(wins: int, losses: int, ties: int) -> None:
    found = compare(*counts(wins, losses, ties))
    assert found.seeds_needed is not None
    rng, runs, total = np.random.default_rng(5), 4_000, wins + losses + ties
    drawn = rng.multinomial(found.seeds_needed, [wins / total, losses / total, ties / total], size=runs)
    power = sum(exact_p(int(won), int(lost)) < ALPHA for won, lost, _ in drawn) / runs
    # With few seeds the power goes up in steps.
    assert POWER - 0.02 <= power <= POWER + (0.03 if found.seeds_needed > 20 else 0.08)


@pytest.mark.slow
@pytest.mark.parametrize(("lift", "spread"), [(0.02, 0.2), (0.1, 0.2), (0.3, 0.2), (0.05, 0.01)])
def test_so_many_seeds_of_graded_scores_have_the_power_that_is_promised(lift: float, spread: float) -> None:
    exact = np.array([-1.0, 1.0] * 20) * spread * math.sqrt(39 / 40) + lift
    found = compare(by_seed(0.5 + exact), dict.fromkeys(range(40), 0.5))
    needed = found.seeds_needed
    assert needed is not None
    assert t_power(lift, spread / math.sqrt(needed), needed - 1) >= POWER
    if needed > 2:
        assert t_power(lift, spread / math.sqrt(needed - 1), needed - 2) < POWER
    rng, runs = np.random.default_rng(6), 3_000
    p_values = stats.ttest_1samp(rng.normal(lift, spread, size=(runs, needed)), 0, axis=1).pvalue
    assert (p_values < ALPHA).mean() >= POWER - 0.03
    if needed > 5:
        assert (p_values < ALPHA).mean() == pytest.approx(POWER, abs=0.04)


def test_power_equals_that_of_scipys_noncentral_t() -> None:
    for mean, error, freedom in ((0.1, 0.05, 9), (0.02, 0.02, 3), (0.5, 0.1, 1), (0.05, 0.0058, 2), (0.9, 0.001, 40)):
        limit = stats.t.ppf(1 - ALPHA / 2, freedom)
        expected = stats.nct.sf(limit, freedom, mean / error) + stats.nct.cdf(-limit, freedom, mean / error)
        assert t_power(mean, error, freedom) == pytest.approx(expected, abs=1e-9)


def test_a_difference_that_no_number_of_seeds_would_show_needs_none() -> None:
    assert compare(*counts(3, 3, 4)).seeds_needed is None
    tiny = compare(by_seed([0.5, 0.7, 0.5 + 1e-7]), by_seed([0.7, 0.5, 0.5]))
    assert tiny.seeds_needed is None
    large = compare(*counts(2, 1, 1_000)).seeds_needed
    assert large is not None
    assert large <= MAX_NEEDED


# --- many comparisons ------------------------------------------------------------------------------------------------


@LAW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holms_adjustment_is_the_textbooks(p_values: list[float]) -> None:
    m, order = len(p_values), sorted(range(len(p_values)), key=lambda at: p_values[at])
    expected = [0.0] * m
    for rank, at in enumerate(order):
        expected[at] = min(1.0, max((m - r) * p_values[order[r]] for r in range(rank + 1)))
    assert holm(p_values, m) == pytest.approx(expected)


def test_what_could_not_be_tested_is_adjusted_to_nothing_and_a_larger_family_to_more() -> None:
    assert holm([0.01, None, 0.04], 3) == [pytest.approx(0.03), None, pytest.approx(0.08)]
    assert holm([0.01], 66) == [pytest.approx(0.66)]
    assert holm([], 0) == []


@pytest.mark.slow
def test_who_leads_among_equals_is_found_better_than_anyone_in_at_most_one_of_twenty_cases() -> None:
    rng, jobs, seeds, runs = np.random.default_rng(8), 8, 40, 600
    wrong = naive = 0
    for _ in range(runs):
        scores = [by_seed(row) for row in np.clip(rng.normal(0.5, 0.2, (jobs, seeds)), 0, 1)]
        means = [sum(row.values()) for row in scores]
        leader = means.index(max(means))
        found = [compare(scores[leader], row).p_value for at, row in enumerate(scores) if at != leader]
        adjusted, few = holm(found, jobs * (jobs - 1) // 2), holm(found, len(found))
        wrong += any(p is not None and p < ALPHA for p in adjusted)
        naive += any(p is not None and p < ALPHA for p in few)
    assert wrong / runs <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert naive / runs > 0.08, "counting only the pairs that are shown would not do"


# --- groups of runs --------------------------------------------------------------------------------------------------


def runs_of(scores: np.ndarray) -> list[dict[int, float]]:
    return [by_seed(row) for row in scores]


def test_runs_with_seeds_that_do_not_matter_are_tested_like_students_two_samples() -> None:
    # Where run and seed add up and the seeds' differences are none, only the runs' means count.
    rng = np.random.default_rng(2)
    seeds, ours, theirs = rng.random(30) * 0.3, np.array([0.3, 0.4, 0.35, 0.5]), np.array([0.1, 0.2, 0.28])
    found = compare_runs(runs_of(seeds + ours[:, None]), runs_of(seeds + theirs[:, None]))
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9)
    interval = expected.confidence_interval(1 - ALPHA)
    assert found.difference is not None
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.seeds_needed is None
    assert found.runs_needed is not None


def test_runs_that_are_all_the_same_are_tested_like_pairs_of_seeds() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.random(12), rng.random(12)
    found = compare_runs(runs_of(np.tile(ours, (3, 1))), runs_of(np.tile(theirs, (2, 1))))
    expected = stats.ttest_rel(ours, theirs)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9)
    assert (found.our_runs, found.their_runs, found.num_seeds) == (3, 2, 12)
    assert (found.wins, found.losses) == (int((ours > theirs).sum()), int((ours < theirs).sum()))


def test_the_interval_of_groups_agrees_with_the_p_value() -> None:
    rng = np.random.default_rng(9)
    for _ in range(60):
        ours, theirs = (np.clip(rng.normal(mean, 0.1, (3, 10)), 0, 1) for mean in (0.55, 0.48))
        found = compare_runs(runs_of(ours), runs_of(theirs))
        assert found.p_value is not None
        assert excludes_zero(found.difference) == (found.p_value < ALPHA)


def test_groups_without_several_runs_or_seeds_or_with_none_in_common_are_not_tested() -> None:
    runs = runs_of(np.random.default_rng(1).random((3, 8)))
    alone = compare_runs(runs[:1], runs[1:])
    assert alone.difference is not None
    assert (alone.difference.low, alone.p_value, alone.num_seeds) == (None, None, 8)
    apart = compare_runs(runs[:2], [{100 + seed: score for seed, score in run.items()} for run in runs[:2]])
    assert (apart.difference, apart.p_value, apart.num_seeds) == (None, None, 0)
    assert compare_runs([], runs) == RunComparison(0, 0, 3)
    one = compare_runs([{1: 0.5}, {1: 0.7}], [{1: 0.2}, {1: 0.1}])
    assert (one.num_seeds, one.p_value) == (1, None)


def test_seeds_that_one_run_lacks_are_left_out_for_all() -> None:
    found = compare_runs([{1: 1.0, 2: 0.0, 3: 1.0}, {1: 1.0, 2: 1.0}], [{1: 0.0, 2: 0.0, 3: 1.0}, {1: 0.0, 2: 0.5}])
    assert (found.num_seeds, found.wins, found.ties) == (2, 2, 0)


def test_runs_and_seeds_without_any_spread_are_judged_by_how_many_there_are() -> None:
    flat = {runs: runs_of(np.full((runs, 9), 0.9)) for runs in (2, 3, 5)}
    lower = {runs: runs_of(np.full((runs, 9), 0.5)) for runs in (2, 3, 5)}
    for runs in (2, 3, 5):
        found = compare_runs(flat[runs], lower[runs])
        assert found.method is Method.PERMUTATION
        assert found.p_value == pytest.approx(max(2 / math.comb(2 * runs, runs), exact_p(9, 0)))
        assert compare_runs(flat[runs], flat[runs]).p_value == 1.0


def drawn_runs(
    rng: Rng, runs: int, seeds: int, by_run: float, by_both: float, by_seed_of: float, lift: float
) -> list[np.ndarray]:
    """Two groups: what runs differ by, what a group's seeds differ by, and what is left; the second is better."""
    base = rng.normal(0.5, 0.3, seeds)
    return [
        base
        + shift
        + rng.normal(0, by_seed_of, seeds)
        + rng.normal(0, by_run, (runs, 1))
        + rng.normal(0, by_both, (runs, seeds))
        for shift in (0.0, lift)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    ("runs", "seeds", "by_run", "by_both", "by_seed_of"),
    [
        (3, 20, 0.05, 0.1, 0.0),
        (3, 20, 0.05, 0.1, 0.1),
        (3, 20, 0.0, 0.2, 0.1),
        (2, 40, 0.1, 0.1, 0.05),
        (5, 10, 0.1, 0, 0.2),
    ],
)
def test_ways_to_search_that_are_equally_good_are_told_apart_in_at_most_one_of_twenty_cases(
    runs: int, seeds: int, by_run: float, by_both: float, by_seed_of: float, counted: bool
) -> None:
    rng, times = np.random.default_rng(21), 800
    wrong = 0
    for _ in range(times):
        groups = drawn_runs(rng, runs, seeds, by_run, by_both, by_seed_of, 0.0)
        if counted:
            groups = [(rng.random(group.shape) < group).astype(float) for group in groups]
        p_value = compare_runs(*map(runs_of, groups)).p_value
        assert p_value is not None
        wrong += p_value < ALPHA
    assert wrong / times <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / times)


@pytest.mark.slow
@pytest.mark.parametrize(("by_run", "by_both", "by_seed_of"), [(0.05, 0.1, 0.02), (0.02, 0.2, 0.05)])
def test_so_many_runs_or_seeds_have_about_the_power_that_is_promised(
    by_run: float, by_both: float, by_seed_of: float
) -> None:
    # The needs are read off a large sample, whose spread is close to the true one, and tried out on new ones.
    rng, lift, times, seeds = np.random.default_rng(31), 0.06, 400, 60
    theirs, ours = drawn_runs(rng, 60, seeds, by_run, by_both, by_seed_of, lift)
    ours += lift - (ours.mean() - theirs.mean())
    known = compare_runs(runs_of(ours), runs_of(theirs))
    for runs, on in ((known.runs_needed, seeds), (60, known.seeds_needed)):
        assert runs is not None
        assert on is not None
        if runs * on > 5_000:
            continue
        drawn = (drawn_runs(rng, runs, on, by_run, by_both, by_seed_of, lift) for _ in range(times))
        p_values = [compare_runs(*map(runs_of, groups)).p_value for groups in drawn]
        power = sum(p is not None and p < ALPHA for p in p_values) / times
        assert power == pytest.approx(POWER, abs=0.1), (runs, on)


def test_more_of_what_is_there_is_never_needed_than_of_less() -> None:
    rng = np.random.default_rng(41)
    shifts = (0.02, 0.05, 0.1, 0.3)
    ours, theirs = drawn_runs(rng, 4, 30, 0.03, 0.1, 0.05, 0.0)
    theirs = theirs - theirs.mean() + ours.mean()
    needed = [compare_runs(runs_of(ours + shift), runs_of(theirs)).runs_needed or math.inf for shift in shifts]
    assert all(more >= less for more, less in itertools.pairwise(needed))
