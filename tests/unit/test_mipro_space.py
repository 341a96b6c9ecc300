"""What a MIPRO search chooses from: examples, instructions, tiny and empty spaces, and prompts that are not run."""

import json
from copy import deepcopy
from typing import Any

import pytest
from tests.fakes.mipro_runs import BOOTSTRAP, REFERENCE, STAGES, Ran, check_run, mipro_job, pure, ran, two_stages
from tests.fakes.mipro_world import START, TASK, Asked, MiproWorld, always, better, fenced, graded, junk, threshold

from promptjobs.core.asks import FailureReason, Rollout
from promptjobs.core.lanes import Cause
from promptjobs.core.mipro_plan import BARREN_ITERATIONS
from promptjobs.core.mipro_proposing import MOST_TRIES
from promptjobs.core.trial import Phase
from promptjobs.errors import JobFailed

pytestmark = pytest.mark.slow


def bank(run: Ran) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run.result.extra["instruction_bank"]
    return found


def examples(run: Ran, stage: str = "stage_default") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run.result.extra["bootstrap"]["few_shot_examples"][stage]
    return found


# --- the bootstrap ---------------------------------------------------------------------------------------------------


def test_what_the_baseline_gets_right_becomes_the_pool_with_its_messages():
    run = ran(mipro_job())
    solved = [seed for seed in BOOTSTRAP if threshold(run.world.prompt(run.base), seed) == 1.0]
    assert 0 < len(solved) < len(BOOTSTRAP)
    assert [example["seed"] for example in examples(run)] == solved
    for example in examples(run):
        seed = example["seed"]
        assert example["messages"] == [
            {"role": "user", "content": f"Query: question {seed}."},
            {"role": "assistant", "content": f"answer {seed % 3}"},
        ]
    assert run.result.extra["bootstrap"]["baseline_score"] == pytest.approx(len(solved) / len(BOOTSTRAP))


def test_told_answers_take_the_place_of_wrong_ones():
    run = ran(mipro_job(), MiproWorld(is_known=True))
    assert [example["seed"] for example in examples(run)] == BOOTSTRAP


@pytest.mark.parametrize("score", [0.79, 0.8])
def test_a_rollout_is_an_example_from_the_threshold_on(score: float):
    run = ran(mipro_job(few_shot_score_threshold=0.8), MiproWorld(score=lambda prompt, seed: score))
    assert len(examples(run)) == (len(BOOTSTRAP) if score >= 0.8 else 0)


