"""Reads a config that was written for the SDK: takes out what is meant for the command, and keys from its env file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptjobs.errors import FileUnusable
from promptjobs.errors.client import ConfigFileInvalid
from promptjobs.sdk.config_files import SECTION, read_config

MAX_ENV_BYTES = 64 * 1024
LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<value>.*?)\s*")
QUOTED = re.compile(r"""(?P<quote>['"])(?P<value>.*?)(?P=quote)(?:\s*#.*)?""")


@dataclass(frozen=True, slots=True)
class Training:
    """A job to be created. body: what is sent. results_folder: where its files go. keys: of the env file, by name."""

    body: Mapping[str, Any]
    results_folder: Path | None
    keys: Mapping[str, str]


def read_training(path: Path) -> Training:
    """The config, and what its `results_folder` and `env_file_path` name, from its own directory on.

    Both stay here: they are paths of this machine. Without an `env_file_path` the env file is `.env` of the working
    directory, where there is one. Raises ConfigFileInvalid and FileUnusable.
    """
    body = read_config(path)
    section = body.get(SECTION)
    places = [section, body] if isinstance(section, dict) else [body]
    results = _path(path, places, "results_folder")
    env_file = _path(path, places, "env_file_path")
    if env_file is None:
        nearby = Path(".env")
        env_file = nearby if nearby.is_file() else None
    return Training(body, results, {} if env_file is None else read_env_file(env_file))


def _path(config: Path, places: list[dict[str, Any]], name: str) -> Path | None:
    """The first that is there; it is taken out of all places."""
    named = [each.pop(name) for each in places if name in each]
    if not named:
        return None
    if not isinstance(named[0], str) or not named[0]:
        raise ConfigFileInvalid(str(config), f"{name} must be a path, got {named[0]!r}")
    return config.parent.resolve() / Path(named[0]).expanduser()


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a file with lines `NAME=value`; values may be quoted. Raises FileUnusable."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_ENV_BYTES + 1)
        if len(content) > MAX_ENV_BYTES:
            raise FileUnusable(str(path), f"an env file has at most {MAX_ENV_BYTES} bytes")
        lines = content.decode().splitlines()
    except OSError as error:
        raise FileUnusable(str(path), error.strerror or type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise FileUnusable(str(path), f"not UTF-8 at byte {error.start}") from error
    found = (LINE.fullmatch(line) for line in lines)
    return {each["name"]: _value(each["value"]) for each in found if each is not None}


def _value(written: str) -> str:
    quoted = QUOTED.fullmatch(written)
    return quoted["value"] if quoted is not None else re.sub(r"(^|\s+)#.*", "", written)
