"""The stand-in: the line against SciPy, and every decision against the limits of the config."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import linregress

from promptjobs.core.asks import Tier
from promptjobs.core.config_sections import ProxyModelsConfig
from promptjobs.core.proxy import MOST_PAIRS_FACTOR, SILENT_IN_A_ROW, GivenUp, Line, Plan, Proxy

GOOD = [(0.0, 0.1), (0.25, 0.3), (0.5, 0.5), (0.75, 0.7), (1.0, 0.9)]
"""(lo, hi) on a line."""
MIDDLING = [(0.0, 0.1), (1.0, 0.5), (0.25, 0.6), (0.5, 0.4), (0.75, 0.5)]
"""R² is 0.30."""
BAD = [(0.0, 0.5), (1.0, 0.5), (0.25, 0.9), (0.5, 0.1), (0.75, 0.45)]


def proxy(pairs: Sequence[tuple[float, float]] = (), **limits: Any) -> Proxy:
    names = {"hi_provider": "openai", "hi_model": "big", "lo_provider": "groq", "lo_model": "small"}
    made = Proxy(ProxyModelsConfig(**names, **limits))
    feed(made, pairs)
    return made


def feed(made: Proxy, pairs: Sequence[tuple[float, float]], candidate_id: str = "c") -> None:
    for seed, (lo, hi) in enumerate(pairs):
        made.scored(Tier.LO, candidate_id, seed, lo)
        made.scored(Tier.HI, candidate_id, seed, hi)


def told(made: Proxy) -> list[str]:
    return [event.type.rpartition(".")[2] for event in made.take_events()]


# --- the line --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=40))
def test_the_line_is_that_of_scipy(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    assume(x.std() > 1e-4)
    assume(y.std() > 1e-4)
    line = Line()
    for pair in pairs:
        line.add(*pair)
    fit = line.fit()
    assert fit is not None
    expected = linregress(x, y)
    residuals = y - expected.intercept - expected.slope * x
    assert fit.n == len(pairs)
    assert fit.slope == pytest.approx(expected.slope, rel=1e-6, abs=1e-9)
    assert fit.intercept == pytest.approx(expected.intercept, rel=1e-6, abs=1e-9)
    assert fit.r2 == pytest.approx(expected.rvalue**2, rel=1e-6, abs=1e-9)
    assert fit.sigma == pytest.approx(np.sqrt((residuals**2).sum() / (len(pairs) - 2)), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "pairs", [[], GOOD[:2], [(0.5, 0.1), (0.5, 0.5), (0.5, 0.9)], [(0.1, 0.5), (0.5, 0.5), (0.9, 0.5)]]
)
def test_there_is_no_line_through_too_few_points_or_scores_that_do_not_vary(pairs: list[tuple[float, float]]) -> None:
    line = Line()
    for pair in pairs:
        line.add(*pair)
    assert line.fit() is None


def test_a_prediction_is_a_score() -> None:
    made = proxy([(0.0, 0.0), (0.1, 0.3), (0.2, 0.6), (0.3, 0.9)], n_min_hi=3)
    assert made.predict(0.1) == pytest.approx(0.3)
    assert made.predict(1.0) == 1.0
    assert proxy([(0.7, 0.1), (0.8, 0.4), (0.9, 0.7)]).predict(0.0) == 0.0
    with pytest.raises(ValueError, match="no line"):
        proxy().predict(0.5)


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_a_pair_needs_both_models_on_the_same_seed_of_the_same_candidate_and_counts_once() -> None:
    made = proxy()
    made.scored(Tier.HI, "a", 1, 0.5)
    made.scored(Tier.LO, "a", 2, 0.5)
    made.scored(Tier.LO, "b", 1, 0.5)
    assert made.figures()["pairs"] == 0
    made.scored(Tier.LO, "a", 1, 0.4)
    made.scored(Tier.LO, "a", 1, 0.4)
    made.scored(Tier.HI, "a", 1, 0.5)
    assert made.figures()["pairs"] == 1


# --- whether it is used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "limits", "expected"),
    [
        (GOOD, {}, Plan.LO),
        (GOOD[:4], {}, Plan.PAIR),
        (GOOD, {"n_min_hi": 6}, Plan.PAIR),
        (GOOD[:3], {"n_min_hi": 1}, Plan.LO),
        (MIDDLING, {}, Plan.PAIR),
        (MIDDLING, {"r2_thresh": 0.25}, Plan.LO),
        (MIDDLING, {"r2_thresh": 0.25, "sigma_max": 0.1}, Plan.PAIR),
        (MIDDLING, {"r2_stop": 0.4}, Plan.HI),
        (MIDDLING, {"r2_thresh": 0.25, "sigma_stop": 0.1}, Plan.HI),
        (BAD, {}, Plan.HI),
        (BAD[:4], {}, Plan.PAIR),
    ],
)
def test_the_limits_decide(pairs: list[tuple[float, float]], limits: dict[str, float], expected: Plan) -> None:
    assert proxy(pairs, **limits).plan() is expected


def test_what_was_given_up_stays_so() -> None:
    made = proxy(BAD)
    assert (made.given_up, told(made)) == (GivenUp.R2, ["stopped"])
    for n in range(10):
        feed(made, GOOD, f"better {n}")
    assert made.fit is not None
    assert made.fit.r2 > 0.5
    assert (made.plan(), told(made)) == (Plan.HI, [])


def test_it_is_suspended_while_the_fit_is_in_between_and_goes_on_when_it_is_good_again() -> None:
    made = proxy(GOOD)
    assert (made.is_usable, told(made)) == (True, ["ready"])
    feed(made, [(1.0, 0.1)], "odd")
    assert (made.plan(), told(made)) == (Plan.PAIR, ["suspended"])
    for n in range(3):
        feed(made, GOOD, f"even {n}")
    assert (made.plan(), told(made)) == (Plan.LO, ["ready"])


def test_a_fit_that_never_decides_is_given_up() -> None:
    made = proxy()
    feed(made, [(0.5, n % 2) for n in range(MOST_PAIRS_FACTOR * 5)])
    assert made.given_up is GivenUp.UNDECIDED


def test_a_stand_in_that_never_answers_is_given_up() -> None:
    made = proxy(GOOD)
    for is_silent in (True, False, *([True] * (SILENT_IN_A_ROW - 1))):
        made.silent(is_silent)
    assert made.given_up is None
    made.silent(True)
    assert made.given_up is GivenUp.SILENT


@pytest.mark.parametrize(("every", "due"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6])])
def test_every_so_manyth_proxied_trial_is_checked(every: int, due: list[int]) -> None:
    made = proxy(GOOD, verify_every=every)
    plans = [made.plan() for _ in range(7)]
    assert [n for n, plan in enumerate(plans, 1) if plan is Plan.VERIFY] == due
    assert set(plans) <= {Plan.LO, Plan.VERIFY}


# --- money -----------------------------------------------------------------------------------------------------------


def test_the_saving_is_what_hi_would_have_cost_minus_what_lo_did() -> None:
    made = proxy(GOOD)
    for cost in (0.02, 0.04):
        made.paid(Tier.HI, cost)
    made.paid(Tier.LO, 0.001)
    assert made.saving_usd == pytest.approx(-0.001)
    made.stood_in("d", [1, 2, 3])
    assert made.saving_usd == pytest.approx(3 * 0.03 - 0.001)
    made.scored(Tier.HI, "d", 2, 0.5)  # measured after all
    assert made.saving_usd == pytest.approx(2 * 0.03 - 0.001)
    made.paid(Tier.LO, None)
    assert made.saving_usd is None


def test_it_is_given_up_when_the_loss_passes_the_patience() -> None:
    made = proxy(GOOD, proxy_patience_usd=-0.01)
    made.paid(Tier.HI, 1.0)
    made.paid(Tier.LO, 0.01)
    assert made.given_up is None
    made.paid(Tier.LO, 0.001)
    assert (made.given_up, told(made)) == (GivenUp.PATIENCE, ["ready", "stopped"])