@pytest.mark.parametrize("form", ["messages", "text"])
def test_examples_stand_before_the_question_or_below_the_instruction(form: str):
    run = ran(mipro_job(demo_format=form), MiproWorld(is_known=True, reply=junk))
    shown = [run.world.templates[each["candidate_id"]] for each in run.trials]
    shown = [template for template in shown if "answer 0" in json.dumps(template.to_json())]
    assert shown
    for template in shown:
        roles = [section.role for section in template.sections]
        if form == "text":
            assert roles == ["system", "user"]
            assert "Input: Query: question" in template.sections[0].content
        else:
            assert roles == ["system", *["user", "assistant"] * ((len(roles) - 2) // 2), "user"]
        assert template.sections[-1].content == "Query: {query}"


def test_examples_are_of_bootstrap_seeds():
    run = ran(mipro_job(), MiproWorld(is_known=True))
    assert {example["seed"] for example in examples(run)} <= set(BOOTSTRAP)
    for each in run.trials:
        for section in run.world.templates[each["candidate_id"]].sections:
            if section.content.startswith("Query: question"):
                assert int(section.content.removeprefix("Query: question ").rstrip(".")) in BOOTSTRAP


def test_reference_seeds_are_asked_with_the_baseline_and_shown_without_answers():
    run = ran(mipro_job(seeds__reference=REFERENCE))
    asked = {(ask.candidate_id, ask.phase) for ask in run.pure.rollouts if ask.seed in REFERENCE}
    assert asked == {(run.base, Phase.BOOTSTRAP)}
    for ask in run.proposals:
        assert all(f"> Query: question {seed}." in ask.messages[0].content for seed in REFERENCE)
    check_run(run)


def test_the_task_apps_description_is_asked_once_and_shown():
    run = ran(mipro_job())
    assert [ask.purpose for ask in run.pure.completions].count("task_info") == 1
    assert all(TASK in ask.messages[0].content for ask in run.proposals)


def test_without_a_prompt_the_task_apps_own_messages_are_the_baseline():
    run = ran(mipro_job(initial_prompt=None))
    assert run.result.baseline is not None
    assert [s.content for s in run.result.baseline.template.sections] == [START, "Query: {input}"]
    assert run.best.text.startswith(START)
    check_run(run)


# --- few or no examples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("none", ["max_demo_slots", "max_demo_set_size", "max_demo_sets"])
def test_without_examples_instructions_alone_are_searched(none: str):
    run = ran(mipro_job(**{none: 0}))
    assert run.result.extra["demo_sets"] == {"stage_default": []}
    assert all("demos" not in name for name in run.result.extra["optimizer_state"]["dimensions"])
    assert run.best.shown == 0
    assert run.best.good > 1


def test_a_bootstrap_without_a_correct_example_is_no_failure():
    run = ran(mipro_job(), MiproWorld(score=graded))
    assert examples(run) == []
    assert run.best.good > 1


@pytest.mark.parametrize(("least", "is_refused"), [(0, False), (2, False), (10, True)])
def test_too_few_examples_are_refused_with_what_would_help(least: int, is_refused: bool):
    config = mipro_job(min_bootstrap_demos=least)
    if not is_refused:
        assert ran(config).result.best is not None
        return
    run = pure(config)
    with pytest.raises(
        JobFailed,
        match=r"found \d examples, and min_bootstrap_demos asks for 10: give more .* few_shot_score_threshold",
    ):
        run.run()
    asked = len(run.calls)
    assert run.stop(Cause.ERRORS).best == run.optimizer.base
    assert len(run.calls) == asked


@pytest.mark.parametrize("nothing", [{"max_instruction_sets": 0}, {"generate_at_iterations": []}])
def test_where_nothing_is_proposed_and_nothing_can_be_shown_the_job_says_so(nothing: dict[str, Any]):
    run = pure(mipro_job(**nothing), MiproWorld(score=graded))
    with pytest.raises(JobFailed, match="there is nothing to search: nothing is proposed, and the bootstrap found no"):
        run.run()
    assert not [ask for ask in run.completions if ask.purpose == "proposal"]


@pytest.mark.parametrize(
    "nothing", [{"max_instruction_sets": 0}, {"generate_at_iterations": []}, {"max_instruction_slots": 0}]
)
def test_examples_alone_are_searched_where_nothing_is_proposed(nothing: dict[str, Any]):
    run = ran(mipro_job(**nothing))
    assert run.proposals == []
    assert run.best.text == START
    assert run.best.shown > 1


# --- small spaces ----------------------------------------------------------------------------------------------------

ONE = {"instructions_per_batch": 1, "generate_at_iterations": [0], "max_demo_set_size": 0, "max_instruction_slots": 1}


def test_one_candidate_and_one_trial():
    run = ran(mipro_job(**ONE, num_iterations=1, num_evaluations_per_iteration=1))
    assert len(run.proposals) == 1
    assert len(run.trials) == 1
    assert run.best.good == 1
    check_run(run)


def test_a_space_that_is_exhausted_ends_the_search_at_once():
    run = ran(mipro_job(**ONE, num_iterations=1000, rollout_budget=5000))
    assert run.result.finish_reason == "exhausted"
    [event] = run.pure.events("mipro.optimization.exhausted")
    assert event.data == {"iteration": 0, "trials": 1}
    assert run.best.good == 1
    assert len(run.pure.events("mipro.iteration.start")) == 1


def test_an_exhausted_space_waits_for_the_next_proposals_without_cost():
    changes = ONE | {"generate_at_iterations": [0, 900], "num_iterations": 1000, "rollout_budget": 5000}
    run = ran(mipro_job(**changes))
    assert [each["iteration"] for each in run.trials] == [0, 900]
    assert [event.data["iteration"] for event in run.pure.events("mipro.iteration.start")] == [0, 900]
    assert run.result.finish_reason == "exhausted"
    assert run.best.good == 2


STUBBORN = {
    "the same text": always("Answer well."),
    "the current text": lambda asked: fenced(asked.text),
    "no text": lambda asked: "I would rather not.",
}


@pytest.mark.parametrize("said", STUBBORN)
@pytest.mark.parametrize("mode", ["synth", "builtin"])
def test_a_meta_model_without_ideas_ends_the_search_within_bounds(said: str, mode: str):
    config = mipro_job(
        num_iterations=10_000,
        max_demo_set_size=0,
        max_instruction_slots=1,
        rollout_budget=5000,
        duplicate_retry_limit=2,
        proposer_mode=mode,
    )
    run = ran(config, MiproWorld(reply=STUBBORN[said]))
    assert run.result.finish_reason == "exhausted"
    assert len(run.trials) == (said == "the same text")
    assert len(run.pure.events("mipro.iteration.start")) <= 2 + BARREN_ITERATIONS
    assert len(run.proposals) <= (2 + BARREN_ITERATIONS) * (5 + 2)
    reasons = {event.data["reason"] for event in run.pure.events("proposal.refused")}
    assert reasons
    check_run(run)


def test_a_meta_model_that_always_fails_ends_the_job_with_its_words():
    run = pure(mipro_job(), MiproWorld(reply=lambda asked: FailureReason.PROVIDER_ERROR))
    with pytest.raises(JobFailed, match="the meta-model failed 5 times in a row: the model is away"):
        run.run()
    assert {event.data["reason"] for event in run.events("proposal.refused")} == {"failed"}
    result = run.stop(Cause.ERRORS)
    assert result.best == result.baseline


def test_proposals_that_fail_now_and_then_end_nothing():
    def reply(asked: Asked) -> str | FailureReason:
        return better(asked) if asked.times % 3 == 2 else FailureReason.PROVIDER_TIMEOUT

    run = ran(mipro_job(), MiproWorld(reply=reply))
    assert run.result.finish_reason == "num_iterations"
    assert run.best.good


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_known_and_useless_texts_are_asked_for_again_as_often_as_that_is_allowed(limit: int):
    changes = {"instructions_per_batch": 4, "num_iterations": 1, "duplicate_retry_limit": limit}
    changes["max_instruction_slots"] = 1
    same, useless = (
        ran(mipro_job(**changes), MiproWorld(reply=reply)) for reply in (always("Answer well."), lambda asked: "No.")
    )
    # Two questions, the first of which brings the text; each is asked three times at most.
    assert len(same.proposals) == 1 + min(1 + limit, MOST_TRIES)
    assert len(useless.proposals) == min(2 + limit, 2 * MOST_TRIES)
    assert len({ask.key for ask in same.proposals}) == len(same.proposals)
    assert [entry["text"] for entry in bank(same)] == ["Answer well."]


def test_a_full_bank_takes_nothing_further_and_asks_for_nothing():
    run = ran(mipro_job(max_instruction_sets=3, num_iterations=5))
    assert len(bank(run)) == 3
    assert {event.data["iteration"] for event in run.pure.events("mipro.instruction.proposed")} == {0}
    assert len(run.proposals) == 5


# --- prompts that are not run ----------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_refused_before_any_rollout_is_asked():
    def reply(asked: Asked) -> str:
        return fenced(f"{asked.text}\n{'very ' * 40 * (asked.times % 2)}good{asked.draw}{asked.times}")

    config = mipro_job(max_prompt_tokens=40, max_demo_set_size=0)
    run = ran(config, MiproWorld(reply=reply))
    counted = run.pure.optimizer.space.count_tokens
    for template in run.world.templates.values():
        assert sum(counted(section.content) for section in template.sections) <= 40
    assert all("very" not in run.world.prompt(name).text for name in run.world.templates)
    assert run.trials

    shown = ran(mipro_job(max_prompt_tokens=40), MiproWorld(is_known=True))
    refused = shown.pure.events("mipro.trial.refused")
    assert refused
    assert {event.data["reason"] for event in refused} == {"too_long"}
    assert all("at most 40" in event.data["detail"] for event in refused)


def found(asked: Asked) -> str:
    """Three changes of a passage that only the baseline's text holds."""
    texts = [f"the question with {word}{asked.times}" for word in ("care", "good sense", "a smile")]
    changes = [{"type": "replace", "find": "the question", "text": text} for text in texts]
    return fenced(json.dumps([*changes, {"type": "replace", "text": f"Reply. {asked.times}"}]))


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_change_of_what_is_gone_is_a_miss_or_where_it_is_strict_a_refusal(is_strict: bool):
    config = mipro_job(
        proposer_mode="builtin", transform_strict=is_strict, num_iterations=8, max_demo_set_size=0, rollout_budget=600
    )
    run = ran(config, MiproWorld(reply=found))
    missed = [e.data for e in run.pure.events("mipro.trial.started") if e.data["misses"]]
    refused = [e.data for e in run.pure.events("mipro.trial.refused")]
    assert (bool(missed), bool(refused)) == (not is_strict, is_strict)
    for data in missed:
        assert {miss["reason"] for miss in data["misses"]} == {"text_not_found"}
    assert all(data["reason"] == "transform" for data in refused)
    assert all("the question" in data["detail"] for data in refused)
    recorded = [entry["misses"] for entry in run.result.extra["history"] if entry["misses"]]
    assert recorded == [data["misses"] for data in missed]
    check_run(run)


PROGRAM = json.dumps([{"type": "python", "text": "messages[0]['content'] += '\\ngood program'"}])


@pytest.mark.parametrize("is_allowed", [False, True])
def test_programs_are_run_only_where_the_job_allows_them(is_allowed: bool):
    changes = {"allow_python": True} if is_allowed else {}
    config = mipro_job(proposer_mode="builtin", num_iterations=1, **changes)
    run = ran(config, MiproWorld(reply=lambda asked: fenced(PROGRAM)))
    reasons = {event.data["reason"] for event in run.pure.events("proposal.refused")}
    assert ("python_off" in reasons) != is_allowed
    ran_programs = ["good program" in run.world.prompt(each["candidate_id"]).text for each in run.trials]
    assert any(ran_programs) == is_allowed


# --- duplicates ------------------------------------------------------------------------------------------------------


def test_choices_that_make_a_known_prompt_are_told_and_not_measured_again():
    run = ran(mipro_job(num_iterations=8, rollout_budget=900, max_demo_set_size=0, generate_at_iterations=[0]))
    duplicates = [event.data for event in run.pure.events("mipro.trial.duplicate")]
    assert duplicates
    for data in duplicates:
        assert run.pure.optimizer.space.compile(data["config"]).template.digest() == data["candidate_id"]
    asked = [(ask.candidate_id, ask.seed) for ask in run.pure.rollouts if isinstance(ask, Rollout)]
    assert len(asked) == len(set(asked))
    check_run(run)


def test_texts_of_several_calls_are_united():
    run = ran(mipro_job(num_iterations=1))
    first = run.world.prompt(run.trials[0]["candidate_id"])
    assert first.good == 5


def test_a_stage_without_slots_stays_as_it_is():
    stages = deepcopy(STAGES)
    stages[0] |= {"max_instruction_slots": 0, "max_demo_slots": 0}
    run = ran(two_stages(modules=[{"module_id": "program", "stages": stages}]))
    for template in run.world.templates.values():
        assert template.part("plan").sections == run.pure.optimizer.space.baseline.part("plan").sections
    assert run.best.texts["solve"].count("good")
