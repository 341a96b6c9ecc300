"""Atomic transforms: where they are made, what they do there, what survives them, and what is told of a miss."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.instruction_transforms import (
    AtomicInstructionTransform,
    InstructionTransformLocalizer,
    InstructionType,
    MissReason,
    PythonOutcome,
    TransformMiss,
    apply_transforms,
)
from promptjobs.core.prompt import Message, PromptTemplate, Section
from promptjobs.core.transform import diff
from promptjobs.errors import TransformApplicationError

LAW = settings(deadline=None, derandomize=True, max_examples=150)
REPLACE, FOLLOW, PYTHON = InstructionType.REPLACE, InstructionType.FOLLOW, InstructionType.PYTHON

PROMPT = PromptTemplate(
    (
        Section("intro", "user", "Hello.", 0),
        Section("rules", "developer", "Be kind.\nBe short.\nBe kind again.", 1),
        Section("query", "user", "Query: {query}\nTool: {tool}", 2),
    ),
    {"query": True, "tool": True},
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


def at(**named: object) -> InstructionTransformLocalizer:
    return InstructionTransformLocalizer(**named)  # type: ignore[arg-type]


def transform(kind: InstructionType, new: str, /, **localizer: object) -> AtomicInstructionTransform:
    return AtomicInstructionTransform(kind, at(**localizer), new)


def texts(*transforms: AtomicInstructionTransform) -> list[str]:
    applied = apply_transforms(PROMPT, "", transforms)
    assert applied.misses == ()
    return [section.content for section in applied.template.sections]


INTRO, RULES, QUERY = (section.content for section in PROMPT.sections)


@pytest.mark.parametrize(
    ("localizer", "found"),
    [
        ({}, [INTRO, "NEW", QUERY]),
        ({"role": "user"}, ["NEW", RULES, QUERY]),
        ({"position": 0}, ["NEW", RULES, QUERY]),
        ({"position": -2}, [INTRO, "NEW", QUERY]),
        ({"role": "developer", "position": -1}, [INTRO, "NEW", QUERY]),
        ({"text": "Be"}, [INTRO, "NEW kind.\nBe short.\nBe kind again.", QUERY]),
        ({"text": "Be kind again"}, [INTRO, "Be kind.\nBe short.\nNEW.", QUERY]),
        ({"text": "BE SHORT.", "case_sensitive": False}, [INTRO, "Be kind.\nNEW\nBe kind again.", QUERY]),
        ({"text": "Hello.", "match_mode": "exact"}, ["NEW", RULES, QUERY]),
        ({"text": "hELLO.", "match_mode": "exact", "case_sensitive": False}, ["NEW", RULES, QUERY]),
        ({"text": "Query", "role": "user"}, [INTRO, RULES, "NEW: {query}\nTool: {tool}"]),
        ({"text": "{query}\nT", "position": 2}, None),
        ({"text": ".", "role": "user", "position": 0}, ["HelloNEW", RULES, QUERY]),
    ],
)
def test_replace_puts_the_text_in_the_place_of_what_is_located(
    localizer: dict[str, object], found: list[str] | None
) -> None:
    applied = apply_transforms(PROMPT, "", [transform(REPLACE, "NEW", **localizer)])
    assert [section.content for section in applied.template.sections] == (found or [INTRO, RULES, QUERY])
    assert bool(applied.misses) == (found is None)


@pytest.mark.parametrize(
    ("localizer", "found"),
    [
        ({}, [INTRO, f"{RULES}\nNEW", QUERY]),
        ({"role": "user", "position": -1}, [INTRO, RULES, f"{QUERY}\nNEW"]),
        ({"text": "kind"}, [INTRO, "Be kind.\nNEW\nBe short.\nBe kind again.", QUERY]),
        ({"text": "Be kind.\n"}, [INTRO, "Be kind.\nNEW\nBe short.\nBe kind again.", QUERY]),
        ({"text": "kind.\nBe sh"}, [INTRO, "Be kind.\nBe short.\nNEW\nBe kind again.", QUERY]),
        ({"text": "again"}, [INTRO, f"{RULES}\nNEW", QUERY]),
        ({"text": "Query"}, [INTRO, RULES, "Query: {query}\nNEW\nTool: {tool}"]),
    ],
)
def test_follow_adds_a_line_after_the_one_that_is_located(localizer: dict[str, object], found: list[str]) -> None:
    assert texts(transform(FOLLOW, "NEW", **localizer)) == found


def test_a_message_that_ends_its_line_is_followed_by_no_empty_one() -> None:
    prompt = PromptTemplate((Section("s", "system", "One.\n", 0),))
    assert apply_transforms(prompt, "", [transform(FOLLOW, "Two.")]).template.sections[0].content == "One.\nTwo.\n"


def test_the_first_message_stands_in_for_a_missing_instruction() -> None:
    prompt = PromptTemplate((Section("u", "user", "One.", 0), Section("v", "user", "Two.", 1)))
    applied = apply_transforms(prompt, "", [transform(REPLACE, "New.")])
    assert [section.content for section in applied.template.sections] == ["New.", "Two."]


def test_transforms_build_on_each_other() -> None:
    first = transform(REPLACE, "Think.")
    second = transform(FOLLOW, "Then act.", text="Think")
    assert texts(first, second) == [INTRO, "Think.\nThen act.", QUERY]


def test_only_the_messages_of_the_module_are_counted_and_changed() -> None:
    applied = apply_transforms(PROGRAM, "solve", [transform(REPLACE, "New."), transform(FOLLOW, "x", position=2)])
    assert diff(PROGRAM, applied.template).replacements[0].section == "solve/system_0"
    assert len(diff(PROGRAM, applied.template).replacements) == 1
    assert applied.misses == (TransformMiss(1, MissReason.NO_MESSAGE, "no message at index 2 among 2", "solve"),)


@pytest.mark.parametrize(
    ("missing", "reason", "detail"),
    [
        (transform(REPLACE, "x", role="system"), MissReason.NO_MESSAGE, "no system message among 3"),
        (transform(REPLACE, "x", position=3), MissReason.NO_MESSAGE, "no message at index 3 among 3"),
        (
            transform(FOLLOW, "x", role="user", position=-3),
            MissReason.NO_MESSAGE,
            "no user message at index -3 among 3",
        ),
        (transform(REPLACE, "x", text="be kind"), MissReason.NO_TEXT, "no message with 'be kind' among 3"),
        (transform(FOLLOW, "x", text=""), MissReason.NO_TEXT, "no message with '' among 3"),
        (
            transform(REPLACE, "x", text="Hello", match_mode="exact", role="user"),
            MissReason.NO_TEXT,
            "no user message equal to 'Hello' among 3",
        ),
        (transform(REPLACE, " \n"), MissReason.EMPTY, "nothing would be left of rules"),
        (
            transform(REPLACE, "{query}", role="user", position=1),
            MissReason.PLACEHOLDERS,
            "query must hold ['query', 'tool'], and would hold ['query']",
        ),
        (
            transform(FOLLOW, "{tool}"),
            MissReason.PLACEHOLDERS,
            "rules must hold [], and would hold ['tool']",
        ),
        (transform(PYTHON, "messages"), MissReason.PYTHON_OFF, "the job does not allow them"),
    ],
)
def test_what_does_not_apply_is_recorded_and_refused_where_it_is_strict(
    missing: AtomicInstructionTransform, reason: MissReason, detail: str
) -> None:
    good = transform(FOLLOW, "And more.")
    applied = apply_transforms(PROMPT, "", [missing, good])
    assert applied.template == apply_transforms(PROMPT, "", [good]).template
    assert applied.misses == (TransformMiss(0, reason, detail),)
    strict = replace(missing, localizer=replace(missing.localizer, strict=True))
    with pytest.raises(TransformApplicationError) as failed:
        apply_transforms(PROMPT, "", [good, strict])
    assert failed.value.facts == {"index": 1, "reason": reason, "detail": detail, "module": ""}
    assert (failed.value.status, failed.value.code) == (422, "transform_application_error")


def upper(code: str, messages: tuple[Message, ...]) -> PythonOutcome:
    """A runner whose programs are the names of what it does."""
    match code:
        case "upper":
            return PythonOutcome(tuple(replace(m, content=m.content.upper()) for m in messages))
        case "greet":
            return PythonOutcome((replace(messages[0], content="Good day."), *messages[1:]))
        case _:
            return PythonOutcome(None, "no such program")


def test_a_program_changes_all_messages_of_its_module_and_no_placeholder() -> None:
    applied = apply_transforms(
        PROMPT, "", [transform(PYTHON, code) for code in ("greet", "upper", "other")], runner=upper
    )
    assert [section.content for section in applied.template.sections] == ["Good day.", RULES, QUERY]
    assert [(miss.index, miss.reason) for miss in applied.misses] == [
        (1, MissReason.PLACEHOLDERS),
        (2, MissReason.PYTHON),
    ]
    assert applied.misses[1].detail == "no such program"


WORDS = st.lists(
    st.sampled_from(["{query}", "{tool}", "{x}", "{", "}", "query", "Query: ", "\n", "Be", "kind", "é"]), max_size=6
).map("".join)
LOCALIZERS = st.builds(
    InstructionTransformLocalizer,
    role=st.sampled_from([None, "user", "developer", "system"]),
    position=st.one_of(st.none(), st.integers(-4, 3)),
    text=st.one_of(st.none(), WORDS),
    match_mode=st.sampled_from(["exact", "substring"]),
    case_sensitive=st.booleans(),
)
TRANSFORMS = st.builds(
    AtomicInstructionTransform,
    st.sampled_from([REPLACE, FOLLOW]),
    LOCALIZERS,
    WORDS,
    st.lists(st.integers(0, 9), max_size=2).map(tuple),
)


@LAW
@given(st.lists(TRANSFORMS, max_size=4))
def test_placeholders_survive_whatever_is_transformed(transforms: list[AtomicInstructionTransform]) -> None:
    applied = apply_transforms(PROMPT, "", transforms)
    after = applied.template
    assert [(s.name, s.role, s.order) for s in after.sections] == [(s.name, s.role, s.order) for s in PROMPT.sections]
    for section in PROMPT.sections:
        assert Counter(after.placeholders(section.name)) == Counter(PROMPT.placeholders(section.name))
    missed = {miss.index for miss in applied.misses}
    applying = [each for index, each in enumerate(transforms) if index not in missed]
    assert apply_transforms(PROMPT, "", applying) == replace(applied, misses=())


@LAW
@given(TRANSFORMS)
def test_a_transform_changes_one_section_which_the_difference_tells(one: AtomicInstructionTransform) -> None:
    applied = apply_transforms(PROMPT, "", [one])
    change = diff(PROMPT, applied.template)
    assert len(change.replacements) <= 1 - len(applied.misses)
    assert change.apply(PROMPT) == applied.template
    for each in change.replacements:
        assert one.instruction_text in each.new_text
        grown = len(each.new_text) - len(each.old_text)
        assert one.instruction_type is REPLACE or grown == len(one.instruction_text) + 1


@LAW
@given(TRANSFORMS)
def test_a_transform_survives_json(one: AtomicInstructionTransform) -> None:
    assert AtomicInstructionTransform.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one.with_text("other") == replace(one, instruction_text="other")
