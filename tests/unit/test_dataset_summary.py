"""The dataset summary: what is asked, and what is taken for one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.demonstrations import Example
from promptjobs.core.proposers.dataset_summary import EXAMPLES, LONGEST, parse_summary, summary_messages
from promptjobs.core.proposers.program_context import EFFORTS, ProgramContext, StageContext
from promptjobs.core.proposers.reflection import Refusal, Refused

STAGE = StageContext("s", "m", "the text", description="It sorts.")


def test_the_question_shows_the_task_and_the_examples_and_asks_for_sentences() -> None:
    [message] = summary_messages(ProgramContext(task="Sort tickets."), STAGE, [Example(7, "in", "out")])
    assert message.role == "user"
    opening = "You describe data.\n\n# The task\n\nSort tickets.\n\nIt sorts.\n\n# The examples\n\n"
    assert message.content.startswith(opening)
    assert "## Example 1\n### Input\nin\n### Output\nout\nScore: 1" in message.content
    assert "two or three sentences" in message.content
    assert "the text" not in message.content.split("# The examples")[0]


def test_so_many_examples_are_shown_as_help_and_each_as_long_as_the_effort_allows() -> None:
    examples = [Example(seed, "a" * 5_000, f"out{seed}.") for seed in range(EXAMPLES + 5)]
    [message] = summary_messages(ProgramContext(), StageContext("s", "m", "x"), examples, "LOW_CONTEXT")
    assert f"out{EXAMPLES - 1}." in message.content
    assert f"out{EXAMPLES}." not in message.content
    assert "# The task" not in message.content
    assert "a" * (EFFORTS["LOW_CONTEXT"].characters // 2 + 1) not in message.content


@pytest.mark.parametrize(
    "reply",
    [
        "Short texts.\nOne label each.",
        "  Short texts.\r\nOne label each.\n",
        "<think>Hm.</think>\nShort texts.\nOne label each.",
        "Here it is:\n```\nShort texts.\nOne label each.\n```",
    ],
)
def test_sentences_are_taken_with_or_without_a_fence(reply: str) -> None:
    assert parse_summary(reply, "stop") == "Short texts.\nOne label each."


@pytest.mark.parametrize(
    ("reply", "finish_reason", "reason"),
    [
        ("Short texts.", "length", Refusal.TRUNCATED),
        ("", "stop", Refusal.EMPTY),
        ("<think>Hm.", "stop", Refusal.EMPTY),
        ("```\n\n```", "stop", Refusal.EMPTY),
        ("```\nShort texts.", "stop", Refusal.NO_TEXT),
        ("```\na\n```\n```\nb\n```", "stop", Refusal.SEVERAL_TEXTS),
        ("Short <think>texts</think>.", "stop", Refusal.REASONING),
        ("a" * (LONGEST + 1), "stop", Refusal.TOO_LONG),
    ],
)
def test_what_is_no_summary_is_refused(reply: str, finish_reason: str, reason: Refusal) -> None:
    found = parse_summary(reply, finish_reason)
    assert isinstance(found, Refused)
    assert found.reason == reason


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.text())
def test_any_reply_is_read(reply: str) -> None:
    assert isinstance(parse_summary(reply, "stop"), str | Refused)
