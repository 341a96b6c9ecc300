"""Prompts: a template of sections, the pattern that recognises it, and the only renderer to messages."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from promptjobs.errors import PromptError, PromptNotMatched

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
SHOWN = 120


@dataclass(frozen=True, slots=True)
class Message:
    """A chat message with plain text content."""

    role: str
    content: str

    def to_json(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Section:
    """One message of a template; `content` may hold `{wildcard}` placeholders. Sections are sent in `order`.

    module: the call of a program that sends it, whose id also begins its name; "" where there is one kind of call.
    is_example: a part of a worked example, which the task app did not say and no input is read from.
    """

    name: str
    role: str
    content: str
    order: int
    module: str = ""
    is_example: bool = False

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"name": self.name, "role": self.role, "content": self.content, "order": self.order}
        more = {"module": self.module, "is_example": self.is_example}
        return body | {name: value for name, value in more.items() if value}

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> "Section":
        return Section(
            body["name"],
            body["role"],
            body["content"],
            body["order"],
            body.get("module", ""),
            body.get("is_example", False),
        )


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A prompt as sections. `wildcards` maps each placeholder's name to whether it must be non-empty.

    Text in braces that names no wildcard is plain text.
    """

    sections: tuple[Section, ...]
    wildcards: Mapping[str, bool] = field(default_factory=dict)
    id: str = ""
    name: str = ""

    def section(self, name: str) -> Section:
        for section in self.sections:
            if section.name == name:
                return section
        raise PromptError(f"the prompt has no section {name!r}")

    @property
    def modules(self) -> tuple[str, ...]:
        """The ids of the program's modules, in order; one, "", for a prompt that is not divided."""
        return tuple(dict.fromkeys(section.module for section in self.sections)) or ("",)

    def part(self, module: str) -> "PromptTemplate":
        """The prompt of one module alone."""
        sections = tuple(section for section in self.sections if section.module == module)
        return self if len(sections) == len(self.sections) else replace(self, sections=sections)

    def with_text(self, texts: Mapping[str, str]) -> "PromptTemplate":
        """The same template with the content of the named sections replaced."""
        for name in texts:
            self.section(name)
        return replace(self, sections=tuple(replace(s, content=texts.get(s.name, s.content)) for s in self.sections))

    def placeholders(self, name: str) -> tuple[str, ...]:
        """The wildcards that the named section holds, in order of appearance, each as often as it stands there."""
        return tuple(w for w in PLACEHOLDER.findall(self.section(name).content) if w in self.wildcards)

    def digest(self) -> str:
        """Content hash (32 hex digits) of everything that is sent, and by whom: modules, roles, texts, wildcards."""
        parts = [[s.module, s.role, s.content] if s.module else [s.role, s.content] for s in self.sections]
        body = [parts, sorted(self.wildcards.items())]
        return hashlib.blake2b(json.dumps(body, separators=(",", ":")).encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "sections": [section.to_json() for section in self.sections],
            "wildcards": {name: "REQUIRED" if required else "OPTIONAL" for name, required in self.wildcards.items()},
        }

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> "PromptTemplate":
        return PromptTemplate(
            sections=tuple(Section.from_json(section) for section in body["sections"]),
            wildcards={name: kind == "REQUIRED" for name, kind in body["wildcards"].items()},
            id=body["id"],
            name=body["name"],
        )


def render(template: PromptTemplate, values: Mapping[str, str] | None = None) -> tuple[Message, ...]:
    """The template's messages. Placeholders are replaced in one pass; without `values` they stay as they are.

    A value is never searched for placeholders. This is the only way from a prompt to messages, so what is exported
    and what is evaluated are the same bytes.
    """
    known = {} if values is None else {name: values[name] for name in template.wildcards if name in values}

    def filled(content: str) -> str:
        return PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), content) if known else content

    return tuple(Message(s.role, filled(s.content)) for s in template.sections)


