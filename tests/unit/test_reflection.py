"""The meta-prompt, and the strict reading of what comes back."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.proposers.reflection import (
    DEFAULT_GUIDE,
    RECORD_CHARACTERS,
    Brief,
    Record,
    Refusal,
    Refused,
    fence_for,
    parse_proposal,
    reflection_messages,
)

LAW = settings(deadline=None, derandomize=True, max_examples=60)

PIECES = st.sampled_from(
    ["a", "b c", "`", "```", "````", "`````x", "```json", "\n", "\n\n", "{q}", "# Current text", " ```"]
)
TEXTS = st.lists(PIECES, max_size=6).map("".join)
RECORD = Record("the input", "the output", "the feedback", "the expected", 0.25)


def parsed(reply: str, current: str = "the current text", placeholders: tuple[str, ...] = (), **more: object) -> object:
    options = {"finish_reason": "stop", "max_tokens": 100, **more}
    return parse_proposal(reply, current=current, placeholders=placeholders, **options)  # type: ignore[arg-type]


def reason(reply: str, **more: object) -> Refusal:
    found = parsed(reply, **more)  # type: ignore[arg-type]
    assert isinstance(found, Refused), found
    return found.reason


# --- asking ----------------------------------------------------------------------------------------------------------


@LAW
@given(st.lists(TEXTS, max_size=4))
def test_no_line_of_the_texts_begins_with_the_fence(texts: list[str]) -> None:
    ticks = fence_for(*texts)
    assert re.fullmatch("`{3,}", ticks)
    assert not any(line.startswith(ticks) for text in texts for line in text.split("\n"))


@LAW
@given(TEXTS, TEXTS, TEXTS)
def test_the_text_can_be_read_back_from_the_meta_prompt_and_from_a_reply_in_its_fence(
    text: str, said: str, new: str
) -> None:
    [message] = reflection_messages(text, ("q",), [Record(said, said, said, said, None)])
    ticks = fence_for(text, said)
    assert f"# Current text\n\n{ticks}\n{text}\n{ticks}\n\n" in message.content
    assert message.content.count(f"\n{ticks}") == 2
    reply = f"{ticks}\n{new}\n{ticks}"
    if fence_for(new) <= ticks and new.strip() not in ("", text.strip()):
        assert parsed(reply, text, ("q",) * new.count("{q}")) == new.strip("\n")


def test_the_meta_prompt_shows_text_records_and_task() -> None:
    [message] = reflection_messages("Be kind to {q}.", ("q", "q"), [RECORD, Record("i2", "o2", "", "", None)])
    assert message.role == "user"
    for part in (
        "```\nBe kind to {q}.\n```",
        "## Example 1\n### Input\nthe input\n### Output\nthe output\n### Expected\nthe expected\n"
        "### Feedback\nthe feedback\nScore: 0.25",
        "## Example 2\n### Input\ni2\n### Output\no2\nScore: no score, the rollout failed",
        DEFAULT_GUIDE,
        "Keep these placeholders exactly as they are, each as often as it stands there now: {q}, {q}",
        "between two lines of ```",
    ):
        assert part in message.content


def test_a_guide_of_ones_own_replaces_the_default() -> None:
    [message] = reflection_messages("text", (), [RECORD], Brief(guide="Be brief."))
    assert "Be brief." in message.content
    assert DEFAULT_GUIDE not in message.content
    assert "placeholders" not in message.content


def test_what_is_said_besides_stands_below_what_to_do() -> None:
    brief = Brief(guidance="Doctors read it.", tip="Be precise.", limit=600)
    [message] = reflection_messages("text", (), [RECORD], brief)
    tail = message.content.split("# What to do\n\n")[1]
    assert tail.split("\n\n")[-4:-1] == ["Doctors read it.", "Be precise.", "Write at most 600 words."]
    assert DEFAULT_GUIDE in tail


@pytest.mark.parametrize(("leads", "at"), [(True, 1), (False, 3)])
def test_a_specification_leads_or_follows_the_evidence(leads: bool, at: int) -> None:
    [message] = reflection_messages("text", (), [RECORD], Brief(spec="Cite the law.", leads=leads))
    titles = re.findall(r"^# (.+)$", message.content, re.MULTILINE)
    expected = ["Current text", "What came of it", "What to do"]
    expected.insert(at - 1, "Specification")
    assert titles == expected
    assert "The new text must follow this.\n\nCite the law." in message.content


def test_rejected_edits_are_listed_one_line_each() -> None:
    [message] = reflection_messages("text", (), [RECORD], Brief(rejected=["one\ntwo", "x" * 2000]))
    listed = message.content.split("# Tried before, without success\n\n")[1].split("\n\n")[0].split("\n")
    assert listed[0] == "* one / two"
    assert len(listed) == 2
    assert len(listed[1]) < 700


@LAW
@given(TEXTS, TEXTS)
def test_no_rejected_edit_or_specification_closes_the_fence(edit: str, spec: str) -> None:
    [message] = reflection_messages("text", (), [RECORD], Brief(rejected=[edit], spec=spec))
    ticks = re.findall("`{3,}", message.content)[-1]
    assert [line for line in message.content.split("\n") if line.startswith(ticks)] == [ticks, ticks]


def test_records_are_cut_to_the_length_that_is_asked_for() -> None:
    [message] = reflection_messages("text", (), [Record("a" * 500, "", "", "", 0.0)], Brief(record_characters=100))
    assert "a" * 51 not in message.content
    assert "400 characters left out" in message.content


def test_long_records_are_cut_in_the_middle() -> None:
    long = "a" * RECORD_CHARACTERS + "b" * RECORD_CHARACTERS
    [message] = reflection_messages("text", (), [Record(long, "short", "", "", 1.0)])
    assert f"characters left out …]\n{'b' * (RECORD_CHARACTERS // 2)}\n" in message.content
    assert len(message.content) < 2 * RECORD_CHARACTERS


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        "```\nnew text\n```",
        "Here it is:\n\n```\nnew text\n```\nThat is all.",
        "```text\nnew text\n```",
        "```\n\nnew text\n\n```  \n",
        "````\nnew text\n````",
        "<think>\nWhat about\n```\na draft\n```\n</think>\n```\nnew text\n```",
        "  <Thinking>hm</THINKING>\n```\nnew text\n```",
        "```\r\nnew text\r\n```\r\n",
        "Here:\r\n```text\r\nnew text\r\n```\r\nThat is all.",
    ],
)
def test_a_fenced_text_is_taken(reply: str) -> None:
    assert parsed(reply) == "new text"


def test_line_ends_become_single_newlines() -> None:
    assert parsed("```\r\none\r\ntwo\r\n\r\nthree\r\n```") == "one\ntwo\n\nthree"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", Refusal.NO_TEXT),
        ("new text", Refusal.NO_TEXT),
        ("`new text`", Refusal.NO_TEXT),
        ("```new text```", Refusal.NO_TEXT),
        ("```\nnew text", Refusal.NO_TEXT),
        ("```\nnew text```", Refusal.NO_TEXT),
        ("````\nnew text\n```", Refusal.NO_TEXT),
        ("<think>\nI never stop.\n```\na draft\n```", Refusal.NO_TEXT),
        ("<reasoning>\n```\na draft\n```\n</think>", Refusal.NO_TEXT),
        ("```\none\n```\nor\n```\ntwo\n```", Refusal.SEVERAL_TEXTS),
        ("```\none\n```\n````\ntwo\n````", Refusal.SEVERAL_TEXTS),
        ("```\n```", Refusal.EMPTY),
        ("```\n \n\t\n```", Refusal.EMPTY),
        ("```\n<think>Let me see.</think>\nnew text\n```", Refusal.REASONING),
        ("```\nnew text\n</scratchpad>\n```", Refusal.REASONING),
        ("```\nthe current text\n```", Refusal.UNCHANGED),
        ("```\n\n the current text \n```", Refusal.UNCHANGED),
        (f"```\n{'a' * 401}\n```", Refusal.TOO_LONG),
    ],
)
def test_whatever_is_not_one_whole_new_text_is_refused(reply: str, expected: Refusal) -> None:
    assert reason(reply) == expected


def test_a_reply_that_was_cut_off_is_refused_however_whole_it_looks() -> None:
    assert reason("```\nnew text\n```", finish_reason="length") == Refusal.TRUNCATED


def test_the_longest_text_is_four_characters_a_token() -> None:
    assert parsed(f"```\n{'a' * 400}\n```") == "a" * 400


def test_an_unchanged_text_is_recognised_whatever_its_line_ends() -> None:
    assert reason("```\none\ntwo\n```", current="one\r\ntwo\r\n") == Refusal.UNCHANGED


def test_shorter_fences_inside_a_longer_one_are_text() -> None:
    inner = "Answer so:\n```json\n{}\n```\nor\n```\nnothing\n```"
    assert parsed(f"````\n{inner}\n````") == inner


def test_a_named_block_inside_a_fence_of_the_same_length_is_text() -> None:
    """Models do this. Ending at the first bare fence would silently drop what follows it."""
    inner = 'Answer so:\n```json\n{"label": "x"}\n```\nNothing else.'
    assert parsed(f"```\n{inner}\n```") == inner


def test_a_text_that_may_not_be_whole_is_refused() -> None:
    assert reason("```\nAnswer so:\n```json\n{}\n```\nNothing else.") == Refusal.NO_TEXT
    assert reason("```\nAnswer so:\n```\n{}\n```\nNothing else.\n```") == Refusal.SEVERAL_TEXTS


def test_tags_that_the_current_text_has_may_stay() -> None:
    current = "Reason between <thinking> and </thinking>."
    proposal = "Reason at length between <thinking> and </thinking>."
    assert parsed(f"```\n{proposal}\n```", current) == proposal
    assert reason(f"```\n{proposal} <think>Hm.</think>\n```", current=current) == Refusal.REASONING


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ("Say {a} and {b} and {a}.", True),
        ("{b}{a} {a}", True),
        ("Say {a} and {b}.", False),
        ("Say {a}, {a}, {a} and {b}.", False),
        ("Say {a}, {a}.", False),
        ("Say nothing.", False),
        ("Say {a} and {b} and {a} to {other}.", False),
        ('Say {a}, {b}, {a} as {"label": "x"} or {label} or {}.', True),
    ],
)
def test_each_placeholder_stays_as_often_as_it_was_and_other_braces_are_text(text: str, is_taken: bool) -> None:
    found = parsed(f"```\n{text}\n```", placeholders=("a", "b", "a"), wildcards=("a", "b", "other"))
    if is_taken:
        assert found == text
    else:
        assert isinstance(found, Refused)
        assert found.reason == Refusal.PLACEHOLDERS
        assert "['a', 'a', 'b']" in found.detail


def test_every_refusal_says_why_in_words() -> None:
    assert all(str(refusal) for refusal in Refusal)
    found = parsed("I would rather not. " * 100)
    assert isinstance(found, Refused)
    assert (found.reason, len(found.detail)) == (Refusal.NO_TEXT, 200)
