"""Reads a job's TOML file and the --set options."""

import json
import tomllib
from collections.abc import Iterable
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from promptjobs.errors import FileUnusable, OptionInvalid

MAX_BYTES = 1024 * 1024
SECTION = "prompt_learning"
DEFAULT_ALGORITHM = "gepa"


def read_config(path: Path) -> dict[str, Any]:
    """The file's content. Raises FileUnusable, which names line and column where the TOML is not well formed."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileUnusable(str(path), error.strerror or type(error).__name__) from error
    if len(content) > MAX_BYTES:
        raise FileUnusable(str(path), f"a config has at most {MAX_BYTES} bytes")
    return parse_config(content, str(path))


def parse_config(content: bytes, name: str) -> dict[str, Any]:
    """Raises FileUnusable for what is no TOML, or has values that JSON does not know."""
    try:
        config = tomllib.loads(content.decode())
        json.dumps(config, allow_nan=False, default=_refuse)
    except UnicodeDecodeError as error:
        raise FileUnusable(name, f"not UTF-8 at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise FileUnusable(name, f"not valid TOML: {error}") from error
    except ValueError as error:
        raise FileUnusable(name, f"cannot be sent as JSON: {error}") from error
    return config


def _refuse(value: object) -> None:
    kind = "a date or time" if isinstance(value, date | datetime | time) else type(value).__name__
    raise ValueError(f"it holds {kind}, {value}; write it in quotes")


def algorithm_of(config: dict[str, Any]) -> str:
    """What the config names, in its section or at its top, where it names one."""
    section = config.get(SECTION)
    named = (section if isinstance(section, dict) else config).get("algorithm", DEFAULT_ALGORITHM)
    return str(named)


def read_overrides(options: Iterable[str]) -> dict[str, Any]:
    """`key=value` each; a value that is JSON counts as that, any other as text. Raises OptionInvalid."""
    overrides: dict[str, Any] = {}
    for option in options:
        key, sign, text = option.partition("=")
        key = key.strip()
        if not sign or not key:
            raise OptionInvalid("--set", f"expected KEY=VALUE, got {option!r}")
        if key in overrides:
            raise OptionInvalid("--set", f"{key} is given twice")
        overrides[key] = _value(text)
    return overrides


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return text
