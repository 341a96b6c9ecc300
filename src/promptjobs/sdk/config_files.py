"""Reads a job's config: a TOML file, or the content of one, becomes the body that is sent."""

import json
import tomllib
from collections.abc import Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from promptjobs.errors.client import ConfigFileInvalid

MAX_BYTES = 1024 * 1024
SECTION = "prompt_learning"
DEFAULT_ALGORITHM = "gepa"

ConfigSource = Mapping[str, Any] | Path | str
"""A config as it is sent, or the path of its TOML file."""


def config_of(source: ConfigSource) -> Mapping[str, Any]:
    """Raises ConfigFileInvalid."""
    return read_config(Path(source)) if isinstance(source, str | Path) else source


def read_config(path: Path) -> dict[str, Any]:
    """The file's content. Raises ConfigFileInvalid, which names line and column where the TOML is not well formed."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigFileInvalid(str(path), error.strerror or type(error).__name__) from error
    if len(content) > MAX_BYTES:
        raise ConfigFileInvalid(str(path), f"a config has at most {MAX_BYTES} bytes")
    return parse_config(content, str(path))


def parse_config(content: bytes, name: str) -> dict[str, Any]:
    """Raises ConfigFileInvalid for what is no TOML, or has values that JSON does not know."""
    try:
        config = tomllib.loads(content.decode())
        json.dumps(config, allow_nan=False, default=_refuse)
    except UnicodeDecodeError as error:
        raise ConfigFileInvalid(name, f"not UTF-8 at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigFileInvalid(name, f"not valid TOML: {error}") from error
    except ValueError as error:
        raise ConfigFileInvalid(name, f"cannot be sent as JSON: {error}") from error
    return config


def _refuse(value: object) -> None:
    kind = "a date or time" if isinstance(value, date | datetime | time) else type(value).__name__
    raise ValueError(f"it holds {kind}, {value}; write it in quotes")


def algorithm_of(config: Mapping[str, Any]) -> str:
    """What the config names, in its section or at its top, where it names one."""
    section = config.get(SECTION)
    named = (section if isinstance(section, Mapping) else config).get("algorithm", DEFAULT_ALGORITHM)
    return str(named)
