"""The strict reading of a proposer's reply: atomic transforms, and why a part of it is none."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from promptjobs.core.instruction_transforms import (
    AtomicInstructionTransform,
    InstructionTransformLocalizer,
    InstructionType,
    MissReason,
    apply_transforms,
)
from promptjobs.core.line_merging import normalised
from promptjobs.core.prompt import Message, PromptTemplate, Section
from promptjobs.core.proposers.program_context import ProposalBrief, StageContext
from promptjobs.core.proposers.reflection import (
    CUT_OFF,
    Refusal,
    Refused,
    checked_text,
    fenced_texts,
    parse_proposal,
    without_reasoning,
)
from promptjobs.core.python_transform import MAX_PROGRAM_CHARACTERS
from promptjobs.errors import TransformApplicationError

KEYS = frozenset({"type", "find", "role", "text"})
JSON_BEGINS = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\[{\"\]])")
UNSENDABLE = re.compile(r"[\x00\ud800-\udfff]")
SHOWN = 200

REFUSALS = {
    MissReason.NO_MESSAGE: Refusal.NOT_FOUND,
    MissReason.NO_TEXT: Refusal.NOT_FOUND,
    MissReason.EMPTY: Refusal.EMPTY,
    MissReason.PLACEHOLDERS: Refusal.PLACEHOLDERS,
}


@dataclass(frozen=True, slots=True)
class TransformProposalBatch:
    """What one reply proposes, in its order, and what of it is not taken."""

    transforms: tuple[AtomicInstructionTransform, ...] = ()
    refused: tuple[Refused, ...] = ()


def parse_transforms(
    reply: str, finish_reason: str, stage: StageContext, brief: ProposalBrief
) -> TransformProposalBatch:
    """The transforms of a reply, whatever the mode: of one fenced text, or of JSON, in a fence or bare.

    A fenced text replaces the stage's whole text. Each object of JSON is judged by itself. Where whole texts were
    asked for, a fenced text that is JSON of another kind is a text. Never raises.
    """
    if finish_reason in CUT_OFF:
        return TransformProposalBatch(refused=(Refused(Refusal.TRUNCATED),))
    items = _items(without_reasoning(reply.replace("\r\n", "\n")), stage, brief)
    if isinstance(items, Refused):
        return TransformProposalBatch(refused=(items,))
    if items is not None:
        return _batch(items, stage, brief)
    text = parse_proposal(reply, finish_reason, stage.text, stage.placeholders, brief.max_tokens, stage.wildcards)
    if isinstance(text, Refused):
        return TransformProposalBatch(refused=(text,))
    whole = AtomicInstructionTransform(InstructionType.REPLACE, own_localizer(stage, brief), text)
    return TransformProposalBatch(transforms=(whole,))


def own_localizer(stage: StageContext, brief: ProposalBrief | None = None) -> InstructionTransformLocalizer:
    """Where the stage's text stands, without its examples."""
    brief = brief or ProposalBrief()
    options = InstructionTransformLocalizer(None, None, None, brief.match_mode, brief.case_sensitive, brief.strict)
    at = stage.position
    if at is None:
        return options
    message = stage.messages[at]
    position = sum(before.role == message.role for before in stage.messages[:at])
    found = replace(options, role=message.role, position=position)
    return found if message.content == stage.text else replace(found, text=stage.text, match_mode="substring")


def replaces_all(transform: AtomicInstructionTransform, stage: StageContext) -> bool:
    """Whether the transform is a new text of the stage as a whole, and not of a passage or of another message."""
    own, at = own_localizer(stage), transform.localizer
    is_there = (at.role, at.position, at.text) == (own.role, own.position, own.text)
    return transform.instruction_type is InstructionType.REPLACE and is_there


def follow_of(stage: StageContext, additions: str, brief: ProposalBrief | None = None) -> AtomicInstructionTransform:
    """The transform that puts additions below the stage's text."""
    return AtomicInstructionTransform(InstructionType.FOLLOW, own_localizer(stage, brief), additions)


def fingerprint(transform: AtomicInstructionTransform) -> str:
    """Equal for changes of one place whose texts differ in case, bullets, punctuation or spacing only.

    Of programs everything counts.
    """
    at, text = transform.localizer, transform.instruction_text.strip()
    if transform.instruction_type is not InstructionType.PYTHON:
        text = _plain(text)
    return json.dumps([transform.instruction_type.value, at.role, at.position, at.text, text])


def _plain(text: str) -> str:
    return " ".join(line for line in map(normalised, text.split("\n")) if line) or text.strip()


# --- JSON ------------------------------------------------------------------------------------------------------------


