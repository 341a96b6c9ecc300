"""How a GEPA job ends: by its limits, by a failure, by a stop, or in another version of the search."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.gepa_runs import (
    ERROR,
    MODES,
    PROMPT,
    QualityWorld,
    best_quality,
    check_event,
    job,
    jobs,
    noisy,
    pure,
    stepping,
)
from tests.fakes.pure import Pure

from promptjobs.core.asks import (
    Completion,
    CompletionBody,
    FailureReason,
)
from promptjobs.core.gepa import Gepa
from promptjobs.core.lanes import Cause
from promptjobs.core.optimizer import Adopted
from promptjobs.core.search_base import FAILURES_IN_A_ROW
from promptjobs.core.trial import Phase
from promptjobs.errors import JobFailed

LAW = settings(deadline=None, derandomize=True, max_examples=40)
BOTH = pytest.mark.parametrize("acceptance", MODES)


# --- when it ends ----------------------------------------------------------------------------------------------------

EVEN = QualityWorld(score=lambda quality, seed, draw: 0.5, reflect=stepping(0.0))


@BOTH
@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_generations_and_patience_and_trials_stop_the_search(acceptance: str, lanes: int) -> None:
    large = {"acceptance": acceptance, "lanes": lanes, "rollout__budget": 5000}
    generations = pure(job(**large, population__num_generations=4), replace(EVEN))
    assert generations.run().finish_reason == "num_generations"
    assert len(generations.completions) == 4 * 5
    assert len(generations.events("generation.complete")) == 4

    patience = pure(job(**large, population__patience_generations=2, population__initial_size=1), replace(EVEN))
    assert patience.run().finish_reason == "patience_generations"
    assert 2 * 5 <= len(patience.completions) < 2 * 5 + lanes

    config = job(**large)
    capped = config.model_copy(update={"gepa": config.gepa.model_copy(update={"max_trials": 12})})
    trials = pure(capped, replace(EVEN))
    assert trials.run().finish_reason == "max_trials"
    searched = [trial for trial in trials.trials if trial.phase is Phase.OPTIMIZATION]
    at_once = 3  # a proposal of the paper's search, or both sides of a block: what does not fit is not begun
    assert 12 - at_once < len(searched) <= 12


@BOTH
def test_success_renews_patience(acceptance: str) -> None:
    """Better and better for a while, then never again: the search outlives its patience by that while."""

    def reflect(quality: float, completion: Completion) -> CompletionBody:
        return stepping(0.05 if quality < 0.8 else 0.0)(quality, completion)

    world = QualityWorld(score=lambda quality, seed, draw: quality, reflect=reflect)
    config = job(
        acceptance=acceptance,
        rollout__budget=5000,
        population__initial_size=1,
        population__patience_generations=2,
        population__num_generations=1000,
    )
    run = pure(config, world)
    result = run.run()
    assert result.finish_reason == "patience_generations"
    assert best_quality(result) >= 0.8
    assert len(run.completions) == 20


@BOTH
def test_patience_begins_after_the_drafts(acceptance: str) -> None:
    """The drafts alone are more proposals than the search has patience for."""
    config = job(
        acceptance=acceptance,
        evaluation__train_seeds=list(range(80)),
        archive__pareto_set_size=20,
        rollout__budget=5000,
        population__patience_generations=1,
        population__children_per_generation=4,
    )
    run = pure(config, replace(EVEN))
    assert run.run().finish_reason == "patience_generations"
    drafts = [c for c in run.candidates if c.operator == "reflection" and c.generation == 1]
    assert run.optimizer.drafts > 4
    assert len(drafts) >= run.optimizer.drafts
    assert len(run.completions) == 4 * (run.optimizer.drafts // 4 + 1)


# --- when it fails ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [ERROR, FailureReason.CANDIDATE_NOT_USED, FailureReason.PROMPT_NOT_MATCHED])
@pytest.mark.parametrize("prompt", [PROMPT, None])
@BOTH
def test_a_job_whose_every_baseline_rollout_fails_says_why(acceptance: str, reason: FailureReason, prompt: Any) -> None:
    run = pure(job(acceptance=acceptance, prompt=prompt), QualityWorld(score=lambda quality, seed, draw: reason))
    seeds = 8 if prompt else 3
    with pytest.raises(JobFailed, match=rf"every rollout .* failed; {seeds} of {seeds} with {reason}: it broke on \d"):
        run.run()
    assert len(run.calls) == (2 * seeds if reason is ERROR else seeds)
    calls = len(run.calls)
    result = run.stop(Cause.ERRORS)
    assert len(run.calls) == calls
    assert (result.best_score, result.finish_reason) == (None, "errors")
    for event in run.events():
        check_event(event)


@BOTH
def test_a_job_whose_baseline_fails_often_says_so(acceptance: str) -> None:
    config = job(acceptance=acceptance)
    broken = config.gepa.front_seeds[:3]
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: ERROR if seed in broken else 0.5))
    with pytest.raises(JobFailed, match="3 rollouts of the baseline failed; 3 of 8 with task_app_error"):
        run.run()


@BOTH
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_world_that_breaks_in_mid_search_ends_it_with_the_reason(acceptance: str, lanes: int) -> None:
    asked = Counter[str]()

    def score(quality: float, seed: int, draw: int) -> float | FailureReason:
        asked["all"] += 1
        return quality if asked["all"] <= 40 else FailureReason.PROVIDER_ERROR

    config = job(acceptance=acceptance, lanes=lanes, rollout__budget=3000)
    run = pure(config, QualityWorld(score=score, reflect=stepping(0.01)))
    gave_up = "(trials in a row brought no score|minibatches in a row had too few scores); . of . with provider_error"
    with pytest.raises(JobFailed, match=f"{FAILURES_IN_A_ROW} {gave_up}"):
        run.run()
    result = run.stop(Cause.ERRORS)
    assert result.best is not None
    assert result.best_score is not None


@BOTH
@pytest.mark.parametrize("lanes", [1, 3])
def test_five_reflections_that_fail_in_a_row_end_the_job(acceptance: str, lanes: int) -> None:
    world = QualityWorld(score=noisy(), reflect=lambda quality, completion: FailureReason.PROVIDER_ERROR)
    run = pure(job(acceptance=acceptance, lanes=lanes), world)
    with pytest.raises(JobFailed, match="the meta-model failed 5 times in a row: the model is away"):
        run.run()
    assert 5 <= len(run.completions) < 5 + lanes
    assert {event.data["reason"] for event in run.events("proposal.refused")} == {"failed"}


@BOTH
def test_reflections_that_fail_now_and_then_end_nothing(acceptance: str) -> None:
    calls = Counter[str]()

    def reflect(quality: float, completion: Completion) -> CompletionBody | FailureReason:
        calls["all"] += 1
        return stepping(0.0)(quality, completion) if calls["all"] % 5 == 0 else FailureReason.PROVIDER_TIMEOUT

    config = job(acceptance=acceptance, population__num_generations=4)
    run = pure(config, QualityWorld(score=noisy(), reflect=reflect))
    assert run.run().finish_reason == "num_generations"
    assert len(run.completions) == 20


@pytest.mark.parametrize("cause", [Cause.DEADLINE, Cause.MONEY, Cause.BUG, Cause.SPENT, Cause.ERRORS, Cause.CANCEL])
@BOTH
def test_a_stopped_search_publishes_the_best_it_has(acceptance: str, cause: Cause) -> None:
    config = job(acceptance=acceptance, lanes=4)
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    run.run(until=lambda run: len(run.events("new_best")) == 2)
    asked = len(run.calls)
    result = run.stop(cause)
    assert result.finish_reason == cause
    assert best_quality(result) == pytest.approx(0.4)
    assert result.best_score == pytest.approx(0.4)
    is_measured = cause in (Cause.DEADLINE, Cause.MONEY)
    assert (len(run.calls) > asked, result.test is not None) == (is_measured, is_measured)
    assert run.spent <= 300
    for event in run.events():
        check_event(event)


@BOTH
def test_a_deadline_before_the_first_answer_leaves_the_baseline(acceptance: str) -> None:
    run = pure(job(acceptance=acceptance))
    run.run(until=lambda run: True)
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


@BOTH
@LAW
@given(st.data(), st.integers(0, 2**32), st.integers(1, 60))
def test_published_facts_suffice_to_go_on(acceptance: str, data: st.DataObject, arrival: int, turns: int) -> None:
    config = data.draw(jobs(acceptance))
    run = pure(config, QualityWorld(score=noisy(0.1), worked=0.03), arrival)
    run.run(until=lambda run: len(run.turns) >= turns)
    facts = adopted_at(run)

    def make() -> Gepa:
        search = Gepa(config)
        search.adopt(facts)
        return search

    search, original = make(), run.optimizer
    if acceptance == "full":
        assert set(search.archive.members) == set(original.archive.members)
        assert search.archive.front == original.archive.front
        assert search.archive.holders().keys() == original.archive.holders().keys() or not original.archive.members
        assert search.archive.scores == original.archive.scores
        assert search.archive.ranked() == original.archive.ranked()
    else:
        # Verdicts are no facts: whoever has beaten its parent by what is known is a member, judged or not.
        assert set(original.archive.members) <= set(search.archive.members)
    assert search.archive.seeds == original.archive.seeds or not original.archive.members
    assert search.candidates == original.candidates
    assert search.base == original.base
    assert search.evaluations.trials == original.evaluations.trials
    assert search.budget.used == sum(n for phase, n in facts.rollouts.items() if phase is not Phase.TEST)
    after = Pure(make, run.world, config.gepa.rng_seed, answers=dict(run.answers))
    result = after.run()
    recorded = sum(facts.rollouts.values()) - facts.rollouts[Phase.TEST]
    assert recorded + after.spent <= config.gepa.rollout_budget
    assert result.best is not None
    numbers = {c.candidate_id: c.n for c in [*run.candidates, *after.candidates]}
    assert len(set(numbers.values())) == len(numbers)
