"""MIPRO's meta-prompts: what each form shows, in which order, and what it asks for."""

import re
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.demonstrations import Example
from promptjobs.core.gepa_proposals import RECORD_CHARACTERS, REPLY_TOKENS, REPLY_WORDS
from promptjobs.core.prompt import Message
from promptjobs.core.proposers.instruction_proposals import TIPS, proposal_messages, quoted, tip_for
from promptjobs.core.proposers.program_context import (
    EFFORTS,
    OUTPUTS,
    Effort,
    EffortLevel,
    OutputSize,
    ProgramContext,
    ProposalBrief,
    ProposerMode,
    StageContext,
    StageNote,
    Tried,
)
from promptjobs.core.proposers.reflection import DEFAULT_GUIDE, Record

LAW = settings(deadline=None, derandomize=True, max_examples=80)
MODES = get_args(ProposerMode)

TEXT = "Sort the ticket.\nAnswer with a label."
RECORD = Record("the input", "the output", "the feedback", "the expected", 0.25)
STAGE = StageContext(
    "sort",
    "sort",
    TEXT,
    wildcards=("q",),
    messages=(Message("system", TEXT), Message("user", "Ticket: {q}")),
    description="It sorts.",
)
PROGRAM = ProgramContext(
    task="Tickets of a bank.",
    stages=(StageNote("sort", "sort", "Sort the ticket.\nAnswer."), StageNote("answer", "writer")),
    edges=(("sort", "answer"),),
    spec="Cite the law.",
    reference=("a card is lost", "# a refund"),
)
FULL = ProposalBrief(
    records=(RECORD, Record("i2", "o2", "", "", None)),
    demos=(Example(7, "solved input", "solved output"),),
    history=(Tried(f"{TEXT}\n- Be kind.", 0.75, 3), Tried(TEXT, 0.5)),
    tip="Be precise.",
    summary="Short texts, one label each.",
    guidance="Doctors read it.",
)


def asked(mode: str = "synth", program: ProgramContext = PROGRAM, stage: StageContext = STAGE, **more: Any) -> str:
    [message] = proposal_messages(program, stage, replace(FULL, mode=mode, **more))
    assert message.role == "user"
    return message.content


def titles(text: str) -> list[str]:
    return re.findall(r"^# (.+)$", text, re.MULTILINE)


def part(text: str, title: str) -> str:
    return re.split(r"^# ", text.split(f"# {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0].strip()


# --- what is shown, and in which order -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (
            "synth",
            "Specification|The program|More inputs|The messages|Current text of the instructions|What came of it|"
            "Solved examples|Earlier versions, best first|What to do",
        ),
        (
            "dspy",
            "The data|The program|More inputs|Solved examples|Earlier versions, best first|The messages|"
            "Current text of the instructions|What came of it|Specification|What to do",
        ),
        (
            "builtin",
            "The task|The messages|Current text of the instructions|Solved examples|What came of it|Specification|"
            "Earlier versions, best first|What to do",
        ),
    ],
)
def test_each_form_has_its_own_order(mode: str, expected: str) -> None:
    assert titles(asked(mode)) == expected.split("|")


@pytest.mark.parametrize("mode", MODES)
def test_failure_feedback_is_shown_as_a_reflection_shows_it(mode: str) -> None:
    text = asked(mode)
    numbers = (2, 3) if titles(text).index("Solved examples") < titles(text).index("What came of it") else (1, 2)
    assert part(text, "What came of it") == (
        f"## Example {numbers[0]}\n### Input\nthe input\n### Output\nthe output\n### Expected\nthe expected\n"
        "### Feedback\nthe feedback\nScore: 0.25\n\n"
        f"## Example {numbers[1]}\n### Input\ni2\n### Output\no2\nScore: no score, the rollout failed"
    )
    assert re.findall(r"^## Example (\d)", text, re.MULTILINE) == ["1", "2", "3"]
    assert "### Input\nsolved input\n### Output\nsolved output\nScore: 1" in part(text, "Solved examples")


@pytest.mark.parametrize("mode", MODES)
def test_the_current_text_stands_in_the_only_fence(mode: str) -> None:
    text = asked(mode)
    assert part(text, "Current text of the instructions") == f"```\n{TEXT}\n```"
    assert text.count("\n```") == 2
    assert text.count(TEXT) == 1


