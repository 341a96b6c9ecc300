"""Confidence intervals against SciPy, and against a simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from promptjobs.core.verdict import CONFIDENCE, Estimate, mean_estimate, paired_difference, score_estimate

LAW = settings(deadline=None, derandomize=True, max_examples=60)

SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 1.0]), min_size=2, max_size=30)


@LAW
@given(SCORES)
def test_the_interval_of_a_mean_equals_scipys(values: list[float]) -> None:
    found = mean_estimate(values)
    assert (found.mean, found.n) == (pytest.approx(np.mean(values)), len(values))
    assert found.low is not None
    assert found.high is not None
    spread = stats.sem(values)
    if len(set(values)) == 1:
        assert (found.low, found.high) == (pytest.approx(found.mean), pytest.approx(found.mean))
    else:
        assert (found.low, found.high) == pytest.approx(
            stats.t.interval(CONFIDENCE, len(values) - 1, loc=np.mean(values), scale=spread), abs=1e-12
        )


@LAW
@given(SCORES, st.integers(0, 2**32))
def test_a_paired_difference_equals_scipys_test_of_pairs(values: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    others = [float(value) for value in rng.random(len(values))]
    found = paired_difference(dict(enumerate(values)), dict(enumerate(others)))
    expected = stats.ttest_rel(values, others).confidence_interval(CONFIDENCE)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    single = stats.ttest_1samp(np.array(values) - np.array(others), 0).confidence_interval(CONFIDENCE)
    assert (found.low, found.high) == pytest.approx((single.low, single.high), abs=1e-12)


@pytest.mark.parametrize("n", [3, 10, 50])
def test_the_interval_holds_the_true_mean_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(1)
    runs = 2_000
    samples = rng.normal(0.6, 0.2, size=(runs, n))
    intervals = [mean_estimate(row) for row in samples.tolist()]
    covered = sum(found.low <= 0.6 <= found.high for found in intervals)  # type: ignore[operator]
    # Three standard deviations of the share that 2,000 runs show.
    assert covered / runs == pytest.approx(CONFIDENCE, abs=3 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / runs))


def test_one_value_tells_no_spread_and_none_tells_nothing() -> None:
    assert mean_estimate([0.25]) == Estimate(0.25, None, None, 1)
    with pytest.raises(ValueError, match="no values"):
        mean_estimate([])


def test_pairs_are_the_common_seeds_only() -> None:
    ours = {1: 0.9, 2: 0.8, 3: 0.1}
    theirs = {2: 0.5, 1: 0.5, 4: 1.0}
    assert paired_difference(ours, theirs) == mean_estimate([0.9 - 0.5, 0.8 - 0.5])
    assert paired_difference({1: 0.5}, {1: 0.25, 2: 1.0}) == Estimate(0.25, None, None, 1)
    assert paired_difference({1: 0.5}, {2: 0.5}) is None
    assert paired_difference({}, {}) is None


@LAW
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60))
def test_the_interval_of_right_and_wrong_answers_is_wilsons(scores: list[float]) -> None:
    found = score_estimate(scores)
    expected = stats.binomtest(int(sum(scores)), len(scores)).proportion_ci(CONFIDENCE, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.high != found.low


def test_equal_scores_are_not_certain() -> None:
    for scores in ([1.0] * 15, [0.0] * 15, [0.4] * 15):
        found = score_estimate(scores)
        assert found.low is not None
        assert found.high is not None
        assert found.high - found.low > 0.1
        assert found.low <= scores[0] <= found.high
    won = paired_difference(dict.fromkeys(range(15), 1.0), dict.fromkeys(range(15), 0.0))
    assert won is not None
    assert won.low is not None
    assert 0.5 < won.low < 0.95
    assert (won.mean, won.high) == (1.0, 1.0)


@pytest.mark.parametrize("n", [10, 40])
@pytest.mark.parametrize(("base", "lift"), [(0.2, 0.0), (0.2, 0.4), (0.9, 0.08)])
def test_the_interval_of_a_paired_difference_of_counts_holds_its_promise(n: int, base: float, lift: float) -> None:
    rng = np.random.default_rng(3)
    runs = 1_500
    covered = 0
    for _ in range(runs):
        luck = rng.random(n)
        theirs = (luck < base).astype(float)
        ours = np.where(rng.random(n) < 0.5, luck < base + lift, rng.random(n) < base + lift).astype(float)
        found = paired_difference(dict(enumerate(ours.tolist())), dict(enumerate(theirs.tolist())))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= lift <= found.high
    assert covered / runs >= 0.93


def test_the_interval_of_a_score_stays_within_its_range_and_a_difference_may_be_negative() -> None:
    wide = mean_estimate([0.0, 1.0, 0.9])
    assert wide.low is not None
    assert wide.low < 0
    assert score_estimate([0.0, 1.0, 0.9]) == Estimate(wide.mean, 0.0, 1.0, 3)
    lost = paired_difference({1: 0.0, 2: 0.1}, {1: 1.0, 2: 0.9})
    assert lost is not None
    assert lost.high is not None
    assert (lost.mean, lost.low) == (pytest.approx(-0.9), pytest.approx(-0.9 - (lost.high + 0.9)))


def test_an_estimate_names_its_confidence() -> None:
    assert Estimate(0.5, 0.25, 0.75, 8).to_json() == {
        "mean": 0.5,
        "low": 0.25,
        "high": 0.75,
        "n": 8,
        "confidence": 0.95,
    }
