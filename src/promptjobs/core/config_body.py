"""What the client sent: plain JSON, merged with its overrides, and without its secrets."""

import math
import re
from collections.abc import Mapping
from typing import Any

from promptjobs.core.config_support import FREE_FORM, MAX_NAME, SECTION
from promptjobs.core.config_values import REDACTED, shown
from promptjobs.errors import InvalidConfig

Json = dict[str, Any]
Path = tuple[str, ...]

CONTROL_KEYS = frozenset({"backend", "task_url", "metadata", "auto_start"})
"""Keys of `overrides` that steer the client, not the job."""

SERVERS_KEY = "${ENVIRONMENT_API_KEY}"
"""Stands in a config for the key that its organisation, or else the server, was given for task apps."""

MAX_DEPTH = 32
KEY = "task_app_api_key"
KEY_PLACES: tuple[Path, ...] = (
    (KEY,),
    (SECTION, KEY),
    *((*section, algorithm, KEY) for algorithm in ("gepa", "mipro") for section in ((SECTION,), ())),
)
"""Where a key may stand, first come first taken; the last ones also in a body without `prompt_learning`."""
SECRET_NAME = re.compile(
    r"(.*[_.])?(api_?keys?|passwords?|passwd|secrets?|secret_key|private_key|authorization)"
    r"|((access|api|auth|bearer|refresh|session)_)?token"
)
VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


def as_json(value: Any, path: Path = ()) -> Any:
    """A deep copy of `value`; raises InvalidConfig for what cannot be stored as JSON and read back unchanged.

    That is: not JSON at all, NaN and infinities, integers beyond 64 bits, NUL and lone surrogates, more than 32 levels.
    """
    if len(path) > MAX_DEPTH:
        raise InvalidConfig(f"the config is nested deeper than {MAX_DEPTH} levels", dotted(path[:4]) + "…")
    match value:
        case None | bool():
            return value
        case str():
            _check_text(value, path)
            return value
        case int() if -(2**63) <= value < 2**63:
            return value
        case float() if math.isfinite(value):
            return value
        case Mapping():
            for key in value:
                _check_key(key, path)
            return {key: as_json(inner, (*path, key)) for key, inner in value.items()}
        case list() | tuple():
            return [as_json(inner, (*path, str(index))) for index, inner in enumerate(value)]
        case int() | float():
            raise InvalidConfig("expected a finite number of at most 64 bits", dotted(path))
        case _:
            raise InvalidConfig(f"expected JSON, got {type(value).__name__}", dotted(path))


def _check_key(key: Any, path: Path) -> None:
    if not isinstance(key, str) or len(key) > MAX_NAME:
        raise InvalidConfig(f"expected strings of at most {MAX_NAME} characters as keys", dotted(path))
    _check_text(key, path)


def _check_text(text: str, path: Path) -> None:
    if UNSTORABLE.search(text):
        raise InvalidConfig("expected text without NUL and lone surrogates", dotted(path))


def dotted(path: Path) -> str:
    return ".".join(path)


# --- overrides -----------------------------------------------------------------------------------------------------


def merged(body: Json, overrides: Json) -> tuple[Json, Json]:
    """The body with its section under `prompt_learning` and the overrides applied; and the overrides alone, nested.

    Keys of overrides may be dotted paths. Objects merge, everything else replaces. Merging is idempotent: overrides
    that say two things about one path raise InvalidConfig.
    """
    overrides = {key: value for key, value in overrides.items() if key not in CONTROL_KEYS}
    if body.get(SECTION) is None:
        if "algorithm" not in body and "task_app_url" not in body:
            raise InvalidConfig("expected an object with the job's config", SECTION)
        body = {SECTION: {key: value for key, value in body.items() if key != SECTION}}
        overrides = {
            key if key.split(".")[0] == SECTION else f"{SECTION}.{key}": value for key, value in overrides.items()
        }
    changes: Json = {}
    _merge(changes, overrides, ())
    _check_applied(changes, overrides, ())
    whole: Json = as_json(body)
    _merge(whole, overrides, ())
    if not isinstance(whole[SECTION], dict):
        raise InvalidConfig("expected an object with the job's config", SECTION)
    return whole, changes


