"""Text from elsewhere, made fit for a terminal; numbers as people read them; JSON as programs do."""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
"""Characters that move the cursor, start an escape sequence, or turn the direction of writing."""

JSON_CONTROL = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Those of them that stand in JSON unescaped."""


def one_line(text: str, limit: int = 240) -> str:
    """`text` without control characters, cut to `limit` characters."""
    text = CONTROL.sub(" ", text).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def harmless(text: str) -> str:
    """`text` with its lines and tabs; other control characters are made visible, and do nothing to the terminal."""
    return CONTROL.sub(lambda found: "".join(each if each in "\n\t" else "\ufffd" for each in found[0]), text)


def readable_json(value: Any) -> str:
    """Indented JSON that can be copied and parsed again, and does nothing to the terminal that shows it."""
    written = json.dumps(value, ensure_ascii=False, indent=2)
    return JSON_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def tried(progress: Mapping[str, Any]) -> str:
    """Of a search by trials the trials, of any other the proposals."""
    if "num_iterations" in progress:
        return f"{progress['transformations_tried']} of {progress['transformations_planned']} trials"
    proposals = progress["trials_tried"]
    return f"{proposals} {'proposal' if proposals == 1 else 'proposals'}"


def duration(seconds: float) -> str:
    """6.9 s, 2 min 05 s, 1 h 02 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def cost(usd: float | None) -> str:
    """Small sums keep their digits: $0.0123 and not $0.01."""
    if usd is None:
        return "unknown"
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}"


def write_json(content: Any) -> None:
    """One line on stdout."""
    write_line(json.dumps(content, ensure_ascii=False))


def write_line(text: str) -> None:
    """A line for programs: in UTF-8 as JSON has to be, whatever the terminal speaks, and at once."""
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.buffer.flush()
