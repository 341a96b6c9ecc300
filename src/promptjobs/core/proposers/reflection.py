"""Reflection: the meta-prompt that asks for a better text, and the strict reading of what comes back."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from promptjobs.core.prompt import PLACEHOLDER, Message

FENCE = re.compile(r"(?P<ticks>`{3,})(?P<info>[^`]*)")
REASONING = re.compile(r"</?\s*(think|thinking|reasoning|scratchpad)\s*>", re.IGNORECASE)
CUT_OFF = frozenset({"length", "content_filter"})
RECORD_CHARACTERS = 4_000
REJECTED_CHARACTERS = 600

DEFAULT_GUIDE = """\
Write a better version of the text. The model that receives it knows nothing but this text and the input.
Say what the task is, what the input looks like, and exactly what the answer must look like.
Keep what already works. Turn each piece of feedback into a rule that also holds for inputs that are not shown: name \
the facts, definitions and conventions that the feedback reveals, and how to tell apart what was confused.
Do not copy the examples into the text."""


@dataclass(frozen=True, slots=True)
class Record:
    """One rollout as evidence. score in [0, 1], or None where the rollout failed."""

    input: str
    output: str
    feedback: str
    expected: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Brief:
    """What a reflection is told besides the evidence, all of it optional.

    guide: what to do, in place of the default instruction. guidance: added to it. spec: rules that the text must
    follow; leads: whether they come first. rejected: what was tried on this text and did not help. tip: one hint.
    limit: most words of the reply. record_characters: of each part of an example.
    """

    guide: str | None = None
    guidance: str | None = None
    spec: str | None = None
    leads: bool = False
    rejected: Sequence[str] = ()
    tip: str | None = None
    limit: int | None = None
    record_characters: int = RECORD_CHARACTERS


class Refusal(StrEnum):
    """Why a proposal is not taken."""

    FAILED = "the meta-model failed"
    TRUNCATED = "the reply was cut off by its provider"
    NO_TEXT = "the reply holds no fenced text"
    SEVERAL_TEXTS = "the reply holds several fenced texts"
    EMPTY = "the proposed text is empty"
    REASONING = "the proposed text holds the model's reasoning"
    UNCHANGED = "the proposed text is the current one"
    PLACEHOLDERS = "the proposed text lost or gained placeholders"
    TOO_LONG = "the proposed text is too long"
    UNREADABLE = "the reply's JSON does not hold changes as they were asked for"
    UNKNOWN_TYPE = "the type of a change is unknown"
    PYTHON_OFF = "a change is Python code, which is turned off"
    NOT_FOUND = "a change names a text that no message holds"
    TOO_MANY = "the reply holds more changes than were asked for"
    LEAK = "a text repeats an example word for word"
    NO_CALL = "the module made no call in the rollouts that went wrong"


@dataclass(frozen=True, slots=True)
class Refused:
    reason: Refusal
    detail: str = ""


def reflection_messages(
    text: str, placeholders: Sequence[str], records: Sequence[Record], brief: Brief | None = None
) -> tuple[Message, ...]:
    """The meta-prompt: the current text, what came of it, and what to write."""
    brief = brief or Brief()
    shown = [part for r in records for part in (r.input, r.output, r.feedback, r.expected)]
    ticks = fence_for(text, brief.spec or "", *shown, *brief.rejected)
    spec = f"# Specification\n\nThe new text must follow this.\n\n{brief.spec}" if brief.spec else ""
    examples = [shown_record(i, record, brief.record_characters) for i, record in enumerate(records, 1)]
    parts = [
        "You improve the instructions of a language model.",
        spec if brief.leads else "",
        f"# Current text\n\n{ticks}\n{text}\n{ticks}",
        "# What came of it\n\n" + "\n\n".join(examples),
        "" if brief.leads else spec,
        _rejected(brief.rejected),
        f"# What to do\n\n{brief.guide or DEFAULT_GUIDE}",
        brief.guidance or "",
        brief.tip or "",
        *closing_lines(placeholders, brief.limit, ticks),
    ]
    return (Message("user", "\n\n".join(part for part in parts if part)),)


def closing_lines(placeholders: Sequence[str], limit: int | None, ticks: str) -> list[str]:
    """What a meta-prompt that asks for one whole text ends with. limit: most words, None for no limit."""
    kept = ", ".join(f"{{{name}}}" for name in placeholders)
    return [
        f"Write at most {limit} words." if limit else "",
        f"Keep these placeholders exactly as they are, each as often as it stands there now: {kept}" if kept else "",
        f"Answer with the whole new text between two lines of {ticks} and nothing else.",
    ]


def _rejected(edits: Sequence[str]) -> str:
    """What was tried before, one line each: it must not look like the current text or like an example."""
    if not edits:
        return ""
    lines = [f"* {' / '.join(cut(edit, REJECTED_CHARACTERS).splitlines())}" for edit in edits]
    return "\n".join(["# Tried before, without success", "", *lines])


def shown_record(number: int, record: Record, characters: int) -> str:
    """A rollout as a meta-prompt shows it. characters: most of each part."""
    score = "no score, the rollout failed" if record.score is None else f"{record.score:.3g}"
    parts = [
        f"## Example {number}",
        f"### Input\n{cut(record.input, characters)}",
        f"### Output\n{cut(record.output, characters)}",
    ]
    if record.expected:
        parts.append(f"### Expected\n{cut(record.expected, characters)}")
    if record.feedback:
        parts.append(f"### Feedback\n{cut(record.feedback, characters)}")
    return "\n".join([*parts, f"Score: {score}"])


def cut(text: str, characters: int) -> str:
    """A long text without its middle."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def fence_for(*texts: str) -> str:
    """Backticks that no line of the texts begins with, so that the fence cannot be closed from inside."""
    longest = max((len(run) for text in texts for run in re.findall(r"^`{3,}", text, re.MULTILINE)), default=2)
    return "`" * max(3, longest + 1)