def _steps(key: str, path: Path) -> Path:
    steps = (key,) if FREE_FORM.intersection(path) else tuple(key.split("."))
    if "" in steps or len(path) + len(steps) > MAX_DEPTH:
        raise InvalidConfig(f"a path has no empty parts and at most {MAX_DEPTH}, got {shown(key)}", "overrides")
    return (*path, *steps)


def _merge(base: Json, changes: Json, path: Path) -> None:
    for key, value in changes.items():
        here = _steps(key, path)
        target = base
        for depth, step in enumerate(here[len(path) : -1], start=len(path) + 1):
            if target.get(step) is None:
                target[step] = {}
            target = target[step]
            if not isinstance(target, dict):
                raise InvalidConfig(f"cannot be overridden: {dotted(here[:depth])} is not an object", dotted(here))
        if isinstance(value, dict):
            if not isinstance(target.get(here[-1]), dict):
                target[here[-1]] = {}
            _merge(target[here[-1]], value, here)
        else:
            target[here[-1]] = as_json(value)


def _check_applied(tree: Json, changes: Json, path: Path) -> None:
    for key, value in changes.items():
        here = _steps(key, path)
        found: Any = tree
        for step in here[len(path) :]:
            if not isinstance(found, dict):
                raise InvalidConfig("is overridden twice, with different values", dotted(here))
            found = found.get(step)
        if isinstance(value, dict) and isinstance(found, dict):
            _check_applied(found, value, here)
        elif found != value:
            raise InvalidConfig("is overridden twice, with different values", dotted(here))


# --- secrets -------------------------------------------------------------------------------------------------------


def without_secrets(value: Any, path: Path = ()) -> Any:
    """A deep copy in which every value with a secret's name is "[redacted]"; `${VARIABLE}`, null and "" stay."""
    match value:
        case dict():
            copy = {}
            for key, inner in value.items():
                here = (*path, *key.split("."))
                copy[key] = REDACTED if _is_secret(here, inner) else without_secrets(inner, here)
            return copy
        case list():
            return [without_secrets(inner, path) for inner in value]
        case _:
            return value


def _is_secret(path: Path, value: Any) -> bool:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", path[-1]).lower().replace("-", "_")
    if not SECRET_NAME.fullmatch(name):
        return False
    parent = path[-2] if len(path) > 1 else ""
    match value:
        case None | "":
            return False
        case str():
            is_declaration = parent == "wildcards" and value.upper() in ("REQUIRED", "OPTIONAL")
            return not is_declaration and not VARIABLE.fullmatch(value)
        case dict():
            # gepa.token is a table of limits, and below a schema's properties stand schemas.
            is_schema = parent == "properties" and "json_schema" in path
            return not is_schema and not (name == "token" and parent == "gepa")
        case bool():
            return False
        case _:
            return True


def task_app_key(changes: Json, body: Json) -> str | None:
    """The key for the task app, overrides first; None where there is none, or where it stands for the server's own.

    changes: the overrides, nested. body: as it was sent, so an empty override hides no key. Raises InvalidConfig for a
    key that could not be sent in a header.
    """
    for tree in (changes, body):
        for place in KEY_PLACES:
            found: Any = tree
            for step in place:
                found = found.get(step) if isinstance(found, dict) else None
            if found is not None and found != "":
                return _checked_key(found, place)
    return None


def _checked_key(key: Any, place: Path) -> str | None:
    """Messages never show the key."""
    if key == SERVERS_KEY:
        return None
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or key != key.strip():
        raise InvalidConfig("expected a string of printable ASCII characters without spaces around it", dotted(place))
    if key == REDACTED:
        raise InvalidConfig(f"expected the key itself, got {REDACTED!r}", dotted(place))
    if VARIABLE.fullmatch(key):
        raise InvalidConfig(f"expected the key itself, or {SERVERS_KEY!r} for the server's own", dotted(place))
    return key
