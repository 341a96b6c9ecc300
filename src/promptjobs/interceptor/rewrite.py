"""Swaps the baseline prompt in a task app's messages for the candidate's. Pure."""

from collections.abc import Sequence
from typing import Any

from promptjobs.core.prompt import Message, PromptPattern, PromptTemplate, render
from promptjobs.errors import PromptNotMatched

JsonObject = dict[str, Any]
PLAIN_KEYS = frozenset({"role", "content"})


def text_of(content: Any) -> str:
    """The text of a message's content: a string, the text parts of a list joined, or "" where there is none.

    What a pattern is compared with and what a baseline is derived from is this text.
    """
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text") if content else ""


def plain_messages(messages: Sequence[JsonObject]) -> tuple[Message, ...]:
    """The messages of a call as roles and texts."""
    return tuple(Message(message["role"], text_of(message.get("content"))) for message in messages)


def rewrite(messages: Sequence[JsonObject], pattern: PromptPattern, candidate: PromptTemplate) -> list[JsonObject]:
    """The candidate's messages, filled with what `pattern` captures, and after them the other messages as they are.

    messages: in OpenAI's form, their types already checked. A message that is replaced keeps whatever else it carries
    (images, a name) if the candidate has a section of the same name and role; a section that the baseline lacks, such
    as a worked example, is sent as plain text.
    Raises PromptNotMatched where the messages do not begin with the baseline, or where the replacement would lose
    something that is not text.
    """
    matched = pattern.match(plain_messages(messages[: len(pattern.parts)]))
    places = {section.name: index for index, section in enumerate(pattern.template.sections)}
    placed = []
    for section, message in zip(candidate.sections, render(candidate, matched.values), strict=True):
        index = places.pop(section.name, None)
        placed.append(message.to_json() if index is None else _in_place_of(index, messages[index], message))
    for index in places.values():
        _require_plain(index, messages[index], "no message")
    return [*placed, *messages[matched.rest :]]


def _in_place_of(index: int, original: JsonObject, message: Message) -> JsonObject:
    if original["role"] != message.role:
        _require_plain(index, original, f"a {message.role} message")
        return {"role": message.role, "content": message.content}
    content = original.get("content")
    if isinstance(content, list):
        return {**original, "content": _with_text(content, message.content)}
    return {**original, "content": message.content}


def _with_text(parts: Sequence[JsonObject], text: str) -> list[JsonObject]:
    """One text part, with the marks of the first one there was (such as cache_control), then the other parts."""
    first = next((part for part in parts if part["type"] == "text"), {"type": "text"})
    return [{**first, "text": text}, *(part for part in parts if part["type"] != "text")]


def _require_plain(index: int, message: JsonObject, instead: str) -> None:
    content = message.get("content")
    kinds = {part["type"] for part in content if part["type"] != "text"} if isinstance(content, list) else set()
    more = sorted((message.keys() - PLAIN_KEYS) | kinds)
    if more:
        raise PromptNotMatched(index, f"text alone, since the candidate has {instead} there", ", ".join(more))
