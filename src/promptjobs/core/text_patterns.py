"""Searches texts for the regexes of a config in time linear in the text, whatever the regex is.

The syntax is RE2's: no backreferences and no lookaround; `\\b`, `\\w`, `\\d` know ASCII alone; `\\pL` is any letter;
`^` and `$` are the ends of the text unless the pattern begins with `(?m)`. Backtracking engines can be made to run for
years by a short pattern, and a timeout would let the machine's speed decide which prompt is found.
"""

from dataclasses import dataclass
from typing import Any

import re2

from promptjobs.errors import InvalidConfig

MAX_PATTERN_CHARACTERS = 2_000
# The slowest patterns of this size take about ten microseconds a character, nearly all others a thousandth of it.
MAX_PROGRAM = 4_000


@dataclass(frozen=True, slots=True)
class TextPattern:
    """A compiled regex."""

    source: str
    program: Any

    def is_found_in(self, text: str) -> bool:
        """Whether it matches somewhere in the text; case matters unless the pattern begins with `(?i)`."""
        return self.program.search(text.encode(errors="replace")) is not None


def compile_pattern(source: str, field: str | None = None) -> TextPattern:
    """Raises InvalidConfig, about `field`, for what RE2 does not know and for what would be too large."""
    if len(source) > MAX_PATTERN_CHARACTERS:
        raise InvalidConfig(f"a pattern may have at most {MAX_PATTERN_CHARACTERS} characters, got {len(source)}", field)
    options = re2.Options()
    options.log_errors = False
    try:
        program = re2.compile(source, options)
    except UnicodeEncodeError as exc:
        raise InvalidConfig("a pattern must be valid Unicode", field) from exc
    except re2.error as exc:
        said = exc.args[0] if exc.args else ""
        reason = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise InvalidConfig(f"{source!r} is not a pattern of the RE2 syntax: {reason}", field) from exc
    if program.programsize > MAX_PROGRAM:
        raise InvalidConfig(
            f"{source!r} needs {program.programsize} steps, at most {MAX_PROGRAM}: use smaller repetitions", field
        )
    return TextPattern(source, program)
