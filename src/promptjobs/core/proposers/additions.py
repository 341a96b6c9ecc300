"""What a proposed text adds to the text it was asked to improve, so that parts of several proposals can be combined."""

import re
from collections.abc import Sequence

from promptjobs.core.line_merging import normalised
from promptjobs.core.prompt import PLACEHOLDER
from promptjobs.core.proposers.reflection import FENCE

HEADING = re.compile(r"\s*#{1,6}\s+\S")
HEADING_WORDS = 8
"""A line that ends with a colon and has no more words than this introduces what follows it."""


def additions_of(stage_text: str, proposed: str) -> str:
    """The lines that `proposed` has beyond `stage_text`; "" where there are none.

    Lines that differ in case, bullet or punctuation are one line. A fenced block is taken as a whole. Headings stay
    where they introduce something new, and empty lines where they separate something new from what is new. Lines with
    a placeholder of the text stay out: it holds them already.
    """
    known = {normalised(line) for line in _lines(stage_text)}
    names = set(PLACEHOLDER.findall(stage_text))
    kept: list[str] = []
    headings: list[str] = []
    is_apart = False
    for unit in _units(_lines(proposed)):
        if _is_heading(unit):
            headings = [*_above(unit, headings), unit]
        elif not normalised(unit):
            is_apart = True
        elif _is_new(unit, known) and not names & set(PLACEHOLDER.findall(unit)):
            kept += [""] if kept and (is_apart or headings) else []
            kept += [*headings, unit]
            known |= {normalised(line) for line in unit.split("\n")}
            headings, is_apart = [], False
    return "\n".join(kept)


def _above(unit: str, headings: Sequence[str]) -> list[str]:
    """The pending headings that stand above this one; those of its own rank or below introduced nothing new."""
    return [heading for heading in headings if _rank(heading) < _rank(unit)]


def _rank(heading: str) -> int:
    """1 to 6 by number signs; a line with a colon stands below them."""
    line = heading.lstrip()
    return len(line) - len(line.lstrip("#")) if line.startswith("#") else 7


def _is_heading(unit: str) -> bool:
    has_colon = unit.rstrip(" *").endswith(":") and len(unit.split()) <= HEADING_WORDS
    return "\n" not in unit and bool(normalised(unit)) and (bool(HEADING.match(unit)) or has_colon)


def _is_new(unit: str, known: set[str]) -> bool:
    return any(normalised(line) and normalised(line) not in known for line in unit.split("\n"))


def _units(lines: Sequence[str]) -> list[str]:
    """Single lines, and fenced blocks whole."""
    units: list[str] = []
    ticks = ""
    for line in lines:
        fence = FENCE.fullmatch(line.strip())
        if ticks:
            units[-1] += f"\n{line}"
            if fence and fence["ticks"] == ticks and not fence["info"].strip():
                ticks = ""
        else:
            units.append(line)
            ticks = fence["ticks"] if fence else ""
    return units


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
