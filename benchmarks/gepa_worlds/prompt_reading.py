"""Reads a prompt as a model does: demonstrations, statements, and what it says about the form of the answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

BULLET = re.compile(r"^\s*(?:[-*•+–]|\(?\d+[.):]|#{1,6})\s+")
MARKUP = re.compile(r"\*\*|`+")
SENTENCE_END = re.compile(r"(?<=[.!?;])\s+(?=[\"“'(A-Za-z])")
_SHOWN_INPUT = re.compile(
    r"(?i)^\W*(?:example\s+)?(?:input|user|customer message|message|query|record|order|call|text)s?\s*\d*\s*"
    r"(?:\*\*)?\s*[:>\]=]\s*(?:\*\*)?\s*(?P<rest>.*)$|^\s*#{1,6}\s*(?:example\s+)?input\s*\d*\s*$"
)
_SHOWN_OUTPUT = re.compile(
    r"(?i)^\W*(?:correct |right |expected )?(?:output|answer|assistant|label|response)s?\s*\d*\s*"
    r"(?:\*\*)?\s*[:>\]=]\s*(?:\*\*)?\s*(?P<rest>.*)$|^\s*#{1,6}\s*(?:correct |expected )?(?:output|answer)\s*\d*\s*$"
)
_ARROW = re.compile(r"^\W*[\"“](?P<input>[^\"”]{8,600})[\"”]\s*(?:->|=>|→|⇒)\s*(?P<output>.{1,300})$")
_DECORATION = re.compile(
    r"(?i)^\s*(?:</?\w+>|`{3,}\w*|~{3,}\w*|-{3,}|={3,}|#{1,6}\s*examples?\s*\d*\s*:?|\W*example\s+\d+\W*)$"
)
_CLOSING_TAG = re.compile(r"</\w+>\s*$")
_ASKS_JSON = re.compile(r"(?i)\bjson\b")
_STRICT = re.compile(
    r"(?i)\b(?:only|just|raw|bare|nothing else|nothing around|nothing but|no (?:prose|other|extra|explanation|code)|"
    r"without (?:any )?(?:prose|explanation|other))\b"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A demonstration."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """statements: sentences in their order. json_wish: how strongly a JSON answer is asked for, in [0, 1]."""

    statements: tuple[str, ...]
    headings: int
    shown: tuple[Shown, ...]
    json_wish: float


@lru_cache(maxsize=4096)
def read_prompt(text: str, turns: Sequence[tuple[str, str]] = ()) -> Prompt:
    """turns: earlier exchanges of the conversation, which are demonstrations as well."""
    shown, lines = part_demonstrations(text)
    statements: list[str] = []
    headings, json_wish = 0, 0.0
    for line in lines:
        bare = MARKUP.sub("", BULLET.sub("", line)).strip()
        if not bare:
            continue
        if (bare.endswith(":") and len(bare.split()) <= 8) or line.lstrip().startswith("#"):
            headings += 1
            continue
        for sentence in SENTENCE_END.split(bare):
            if _ASKS_JSON.search(sentence):
                json_wish = max(json_wish, 1.0 if _STRICT.search(sentence) else 0.4)
            else:
                statements.append(sentence)
    return Prompt(tuple(statements), headings, (*shown, *(Shown(*turn) for turn in turns)), json_wish)


def part_demonstrations(text: str) -> tuple[list[Shown], list[str]]:
    """The demonstrations written out in the text, and all other lines."""
    shown: list[Shown] = []
    others: list[str] = []
    asked: list[str] | None = None
    answered: list[str] | None = None

    def rest(found: re.Match[str]) -> list[str]:
        return [_CLOSING_TAG.sub("", found["rest"] or "")]

    def close() -> None:
        nonlocal asked, answered
        if asked is not None and answered is not None and "".join(answered).strip():
            shown.append(Shown("\n".join(asked).strip(), "\n".join(answered).strip()))
        elif asked is not None:
            others.extend(asked)
        asked = answered = None

    for line in text.split("\n"):
        opening, reply, arrow = _SHOWN_INPUT.match(line), _SHOWN_OUTPUT.match(line), _ARROW.match(line)
        if answered is not None and not opening and not _is_complete(answered):
            if not _DECORATION.match(line):
                answered.append(line)
            continue
        if answered is not None:
            close()
        if arrow and asked is None:
            shown.append(Shown(arrow["input"], arrow["output"]))
        elif reply and asked is not None:
            answered = rest(reply)
        elif opening and asked is None:
            asked = rest(opening)
        elif asked is not None:
            if not _DECORATION.match(line):
                asked.append(line)
        elif not (shown and _DECORATION.match(line)):
            others.append(line)
    close()
    return shown, others


def _is_complete(answer: Sequence[str]) -> bool:
    """Whether nothing more belongs to a shown answer: one line, or an object up to its closing brace."""
    text = "\n".join(answer).strip()
    return bool(text) and text.count("{") <= text.count("}")


def conversation(messages: Sequence[tuple[str, str]]) -> tuple[str, tuple[tuple[str, str], ...], str]:
    """Part (role, content) messages into the instruction, the exchanges before, and the last user message."""
    instruction = "\n".join(content for role, content in messages if role in ("system", "developer"))
    turns: list[tuple[str, str]] = []
    asked = ""
    for role, content in messages:
        if role == "user":
            asked = content
        elif role == "assistant" and asked:
            turns.append((asked, content))
            asked = ""
    return instruction, tuple(turns), asked
