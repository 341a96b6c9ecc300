"""How a MIPRO job ends: by its limits, by a failure, by a stop, or in another version of the search."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.gepa_runs import check_event
from tests.fakes.mipro_runs import VALIDATION, Ran, check_run, jobs, mipro_job, pure, ran
from tests.fakes.mipro_world import PROMPT, MiproWorld, Prompt, quality, threshold
from tests.fakes.pure import Pure

from promptjobs.core.asks import FailureReason
from promptjobs.core.lanes import Cause
from promptjobs.core.mipro import Mipro
from promptjobs.core.mipro_plan import end_rollouts
from promptjobs.core.optimizer import Adopted
from promptjobs.core.search_base import FAILURES_IN_A_ROW
from promptjobs.core.trial import Phase
from promptjobs.errors import JobFailed

LAW = settings(deadline=None, derandomize=True, max_examples=15)
LARGE = {"rollout_budget": 3000, "num_iterations": 40}


# --- limits ----------------------------------------------------------------------------------------------------------


def test_iterations_end_the_search():
    run = ran(mipro_job(num_iterations=3, rollout_budget=3000))
    assert run.result.finish_reason == "num_iterations"
    assert len(run.trials) == 3 * 4
    assert len(run.pure.events("mipro.iteration.complete")) == 3
    [told] = run.pure.events("termination.triggered")
    assert told.data["reason"] == "num_iterations"


def test_so_many_trials_end_the_search():
    run = ran(mipro_job(**LARGE, **{"termination_config.max_trials": 12}))
    assert run.result.finish_reason == "max_trials"
    searched = [
        trial for trial in run.pure.trials if trial.phase is not Phase.VALIDATION and trial.phase is not Phase.TEST
    ]
    # A minibatch in two parts is two trials: where they do not fit, it is not begun.
    assert 8 < len(searched) <= 12


def test_a_good_enough_estimate_ends_the_search():
    run = ran(
        mipro_job(**LARGE, **{"termination_config.score_threshold": 0.6}), MiproWorld(score=lambda p, s: quality(p))
    )
    assert run.result.finish_reason == "score_threshold"
    assert run.result.best_score >= 0.6
    assert len(run.trials) < 20


def test_max_rollouts_is_a_budget_too():
    run = ran(mipro_job(**LARGE, **{"termination_config.max_rollouts": 120}))
    assert run.result.finish_reason == "rollout_budget"
    assert run.pure.spent <= 120


def test_too_many_errors_in_a_row_end_the_search():
    def score(prompt: Prompt, seed: int) -> float | FailureReason:
        return FailureReason.TASK_APP_TIMEOUT if prompt.shown else threshold(prompt, seed)

    run = ran(mipro_job(**LARGE, **{"termination_config.max_consecutive_errors": 6}), MiproWorld(score=score))
    assert run.result.finish_reason == "max_consecutive_errors"
    assert run.result.best is not None


def test_too_large_a_share_of_errors_ends_the_search():
    run = ran(mipro_job(**LARGE, **{"termination_config.max_error_rate": 0.2}), MiproWorld(failing=0.5))
    assert run.result.finish_reason == "max_error_rate"
    some = ran(mipro_job(**{"termination_config.max_error_rate": 0.9}), MiproWorld(failing=0.5))
    assert some.result.finish_reason != "max_error_rate"


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [FailureReason.TASK_APP_ERROR, FailureReason.PROMPT_NOT_MATCHED])
@pytest.mark.parametrize("prompt", [PROMPT, None])
def test_a_job_whose_every_baseline_rollout_fails_says_why(reason: FailureReason, prompt: object):
    run = pure(mipro_job(initial_prompt=prompt), MiproWorld(score=lambda prompt, seed: reason))
    seeds = 10 if prompt else 3
    with pytest.raises(JobFailed, match=rf"every rollout .* failed; {seeds} of {seeds} with {reason}: it broke on \d"):
        run.run()
    asked = len(run.calls)
    result = run.stop(Cause.ERRORS)
    assert len(run.calls) == asked
    assert (result.best_score, result.finish_reason) == (None, "errors")
    for event in run.events():
        check_event(event)


def test_a_job_whose_baseline_fails_often_says_so():
    world = MiproWorld(score=lambda prompt, seed: FailureReason.TASK_APP_ERROR if seed < 3 else 0.5)
    run = pure(mipro_job(), world)
    with pytest.raises(JobFailed, match="3 rollouts of the baseline failed; 3 of 10 with task_app_error"):
        run.run()


def test_a_world_that_breaks_in_mid_search_ends_it_with_the_reason():
    asked = Counter[str]()

    def score(prompt: Prompt, seed: int) -> float | FailureReason:
        asked["all"] += 1
        return quality(prompt) if asked["all"] <= 60 else FailureReason.PROVIDER_ERROR

    run = pure(mipro_job(**LARGE), MiproWorld(score=score))
    with pytest.raises(
        JobFailed, match=rf"{FAILURES_IN_A_ROW} trials in a row brought no score; . of . with provider_"
    ):
        run.run()
    result = run.stop(Cause.ERRORS)
    assert result.best is not None
    assert result.best_score is not None


# --- stops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [Cause.DEADLINE, Cause.MONEY, Cause.BUG, Cause.SPENT, Cause.ERRORS, Cause.CANCEL])
def test_a_stopped_search_publishes_the_best_it_has(cause: Cause):
    config = mipro_job(num_iterations=20, rollout_budget=600)
    world = MiproWorld(score=lambda prompt, seed: quality(prompt))
    run = pure(config, world)
    run.run(until=lambda run: len(run.events("mipro.trial.complete")) >= 9)
    asked, spent = len(run.calls), run.spent
    result = run.stop(cause)
    assert result.finish_reason == cause
    assert world.prompt(result.best.candidate_id).good >= 3
    is_measured = cause in (Cause.DEADLINE, Cause.MONEY)
    if is_measured:
        assert result.best_score > result.baseline_score
    assert (len(run.calls) > asked, result.test is not None) == (is_measured, is_measured)
    assert run.spent - spent <= max(end_rollouts(config.mipro), 4 * len(VALIDATION))
    assert run.events("mipro.job.completed")
    for event in run.events():
        check_event(event)


def test_a_stop_at_any_turn_has_a_result_and_keeps_to_the_budget():
    config = mipro_job(num_iterations=3, rollout_budget=120, seeds__reference=[300, 301])
    turns = len(ran(config).pure.turns)
    for at in range(1, turns, 4):
        run = pure(config)
        run.run(until=lambda run, at=at: len(run.turns) >= at)
        if run.lanes.has_ended:
            break
        result = run.stop(Cause.DEADLINE)
        assert run.spent <= 120
        assert result.finish_reason == "deadline"
        assert result.best is not None or run.optimizer.base is None


def test_a_deadline_before_the_first_answer_leaves_the_baseline():
    run = pure(mipro_job())
    run.run(until=lambda run: bool(run.rollouts))
    result = run.stop(Cause.DEADLINE)
    assert (result.best, result.best_score, result.archive) == (run.optimizer.base, None, [])
    for event in run.events():
        check_event(event)


# --- going on from published facts -----------------------------------------------------------------------------------


def adopted_at(run: Pure) -> Adopted:
    """What the journal holds of a run: its facts, and how many answers were recorded."""
    recorded = [ask for ask in run.rollouts if ask.key in run.answers]
    completions = sum(ask.key in run.answers for ask in run.completions)
    return Adopted(run.candidates, run.trials, Counter(ask.phase for ask in recorded), completions)


def going_on(run: Pure, config: object) -> Pure:
    facts = adopted_at(run)

    def make() -> Mipro:
        search = Mipro(config)
        search.adopt(facts)
        return search

    return Pure(make, run.world, config.mipro.rng_seed, config.mipro.turn_order, answers=dict(run.answers))


@pytest.mark.slow
@LAW
@given(jobs(), st.integers(0, 2**32), st.integers(1, 60))
def test_published_facts_suffice_to_go_on(config: object, arrival: int, turns: int):
    run = pure(config, MiproWorld(failing=0.05), arrival)
    run.run(until=lambda run: len(run.turns) >= turns)
    facts = adopted_at(run)
    after = going_on(run, config)
    result = after.run()
    recorded = sum(facts.rollouts.values()) - facts.rollouts[Phase.TEST]
    assert recorded + after.spent <= config.mipro.rollout_budget
    assert result.best is not None
    numbers = {c.candidate_id: c.n for c in [*run.candidates, *after.candidates]}
    assert len(set(numbers.values())) == len(numbers) == len(run.candidates) + len(after.candidates)
    for event in after.events():
        check_event(event)


def test_after_a_deploy_what_was_scored_is_known_and_not_asked_again():
    config = mipro_job(num_iterations=6, rollout_budget=500)
    run = pure(config)
    run.run(until=lambda run: len(run.events("mipro.trial.complete")) >= 10)
    before = {candidate.candidate_id for candidate in run.candidates}
    tried = {event.data["candidate_id"] for event in run.events("mipro.trial.complete")}
    after = going_on(run, config)
    result = after.run()
    known = set(after.optimizer.beliefs.choices)
    assert tried <= known
    for name in tried:
        compiled = after.optimizer.space.compile(after.optimizer.beliefs.choices[name])
        assert compiled.template.digest() == name
    again = {event.data["candidate_id"] for event in after.events("mipro.trial.complete")}
    assert not again & before
    asked = {(ask.candidate_id, ask.seed) for ask in run.rollouts if ask.key in run.answers}
    assert not asked & {(ask.candidate_id, ask.seed) for ask in after.rollouts}
    assert quality(run.world.prompt(result.best.candidate_id)) >= 0.8


def test_a_deploy_near_the_end_of_the_budget_does_not_pay_the_bootstrap_again():
    config = mipro_job(num_iterations=40, rollout_budget=100)
    run = pure(config)
    run.run(until=lambda run: bool(run.events("termination.triggered")))
    after = going_on(run, config)
    result = after.run()
    assert result.finish_reason == "rollout_budget"
    assert result.best is not None
    assert Phase.BOOTSTRAP not in {ask.phase for ask in after.rollouts}


def test_calls_of_before_a_deploy_count():
    config = mipro_job(num_iterations=10, rollout_budget=900, max_meta_calls=7)
    run = pure(config)
    run.run(until=lambda run: len(run.events("mipro.trial.complete")) >= 5)
    after = going_on(run, config)
    after.run()
    proposals = [ask for ask in [*run.completions, *after.completions] if ask.purpose == "proposal"]
    assert len(proposals) <= 7


def test_a_run_that_ends_by_itself_holds_all_laws():
    check_run(ran(mipro_job(**{"termination_config.score_threshold": 0.5})))
    assert isinstance(ran(mipro_job()), Ran)
