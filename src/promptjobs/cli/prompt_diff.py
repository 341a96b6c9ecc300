"""Compares two prompts: which messages are new, gone or changed, and in those which words."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

from promptjobs.sdk.shapes import Message

LINE = re.compile(r"[^\n]*\n|[^\n]+")
WORD = re.compile(r"\s+|\w+|[^\w\s]")
MAX_COMPARISONS = 4_000_000
"""Beyond so many pairs of words a changed block is taken as changed as a whole: comparing it would take seconds."""


class Change(StrEnum):
    SAME = "same"
    CHANGED = "changed"
    ADDED = "added"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Part:
    """A message, and the module of the program that sends it; "" where there is one kind of call."""

    module: str
    role: str
    content: str

    @property
    def title(self) -> str:
        return f"{self.module} · {self.role}" if self.module else self.role


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text that both have (same), or only the first (removed) or the second (added)."""

    change: Change
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A message of the first prompt and the one of the second that stands for it; None where there is none."""

    a: Part | None
    b: Part | None

    @property
    def change(self) -> Change:
        if self.a is None:
            return Change.ADDED
        if self.b is None:
            return Change.REMOVED
        return Change.SAME if self.a == self.b else Change.CHANGED

    @property
    def blocks(self) -> list[list[Piece]]:
        """The text as runs of lines, each either the same on both sides or changed somewhere."""
        return compare(self.a.content if self.a else "", self.b.content if self.b else "")


def parts_of(messages: Sequence[Message], modules: Mapping[str, Sequence[Message]]) -> list[Part]:
    """modules: go before `messages` where there are any: they say the same, and whose each message is."""
    by_module = modules or {"": messages}
    return [Part(module, each["role"], each["content"]) for module, said in by_module.items() for each in said]


def paired(a: Sequence[Part], b: Sequence[Part]) -> list[Pair]:
    """The messages side by side, in order: equal ones first, then those of the same role between them."""
    found: list[Pair] = []
    for tag, a1, a2, b1, b2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal":
            found += [Pair(x, y) for x, y in zip(a[a1:a2], b[b1:b2], strict=True)]
        else:
            found += _by_role(a[a1:a2], b[b1:b2])
    return found


def _by_role(a: Sequence[Part], b: Sequence[Part]) -> Iterator[Pair]:
    titles = SequenceMatcher(None, [part.title for part in a], [part.title for part in b], autojunk=False)
    for tag, a1, a2, b1, b2 in titles.get_opcodes():
        if tag == "equal":
            yield from (Pair(x, y) for x, y in zip(a[a1:a2], b[b1:b2], strict=True))
        else:
            yield from (Pair(part, None) for part in a[a1:a2])
            yield from (Pair(None, part) for part in b[b1:b2])


def compare(a: str, b: str) -> list[list[Piece]]:
    """Line by line, and within changed lines word by word. The pieces without `added` give `a`, without `removed` `b`.

    A line belongs to its line feed, so that only the last one may end without.
    """
    lines_a, lines_b = LINE.findall(a), LINE.findall(b)
    blocks = []
    for tag, a1, a2, b1, b2 in SequenceMatcher(None, lines_a, lines_b, autojunk=False).get_opcodes():
        old, new = "".join(lines_a[a1:a2]), "".join(lines_b[b1:b2])
        blocks.append([Piece(Change.SAME, old)] if tag == "equal" else _words(old, new))
    return blocks


def _words(a: str, b: str) -> list[Piece]:
    words_a, words_b = WORD.findall(a), WORD.findall(b)
    if not a or not b or len(words_a) * len(words_b) > MAX_COMPARISONS:
        return [Piece(change, text) for change, text in ((Change.REMOVED, a), (Change.ADDED, b)) if text]
    pieces = []
    for tag, a1, a2, b1, b2 in SequenceMatcher(None, words_a, words_b, autojunk=False).get_opcodes():
        old, new = "".join(words_a[a1:a2]), "".join(words_b[b1:b2])
        if tag == "equal":
            pieces.append(Piece(Change.SAME, old))
        else:
            pieces += [Piece(change, text) for change, text in ((Change.REMOVED, old), (Change.ADDED, new)) if text]
    return pieces