def test_the_program_is_shown_with_its_steps_and_the_one_that_is_meant() -> None:
    assert part(asked(), "The program") == (
        "Tickets of a bank.\n\nIts steps, each a call of a language model:\n\n"
        "* `sort`: Sort the ticket. / Answer.\n* `answer` (module `writer`)\n\n"
        "What goes on from where: sort → answer\n\nThe text is for the step `sort`. It sorts."
    )
    assert "one step of the program" in part(asked(), "What to do")


@pytest.mark.parametrize("mode", MODES)
def test_a_program_of_one_step_is_its_task(mode: str) -> None:
    text = asked(mode, replace(PROGRAM, stages=PROGRAM.stages[:1], edges=()))
    assert part(text, "The task") == "Tickets of a bank.\n\nIt sorts."
    assert "one step of the program" not in text


def test_the_other_messages_are_quoted_and_the_text_itself_only_named() -> None:
    assert part(asked(), "The messages") == (
        "The model is sent these messages. A name in braces stands for a part of the input.\n\n"
        "[system]\n(the current text)\n\n[user]\n> Ticket: {q}"
    )
    assert "The messages" not in titles(asked(stage=replace(STAGE, messages=STAGE.messages[:1])))


def test_reference_inputs_are_quoted() -> None:
    assert part(asked(), "More inputs").endswith("> a card is lost\n\n> # a refund")


def test_history_is_told_by_what_each_version_adds() -> None:
    assert part(asked(), "Earlier versions, best first").split("\n")[-2:] == [
        "* 0.750 in 3 trials: - Be kind.",
        "* 0.500 in 1 trial: the current text",
    ]
    shorter = asked(history=(Tried("Sort the ticket.", 0.2),))
    assert "* 0.200 in 1 trial: Sort the ticket." in shorter
    assert "Build on the earlier versions" in shorter
    assert "Build on the earlier versions" not in asked(history=())


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_known_leaves_no_trace(mode: str) -> None:
    stage = StageContext("stage_default", "module_default", TEXT)
    [message] = proposal_messages(ProgramContext(), stage, ProposalBrief(mode=mode))
    assert titles(message.content) == ["Current text of the instructions", "What to do"]
    assert "None" not in message.content
    assert "\n\n\n" not in message.content


@pytest.mark.parametrize("mode", MODES)
def test_where_nothing_went_wrong_the_solved_examples_are_the_evidence(mode: str) -> None:
    text = asked(mode, records=())
    assert "What came of it" not in titles(text)
    assert "Nothing went wrong in these examples." in part(text, "What to do")
    assert "Nothing went wrong" not in asked(mode)
    assert "Nothing went wrong" not in asked(mode, records=(), demos=())


@pytest.mark.parametrize("mode", MODES)
def test_everything_that_is_passed_is_all_that_is_shown(mode: str) -> None:
    """A word of each value is found with it, and not without it."""
    words = {
        "records": "the expected",
        "demos": "solved input",
        "history": "Be kind.",
        "tip": "Be precise.",
        "guidance": "Doctors read it.",
    } | ({"summary": "one label each"} if mode == "dspy" else {})
    for name, word in words.items():
        empty = next(f.default for f in fields(ProposalBrief) if f.name == name)
        assert word in asked(mode)
        assert word not in asked(mode, **{name: empty})


# --- how much is shown -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", get_args(EffortLevel))
def test_effort_says_how_much_is_shown(mode: str, level: EffortLevel) -> None:
    effort, many = EFFORTS[level], 40
    text = asked(
        mode,
        replace(PROGRAM, reference=tuple(f"ref{n}." for n in range(many))),
        effort=level,
        records=tuple(Record(f"wrong{n}." + "a" * 20_000, "o", "", "", 0.0) for n in range(many)),
        demos=tuple(Example(n, f"right{n}.", "o") for n in range(many)),
        history=tuple(Tried(f"tried{n}." + "b" * 9_000, 0.5) for n in range(many)),
    )
    counts = [("wrong", effort.records), ("right", effort.demos), ("tried", effort.history)]
    for word, count in [*counts, ("ref", 0 if mode == "builtin" else effort.reference)]:
        assert re.findall(rf"{word}(\d+)\.", text) == [str(n) for n in range(count)]
    assert max(map(len, re.findall("a{9,}", text))) == effort.characters // 2
    assert max(map(len, re.findall("b{9,}", text))) == effort.remembered // 2