def full_text(messages: Sequence[Message]) -> str:
    """The messages as one readable text, in the form that clients of the API expect."""
    return "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages)


@dataclass(frozen=True, slots=True)
class Matched:
    """What the task app's messages say beyond the pattern: the wildcards' values, and the messages after it."""

    values: Mapping[str, str]
    rest: int


@dataclass(frozen=True, slots=True)
class PromptPattern:
    """Recognises the baseline prompt in the messages that a task app sends.

    The pattern's messages must be the first messages, in order and with equal roles; literal text must be equal to
    the byte. What follows (the user's turn, tool results) is left to the task app.
    """

    template: PromptTemplate
    parts: tuple[tuple[str, ...], ...]

    @staticmethod
    def of(template: PromptTemplate) -> "PromptPattern":
        """Raises PromptError where two wildcards stand side by side: where one ends could not be told."""
        pattern = PromptPattern.lenient(template)
        for section, pieces in zip(template.sections, pattern.parts, strict=True):
            if "" in pieces[2:-1:2]:
                raise PromptError(f"two wildcards of {section.name!r} touch: put text between them")
        return pattern

    @staticmethod
    def lenient(template: PromptTemplate) -> "PromptPattern":
        """For recognising messages alone: the values of wildcards that stand side by side mean nothing."""
        return PromptPattern(
            template, tuple(_split(section.content, template.wildcards) for section in template.sections)
        )

    def match(self, messages: Sequence[Message]) -> Matched:
        """Raises PromptNotMatched at the first message that differs."""
        values: dict[str, str] = {}
        for index, (section, pieces) in enumerate(zip(self.template.sections, self.parts, strict=True)):
            if index >= len(messages):
                raise PromptNotMatched(index, f"a {section.role} message", f"only {len(messages)} messages")
            message = messages[index]
            if message.role != section.role:
                raise PromptNotMatched(index, f"role {section.role!r}", f"role {message.role!r}")
            self._match_text(index, pieces, message.content, values)
        return Matched(values, rest=len(self.parts))

    def _match_text(self, index: int, pieces: tuple[str, ...], text: str, values: dict[str, str]) -> None:
        """pieces: literal, wildcard, …, literal. Linear in the text: each literal is taken where it comes first."""
        first = pieces[0]
        if not text.startswith(first):
            at = next(
                (i for i, (a, b) in enumerate(zip(first, text, strict=False)) if a != b), min(len(first), len(text))
            )
            raise PromptNotMatched(index, _shown(first[at:]), _shown(text[at:]), matched=at)
        position = len(first)
        for at in range(1, len(pieces), 2):
            name, literal = pieces[at], pieces[at + 1]
            least = position + (1 if self.template.wildcards[name] else 0)
            if name in values:
                # Where a known value ends needs no search: it may hold the very text that follows it.
                if not text.startswith(values[name], position):
                    again = f"{{{name}}} = {_shown(values[name])} again"
                    raise PromptNotMatched(index, again, _shown(text[position:]), matched=position)
                end = least = position + len(values[name])
                end = end if text.startswith(literal, end) else -1
            elif at + 2 == len(pieces):
                end = len(text) - len(literal) if text.endswith(literal) else -1
            else:
                end = text.find(literal, least)
            if end < least:
                expected = _shown(literal) if literal else f"a value for {{{name}}}"
                raise PromptNotMatched(index, expected, _shown(text[position:]), matched=position)
            values.setdefault(name, text[position:end])
            position = end + len(literal)
        if position != len(text):
            raise PromptNotMatched(index, "the end of the message", _shown(text[position:]), matched=position)


def _split(content: str, wildcards: Mapping[str, bool]) -> tuple[str, ...]:
    """Literal, wildcard name, literal, …: always an odd number of pieces."""
    pieces: list[str] = []
    position = 0
    for found in PLACEHOLDER.finditer(content):
        if found[1] not in wildcards:
            continue
        pieces += [content[position : found.start()], found[1]]
        position = found.end()
    return (*pieces, content[position:])


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")
