"""Each condition that ends a search, alone and at its bound; and which of them is foreseen to come first."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.config_bodies import body, mipro_body

from promptjobs.core.asks import Answer, FailureReason
from promptjobs.core.config import GepaConfig, resolve
from promptjobs.core.stats import Statistics
from promptjobs.core.stops import (
    FEWEST_ANSWERS,
    Binding,
    SearchState,
    StopReason,
    Stops,
    binding,
    gepa_stops,
    mipro_stops,
)
from promptjobs.core.trial import Phase

FRESH = SearchState(trials=1, rollouts_left=100, best_score=0.5)


def limits(**changes: Any) -> GepaConfig:
    return resolve("gepa", body(), None).config.gepa.model_copy(update=changes)


def reason(
    stats: Statistics | None = None,
    state: SearchState = FRESH,
    *,
    proposals: int = 0,
    generation: int = 0,
    best_generation: int = 0,
    **changes: Any,
) -> StopReason | None:
    """Of a GEPA search."""
    config = limits(**changes)
    own = gepa_stops(config, proposals=proposals, generation=generation, best_generation=best_generation)
    return Stops(config).reason(state, stats or Statistics(), own)


def rollouts(outcomes: str, **each: Any) -> Statistics:
    """ "+" for a rollout that succeeded, "-" for one that failed."""
    stats = Statistics()
    for outcome in outcomes:
        fails = FailureReason.TASK_APP_ERROR if outcome == "-" else None
        score = None if fails else 0.5
        stats.count_rollout(Answer(b"", score, fails, **each), Phase.OPTIMIZATION)
    return stats


def test_a_fresh_search_goes_on() -> None:
    assert reason() is None


def test_generations() -> None:
    assert reason(proposals=5, num_generations=2, children_per_generation=3) is None
    assert reason(proposals=6, num_generations=2, children_per_generation=3) == "num_generations"


def test_patience() -> None:
    assert reason(generation=6, best_generation=4, patience_generations=3) is None
    assert reason(generation=7, best_generation=4, patience_generations=3) == "patience_generations"


def test_trials() -> None:
    assert reason(state=replace(FRESH, trials=8), max_trials=9) is None
    assert reason(state=replace(FRESH, trials=9), max_trials=9) == "max_trials"


def test_rollouts() -> None:
    assert reason(state=replace(FRESH, rollouts_left=1)) is None
    assert reason(state=replace(FRESH, rollouts_left=0)) == "rollout_budget"


def test_nothing_to_learn() -> None:
    assert reason(state=replace(FRESH, has_evidence=False)) == "nothing_to_learn"


def test_score_threshold() -> None:
    assert reason(score_threshold=0.51) is None
    assert reason(score_threshold=0.5) == "score_threshold"
    assert reason(state=replace(FRESH, best_score=None), score_threshold=0.0) is None


def test_tokens_of_rollouts_meta_model_and_judge_are_one_budget() -> None:
    stats = rollouts("++", prompt_tokens=10, completion_tokens=5)
    stats.count_completion(Answer(b"", unknown_tokens=60))
    stats.count_judgement(Answer(b"", prompt_tokens=10))
    assert reason(stats, max_total_tokens=101) is None
    assert reason(stats, max_total_tokens=100) == "token_budget"


def test_known_costs_are_one_budget_and_unknown_ones_count_as_nothing() -> None:
    stats = rollouts("++", prompt_tokens=10, cost_usd=0.25)
    stats.count_completion(Answer(b"", prompt_tokens=10, cost_usd=0.25))
    stats.count_judgement(Answer(b"", prompt_tokens=10, cost_usd=0.25))
    stats.count_judgement(Answer(b"", prompt_tokens=10))
    assert stats.total_cost_usd is None
    assert reason(stats, max_spend_usd=1.01) is None
    assert reason(stats, max_spend_usd=1.0) == "cost_budget"


def test_error_rate_is_looked_at_from_twenty_answers_on() -> None:
    assert reason(rollouts("-" * (FEWEST_ANSWERS - 1)), max_error_rate=0.5) is None
    assert reason(rollouts("+" * 10 + "-" * 10), max_error_rate=0.5) is None
    assert reason(rollouts("+" * 10 + "-" * 11), max_error_rate=0.5) == "max_error_rate"
    assert reason(rollouts("+" * 19 + "-"), max_error_rate=0.0) == "max_error_rate"
    assert reason(rollouts("-" * 30), max_error_rate=1.0) is None


def test_errors_in_a_row_are_the_latest_ones() -> None:
    assert reason(rollouts("--+--"), max_consecutive_errors=3) is None
    assert reason(rollouts("+---"), max_consecutive_errors=3) == "max_consecutive_errors"
    assert reason(rollouts("---+"), max_consecutive_errors=3) is None


def test_meta_calls_under_way_count_and_the_judges_do_not() -> None:
    stats = Statistics()
    for _ in range(3):
        stats.count_completion(Answer(b""))
        stats.count_judgement(Answer(b""))
    assert reason(stats, max_meta_calls=4) is None
    assert reason(stats, max_meta_calls=3) == "max_meta_calls"
    assert reason(stats, replace(FRESH, meta_calls_under_way=1), max_meta_calls=4) == "max_meta_calls"


def test_limits_that_are_not_given_never_stop() -> None:
    stats = rollouts("-" * 500, prompt_tokens=10**9, cost_usd=10.0**6)
    assert reason(stats, replace(FRESH, trials=10**9, best_score=1.0)) is None


def test_a_search_that_reached_its_goal_says_so_first() -> None:
    ended = replace(FRESH, trials=9, rollouts_left=0, best_score=1.0)
    assert reason(state=ended, proposals=10**6, score_threshold=1.0, max_trials=1) == "score_threshold"
    assert reason(state=ended, proposals=10**6, max_trials=1) == "num_generations"


def test_reasons_are_the_ones_of_the_api() -> None:
    assert {str(one) for one in StopReason} == {
        *("num_generations", "patience_generations", "max_trials", "nothing_to_learn", "rollout_budget"),
        *("token_budget", "cost_budget", "score_threshold", "max_error_rate", "max_consecutive_errors"),
        *("max_meta_calls", "num_iterations", "exhausted", "rollout_cost_budget", "proposal_cost_budget"),
    }


# --- a MIPRO search --------------------------------------------------------------------------------------------------


def mipro_reason(
    stats: Statistics | None = None, *, iterations: int = 0, is_exhausted: bool = False, ahead: int = 0, **changes: Any
) -> StopReason | None:
    config = resolve("mipro", mipro_body(), None).config.mipro.model_copy(update=changes)
    stats = stats or Statistics()
    own = mipro_stops(config, stats, iterations=iterations, is_exhausted=is_exhausted, tokens_ahead=ahead)
    return Stops(config).reason(FRESH, stats, own)


def test_iterations_and_exhausted_choices_end_a_mipro_search() -> None:
    assert mipro_reason(iterations=2, num_iterations=3) is None
    assert mipro_reason(iterations=3, num_iterations=3) == "num_iterations"
    assert mipro_reason(is_exhausted=True) == "exhausted"


def test_a_limit_on_tokens_is_not_passed_unless_it_is_only_reported() -> None:
    stats = rollouts("++", prompt_tokens=50)
    assert mipro_reason(stats, max_token_limit=101) is None
    assert mipro_reason(stats, max_token_limit=100) == "token_budget"
    assert mipro_reason(stats, max_token_limit=150, ahead=50) is None
    assert mipro_reason(stats, max_token_limit=150, ahead=51) == "token_budget"
    assert mipro_reason(stats, max_token_limit=100, enforce_token_limit=False) is None


def test_rollouts_and_proposals_have_purses_of_their_own() -> None:
    stats = rollouts("+", prompt_tokens=10, cost_usd=0.5)
    stats.count_completion(Answer(b"", prompt_tokens=10, cost_usd=0.25))
    assert mipro_reason(stats, max_rollout_spend_usd=0.6, max_proposal_spend_usd=0.3) is None
    assert mipro_reason(stats, max_rollout_spend_usd=0.5) == "rollout_cost_budget"
    assert mipro_reason(stats, max_proposal_spend_usd=0.25) == "proposal_cost_budget"


# --- what comes first ------------------------------------------------------------------------------------------------


def foreseen(search_rollouts: int = 1000, rollouts_per_proposal: float = 20.0, **changes: Any) -> Binding:
    config = limits(num_generations=10, children_per_generation=5, **changes)
    return binding(config, search_rollouts=search_rollouts, rollouts_per_proposal=rollouts_per_proposal)


def test_the_stop_that_leaves_the_fewest_proposals_binds() -> None:
    assert foreseen(search_rollouts=10_000) == Binding(StopReason.NUM_GENERATIONS, 50)
    assert foreseen(search_rollouts=999) == Binding(StopReason.ROLLOUT_BUDGET, 49)
    assert foreseen(search_rollouts=0) == Binding(StopReason.ROLLOUT_BUDGET, 0)
    assert foreseen(max_trials=20) == Binding(StopReason.MAX_TRIALS, 10)
    assert foreseen(max_meta_calls=7) == Binding(StopReason.MAX_META_CALLS, 7)
    assert foreseen(max_meta_calls=7, max_trials=8) == Binding(StopReason.MAX_TRIALS, 4)


@given(
    search_rollouts=st.integers(0, 10**6),
    rollouts_per_proposal=st.floats(0.5, 500),
    max_trials=st.none() | st.integers(1, 10**6),
    max_meta_calls=st.none() | st.integers(1, 10**6),
)
def test_no_foreseen_stop_would_come_earlier(
    search_rollouts: int, rollouts_per_proposal: float, max_trials: int | None, max_meta_calls: int | None
) -> None:
    found = foreseen(search_rollouts, rollouts_per_proposal, max_trials=max_trials, max_meta_calls=max_meta_calls)
    assert found.proposals * rollouts_per_proposal <= search_rollouts
    assert found.proposals <= 50
    assert max_trials is None or 2 * found.proposals <= max_trials
    assert max_meta_calls is None or found.proposals <= max_meta_calls
