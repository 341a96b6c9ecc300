"""The dataset summary of MIPRO's mode dspy: the question for it, and the strict reading of the answer."""

from collections.abc import Sequence

from promptjobs.core.demonstrations import Example
from promptjobs.core.prompt import Message
from promptjobs.core.proposers.program_context import EFFORTS, EffortLevel, ProgramContext, StageContext
from promptjobs.core.proposers.reflection import (
    CUT_OFF,
    REASONING,
    Record,
    Refusal,
    Refused,
    cut,
    fenced_texts,
    shown_record,
    without_reasoning,
)

LONGEST = 3_000
"""Characters of a summary of a few sentences; a longer one would crowd out the evidence."""

EXAMPLES = 20
"""Examples that a summary is made from; more of them would hardly change a few sentences."""

ASKED = """\
# What to do

Describe these data in two or three sentences for somebody who writes instructions for this task and will not see the \
examples. Say what the inputs look like and how they differ, what the outputs look like down to their form, and which \
patterns or conventions lead from the one to the other.
Speak of the data as a whole and quote no example. Answer with these sentences and nothing else."""


def summary_messages(
    program: ProgramContext, stage: StageContext, examples: Sequence[Example], effort: EffortLevel = "LOW"
) -> tuple[Message, ...]:
    """The question for a summary of solved examples, as many as are shown in one call; effort: how long each may be."""
    characters = EFFORTS[effort].characters
    told = [cut(text, characters) for text in (program.task, stage.description) if text]
    shown = [
        shown_record(number, Record(example.input, example.output, "", "", 1.0), characters)
        for number, example in enumerate(examples[:EXAMPLES], 1)
    ]
    parts = ["You describe data.", *(["# The task", *told] if told else []), "# The examples", *shown, ASKED]
    return (Message("user", "\n\n".join(parts)),)


def parse_summary(reply: str, finish_reason: str) -> str | Refused:
    """The summary, from within a fence where the reply has just one, or why there is none."""
    if finish_reason in CUT_OFF:
        return Refused(Refusal.TRUNCATED)
    visible = without_reasoning(reply.replace("\r\n", "\n"))
    found = fenced_texts(visible)
    if found is None:
        return Refused(Refusal.NO_TEXT, "a fence is left open")
    if len(found) > 1:
        return Refused(Refusal.SEVERAL_TEXTS, f"{len(found)} fenced texts")
    text = (found[0] if found else visible).strip()
    if not text:
        return Refused(Refusal.EMPTY)
    if REASONING.search(text):
        return Refused(Refusal.REASONING)
    if len(text) > LONGEST:
        return Refused(Refusal.TOO_LONG, f"{len(text)} characters, at most {LONGEST}")
    return text
