"""Replies of a proposer: which transforms they hold, and what of them is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.demonstrations import Example, with_examples
from promptjobs.core.instruction_transforms import (
    AtomicInstructionTransform,
    InstructionTransformLocalizer,
    InstructionType,
    apply_transforms,
)
from promptjobs.core.prompt import Message, PromptTemplate, Section
from promptjobs.core.proposers.program_context import ProposalBrief, StageContext
from promptjobs.core.proposers.reflection import Refusal, fence_for
from promptjobs.core.proposers.transform_replies import (
    TransformProposalBatch,
    fingerprint,
    follow_of,
    own_localizer,
    parse_transforms,
    replaces_all,
)

LAW = settings(deadline=None, derandomize=True, max_examples=150)

TEXT = "Sort the ticket.\nAnswer with a label."
STAGE = StageContext(
    "stage_default",
    "module_default",
    TEXT,
    wildcards=("q", "other"),
    messages=(Message("system", TEXT), Message("user", "Ticket: {q}\nLabel:")),
)
HOLDING = StageContext("s", "m", "Say {q}.", ("q",), ("q", "other"), (Message("user", "Say {q}."),))
BUILTIN = ProposalBrief(mode="builtin")
OWN = InstructionTransformLocalizer("system", 0)


def batch(reply: str, stage: StageContext = STAGE, brief: ProposalBrief = BUILTIN) -> TransformProposalBatch:
    return parse_transforms(reply, "stop", stage, brief)


def of_items(items: Any, stage: StageContext = STAGE, brief: ProposalBrief = BUILTIN) -> TransformProposalBatch:
    return batch(f"```json\n{json.dumps(items)}\n```", stage, brief)


def reasons(found: TransformProposalBatch) -> list[Refusal]:
    return [refused.reason for refused in found.refused]


def template_of(stage: StageContext) -> PromptTemplate:
    sections = tuple(Section(str(at), m.role, m.content, at) for at, m in enumerate(stage.messages))
    return PromptTemplate(sections, dict.fromkeys(stage.wildcards, False))


def applied(found: TransformProposalBatch, stage: StageContext = STAGE) -> list[str]:
    done = apply_transforms(template_of(stage), "", found.transforms)
    assert done.misses == ()
    return [section.content for section in done.template.sections]


def replacing(text: str, localizer: InstructionTransformLocalizer = OWN) -> AtomicInstructionTransform:
    return AtomicInstructionTransform(InstructionType.REPLACE, localizer, text)


# --- whole texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["builtin", "dspy", "synth"])
@pytest.mark.parametrize("reply", ["```\nnew text\n```", "<think>[1]</think>Here:\r\n```text\r\nnew text\r\n```\r\n"])
def test_a_fenced_text_replaces_the_whole_text_in_every_mode(mode: Any, reply: str) -> None:
    found = batch(reply, brief=ProposalBrief(mode=mode))
    assert found == TransformProposalBatch((replacing("new text"),))
    assert applied(found) == ["new text", STAGE.messages[1].content]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", Refusal.NO_TEXT),
        ("new text", Refusal.NO_TEXT),
        ("```\nnew text", Refusal.NO_TEXT),
        ("```\na\n```\n```\nb\n```", Refusal.SEVERAL_TEXTS),
        ("```\n\n```", Refusal.EMPTY),
        (f"```\n{TEXT}\n```", Refusal.UNCHANGED),
        ("```\n<think>Hm.</think>\nnew\n```", Refusal.REASONING),
        ("```\nRead {q}.\n```", Refusal.PLACEHOLDERS),
        (f"```\n{'a' * 401}\n```", Refusal.TOO_LONG),
    ],
)
def test_a_text_is_held_to_the_rules_of_a_reflection(reply: str, reason: Refusal) -> None:
    found = batch(reply, brief=ProposalBrief(max_tokens=100))
    assert (found.transforms, reasons(found)) == ((), [reason])


@pytest.mark.parametrize("reply", ["```\nnew text\n```", '[{"text": "new text"}]'])
def test_a_reply_that_was_cut_off_holds_nothing(reply: str) -> None:
    found = parse_transforms(reply, "length", STAGE, BUILTIN)
    assert (found.transforms, reasons(found)) == ((), [Refusal.TRUNCATED])


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_every_object_of_an_array_is_a_transform_of_its_own() -> None:
    found = of_items(
        [
            {"type": "replace", "find": "a label", "text": "one word"},
            {"type": "follow", "text": "Be brief."},
            {"type": "follow", "find": "Label:", "role": "user", "text": "(one word)"},
        ]
    )
    assert found.refused == ()
    assert [t.instruction_type.value for t in found.transforms] == ["replace", "follow", "follow"]
    assert found.transforms[0].localizer == InstructionTransformLocalizer(text="a label")
    assert applied(found) == [
        "Sort the ticket.\nAnswer with one word.\nBe brief.",
        "Ticket: {q}\nLabel:\n(one word)",
    ]


@pytest.mark.parametrize("mode", ["builtin", "dspy", "synth"])
@pytest.mark.parametrize("shown", ["{}", "\n{}\n", "```\n{}\n```", "Here:\n```json\n{}\n```", "<think>x</think>{}"])
def test_an_array_is_taken_bare_or_fenced_in_every_mode(mode: Any, shown: str) -> None:
    reply = shown.format('[{"type": "replace", "text": "new text"}]')
    assert batch(reply, brief=ProposalBrief(mode=mode)).transforms == (replacing("new text"),)


def test_an_object_without_a_type_replaces_the_whole_text() -> None:
    assert of_items({"text": "new text"}).transforms == (replacing("new text"),)
    assert of_items([{"text": "new text", "find": None, "role": None}]).transforms == (replacing("new text"),)
    assert of_items([{"text": "new text", "find": "", "role": "system"}]).transforms == (replacing("new text"),)


def test_a_role_alone_names_the_first_message_of_that_role() -> None:
    found = of_items([{"role": "user", "text": "{q}?"}])
    assert applied(found) == [TEXT, "{q}?"]
    assert not replaces_all(found.transforms[0], STAGE)
    assert replaces_all(replacing("x"), STAGE)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("text", Refusal.UNREADABLE),
        (7, Refusal.UNREADABLE),
        (None, Refusal.UNREADABLE),
        ([{"text": "x"}], Refusal.UNREADABLE),
        ({"type": "follow"}, Refusal.UNREADABLE),
        ({"text": 1}, Refusal.UNREADABLE),
        ({"text": "x", "find": 1}, Refusal.UNREADABLE),
        ({"text": "x", "role": ["user"]}, Refusal.UNREADABLE),
        ({"text": "a\u0000b"}, Refusal.UNREADABLE),
        ({"text": "\ud800"}, Refusal.UNREADABLE),
        ({"type": "delete", "text": "x"}, Refusal.UNKNOWN_TYPE),
        ({"type": "REPLACE", "text": "x"}, Refusal.UNKNOWN_TYPE),
        ({"type": {}, "text": "x"}, Refusal.UNKNOWN_TYPE),
        ({"text": " \n"}, Refusal.EMPTY),
        ({"find": "a label", "text": ""}, Refusal.EMPTY),
        ({"text": TEXT}, Refusal.UNCHANGED),
        ({"find": "a label", "text": "a label"}, Refusal.UNCHANGED),
        ({"text": "<think>Hm.</think> x"}, Refusal.REASONING),
        ({"text": "a" * 401}, Refusal.TOO_LONG),
        ({"find": "a table", "text": "x"}, Refusal.NOT_FOUND),
        ({"find": "a label", "role": "user", "text": "x"}, Refusal.NOT_FOUND),
        ({"role": "assistant", "text": "x"}, Refusal.NOT_FOUND),
        ({"text": "Read {q}."}, Refusal.PLACEHOLDERS),
        ({"type": "follow", "text": "Read {other}."}, Refusal.PLACEHOLDERS),
        ({"find": "Ticket: {q}", "text": "Ticket"}, Refusal.PLACEHOLDERS),
        ({"role": "user", "text": "x"}, Refusal.PLACEHOLDERS),
        ({"type": "python", "text": "messages"}, Refusal.PYTHON_OFF),
    ],
)
def test_each_object_is_refused_for_its_own_reason_and_the_others_stay(item: Any, reason: Refusal) -> None:
    brief = replace(BUILTIN, max_tokens=100)
    found = of_items([{"text": "one"}, item, {"type": "follow", "text": "two"}], brief=brief)
    assert reasons(found) == [reason]
    assert [t.instruction_text for t in found.transforms] == ["one", "two"]


def test_a_text_that_takes_the_place_of_the_whole_keeps_its_placeholders() -> None:
    found = of_items([{"text": "Shout."}, {"text": "Shout {q}."}, {"text": "Shout {q} {q}."}], HOLDING)
    assert [t.instruction_text for t in found.transforms] == ["Shout {q}."]
    assert reasons(found) == [Refusal.PLACEHOLDERS] * 2


def test_what_is_looked_for_follows_the_job_s_settings() -> None:
    item = {"find": "A LABEL", "text": "one word"}
    assert reasons(of_items([item])) == [Refusal.NOT_FOUND]
    assert of_items([item], brief=replace(BUILTIN, case_sensitive=False)).refused == ()
    exact = replace(BUILTIN, match_mode="exact", strict=True)
    assert reasons(of_items([{"find": "a label", "text": "x"}], brief=exact)) == [Refusal.NOT_FOUND]
    [transform] = of_items([{"find": TEXT, "text": "x"}], brief=exact).transforms
    assert transform.localizer == InstructionTransformLocalizer(text=TEXT, match_mode="exact", strict=True)


def test_a_program_is_taken_as_it_is_where_the_job_allows_it() -> None:
    brief = replace(BUILTIN, allow_python=True)
    code = 'for m in messages:\n    m["content"] = m["content"].replace("{q}", "<{q}>")'
    [transform] = of_items([{"type": "python", "text": code}], brief=brief).transforms
    assert (transform.instruction_type, transform.instruction_text) == (InstructionType.PYTHON, code)
    assert reasons(of_items([{"type": "python", "text": "#" * 30_000}], brief=brief)) == [Refusal.TOO_LONG]


def test_no_more_than_was_asked_for_is_taken() -> None:
    found = of_items([{"text": str(n)} for n in range(5)], brief=replace(BUILTIN, count=3))
    assert [t.instruction_text for t in found.transforms] == ["0", "1", "2"]
    assert reasons(found) == [Refusal.TOO_MANY]


@pytest.mark.parametrize(
    "body",
    ['[{"text": "x"},', '{"text": "x"', "[]", "{}", '{"prompt": "x"}', '{"transforms": [{"text": "x"}]}', '["x" "y"]'],
)
def test_json_that_holds_no_changes_is_refused_where_changes_were_asked_for(body: str) -> None:
    for reply in (body, f"```json\n{body}\n```"):
        assert reasons(batch(reply)) == [Refusal.UNREADABLE]


@pytest.mark.parametrize(
    "body", ['{"text": "x"}', '[{"label": "x", "text": "y"}]', '[{"type": "a"}]', "[]", '["x"]', '{"a": 1', "{q}? [1]"]
)
def test_a_fenced_text_that_looks_like_json_is_a_text_where_a_text_was_asked_for(body: str) -> None:
    stage = HOLDING if "{q}" in body else STAGE
    [transform] = batch(f"```\n{body}\n```", stage, ProposalBrief(mode="dspy")).transforms
    assert transform.instruction_text == body


def test_a_new_text_of_a_text_that_is_json_is_a_text_in_every_mode() -> None:
    stage = StageContext("s", "m", '{"task": "sort"}', messages=(Message("system", '{"task": "sort"}'),))
    [transform] = batch('```json\n{"task": "sort well"}\n```', stage).transforms
    assert transform.instruction_text == '{"task": "sort well"}'
    [other] = of_items([{"find": "sort", "text": "sort well"}], stage).transforms
    assert other.localizer.text == "sort"


def test_broken_lines_inside_of_a_json_text_are_its_lines() -> None:
    assert batch('[{"text": "one\ntwo\r\nthree"}]').transforms == (replacing("one\ntwo\nthree"),)


def test_json_that_is_nested_too_deep_is_refused_like_any_other() -> None:
    assert reasons(batch("[" * 100_000)) == [Refusal.UNREADABLE]
    assert reasons(batch('[{"text": ' + "[" * 400 + "]" * 400 + "}]")) == [Refusal.UNREADABLE]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["replace", "follow", "python", "system", "", "{q}", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "find", "role", "text", "x"]), inner, max_size=5)
    ),
    max_leaves=12,
)
PIECES = st.sampled_from(["```", "````", "\n", "[", "]", '{"text": "x"}', '"', "<think>", "</think>", "{q}", "a", ","])


@pytest.mark.slow
@LAW
@given(st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join), JSON.map(json.dumps)), st.booleans())
def test_any_reply_gives_transforms_that_apply_or_reasons(reply: str, fenced: bool) -> None:
    text = f"```\n{reply}\n```" if fenced else reply
    for mode in ("builtin", "synth"):
        for stage in (STAGE, HOLDING, StageContext("s", "m", "")):
            brief = ProposalBrief(mode=mode, allow_python=True)  # type: ignore[arg-type]
            found = batch(text, stage, brief)
            assert found.transforms or found.refused
            for transform in found.transforms:
                if stage.messages and transform.instruction_type is not InstructionType.PYTHON:
                    assert apply_transforms(template_of(stage), "", [transform]).misses == ()


@LAW
@given(st.lists(st.sampled_from(["a", "`", "```", "\n", '"', "\\", "é", "# x"]), min_size=1, max_size=8).map("".join))
def test_a_text_comes_back_from_either_form(text: str) -> None:
    if not text.strip():
        return
    ticks = fence_for(text)
    for reply in (f"{ticks}\n{text}\n{ticks}", f"```json\n{json.dumps([{'text': text}])}\n```"):
        [transform] = batch(reply).transforms
        assert transform.instruction_text == text.strip("\n")


# --- where, and what is alike ----------------------------------------------------------------------------------------


def test_the_stage_s_text_is_found_by_its_role_and_its_place_among_its_like() -> None:
    messages = (Message("user", "a"), Message("system", "b"), Message("user", "c"))
    for at, (role, position) in enumerate([("user", 0), ("system", 0), ("user", 1)]):
        stage = StageContext("s", "m", messages[at].content, messages=messages)
        assert own_localizer(stage) == InstructionTransformLocalizer(role, position)
    assert own_localizer(StageContext("s", "m", "elsewhere", messages=messages)) == InstructionTransformLocalizer()


def test_examples_below_the_stage_s_text_stay() -> None:
    content = with_examples(TEXT, [Example(1, "in", "out")])
    stage = replace(STAGE, messages=(Message("system", content),))
    found = batch("```\nnew text\n```", stage)
    assert applied(found, stage) == [content.replace(TEXT, "new text")]
    assert replaces_all(found.transforms[0], stage)


def test_additions_follow_the_stage_s_text() -> None:
    transform = follow_of(STAGE, "Be brief.", replace(BUILTIN, strict=True))
    assert transform.localizer == replace(OWN, strict=True)
    assert applied(TransformProposalBatch((transform,))) == [f"{TEXT}\nBe brief.", STAGE.messages[1].content]


@pytest.mark.parametrize(
    ("other", "is_alike"),
    [
        ("- Be brief!\n\n* Say WHY", True),
        ("Be brief. Say why.", True),
        ("Be brief.", False),
        ("Say why. Be brief.", False),
    ],
)
def test_fingerprints_ignore_case_bullets_punctuation_and_spacing(other: str, is_alike: bool) -> None:
    assert (fingerprint(replacing("Be brief.\nSay why.")) == fingerprint(replacing(other))) == is_alike


def test_fingerprints_tell_apart_what_is_done_and_where() -> None:
    one = replacing("x")
    others = [
        replace(one, instruction_type=InstructionType.FOLLOW),
        replace(one, localizer=InstructionTransformLocalizer()),
        replace(one, localizer=InstructionTransformLocalizer("system", 0, "y")),
    ]
    assert len({fingerprint(each) for each in [one, *others]}) == 4
    assert fingerprint(replace(one, demo_indices=(1,))) == fingerprint(one)
    programs = [AtomicInstructionTransform(InstructionType.PYTHON, OWN, code) for code in ("a = b", "a = B", "a = b\n")]
    assert fingerprint(programs[0]) != fingerprint(programs[1])
    assert fingerprint(programs[0]) == fingerprint(programs[2])
