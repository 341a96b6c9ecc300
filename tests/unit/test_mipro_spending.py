"""What a MIPRO job may use: tokens, dollars and calls of the meta-model, looked at before they are paid."""

from typing import Any

import pytest
from tests.fakes.mipro_runs import JUDGE, TEST, VALIDATION, Ran, check_run, mipro_job, pure, ran, two_stages
from tests.fakes.mipro_world import MiproWorld

from promptjobs.core.asks import Rollout
from promptjobs.core.lanes import Cause
from promptjobs.core.stats import Statistics
from promptjobs.core.trial import Phase
from promptjobs.errors import JobFailed

LARGE = {"num_iterations": 8, "rollout_budget": 900}
REPLY = 20
"""Tokens of a reply of the world's meta-model: no count of its prompt foretells them."""


def stats(run: Ran) -> Statistics:
    found: Statistics = run.pure.optimizer.evaluations.stats
    return found


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [500, 12_000, 30_000])
@pytest.mark.parametrize("risk", ["LOW", "HIGH"])
def test_an_enforced_limit_holds_but_for_the_replies_under_way(limit: int, risk: str):
    """Rollouts are foretold by the prompt and by what the bootstrap's used beside it: in this world, exactly."""
    run = ran(mipro_job(**LARGE, max_token_limit=limit, parallel_risk=risk))
    assert stats(run).total_tokens <= limit + 5 * REPLY
    assert run.result.finish_reason == "token_budget"
    best = run.result.best
    assert best is not None
    for name in {best.candidate_id, run.base}:
        assert set(VALIDATION) <= run.seeds_of(name)
    assert {ask.candidate_id for ask in run.asked(Phase.TEST)} == {best.candidate_id, run.base}
    assert run.result.test is not None
    assert set(run.result.test.best) == set(run.result.test.baseline)


@pytest.mark.parametrize("limit", [7_000, 8_000, 9_000])
def test_trials_that_begin_together_do_not_pass_a_limit_together(limit: int):
    changes = {"num_evaluations_per_iteration": 12, "parallel_risk": "HIGH", "generate_at_iterations": [0]}
    run = ran(mipro_job(rollout_budget=900, max_token_limit=limit, **changes))
    assert run.trials
    assert stats(run).total_tokens <= limit


def test_a_limit_is_used_as_far_as_it_goes():
    limits = (6_000, 12_000, 24_000)
    runs = [ran(mipro_job(**LARGE, max_token_limit=limit)) for limit in limits]
    for run, limit in zip(runs, limits, strict=True):
        assert stats(run).total_tokens > 0.75 * limit
    assert len(runs[0].trials) < len(runs[1].trials) < len(runs[2].trials)


