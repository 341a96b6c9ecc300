"""Puts what a task app says about its task into a text that a meta-model can read. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from promptjobs.clients.redaction import redacted_text
from promptjobs.core.config_body import without_secrets

LIMIT = 8_000
"""Characters of the text at most; what is cut is the end of the further facts."""

PLACES = ("task", "taskset", "task_metadata")
"""Objects of /task_info that speak of the task itself, as the top level does."""

NOTES = (
    ("Name", re.compile(r"name")),
    ("Description", re.compile(r"description")),
    ("Input", re.compile(r"(?i)inputs?([_ -].*)?")),
    ("Output", re.compile(r"(?i)outputs?([_ -].*)?")),
)


def task_text(task_info: Mapping[str, Any], secrets: Iterable[str] = ()) -> str:
    """Name, description, notes on input and output, each on a line; then whatever else is said, as compact JSON.

    "" where nothing is said. Values with a secret's name are blotted out, and no secret is legible in the others.
    """
    rest = without_secrets(dict(task_info))
    parts = [rest[place] for place in PLACES if isinstance(rest.get(place), dict)]
    lines = []
    for label, names in NOTES:
        said = [part.pop(name) for part in (*parts, rest) for name in list(part) if names.fullmatch(name)]
        lines += [f"{label}: {text}" for text in dict.fromkeys(map(_plain, said)) if text]
    further = {name: value for name, value in rest.items() if value not in (None, "", {}, [])}
    if further:
        lines.append(f"Further facts: {_plain(further)}")
    return redacted_text("\n".join(lines), secrets, LIMIT - 1)


def _plain(value: Any) -> str:
    """Text as it is, nothing for null, else compact JSON."""
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else orjson.dumps(value).decode()
