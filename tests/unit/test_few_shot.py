"""Few-shot examples: which calls become one, what they hold byte for byte, and how they are drawn into sets."""

import json
import random
from collections import Counter
from dataclasses import replace
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.asks import CallBody, RolloutBody
from promptjobs.core.demonstrations import LONGEST, MARK
from promptjobs.core.few_shot import FewShotExample, demo_sets, few_shot_examples
from promptjobs.core.prompt import Message, PromptTemplate, Section, render

LAW = settings(deadline=None, derandomize=True, max_examples=100)

USER = "Read this.\nQuery: {query}\nAnswer now."
ONE = PromptTemplate((Section("system", "system", "Be kind.", 0), Section("user", "user", USER, 1)), {"query": True})
PROGRAM = PromptTemplate(
    (
        Section("plan/system_0", "system", "Make a plan.", 0, "plan"),
        Section("plan/user_1", "user", "Task: {task}", 1, "plan"),
        Section("solve/system_0", "system", "Solve it.", 2, "solve"),
        Section("solve/user_1", "user", "Plan: {plan}\nTask: {task}", 3, "solve"),
    ),
    {"task": True, "plan": True},
)


def said(template: PromptTemplate = ONE, **values: str) -> tuple[Message, ...]:
    return render(template, values or {"query": "what?"})


def found(
    body: RolloutBody, template: PromptTemplate = ONE, score: float = 1.0, threshold: float = 0.8
) -> FewShotExample | None:
    return few_shot_examples(template, body, 7, score, threshold=threshold).get("")


@LAW
@given(st.text(min_size=1), st.text(min_size=1), st.floats(0.8, 1.0))
def test_an_example_is_what_was_said_and_answered_byte_for_byte(query: str, reply: str, score: float) -> None:
    shown = f"Read this.\nQuery: {query}\nAnswer now."
    example = found(RolloutBody((Message("system", "Be kind."), Message("user", shown)), reply, ""), score=score)
    if not reply.strip():
        assert example is None
        return
    assert example == FewShotExample(
        seed=7,
        stage_id="stage_default",
        input_data={"query": query},
        output_data={"output": reply},
        score=score,
        messages=(Message("user", shown), Message("assistant", reply)),
    )


def test_a_rollout_below_the_threshold_is_no_example() -> None:
    assert found(RolloutBody(said(), "right", ""), score=0.79) is None
    assert found(RolloutBody(said(), "right", ""), score=0.8) is not None


def test_a_wrong_rollout_teaches_the_answer_that_the_task_app_has_told() -> None:
    body = RolloutBody(said(), "wrong", "", expected="right")
    example = found(body, score=0.1)
    assert example is not None
    assert (example.output, example.score, example.is_labelled) == ("right", 1.0, True)


def test_the_task_apps_answer_takes_the_place_of_one_that_is_not_perfect() -> None:
    body = RolloutBody(said(), "nearly", "", expected="right")
    nearly, perfect = found(body, score=0.9), found(body, score=1.0)
    assert nearly is not None
    assert perfect is not None
    assert (nearly.output, nearly.score, nearly.is_labelled) == ("right", 1.0, True)
    assert (perfect.output, perfect.score, perfect.is_labelled) == ("nearly", 1.0, False)


@pytest.mark.parametrize(
    ("query", "reply"),
    [
        ("a {query} b", "right"),
        ("what?", "say {query}"),
        ("what?", " \n"),
        ("a" * LONGEST, "right"),
        ("what?", "a" * LONGEST),
        (f"a{MARK}b", "right"),
        ("what?", MARK.rstrip("\n")),
    ],
)
def test_what_would_not_stand_in_a_prompt_as_it_is_is_no_example(query: str, reply: str) -> None:
    assert found(RolloutBody(said(query=query), reply, "")) is None


def test_braces_that_are_no_placeholder_of_the_prompt_are_text() -> None:
    example = found(RolloutBody(said(query="{x}"), '{"label": "{other}"}', ""))
    assert example is not None
    assert (example.input_data, example.output) == ({"query": "{x}"}, '{"label": "{other}"}')


def test_a_call_that_is_not_the_prompts_is_no_example() -> None:
    assert found(RolloutBody((Message("system", "Be rude."), said()[1]), "right", "")) is None
    assert found(RolloutBody((), "right", "")) is None


SYSTEM = PromptTemplate((Section("system", "system", "Be kind.", 0),))
BEFORE, ASKED, OWN = Message("system", "Be kind."), Message("user", "what?"), Message("assistant", "Which one?")


def test_without_a_user_message_of_its_own_it_is_what_follows_the_prompt() -> None:
    example = found(RolloutBody((BEFORE, Message("user", "context"), ASKED), "right", ""), SYSTEM)
    assert example is not None
    assert example.messages == (Message("user", "context"), ASKED, Message("assistant", "right"))
    assert example.input_data == {"input": "context\n\nwhat?"}
    assert (example.input, example.output) == ("context\n\nwhat?", "right")


def test_what_the_prompt_puts_before_or_behind_its_last_user_message_stays_in_the_prompt() -> None:
    sections = (
        Section("rules", "user", "Rules.", 0),
        Section("query", "user", "{query}", 1),
        Section("prefill", "assistant", "Answer:", 2),
    )
    prompt = PromptTemplate(sections, {"query": True})
    example = found(RolloutBody((*said(prompt, query="what?"), Message("user", "Go.")), "right", ""), prompt)
    assert example is not None
    assert example.messages == (ASKED, Message("user", "Go."), Message("assistant", "right"))


