"""What rollouts that went wrong say to a reflection: about the whole prompt, or about one module of a program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptjobs.core.asks import RolloutBody
from promptjobs.core.pipeline import ModuleCalls
from promptjobs.core.prompt import Message
from promptjobs.core.proposers.reflection import Record


@dataclass(frozen=True, slots=True)
class Evidence:
    """A rollout that went wrong. judged: what the judge said. calls: by module, of a program that has some."""

    seed: int
    score: float | None
    body: RolloutBody
    judged: str
    calls: Mapping[str, ModuleCalls]


def _said(messages: Sequence[Message]) -> str:
    return "\n\n".join(message.content for message in messages if message.role not in ("system", "developer"))


def inputs(evidence: Evidence) -> list[str]:
    """What the task app said to its model, call by call where that is known."""
    calls = evidence.body.calls if evidence.calls else ()
    return [_said(call.messages) for call in calls] if calls else [_said(evidence.body.messages)]


def record_of(evidence: Evidence, module: str) -> Record | None:
    """The rollout as the module's section is to learn from it; None where the module made no call.

    What is expected is expected of the program: of a module whose reply was not its answer it is told as feedback.
    """
    body = evidence.body
    parts = [body.feedback, evidence.judged]
    if not module:
        return Record(_said(body.messages), body.output, _joined(parts), body.expected, evidence.score)
    made = evidence.calls.get(module)
    if made is None:
        return None
    said, replies = [_said(call.messages) for call in made.calls], [call.reply for call in made.calls]
    is_shown = made.answered and body.output == replies[-1]
    told = [
        "" if made.answered else "This is one step of a program: its reply goes on to the next step.",
        f"The program's output: {body.output}" if body.output and not is_shown else "",
        f"Expected of the program: {body.expected}" if body.expected and not made.answered else "",
        *parts,
    ]
    expected = body.expected if made.answered else ""
    return Record(_numbered(said), _numbered(replies), _joined(told), expected, evidence.score)


def _joined(parts: Sequence[str]) -> str:
    return "\n".join(part for part in parts if part)


def _numbered(texts: Sequence[str]) -> str:
    """The only text as it is, several with their numbers: of a module that was called more than once."""
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"[call {n} of {len(texts)}]\n{text}" for n, text in enumerate(texts, 1))