def test_a_higher_effort_never_shows_less() -> None:
    levels = [EFFORTS[level] for level in get_args(EffortLevel)]
    for field in fields(Effort):
        values = [getattr(effort, field.name) for effort in levels]
        assert values == sorted(values)


def test_the_tables_agree_with_the_reflections_of_gepa() -> None:
    assert {level: effort.characters for level, effort in EFFORTS.items()} == RECORD_CHARACTERS
    assert {size: output.tokens for size, output in OUTPUTS.items()} == REPLY_TOKENS
    assert {size: output.words for size, output in OUTPUTS.items()} == REPLY_WORDS
    assert tuple(OUTPUTS) == get_args(OutputSize)


@pytest.mark.parametrize("mode", MODES)
def test_only_a_rapid_answer_is_limited_in_words(mode: str) -> None:
    assert "Write at most 600 words." in asked(mode, output_tokens="RAPID")
    assert "words." not in asked(mode, output_tokens="FAST").split("# What to do")[1]


def test_a_specification_is_cut_to_its_tokens() -> None:
    text = asked(program=replace(PROGRAM, spec="s" * 1_000, spec_max_tokens=100))
    assert "s" * 200 in text
    assert "s" * 201 not in text


# --- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dspy", "synth"])
def test_one_whole_text_is_asked_for(mode: str) -> None:
    text = asked(mode, stage=replace(STAGE, placeholders=("q", "q")))
    assert DEFAULT_GUIDE in text
    assert text.split("\n\n")[-4:] == [
        "Doctors read it.",
        "Be precise.",
        "Keep these placeholders exactly as they are, each as often as it stands there now: {q}, {q}",
        "Answer with the whole new text between two lines of ``` and nothing else.",
    ]
    assert "placeholders" not in asked(mode)


def test_changes_are_asked_for_as_one_array() -> None:
    text = asked("builtin", count=4)
    assert "Make up to 4 proposals, as objects with these keys:" in text
    assert text.endswith("Answer with one JSON array of them between two lines of ``` and nothing else.")
    assert [key for key in ("type", "find", "role", "text") if f'* `"{key}"`' in text] == [
        "type",
        "find",
        "role",
        "text",
    ]
    assert "(system, user)" in text
    assert "python" not in text
    assert '`"python"`' in asked("builtin", allow_python=True)
    assert '* `"role"`' not in asked("builtin", stage=replace(STAGE, messages=STAGE.messages[:1]))


def test_what_can_be_named_follows_the_match_mode() -> None:
    assert "a passage copied exactly" in asked("builtin", match_mode="substring")
    assert "the whole of one message copied exactly" in asked("builtin", match_mode="exact")


def test_tips_take_turns_beginning_with_none() -> None:
    assert [tip_for(n) for n in range(2 * len(TIPS))] == [*TIPS, *TIPS]
    assert tip_for(0) is None
    assert len(set(TIPS)) == len(TIPS)


# --- what is shown stays where it is ---------------------------------------------------------------------------------

PIECES = st.sampled_from(["a", "```", "````", "`````x", "\n", "\r\n", "# Current text", "{q}", " ```", "## Example 1"])
TEXTS = st.lists(PIECES, max_size=6).map("".join)


@LAW
@given(TEXTS, TEXTS, TEXTS)
def test_nothing_that_is_shown_closes_the_fence(own: str, foreign: str, wish: str) -> None:
    stage = StageContext("s", "m", own, ("q",), ("q",), (Message("user", foreign), Message("user", own)), foreign)
    program = ProgramContext(
        foreign, (StageNote("s", "m", foreign), StageNote("t", "n", foreign)), (), foreign, reference=(foreign,)
    )
    for mode in MODES:
        brief = ProposalBrief(
            mode=mode,
            records=(Record(foreign, foreign, foreign, foreign, 0.0),),
            demos=(Example(1, foreign, foreign),),
            history=(Tried(foreign, 0.1),),
            tip=foreign,
            summary=foreign,
            guidance=wish,
        )
        [message] = proposal_messages(program, stage, brief)
        ticks = re.findall("`{3,}", message.content)[-1]
        assert [line for line in message.content.split("\n") if line.startswith(ticks)] == [ticks, ticks]
        assert f"# Current text of the instructions\n\n{ticks}\n{own}\n{ticks}\n" in message.content


@LAW
@given(TEXTS)
def test_quoted_text_has_no_line_of_its_own(text: str) -> None:
    assert all(line.startswith(">") for line in quoted(text).split("\n") if line)
