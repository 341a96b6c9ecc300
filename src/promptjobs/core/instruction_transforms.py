"""Atomic changes to a module's messages: where each one is to be made, what it does there, and why it cannot."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, assert_never

from promptjobs.core.prompt import Message, PromptTemplate, Section, render
from promptjobs.errors import TransformApplicationError

SHOWN = 120
INSTRUCTING = ("system", "developer")

MatchMode = Literal["exact", "substring"]


class InstructionType(StrEnum):
    """REPLACE puts a text in the place of another, FOLLOW adds one after another, PYTHON is a program."""

    REPLACE = "replace"
    FOLLOW = "follow"
    PYTHON = "python"


@dataclass(frozen=True, slots=True)
class InstructionTransformLocalizer:
    """Where a transform is to be made.

    role, position: of the messages of that role (None: of any), the one at this index; a negative one counts from the
    end. text: what is looked for, in the first of those messages that holds it; None stands for a whole message.
    match_mode: "exact" where the text must be the whole message. strict: what does not apply is an error, not a miss.
    With neither role, position nor text it is the first system or developer message, else the first message.
    """

    role: str | None = None
    position: int | None = None
    text: str | None = None
    match_mode: MatchMode = "substring"
    case_sensitive: bool = True
    strict: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "position": self.position,
            "text": self.text,
            "match_mode": self.match_mode,
            "case_sensitive": self.case_sensitive,
            "strict": self.strict,
        }

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> "InstructionTransformLocalizer":
        return InstructionTransformLocalizer(
            body["role"],
            body["position"],
            body["text"],
            body["match_mode"],
            body["case_sensitive"],
            body["strict"],
        )


@dataclass(frozen=True, slots=True)
class AtomicInstructionTransform:
    """One change of a module's messages. instruction_text: what is put there; for PYTHON the program.

    demo_indices: the examples that were on the author's mind, as indices into the stage's pool; they only inform.
    """

    instruction_type: InstructionType
    localizer: InstructionTransformLocalizer
    instruction_text: str
    demo_indices: tuple[int, ...] = ()

    def with_text(self, text: str) -> "AtomicInstructionTransform":
        """The same change with another text."""
        return replace(self, instruction_text=text)

    def to_json(self) -> dict[str, Any]:
        return {
            "instruction_type": self.instruction_type.value,
            "localizer": self.localizer.to_json(),
            "instruction_text": self.instruction_text,
            "demo_indices": list(self.demo_indices),
        }

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> "AtomicInstructionTransform":
        return AtomicInstructionTransform(
            InstructionType(body["instruction_type"]),
            InstructionTransformLocalizer.from_json(body["localizer"]),
            body["instruction_text"],
            tuple(body["demo_indices"]),
        )


class MissReason(StrEnum):
    """Why a transform does not apply."""

    NO_MESSAGE = "no_such_message"
    NO_TEXT = "text_not_found"
    EMPTY = "message_would_be_empty"
    PLACEHOLDERS = "placeholders_lost_or_gained"
    PYTHON_OFF = "python_transforms_are_off"
    PYTHON = "python_failed"


@dataclass(frozen=True, slots=True)
class TransformMiss:
    """A transform that was passed over. index: among those of its module; detail: what would have been needed."""

    index: int
    reason: MissReason
    detail: str
    module: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"index": self.index, "reason": self.reason.value, "detail": self.detail, "module": self.module}


@dataclass(frozen=True, slots=True)
class PythonOutcome:
    """What a program has made of the messages: as many, of the same roles; None where it failed, with its fault."""

    messages: tuple[Message, ...] | None
    fault: str = ""


PythonRunner = Callable[[str, tuple[Message, ...]], PythonOutcome]
"""Runs a program over messages. The same program and messages always have the same outcome."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The prompt after the transforms that did apply, and those that did not."""

    template: PromptTemplate
    misses: tuple[TransformMiss, ...]