def test_a_dialogue_is_kept_whole_where_it_is_right() -> None:
    body = RolloutBody((BEFORE, OWN, ASKED, OWN, Message("user", "that one")), "right", "", expected="other")
    example = found(body, SYSTEM)
    assert example is not None
    assert [m.content for m in example.messages] == ["what?", "Which one?", "that one", "right"]
    assert example.input == "[user]\nwhat?\n\n[assistant]\nWhich one?\n\n[user]\nthat one"
    assert found(body, SYSTEM, score=0.0) is None


@pytest.mark.parametrize(
    "rest",
    [
        (),
        (ASKED, Message("assistant", ""), Message("tool", "found")),
        (ASKED, Message("assistant", ""), ASKED),
        (ASKED, OWN),
        (OWN,),
    ],
    ids=["nothing asked", "tools", "a call without text", "an answer begun", "no user"],
)
def test_what_an_example_could_not_show_whole_is_none(rest: tuple[Message, ...]) -> None:
    assert found(RolloutBody((BEFORE, *rest), "right", ""), SYSTEM) is None


def test_each_module_shows_its_own_last_call() -> None:
    values = {"task": "count", "plan": "1. count"}
    plan, solve = (render(PROGRAM.part(module), values) for module in PROGRAM.modules)
    calls = (CallBody(plan, "first"), CallBody(plan, "second"), CallBody(solve, "42"))
    body = RolloutBody(plan, "42", "", expected="43", calls=calls)
    examples = few_shot_examples(PROGRAM, body, 3, 0.9, threshold=0.8)
    assert {module: (e.stage_id, dict(e.input_data), e.messages) for module, e in examples.items()} == {
        "plan": ("plan", {"task": "count"}, (Message("user", "Task: count"), Message("assistant", "second"))),
        "solve": ("solve", values, (Message("user", "Plan: 1. count\nTask: count"), Message("assistant", "42"))),
    }
    assert few_shot_examples(PROGRAM, body, 3, 0.5, threshold=0.8) == {}
    alone = few_shot_examples(PROGRAM, replace(body, calls=calls[2:]), 3, 0.9, threshold=0.8)
    assert alone.keys() == {"solve"}


def test_an_example_is_told_as_json() -> None:
    example = found(RolloutBody(said(), "right", ""))
    assert example is not None
    assert json.loads(json.dumps(example.to_json())) == {
        "seed": 7,
        "stage_id": "stage_default",
        "input_data": {"query": "what?"},
        "output_data": {"output": "right"},
        "score": 1.0,
        "messages": [
            {"role": "user", "content": "Read this.\nQuery: what?\nAnswer now."},
            {"role": "assistant", "content": "right"},
        ],
        "is_labelled": False,
    }


# --- sets ------------------------------------------------------------------------------------------------------------


def pool_of(answers: list[int]) -> list[FewShotExample]:
    return [
        FewShotExample(
            seed, "s", {}, {"output": str(a)}, 1.0, (Message("user", str(seed)), Message("assistant", str(a)))
        )
        for seed, a in enumerate(answers)
    ]


POOLS = st.lists(st.integers(0, 3), max_size=7)


@LAW
@given(POOLS, st.integers(0, 5), st.integers(0, 140), st.integers(0, 3))
def test_sets_are_distinct_and_as_many_as_there_can_be(
    answers: list[int], max_size: int, max_sets: int, seed: int
) -> None:
    sets = demo_sets(pool_of(answers), max_size, max_sets, random.Random(seed))
    largest = min(max_size, len(answers))
    assert len(sets) == min(max_sets, sum(comb(len(answers), size) for size in range(1, largest + 1)))
    assert len({frozenset(each) for each in sets}) == len(sets)
    assert all(len(set(each)) == len(each) <= largest and set(each) <= set(range(len(answers))) for each in sets)
    assert sets == demo_sets(pool_of(answers), max_size, max_sets, random.Random(seed))


@LAW
@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 3))
def test_every_size_has_as_many_sets_from_the_first_ones_on(max_size: int, max_sets: int, seed: int) -> None:
    sets = demo_sets(pool_of([n % 7 for n in range(30)]), max_size, max_sets, random.Random(seed))
    for end in range(1, max_sets + 1):
        counts = Counter(len(each) for each in sets[:end])
        assert max(counts[size] for size in range(1, max_size + 1)) <= -(-end // max_size)


def test_every_answer_stands_in_a_set_as_often_as_any_other() -> None:
    pool = pool_of([0] * 20 + [1] * 5 + [2] * 2)
    for drawn in demo_sets(pool, 6, 40, random.Random(1)):
        counts = Counter(pool[index].output for index in drawn)
        assert max(counts.values()) - min(counts.get(str(answer), 0) for answer in range(3)) <= 1


def test_rare_answers_run_out_and_the_rest_are_still_drawn() -> None:
    pool = pool_of([0] * 20 + [1])
    sets = demo_sets(pool, 4, 60, random.Random(1))
    assert len(sets) == 60
    assert all(20 in drawn for drawn in sets if len(drawn) == 4)


def test_a_large_pool_is_quick_to_draw_from() -> None:
    sets = demo_sets(pool_of([n % 77 for n in range(300)]), 8, 128, random.Random(1))
    assert len({frozenset(each) for each in sets}) == 128