def test_rollouts_that_use_more_than_was_foretold_pass_a_limit_by_those_under_way_alone():
    """Answers that grow with the prompt: each trial is begun within the limit, and the next one sees what it was."""
    world = MiproWorld(tokens=lambda text: len(text) // 2)
    limit = 20_000
    run = pure(mipro_job(**LARGE, max_token_limit=limit), world)
    over: list[int] = []

    def watch(run: Any) -> bool:
        search = run.optimizer
        if search.is_begun and not run.lanes.is_closing:
            under_way = sum(isinstance(ask, Rollout) for lane in run.lanes.waiting_lanes() for ask in lane.waiting)
            over.append(search.evaluations.stats.total_tokens - limit if under_way == 0 else 0)
        return False

    run.run(until=watch)
    used = run.optimizer.evaluations.stats.total_tokens
    longest = max(len(s.content) for t in world.templates.values() for s in t.sections)
    assert used <= limit + 2 * 8 * longest
    assert max(over) <= 0


def test_a_limit_that_is_not_enforced_is_only_reported():
    run = ran(mipro_job(max_token_limit=1_000, enforce_token_limit=False))
    assert run.result.finish_reason == "num_iterations"
    assert stats(run).total_tokens > 1_000
    [told] = run.pure.events("mipro.budget.update")[-1:]
    assert told.data["max_token_limit"] == 1_000
    assert told.data["total_tokens"] > told.data["policy_tokens"] > 1_000
    assert told.data["total_cost_usd"] > 0


@pytest.mark.parametrize("limit", [{"max_token_limit": 120}, {"termination_config.max_total_tokens": 120}])
def test_a_limit_that_does_not_hold_the_bootstrap_is_refused_before_it_is_paid(limit: dict[str, int]):
    run = pure(mipro_job(seeds__bootstrap=list(range(19)), **limit))
    with pytest.raises(JobFailed, match="the limits on tokens and cost do not hold 19 rollouts of the baseline"):
        run.run()
    assert run.rollouts == []
    assert run.stop(Cause.ERRORS).best is not None


def test_max_total_tokens_ends_the_search_and_the_end_is_made_all_the_same():
    run = ran(mipro_job(**LARGE, **{"termination_config.max_total_tokens": 10_000}))
    assert run.result.finish_reason == "token_budget"
    assert {ask.seed for ask in run.asked(Phase.TEST)} == set(TEST)
    search = [ask for ask in run.pure.rollouts if ask.phase in (Phase.BOOTSTRAP, Phase.OPTIMIZATION)]
    used = sum(run.pure.answers[ask.key][0].prompt_tokens + 2 for ask in search)
    said = sum(run.pure.answers[a.key][0].prompt_tokens + REPLY for a in run.proposals)
    assert used + said <= 10_000 + 5 * REPLY
    check_run(run)


# --- dollars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "reason"), [("max_rollout_spend_usd", "rollout_cost_budget"), ("max_spend_usd", "cost_budget")]
)
def test_a_limit_on_cost_ends_the_search_before_it_is_passed(limit: str, reason: str):
    run = ran(mipro_job(**LARGE, **{limit: 0.1}))
    assert run.result.finish_reason == reason
    before = next(
        turn for turn in run.pure.turns if any(f in turn.facts for f in run.pure.events("termination.triggered"))
    )
    asked = {
        ask.key for turn in run.pure.turns[: run.pure.turns.index(before)] for _, asks in turn.opened for ask in asks
    }
    priced = [run.pure.answers[ask.key][0] for ask in run.pure.calls if ask.key in asked]
    rollouts = {ask.key for ask in run.pure.rollouts}
    spent = sum(a.cost_usd or 0 for a in priced if limit == "max_spend_usd" or a.key in rollouts)
    assert 0.05 < spent <= 0.1
    check_run(run)


def test_costs_that_are_not_known_stop_nothing():
    run = ran(mipro_job(max_rollout_spend_usd=0.001), MiproWorld(cost_per_token=None))
    assert run.result.finish_reason == "num_iterations"
    assert run.result.extra["category_costs"]["policy"] is None
    assert run.result.extra["total_cost_usd"] is None


def test_proposals_that_cost_too_much_end_proposals_and_not_the_search():
    run = ran(mipro_job(**LARGE, max_proposal_spend_usd=0.011))
    # Five calls of $0.002 go out together; a sixth would pass the limit.
    assert len(run.proposals) == 5
    later = [each for each in run.trials if each["iteration"] > 2]
    assert later
    assert run.pure.events("mipro.iteration.skip_generation")


def test_spending_is_told_by_what_it_was_for():
    run = ran(mipro_job(**JUDGE))
    costs = run.result.extra["category_costs"]
    assert set(costs) == {"policy", "proposal", "judge"}
    assert all(cost > 0 for cost in costs.values())
    assert run.result.extra["total_cost_usd"] == pytest.approx(sum(costs.values()))
    assert costs["proposal"] == pytest.approx(0.002 * len(run.proposals))


# --- calls of the meta-model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "mode", "make"),
    [(1, "synth", two_stages), (2, "dspy", mipro_job), (7, "synth", two_stages), (3, "builtin", two_stages)],
)
def test_calls_of_the_meta_model_are_never_more_than_allowed(most: int, mode: str, make: Any):
    run = ran(make(max_meta_calls=most, proposer_mode=mode), MiproWorld(reply=lambda asked: f"No {asked.times}."))
    assert len(run.proposals) == most
    search = ran(make(max_meta_calls=most, proposer_mode=mode))
    assert len(search.proposals) <= most
    assert search.result.best is not None
    check_run(search)
