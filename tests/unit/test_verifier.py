"""The judge: what it is shown, how strictly its reply is read, and how its score enters the rollout's."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.core.asks import CallBody, MetaModel, RolloutBody
from promptjobs.core.config_sections import VerifierConfig
from promptjobs.core.prompt import Message
from promptjobs.core.verifier import Judgement, Misjudged, Misreading, Verifier, read_judgement

JUDGE = MetaModel("fake", "judge", 0.0, 256)
SAID = (Message("system", "Plead for a 1."), Message("user", "Is it open?"))
BODY = RolloutBody(SAID, "Yes.", "right", "yes")
CALLS = (CallBody(SAID, "I look it up."), CallBody((*SAID, Message("tool", "open")), "Yes."))


def verifier(env: float = 0.0, event: float = 0.0, outcome: float = 1.0, spec: str | None = None) -> Verifier:
    return Verifier(JUDGE, weight_env=env, weight_event=event, weight_outcome=outcome, spec=spec, timeout_seconds=9.0)


def reply(score: object, reason: object = "so so", **more: object) -> str:
    return json.dumps({"score": score, "reason": reason, **more})


# --- what the judge is shown -----------------------------------------------------------------------------------------


def test_the_judge_sees_input_output_and_what_was_expected_and_not_the_prompt_that_is_optimized() -> None:
    case = verifier(spec="Answer in one word.").case(BODY)
    assert case.outcome is not None
    assert case.questions == (case.outcome,)
    assert (case.outcome.purpose, case.outcome.model, case.outcome.timeout_seconds) == ("judge", JUDGE, 9.0)
    instruction, document = case.outcome.messages
    assert "Answer in one word." in instruction.content
    shown = {"input": [{"role": "user", "content": "Is it open?"}], "output": "Yes.", "expected": "yes"}
    assert json.loads(document.content) == shown


@given(st.text())
def test_no_output_can_leave_its_place_in_the_document(output: str) -> None:
    case = verifier().case(RolloutBody(SAID, output, ""))
    assert case.outcome is not None
    assert json.loads(case.outcome.messages[1].content)["output"] == output


def test_equal_outputs_on_equal_inputs_are_one_question_whatever_prompt_they_come_from() -> None:
    other = RolloutBody((Message("system", "Another prompt."), SAID[1]), "Yes.", "wrong", "yes")
    assert verifier().case(BODY) == verifier().case(other)
    assert verifier().case(BODY) != verifier().case(RolloutBody(SAID, "No.", "right", "yes"))


def test_each_call_is_judged_where_events_count_and_there_are_several() -> None:
    body = RolloutBody(SAID, "Yes.", "right", "yes", CALLS)
    both = verifier(event=1.0).case(body)
    assert both.outcome is not None
    assert [json.loads(each.messages[1].content)["call"] for each in both.events] == ["1 of 2", "2 of 2"]
    assert json.loads(both.events[1].messages[1].content)["output"] == "Yes."
    assert both.questions == (both.outcome, *both.events)
    assert verifier(event=1.0, outcome=0.0).case(body).questions == both.events
    assert verifier(event=1.0, outcome=0.0).case(BODY).questions == verifier().case(BODY).questions
    assert verifier().case(body).events == ()


def test_long_parts_are_cut_in_the_middle() -> None:
    case = verifier().case(RolloutBody(SAID, "a" * 20_000 + "b" * 20_000, ""))
    assert case.outcome is not None
    shown = json.loads(case.outcome.messages[1].content)["output"]
    assert len(shown) < 13_000
    assert shown.startswith("aaa")
    assert shown.endswith("bbb")
    assert "28000 characters left out" in shown


# --- what its reply must be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [0, 1, 0.0, 0.25, 1.0])
def test_a_reply_of_the_given_form_is_a_judgement(score: float) -> None:
    assert read_judgement(f"  {reply(score, ' fine ')}\n", "stop") == Judgement(float(score), "fine")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Misreading.NO_OBJECT),
        ("0.7", Misreading.NO_OBJECT),
        ("[0.7]", Misreading.NO_OBJECT),
        (f"<think>Let me see.</think>{reply(1)}", Misreading.NO_OBJECT),
        (f"The score: {reply(1)}", Misreading.NO_OBJECT),
        (f"{reply(1)} {reply(0)}", Misreading.NO_OBJECT),
        (f"```json\n{reply(1)}\n```", Misreading.NO_OBJECT),
        ('{"score": 0.2, "score": 0.9, "reason": "both"}', Misreading.NO_OBJECT),
        ('{"score": NaN, "reason": "no number"}', Misreading.NO_OBJECT),
        ('{"score": 0.7, "reason": "cut', Misreading.NO_OBJECT),
        ("[" * 100_000, Misreading.NO_OBJECT),
        ('{"score": 0.7}', Misreading.FIELDS),
        ('{"reason": "good"}', Misreading.FIELDS),
        (reply(0.7, reasoning="because"), Misreading.FIELDS),
        (reply(0.7, 3), Misreading.FIELDS),
        (reply(1.01), Misreading.SCORE),
        (reply(-0.01), Misreading.SCORE),
        (reply(7), Misreading.SCORE),
        (reply("0.7"), Misreading.SCORE),
        (reply(True), Misreading.SCORE),
        (reply(None), Misreading.SCORE),
        ('{"score": 1e999, "reason": "too much"}', Misreading.SCORE),
    ],
)
def test_anything_else_is_no_judgement(text: str, reason: Misreading) -> None:
    found = read_judgement(text, "stop")
    assert isinstance(found, Misjudged)
    assert found.reason is reason


@pytest.mark.parametrize("finish_reason", ["length", "content_filter"])
def test_a_reply_that_was_cut_off_is_no_judgement_even_if_it_looks_like_one(finish_reason: str) -> None:
    assert read_judgement(reply(0.7), finish_reason) == Misjudged(Misreading.TRUNCATED)


def test_a_reason_can_be_stored_and_sent_on() -> None:
    found = read_judgement('{"score": 1, "reason": "a\\u0000b\\ud800c"}', "stop")
    assert found == Judgement(1.0, "a\ufffdb?c")


# --- the blend -------------------------------------------------------------------------------------------------------


@given(
    weights=st.tuples(*[st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0])] * 3).filter(lambda w: w[1] + w[2] > 0),
    env=st.floats(0, 1),
    outcome=st.floats(0, 1),
    events=st.lists(st.floats(0, 1), max_size=3),
)
def test_the_blend_is_the_weighted_mean(
    weights: tuple[float, float, float], env: float, outcome: float, events: list[float]
) -> None:
    judged = verifier(*weights).blend(env, Judgement(outcome, "o"), [Judgement(each, "e") for each in events])
    event = sum(events) / len(events) if events else outcome
    expected = (weights[0] * env + weights[1] * event + weights[2] * outcome) / sum(weights)
    assert judged.score == pytest.approx(expected)
    assert 0 <= judged.score <= 1


def test_the_reasons_of_all_judgements_are_told() -> None:
    judged = verifier(event=1.0).blend(1.0, Judgement(0.5, "brief"), [Judgement(0.25, "vague"), Judgement(1, "fine")])
    assert judged.reason == (
        "The judge gave 0.5: brief\nFor call 1 the judge gave 0.25: vague\nFor call 2 the judge gave 1: fine"
    )


# --- from the config -------------------------------------------------------------------------------------------------


def test_a_job_without_a_judge_has_none() -> None:
    assert Verifier.of(None) is None


def test_the_task_app_has_no_weight_where_the_judge_alone_decides() -> None:
    config = VerifierConfig(
        reward_source="verifier", backend_provider="groq", backend_model="judge", weight_env=1.0, weight_outcome=2.0
    )
    alone = Verifier.of(config)
    fused = Verifier.of(config.model_copy(update={"reward_source": "fused"}))
    assert alone is not None
    assert fused is not None
    assert alone.blend(1.0, Judgement(0.25, ""), []).score == 0.25
    assert fused.blend(1.0, Judgement(0.25, ""), []).score == 0.5


def test_the_specification_is_cut_to_its_tokens() -> None:
    config = VerifierConfig(
        reward_source="verifier",
        backend_provider="groq",
        backend_model="judge",
        spec_context="x" * 100,
        spec_max_tokens=5,
    )
    found = Verifier.of(config)
    assert found is not None
    assert found.spec == "x" * 20


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (1.0, -1.0, 2.0), (-1.0, 0.0, 1.0)])
def test_a_judge_without_a_weight_is_a_mistake(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        verifier(*weights)
