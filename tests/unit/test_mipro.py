"""MIPRO in worlds of known answers: what it may spend and ask, what is measured, and how the winner is chosen."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.gepa_runs import check_event
from tests.fakes.mipro_runs import ONLINE, VALIDATION, Ran, check_run, jobs, mipro_job, pure, ran, two_stages
from tests.fakes.mipro_world import LO, MiproWorld, Prompt, graded, quality, threshold

from promptjobs.core.asks import FailureReason, Rollout
from promptjobs.core.limits import COMMON_SHARE
from promptjobs.core.mipro_plan import end_rollouts
from promptjobs.core.trial import Phase

LAW = settings(deadline=None, derandomize=True, max_examples=25)


# --- any job, any order of answers -----------------------------------------------------------------------------------


@LAW
@given(jobs(), st.integers(0, 2**32), st.sampled_from([0.0, 0.1]), st.booleans())
def test_every_run_keeps_to_its_budget_and_tells_the_truth(config: Any, arrival: int, failing: float, known: bool):
    world = MiproWorld(failing=failing, is_known=known, lo=lambda prompt, seed: threshold(prompt, seed) / 2)
    run = ran(config, world, arrival)
    check_run(run)
    check_common_seeds(run)
    check_winner(run)


def check_common_seeds(run: Ran) -> None:
    """Within an iteration every trial is measured on the same seeds, or on the first of them alone."""
    batches = {event.data["iteration"]: event.data["seeds"] for event in run.pure.events("mipro.iteration.start")}
    for each in run.trials:
        own = batches[each["iteration"]]
        asked = [ask.seed for ask in run.pure.rollouts if ask.candidate_id == each["candidate_id"]]
        assert set(own[: each["num_instances"]]) <= set(asked)
        assert each["num_instances"] <= len(own)
        if run.config.mipro.proxy_models is None:
            assert asked[: each["num_instances"]] == own[: each["num_instances"]]
    assert all(set(seeds) <= set(run.config.mipro.online_seeds) for seeds in batches.values())


def check_winner(run: Ran) -> None:
    """Of the finalists that were measured in full, none is better than the winner on the seeds that all have."""
    finalists = run.result.finalists
    best = run.result.best
    assert best is not None
    assert finalists[0].candidate == best
    assert run.base in {finalist.candidate.candidate_id for finalist in finalists} or len(finalists) == 1
    common = set.intersection(*(set(finalist.scores) for finalist in finalists))
    if common:
        paired = [sum(finalist.scores[seed] for seed in common) for finalist in finalists]
        assert paired == sorted(paired, reverse=True)
    most = max(len(finalist.scores) for finalist in finalists)
    assert all(len(finalist.scores) >= COMMON_SHARE * most for finalist in finalists)


@settings(LAW, max_examples=6)
@given(jobs(), st.integers(0, 2**32))
def test_in_fixed_order_the_same_answers_give_the_same_facts(config: Any, arrival: int):
    fixed = config.model_copy(update={"mipro": config.mipro.model_copy(update={"turn_order": "fixed"})})
    one, other = (pure(fixed, MiproWorld(failing=0.1), seed) for seed in (arrival, arrival + 1))
    assert one.run() == other.run()
    assert one.turns == other.turns
    assert one.chain == other.chain


@pytest.mark.parametrize("seed", [0, 2**31])
def test_the_same_job_is_the_same_run_whatever_its_seed(seed: int):
    one, other = (ran(mipro_job(rng_seed=seed)) for _ in range(2))
    assert one.pure.turns == other.pure.turns
    assert one.result == other.result


def test_another_seed_has_other_minibatches_and_other_example_sets():
    def minibatches(run: Ran) -> list[Any]:
        return [event.data["seeds"] for event in run.pure.events("mipro.iteration.start")]

    runs = [ran(mipro_job(rng_seed=seed, max_demo_set_size=2)) for seed in (0, 1)]
    assert minibatches(runs[0]) != minibatches(runs[1])
    sets = [run.result.extra["demo_sets"] for run in runs]
    assert sets[0] != sets[1]


def test_replay_decides_the_same():
    run = pure(mipro_job(), MiproWorld(failing=0.05), 3)
    run.run(until=lambda run: len(run.turns) >= 25)
    run.rebuild()
    assert run.run().best is not None


# --- what it is for --------------------------------------------------------------------------------------------------


def test_instructions_and_examples_that_help_are_found():
    run = ran(mipro_job(rollout_budget=600, num_iterations=8))
    assert run.best.good >= 4
    assert run.best.shown >= 3
    assert quality(run.best) > 0.8
    assert run.result.best_score > run.result.baseline_score + 0.3


@pytest.mark.parametrize(
    "world", [MiproWorld(score=lambda prompt, seed: 0.5), MiproWorld(score=lambda p, s: 0.9 - quality(p))]
)
def test_where_nothing_helps_the_baseline_is_not_made_worse(world: MiproWorld):
    run = ran(mipro_job(), world)
    assert run.result.best_score >= run.result.baseline_score


# --- the budget ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("risk", ["LOW", "HIGH"])
@pytest.mark.parametrize("budget", [90, 301])
def test_the_search_goes_on_until_no_trial_fits(risk: str, budget: int):
    """A lane that cannot reserve its worst case does not stop the others, which give back what they do not need."""
    config = mipro_job(rollout_budget=budget, parallel_risk=risk, num_iterations=100, full_eval_every=1000)
    run = ran(config, MiproWorld(score=graded))
    assert run.result.finish_reason == "rollout_budget"
    searched = [ask for ask in run.pure.rollouts if ask.phase in (Phase.BOOTSTRAP, Phase.OPTIMIZATION)]
    left = budget - end_rollouts(config.mipro) - len(searched)
    assert 0 <= left < 8 + (run.trials == [])


def test_what_trials_give_back_is_spent_on_others():
    """Each of twelve lanes reserves a whole minibatch, and each trial ends after half of it."""

    def score(prompt: Prompt, seed: int) -> float:
        return 0.2 if prompt.good or prompt.shown else 0.6

    config = mipro_job(
        rollout_budget=160,
        parallel_risk="HIGH",
        num_iterations=100,
        num_evaluations_per_iteration=12,
        full_eval_every=99,
    )
    run = ran(config, MiproWorld(score=score))
    assert {each["num_seeds"] for each in run.trials} == {4}
    searched = [ask for ask in run.pure.rollouts if ask.phase in (Phase.BOOTSTRAP, Phase.OPTIMIZATION)]
    assert 160 - end_rollouts(config.mipro) - len(searched) < 8


@pytest.mark.parametrize("budget", [60, 300])
def test_what_is_kept_for_the_end_is_there_for_the_winner_and_the_baseline(budget: int):
    config = mipro_job(rollout_budget=budget, num_iterations=50)
    run = ran(config)
    best = run.result.best
    assert best is not None
    for name in {best.candidate_id, run.base}:
        assert set(VALIDATION) <= run.seeds_of(name)


def test_no_iteration_begins_that_cannot_pay_a_trial():
    for budget in (60, 75, 90, 110):
        run = ran(mipro_job(rollout_budget=budget, num_iterations=50), MiproWorld(score=graded))
        begun = {event.data["iteration"] for event in run.pure.events("mipro.iteration.start")}
        assert begun == {each["iteration"] for each in run.trials}


# --- measuring -------------------------------------------------------------------------------------------------------


def test_all_bootstrap_rollouts_are_asked_at_once():
    run = pure(mipro_job())
    run.run(until=lambda run: bool(run.rollouts))
    assert [ask.seed for ask in run.rollouts] == list(range(10))
    assert {ask.phase for ask in run.rollouts} == {Phase.BOOTSTRAP}


def test_the_incumbent_is_measured_where_its_rivals_are():
    run = ran(mipro_job())
    for event in run.pure.events("mipro.iteration.start"):
        own = set(event.data["seeds"])
        whole = [t for t in run.pure.trials if own <= set(t.seeds) or own <= run.seeds_of(t.candidate_id)]
        assert whole


def test_a_trial_that_is_behind_on_the_first_part_of_its_minibatch_ends_there():
    def worse(prompt: Prompt, seed: int) -> float:
        return 0.6 if prompt.text == "Answer the question." and not prompt.shown else 0.2

    changes = {"batch_size": 12, "num_iterations": 2, "rollout_budget": 2000}
    short, whole = (ran(mipro_job(**changes, early_stopping=flag), MiproWorld(score=worse)) for flag in (True, False))
    assert {each["num_seeds"] for each in short.trials} == {4}
    assert {each["num_seeds"] for each in whole.trials} == {12}
    better = ran(mipro_job(**changes), MiproWorld(score=lambda prompt, seed: quality(prompt)))
    assert max(each["num_seeds"] for each in better.trials) == 12


def test_full_evaluations_come_in_mid_search_and_at_the_end_and_decide():
    config = mipro_job(num_iterations=12, rollout_budget=900, full_eval_every=2)
    run = ran(config)
    full = [event.data for event in run.pure.events("mipro.fulleval.complete")]
    assert len(full) >= 2
    first = [turn for turn in run.pure.turns if any(f in turn.facts for f in run.pure.events("fulleval.complete"))]
    assert first[0] is not run.pure.turns[-1]
    for each in full:
        assert each["seeds"] == VALIDATION
        assert set(VALIDATION) <= run.seeds_of(each["candidate_id"])
    numbers = [each["trial"] for each in full]
    assert all(later - earlier >= 2 for earlier, later in pairwise(numbers))
    assert run.result.extra["best_full_score"] == pytest.approx(run.result.best_score)


def test_without_validation_seeds_the_online_seeds_decide():
    run = ran(mipro_job(seeds__validation=[]))
    best = run.result.best
    assert best is not None
    assert set(ONLINE) <= run.seeds_of(best.candidate_id)
    assert run.result.train is None
    assert run.result.validation is not None
    assert run.result.validation.seeds == len(ONLINE)


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_candidate_whose_rollouts_all_fail_has_no_score():
    def score(prompt: Prompt, seed: int) -> float | FailureReason:
        return FailureReason.PROMPT_NOT_MATCHED if prompt.shown else threshold(prompt, seed)

    run = ran(mipro_job(max_demo_set_size=2), MiproWorld(score=score))
    broken = [each for each in run.trials if each["num_seeds"] == 0]
    assert broken
    for each in broken:
        assert each["minibatch_score"] is None
        assert each["estimate"] is None
        assert run.world.prompt(each["candidate_id"]).shown
    assert run.best.shown == 0
    assert run.result.best_score > run.result.baseline_score
    ids = {each["candidate_id"] for each in broken}
    assert not ids & {member.candidate.candidate_id for member in run.result.archive}
    assert not ids & {attempt.candidate.candidate_id for attempt in run.result.attempts}
    # The rest of a minibatch whose first part has no score is not paid for.
    asked = Counter(ask.candidate_id for ask in run.pure.rollouts)
    assert {asked[name] for name in ids} == {4}
    levels = [e.level for e in run.pure.events("mipro.trial.complete") if e.data["candidate_id"] in ids]
    assert set(levels) == {"warning"}


def test_failed_rollouts_are_asked_once_more_and_are_no_part_of_a_mean():
    run = ran(mipro_job(rollout_budget=400), MiproWorld(score=lambda prompt, seed: 0.6, failing=0.25))
    again = [ask for ask in run.pure.rollouts if ask.draw]
    assert again
    assert {ask.draw for ask in again} == {1}
    scores = {each["minibatch_score"] for each in run.trials} - {None}
    assert all(score == pytest.approx(0.6) for score in scores)


# --- two stages ------------------------------------------------------------------------------------------------------


def test_each_stage_has_its_own_instructions_and_examples_and_a_trial_may_change_both():
    run = ran(two_stages(rollout_budget=500, num_iterations=6))
    check_run(run)
    payloads = [each["stage_payloads"] for each in run.trials]
    assert any(all(p[stage]["instruction_ids"] for stage in ("plan", "solve")) for p in payloads)
    assert all(any(p[stage]["demo_indices"] for p in payloads) for stage in ("plan", "solve"))
    changed = Counter(changed_stages(run, each["candidate_id"]) for each in run.trials)
    assert {("plan",), ("solve",), ("plan", "solve")} <= set(changed)
    stages = run.pure.optimizer.space.stages
    for stage in stages:
        assert {made.stage_id for made in stage.bank} == {stage.stage_id}
        assert all(f"Step {stage.stage_id}." in made.text for made in stage.bank if made.is_whole)
        for example in stage.pool:
            assert example.messages[-1].content == f"{stage.stage_id} {example.seed % 3}"
    assert quality(run.best) > 0.8
    assert min(run.best.texts[stage].count("good") for stage in ("plan", "solve")) > 0


def changed_stages(run: Ran, candidate_id: str) -> tuple[str, ...]:
    """In which stages a candidate differs from the one that was the best when it was made."""
    own = run.world.templates[candidate_id]
    [candidate] = [each for each in run.pure.candidates if each.candidate_id == candidate_id]
    parent = run.world.templates[candidate.parents[0]]
    return tuple(module for module in own.modules if own.part(module).sections != parent.part(module).sections)


def test_a_stand_in_and_a_judge_may_be_on_at_once():
    judge = {"verifier": {"enabled": True, "reward_source": "verifier", "backend_model": "judge"}}
    run = ran(mipro_job(**judge, **{"proxy_models.lo_model": LO}))
    check_run(run)
    assert any(isinstance(ask, Rollout) for ask in run.pure.calls)
    for event in run.pure.events():
        check_event(event)