def apply_transforms(
    template: PromptTemplate,
    module: str,
    transforms: Sequence[AtomicInstructionTransform],
    *,
    runner: PythonRunner | None = None,
) -> Applied:
    """Applies the transforms one after the other to the messages of the module, "" for an undivided prompt.

    Every section keeps its placeholders, each as often. runner: None where no program may be run.
    Raises TransformApplicationError where a strict transform does not apply.
    """
    misses = []
    for index, transform in enumerate(transforms):
        try:
            template = _applied(template, module, transform, index, runner)
        except TransformApplicationError as error:
            if transform.localizer.strict:
                raise
            misses.append(TransformMiss(index, MissReason(error.reason), error.detail, module))
    return Applied(template, tuple(misses))


def _applied(
    template: PromptTemplate,
    module: str,
    transform: AtomicInstructionTransform,
    index: int,
    runner: PythonRunner | None,
) -> PromptTemplate:
    sections = template.part(module).sections

    def missed(reason: MissReason, detail: str) -> TransformApplicationError:
        return TransformApplicationError(index, reason, detail, module)

    match transform.instruction_type:
        case InstructionType.REPLACE | InstructionType.FOLLOW:
            named = _named(sections, transform.localizer)
            if not named:
                raise missed(MissReason.NO_MESSAGE, _wanted(transform.localizer, len(sections)))
            found = next(((s, at) for s in named if (at := _span(s.content, transform.localizer)) is not None), None)
            if found is None:
                raise missed(MissReason.NO_TEXT, _wanted(transform.localizer, len(sections)))
            section, (start, end) = found
            texts = {section.name: _changed(section.content, start, end, transform)}
        case InstructionType.PYTHON:
            if runner is None:
                raise missed(MissReason.PYTHON_OFF, "the job does not allow them")
            outcome = runner(transform.instruction_text, render(template.part(module)))
            if outcome.messages is None:
                raise missed(MissReason.PYTHON, outcome.fault)
            texts = {s.name: message.content for s, message in zip(sections, outcome.messages, strict=True)}
        case _:
            assert_never(transform.instruction_type)
    changed = template.with_text(texts)
    for name, text in texts.items():
        if not text.strip():
            raise missed(MissReason.EMPTY, f"nothing would be left of {name}")
        before, after = (Counter(one.placeholders(name)) for one in (template, changed))
        if before != after:
            detail = f"{name} must hold {sorted(before.elements())}, and would hold {sorted(after.elements())}"
            raise missed(MissReason.PLACEHOLDERS, detail)
    return changed


def _named(sections: Sequence[Section], localizer: InstructionTransformLocalizer) -> Sequence[Section]:
    """The messages that may be meant, in their order."""
    if localizer.role is None and localizer.position is None and localizer.text is None:
        return [section for section in sections if section.role in INSTRUCTING] or sections
    named = [section for section in sections if localizer.role in (None, section.role)]
    if localizer.position is None:
        return named
    return [named[localizer.position]] if -len(named) <= localizer.position < len(named) else []


def _span(content: str, localizer: InstructionTransformLocalizer) -> tuple[int, int] | None:
    """Where the text first stands in the content; None where it does not."""
    if localizer.text is None:
        return 0, len(content)
    if not localizer.text:
        return None
    pattern = re.compile(re.escape(localizer.text), re.NOFLAG if localizer.case_sensitive else re.IGNORECASE)
    found = pattern.fullmatch(content) if localizer.match_mode == "exact" else pattern.search(content)
    return found and found.span()


def _changed(content: str, start: int, end: int, transform: AtomicInstructionTransform) -> str:
    if transform.instruction_type is InstructionType.REPLACE:
        return content[:start] + transform.instruction_text + content[end:]
    # A located text that ends with a line's end is followed right there, not after the line behind it.
    at = content.find("\n", max(start, end - 1))
    at = len(content) if at < 0 else at
    return f"{content[:at]}\n{transform.instruction_text}{content[at:]}"


def _wanted(localizer: InstructionTransformLocalizer, count: int) -> str:
    """The message that there is none of."""
    role = f"{localizer.role} " if localizer.role else ""
    place = "" if localizer.position is None else f" at index {localizer.position}"
    relation = "equal to" if localizer.match_mode == "exact" else "with"
    text = "" if localizer.text is None else f" {relation} {_shown(localizer.text)}"
    return f"no {role}message{place}{text} among {count}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")
