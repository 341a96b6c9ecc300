"""Reads options of the form KEY=VALUE."""

import json
from collections.abc import Iterable
from typing import Any

from promptjobs.errors import OptionInvalid


def read_values(name: str, options: Iterable[str]) -> dict[str, Any]:
    """A value that is JSON counts as that, any other as text. name: the option's. Raises OptionInvalid."""
    return {key: _value(text) for key, text in read_texts(name, options).items()}


def read_texts(name: str, options: Iterable[str]) -> dict[str, str]:
    """Values as they are written. Raises OptionInvalid."""
    found: dict[str, str] = {}
    for option in options:
        key, sign, text = option.partition("=")
        key = key.strip()
        if not sign or not key:
            raise OptionInvalid(name, f"expected KEY=VALUE, got {option!r}")
        if key in found:
            raise OptionInvalid(name, f"{key} is given twice")
        found[key] = text
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return text