def parse_proposal(
    reply: str,
    finish_reason: str,
    current: str,
    placeholders: Sequence[str],
    max_tokens: int,
    wildcards: Collection[str] = (),
) -> str | Refused:
    """The proposed text, or why there is none.

    placeholders: names that the text must hold, each as often as listed. wildcards: names that stand for an input
    anywhere in the prompt; the text may hold no other of them. max_tokens: of about four characters. Line ends become
    single newlines.
    """
    if finish_reason in CUT_OFF:
        return Refused(Refusal.TRUNCATED)
    current = current.replace("\r\n", "\n")
    visible = without_reasoning(reply.replace("\r\n", "\n"))
    found = fenced_texts(visible)
    if found is None:
        return Refused(Refusal.NO_TEXT, "a fence is left open")
    if not found:
        return Refused(Refusal.NO_TEXT, visible[:200])
    if len(found) > 1:
        return Refused(Refusal.SEVERAL_TEXTS, f"{len(found)} fenced texts")
    return checked_text(found[0], current, placeholders, max_tokens, wildcards)


def checked_text(
    text: str, current: str, placeholders: Sequence[str], max_tokens: int, wildcards: Collection[str] = ()
) -> str | Refused:
    """A text that is to stand in the place of the current one, or why it may not; the rules of parse_proposal."""
    text = text.strip("\n")
    if not text.strip():
        return Refused(Refusal.EMPTY)
    # A prompt may have such tags of its own, to ask its model for them.
    if {tag.lower() for tag in REASONING.findall(text)} - {tag.lower() for tag in REASONING.findall(current)}:
        return Refused(Refusal.REASONING)
    if text.strip() == current.strip():
        return Refused(Refusal.UNCHANGED)
    held = [name for name in PLACEHOLDER.findall(text) if name in placeholders or name in wildcards]
    if sorted(held) != sorted(placeholders):
        return Refused(Refusal.PLACEHOLDERS, f"expected {sorted(placeholders)}, got {sorted(held)}")
    if len(text) > 4 * max_tokens:
        return Refused(Refusal.TOO_LONG, f"{len(text)} characters, at most {4 * max_tokens}")
    return text


def fenced_texts(reply: str) -> list[str] | None:
    """The texts between fences, or None where a fence is left open: such a text may not be whole.

    A fence with an info string inside a text begins a block of that text, which the next bare fence ends.
    """
    texts: list[str] = []
    lines: list[str] = []
    ticks, depth = "", 0
    for line in reply.split("\n"):
        fence = FENCE.fullmatch(line)
        if not ticks:
            if fence:
                ticks, lines = fence["ticks"], []
            continue
        if fence and fence["ticks"] == ticks:
            depth += 1 if fence["info"].strip() else -1
        if depth >= 0:
            lines.append(line)
        else:
            texts.append("\n".join(lines))
            ticks, depth = "", 0
    return None if ticks else texts


def without_reasoning(reply: str) -> str:
    """What follows a leading block of reasoning; a block that is not closed leaves nothing."""
    found = re.match(r"\s*<\s*(think|thinking|reasoning|scratchpad)\s*>", reply, re.IGNORECASE)
    if not found:
        return reply
    closing = re.search(rf"</\s*{found[1]}\s*>", reply, re.IGNORECASE)
    return reply[closing.end() :] if closing else ""
