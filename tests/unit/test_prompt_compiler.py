"""Compiled prompts: transforms, then examples; what is compiled is what the interceptor sends."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.demonstrations import MARK, own_text
from promptjobs.core.few_shot import FewShotExample
from promptjobs.core.instruction_transforms import (
    AtomicInstructionTransform,
    InstructionTransformLocalizer,
    InstructionType,
    MissReason,
    PythonOutcome,
)
from promptjobs.core.pipeline import ProgramPattern
from promptjobs.core.prompt import Message, PromptPattern, PromptTemplate, Section, render
from promptjobs.core.prompt_compiler import Compiled, DemoFormat, StageChoice, compile_prompt
from promptjobs.core.transform import diff
from promptjobs.errors import PromptError, TransformApplicationError
from promptjobs.interceptor.rewrite import rewrite

LAW = settings(deadline=None, derandomize=True, max_examples=100)

ONE = PromptTemplate(
    (Section("system", "system", "Be kind.", 10), Section("user", "user", "Query: {query}", 20)), {"query": True}
)
PROGRAM = PromptTemplate(
    (
        Section("plan/system_0", "system", "Make a plan.", 0, "plan"),
        Section("plan/user_1", "user", "Task: {task}", 1, "plan"),
        Section("solve/system_0", "system", "Solve it.", 2, "solve"),
        Section("solve/user_1", "user", "Plan: {plan}\nTask: {task}", 3, "solve"),
    ),
    {"task": True, "plan": True},
)


def example(number: int, *texts: str) -> FewShotExample:
    asked = [
        Message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(texts or (f"in {number}",))
    ]
    output = f"out {number}"
    return FewShotExample(number, "s", {}, {"output": output}, 1.0, (*asked, Message("assistant", output)))


def transform(kind: InstructionType, text: str, /, **localizer: Any) -> AtomicInstructionTransform:
    return AtomicInstructionTransform(kind, InstructionTransformLocalizer(**localizer), text)


NEW = transform(InstructionType.REPLACE, "Be exact.")
BOTH: tuple[DemoFormat, ...] = ("messages", "text")


def compiled(
    choices: list[StageChoice], baseline: PromptTemplate = ONE, demo_format: DemoFormat = "messages", **more: Any
) -> Compiled:
    return compile_prompt(baseline, choices, demo_format=demo_format, count_tokens=lambda t: len(t.split()), **more)


@pytest.mark.parametrize("demo_format", BOTH)
@pytest.mark.parametrize("baseline", [ONE, PROGRAM])
def test_a_choice_of_nothing_is_the_baseline(baseline: PromptTemplate, demo_format: DemoFormat) -> None:
    for choices in ([], [StageChoice(module) for module in baseline.modules]):
        made = compiled(choices, baseline, demo_format)
        assert (made.template, made.misses, made.messages) == (baseline, (), render(baseline))


def test_examples_are_messages_right_before_the_last_user_message() -> None:
    made = compiled([StageChoice("", (NEW,), (example(1), example(2)))])
    assert made.messages == (
        Message("system", "Be exact."),
        Message("user", "in 1"),
        Message("assistant", "out 1"),
        Message("user", "in 2"),
        Message("assistant", "out 2"),
        Message("user", "Query: {query}"),
    )
    assert [(s.name, s.order) for s in made.template.sections] == [
        ("system", 0),
        ("demo_1_user", 1),
        ("demo_1_assistant", 2),
        ("demo_2_user", 3),
        ("demo_2_assistant", 4),
        ("user", 5),
    ]
    assert [s.is_example for s in made.template.sections] == [False, True, True, True, True, False]
    assert made.tokens == 2 + 2 * (2 + 2) + 2


def test_examples_follow_the_last_message_where_the_user_is_the_task_apps() -> None:
    baseline = PromptTemplate((Section("a", "system", "A.", 0), Section("b", "system", "B.", 1)))
    made = compiled([StageChoice("", examples=(example(1),))], baseline)
    assert [message.content for message in made.messages] == ["A.", "B.", "in 1", "out 1"]


def test_examples_as_text_end_the_instruction() -> None:
    made = compiled([StageChoice("", (NEW,), (example(1), example(2)))], demo_format="text")
    text = f"Be exact.{MARK}Input: in 1\nOutput: out 1\n\nInput: in 2\nOutput: out 2"
    assert made.messages == (Message("system", text), Message("user", "Query: {query}"))
    baseline = PromptTemplate((Section("u", "user", "Query: {query}", 0),), {"query": True})
    [alone] = compiled([StageChoice("", examples=(example(1),))], baseline, "text").messages
    assert alone.content == f"Query: {{query}}{MARK}Input: in 1\nOutput: out 1"


def test_a_heading_of_the_instructions_own_is_not_taken_for_that_of_the_examples() -> None:
    content = f"Be kind.{MARK}Own. {{query}}"
    baseline = PromptTemplate((Section("system", "system", content, 0),), {"query": True})
    made = compiled([StageChoice("", examples=(example(1),))], baseline, "text")
    assert made.messages[0].content == f"{content}{MARK}Input: in 1\nOutput: out 1"
    assert own_text(made.messages[0].content) == content


def test_a_dialogue_is_shown_whole() -> None:
    made = compiled([StageChoice("", examples=(example(1, "a", "b", "c"),))])
    assert [(s.name, s.content) for s in made.template.sections[1:-1]] == [
        ("demo_1_user", "a"),
        ("demo_1_assistant", "b"),
        ("demo_1_user_2", "c"),
        ("demo_1_assistant_2", "out 1"),
    ]


def test_names_are_unique_where_the_baseline_has_such_a_name_itself() -> None:
    baseline = replace(ONE, sections=(replace(ONE.sections[0], name="demo_1_user"), ONE.sections[1]))
    made = compiled([StageChoice("", examples=(example(1),)), StageChoice("", examples=(example(2),))], baseline)
    names = [section.name for section in made.template.sections]
    assert len(set(names)) == len(names) == 6


def test_every_stage_has_its_own_examples_and_transforms() -> None:
    made = compiled(
        [StageChoice("plan", (NEW,), (example(1),)), StageChoice("solve", (), (example(2), example(3)))], PROGRAM
    )
    assert [(s.name, s.module, s.order) for s in made.template.sections] == [
        ("plan/system_0", "plan", 0),
        ("plan/demo_1_user", "plan", 1),
        ("plan/demo_1_assistant", "plan", 2),
        ("plan/user_1", "plan", 3),
        ("solve/system_0", "solve", 4),
        ("solve/demo_1_user", "solve", 5),
        ("solve/demo_1_assistant", "solve", 6),
        ("solve/demo_2_user", "solve", 7),
        ("solve/demo_2_assistant", "solve", 8),
        ("solve/user_1", "solve", 9),
    ]
    assert made.template.section("plan/system_0").content == "Be exact."


def test_misses_of_all_stages_are_told_and_strict_ones_refused() -> None:
    wrong = transform(InstructionType.FOLLOW, "x", text="absent")
    made = compiled([StageChoice("plan", (wrong, NEW)), StageChoice("solve", (NEW, wrong))], PROGRAM)
    assert [(miss.module, miss.index, miss.reason) for miss in made.misses] == [
        ("plan", 0, MissReason.NO_TEXT),
        ("solve", 1, MissReason.NO_TEXT),
    ]
    with pytest.raises(TransformApplicationError, match="transform 0 does not apply to module 'solve': text_not_found"):
        compiled([StageChoice("solve", (replace(wrong, localizer=replace(wrong.localizer, strict=True)),))], PROGRAM)


def test_programs_run_where_there_is_a_runner() -> None:
    program = StageChoice("", (transform(InstructionType.PYTHON, "Be brief."),))

    def runner(code: str, messages: tuple[Message, ...]) -> PythonOutcome:
        return PythonOutcome((replace(messages[0], content=code), *messages[1:]))

    assert compiled([program], runner=runner).messages[0].content == "Be brief."
    assert [miss.reason for miss in compiled([program]).misses] == [MissReason.PYTHON_OFF]


@pytest.mark.parametrize("demo_format", BOTH)
def test_an_example_with_a_placeholder_and_an_unknown_stage_are_refused(demo_format: DemoFormat) -> None:
    with pytest.raises(PromptError, match=r"seed 1 holds the placeholder \{query\}"):
        compiled([StageChoice("", examples=(example(1, "a {query}"),))], demo_format=demo_format)
    with pytest.raises(PromptError, match="no module 'other'"):
        compiled([StageChoice("other")], PROGRAM, demo_format)


VALUE = st.text("xyz{}\\n\n%é", min_size=1, max_size=8)
TEXT = st.text("xyz{}\n:", min_size=1, max_size=8)
EXAMPLES = st.lists(st.builds(example, st.integers(0, 9), TEXT), max_size=3).map(tuple)
TRANSFORMS = st.lists(
    st.builds(transform, st.sampled_from([InstructionType.REPLACE, InstructionType.FOLLOW]), TEXT), max_size=2
).map(tuple)
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@LAW
@given(TRANSFORMS, EXAMPLES, st.sampled_from(BOTH), VALUE)
def test_what_is_rendered_of_a_compiled_prompt_is_what_is_sent(
    transforms: tuple[AtomicInstructionTransform, ...],
    examples: tuple[FewShotExample, ...],
    demo_format: DemoFormat,
    value: str,
) -> None:
    made = compiled([StageChoice("", transforms, examples)], demo_format=demo_format)
    call = [message.to_json() for message in render(ONE, {"query": value})]
    rest = [{"role": "user", "content": "more"}]
    sent = rewrite(call + rest, PromptPattern.of(ONE), made.template)
    assert sent == [message.to_json() for message in render(made.template, {"query": value})] + rest
    assert made.messages == render(made.template)
    assert diff(ONE, made.template).apply(ONE).digest() == made.template.digest()


@LAW
@given(TRANSFORMS, EXAMPLES, st.sampled_from(BOTH), VALUE)
def test_the_task_apps_input_ends_up_in_its_own_message_byte_for_byte(
    transforms: tuple[AtomicInstructionTransform, ...],
    examples: tuple[FewShotExample, ...],
    demo_format: DemoFormat,
    value: str,
) -> None:
    made = compiled([StageChoice("", transforms, examples)], demo_format=demo_format)
    asked = {"role": "user", "content": [{"type": "text", "text": f"Query: {value}"}, IMAGE], "name": "n"}
    sent = rewrite([{"role": "system", "content": "Be kind."}, asked], PromptPattern.of(ONE), made.template)
    assert sent[-1] == asked
    if demo_format == "messages":
        shown = [message.to_json() for each in examples for message in each.messages]
        assert sent[1:-1] == shown
    assert all(message.keys() == {"role", "content"} for message in sent[:-1])


@LAW
@given(EXAMPLES, EXAMPLES, VALUE.filter(lambda text: "\nTask: " not in text), VALUE)
def test_a_programs_calls_are_told_apart_and_each_gets_its_own_examples(
    plan: tuple[FewShotExample, ...], solve: tuple[FewShotExample, ...], steps: str, task: str
) -> None:
    made = compiled([StageChoice("plan", examples=plan), StageChoice("solve", examples=solve)], PROGRAM).template
    values = {"plan": steps, "task": task}
    for module in PROGRAM.modules:
        call = render(PROGRAM.part(module), values)
        found = ProgramPattern.of(PROGRAM).find(call)
        sent = rewrite([message.to_json() for message in call], found.pattern, made.part(found.module))
        expected = render(made.part(module), values)
        assert sent == [message.to_json() for message in expected]
        again = [Message(message["role"], message["content"]) for message in sent]
        assert ProgramPattern.lenient(made).find(again).module == module


@LAW
@given(TRANSFORMS, EXAMPLES, st.sampled_from(BOTH))
def test_compiling_has_no_memory(
    transforms: tuple[AtomicInstructionTransform, ...],
    examples: tuple[FewShotExample, ...],
    demo_format: DemoFormat,
) -> None:
    choices = [StageChoice("", transforms, examples)]
    assert compiled(choices, demo_format=demo_format) == compiled(choices, demo_format=demo_format)
