"""Labels of jobs: of what the client keeps with a job, the part that lists are filtered by."""

from collections.abc import Mapping
from typing import Any

import orjson

from promptjobs.core.config_values import REDACTED

MAX_LABELS = 50
MAX_KEY = 100
MAX_VALUE = 500
"""Characters; a longer value is kept with the job, but no filter finds it."""


def labels_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The strings at the top of the metadata, and its numbers and booleans as JSON says them; the first MAX_LABELS.

    metadata: without secrets.
    """
    found: dict[str, str] = {}
    for key, value in metadata.items():
        text = _text(value)
        if len(found) < MAX_LABELS and text is not None and 0 < len(key) <= MAX_KEY and len(text) <= MAX_VALUE:
            found[key] = text
    return found


def _text(value: Any) -> str | None:
    match value:
        case str():
            return None if value == REDACTED else value
        case bool() | int() | float():
            return orjson.dumps(value).decode()
        case _:
            return None
