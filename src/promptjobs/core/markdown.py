"""Pieces of Markdown around texts that others wrote: whatever they hold, they stay text."""

import re
from collections.abc import Iterable, Sequence

UNSEEN = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
"""Space, and what is not seen: controls, and what changes the direction of writing."""

MARKS = re.compile(r"([\\`*\[\]<>|~&#{}!$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
"""An underscore within a word marks nothing."""

AT_LINE_START = re.compile(r"^(\d{1,9}(?=[.)]( |$))|(?=[-+]( |$))|(?=--|=))")
"""What would begin a list, a line across, or a heading of what stands above."""
TICKS = re.compile(r"`+")
MAX_INLINE = 300


def inline(text: str, limit: int = MAX_INLINE) -> str:
    """One line that is shown as it is: no mark-up, link or HTML in it is any."""
    line = UNSEEN.sub(" ", text).strip()
    line = line if len(line) <= limit else line[:limit] + "…"
    return AT_LINE_START.sub(r"\1\\", MARKS.sub(r"\\\1", line))


def fenced(text: str, language: str = "") -> str:
    """A block that shows the text to the letter, by a fence longer than any run of backticks in it.

    language: a word of our own.
    """
    fence = "`" * max(3, 1 + max((len(run) for run in TICKS.findall(text)), default=0))
    return f"{fence}{language}\n{text.replace(chr(0), chr(0xFFFD))}\n{fence}"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The cells are texts. A column without a header is as good as any."""
    lines = [headers, ["---"] * len(headers)]
    escaped = [[inline(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *escaped])


def bullets(items: Iterable[str]) -> str:
    """items: Markdown, each of one line."""
    return "\n".join(f"- {item}" for item in items)