def _items(visible: str, stage: StageContext, brief: ProposalBrief) -> Sequence[Any] | Refused | None:
    """The items of the reply's JSON; None where the reply is to be read as a text."""
    found = fenced_texts(visible)
    if found is None or len(found) > 1:
        return None
    is_fenced, body = bool(found), found[0] if found else visible
    if not JSON_BEGINS.match(body):
        return None
    is_text = is_fenced and (brief.mode != "builtin" or bool(JSON_BEGINS.match(stage.text)))
    try:
        # Models break the lines of a text inside of a string: that is not ambiguous.
        value = json.loads(body, strict=False)
    except (ValueError, RecursionError) as error:
        return None if is_text else Refused(Refusal.UNREADABLE, str(error)[:SHOWN])
    if isinstance(value, list) and value and all(map(_is_change, value)):
        return value
    if isinstance(value, dict) and _is_change(value) and not (is_fenced and is_text):
        return [value]
    if is_text:
        return None
    if isinstance(value, list) and value:
        return value
    return Refused(Refusal.UNREADABLE, f"expected an array of objects, got {_shown(value)}")


def _is_change(item: Any) -> bool:
    return isinstance(item, dict) and "text" in item and item.keys() <= KEYS


def _batch(items: Sequence[Any], stage: StageContext, brief: ProposalBrief) -> TransformProposalBatch:
    read = [_transform(item, stage, brief) for item in items[: brief.count]]
    refused = [one for one in read if isinstance(one, Refused)]
    if len(items) > brief.count:
        refused.append(Refused(Refusal.TOO_MANY, f"{len(items)} changes, at most {brief.count}"))
    return TransformProposalBatch(tuple(one for one in read if not isinstance(one, Refused)), tuple(refused))


def _transform(item: Any, stage: StageContext, brief: ProposalBrief) -> AtomicInstructionTransform | Refused:
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        return Refused(Refusal.UNREADABLE, f'expected an object with "text", got {_shown(item)}')
    kind, find, role = item.get("type", "replace"), item.get("find"), item.get("role")
    if kind not in list(InstructionType):
        return Refused(
            Refusal.UNKNOWN_TYPE, f"expected one of {[k.value for k in InstructionType]}, got {_shown(kind)}"
        )
    if not isinstance(find, str | None) or not isinstance(role, str | None):
        return Refused(Refusal.UNREADABLE, f'"find" and "role" must be text, got {_shown(item)}')
    if any(UNSENDABLE.search(text) for text in (item["text"], find or "", role or "")):
        return Refused(Refusal.UNREADABLE, "NUL or a lone surrogate stands in a text")
    text = checked_text(item["text"].replace("\r\n", "\n"), stage.text, (), brief.max_tokens)
    if isinstance(text, Refused):
        return text
    if kind == InstructionType.PYTHON:
        return _program(text, stage, brief)
    localizer = _localizer(find, role, stage, brief)
    transform = AtomicInstructionTransform(InstructionType(kind), localizer, text)
    return _fault(transform, stage) or transform


def _program(text: str, stage: StageContext, brief: ProposalBrief) -> AtomicInstructionTransform | Refused:
    if not brief.allow_python:
        return Refused(Refusal.PYTHON_OFF)
    if len(text) > MAX_PROGRAM_CHARACTERS:
        return Refused(Refusal.TOO_LONG, f"{len(text)} characters, at most {MAX_PROGRAM_CHARACTERS}")
    return AtomicInstructionTransform(InstructionType.PYTHON, own_localizer(stage, brief), text)


def _localizer(
    find: str | None, role: str | None, stage: StageContext, brief: ProposalBrief
) -> InstructionTransformLocalizer:
    own = own_localizer(stage, brief)
    if not find:
        return own if role in (None, own.role) else replace(own, role=role, position=None, text=None)
    return replace(own, role=role, position=None, text=find, match_mode=brief.match_mode)


def _fault(transform: AtomicInstructionTransform, stage: StageContext) -> Refused | None:
    """Why the transform has no effect on the stage as it stands: no trial could learn anything of it."""
    strict = replace(transform, localizer=replace(transform.localizer, strict=True))
    before = _template(stage)
    try:
        after = apply_transforms(before, "", [strict]).template
    except TransformApplicationError as error:
        return Refused(REFUSALS[MissReason(error.reason)], error.detail)
    return Refused(Refusal.UNCHANGED) if after == before else None


def _template(stage: StageContext) -> PromptTemplate:
    messages = stage.messages or (Message("system", stage.text),)
    sections = tuple(Section(str(at), m.role, m.content, at) for at, m in enumerate(messages))
    return PromptTemplate(sections, dict.fromkeys(stage.wildcards, False))


def _shown(value: Any) -> str:
    """Short, and without what is nested: that could be too deep to be written out."""
    match value:
        case dict():
            return f"an object with the keys {sorted(value)}"[:SHOWN]
        case list():
            return f"an array of {len(value)}"
        case _:
            return repr(value)[:SHOWN]
