"""Reads the fields of a config: each value as its field's type, aliases joined, and refuses what does not fit."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never
from urllib.parse import urlsplit

from promptjobs.core.config_fields import FieldTable
from promptjobs.core.config_support import (
    MAX_CANDIDATES,
    MAX_NAME,
    MAX_SEED,
    MAX_SEEDS,
    MAX_STRINGS,
    MAX_TEXT,
    FieldSupport,
    FieldType,
)
from promptjobs.errors import InvalidConfig, NotYetSupported

REDACTED = "[redacted]"
LISTED = 5
SHOWN = 80
NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass(frozen=True, slots=True)
class Given:
    """values: one per supported field, by its first path; defaults filled in. given: the paths of those that were sent.

    Both are about fields, so a section without any is as good as none.
    """

    values: dict[str, Any]
    given: frozenset[str]
    warnings: list[str]


def read_fields(whole: Mapping[str, Any], changed: Mapping[str, Any], table: FieldTable) -> Given:
    """The fields of a body with its overrides applied; `changed` holds the overrides alone, both of them nested.

    Aliases must agree, but what an override names goes before its other names in the body. Raises InvalidConfig and
    NotYetSupported.
    """
    found, warnings = _known(whole, table)
    overridden, _ = _known(changed, table)
    by_override = {table.at[path].path for path in overridden}
    values = {field.path: field.default for field in table.fields if field.supported}
    read_at: dict[str, str] = {}
    for path, value in found.items():
        field = table.at[path]
        if value is None or (field.path in by_override and path not in overridden):
            continue
        if field.supported and any(_same(value, nothing) for nothing in field.harmless):
            continue
        if not field.supported:
            require_harmless(field, path, value)
            if field.type is FieldType.OTHER_ALGORITHM:
                warnings.append(f"{path} belongs to another algorithm and is ignored")
            continue
        one = read(field, path, value)
        if field.path in read_at and one != values[field.path]:
            other = read_at[field.path]
            raise InvalidConfig(
                f"is {shown(value)}, but {other}, the same setting, is {shown(found[other])}: give one of them",
                path,
            )
        values[field.path], read_at[field.path] = one, path
    return Given(values, frozenset(read_at), warnings)


def _known(tree: Mapping[str, Any], table: FieldTable, path: str = "") -> tuple[dict[str, Any], list[str]]:
    """The values at known paths, and a warning for each unknown key.

    Raises InvalidConfig where a table is no object. A dot in a key is no path here: that is for overrides.
    """
    found: dict[str, Any] = {}
    warnings: list[str] = []
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        if "." not in key and here in table.at:
            found[here] = value
        elif "." not in key and here in table.tables:
            inner, unknown = _known(_section(here, value, table), table, here)
            found |= inner
            warnings += unknown
        elif key != "metadata" and here != "task_app_api_key":
            warnings.append(f"unknown key {here} is ignored")
    return found, warnings


def _section(path: str, value: Any, table: FieldTable) -> dict[str, Any]:
    """A table that may be written as its switch alone. An adaptive section without anything in it is switched on."""
    switch = table.switches.get(path)
    if value is None or (isinstance(value, dict) and (value or switch != "level")):
        return value or {}
    if switch is None:
        raise InvalidConfig(f"expected an object, got {shown(value)}", path)
    if switch == "level" and (value is False or value is True or value == {}):
        value = "NONE" if value is False else table.at[f"{path}.{switch}"].default
    return {switch: value}


def read(field: FieldSupport, path: str, value: Any) -> Any:
    """`value`, which is not None, as the type of a supported field: a `number` as float, seeds as a tuple.

    Raises InvalidConfig, which names `path`.
    """
    match field.type:
        case FieldType.INTEGER:
            return _number(field, path, value, int)
        case FieldType.NUMBER:
            return float(_number(field, path, value, int | float))
        case FieldType.CHOICE:
            same = [one for one in field.choices if isinstance(value, str) and one.lower() == value.lower()]
            return _expect(field, path, value, same) and same[0]
        case FieldType.CHOICES:
            return _choices(field, path, value)
        case FieldType.NAME:
            return _expect(field, path, value, isinstance(value, str) and 0 < len(value.strip()) <= MAX_NAME).strip()
        case FieldType.TEXT:
            return _expect(field, path, value, isinstance(value, str) and value.strip() and len(value) <= MAX_TEXT)
        case FieldType.FLAG:
            return _expect(field, path, value, isinstance(value, bool))
        case FieldType.LIST | FieldType.PROMPT_LIST:
            return _expect(field, path, value, isinstance(value, list))
        case FieldType.CANDIDATES:
            return _candidates(field, path, value)
        case FieldType.STRINGS:
            return _strings(field, path, value, MAX_TEXT)
        case FieldType.PATTERNS:
            return _strings(field, path, value, MAX_NAME)
        case FieldType.URL:
            return _url(field, path, value)
        case FieldType.SEEDS:
            return _seeds(field, path, value)
        case FieldType.INTEGERS:
            return _integers(field, path, value)
        case FieldType.SPEC:
            return _spec(field, path, value)
        case FieldType.OBJECT:
            return _without_redactions(_expect(field, path, value, isinstance(value, dict)), path)
        case FieldType.REFUSED:
            raise InvalidConfig(field.refusal, path)
        case FieldType.PROMPT | FieldType.MODULES | FieldType.PRICES | FieldType.SECRET | FieldType.OTHER_ALGORITHM:
            return value
        case _:
            assert_never(field.type)


def require_harmless(field: FieldSupport, path: str, value: Any) -> None:
    """Raises NotYetSupported where an unsupported field has a value that would change the run."""
    otherwise = "" if field.default is None else f", or give {shown(field.default)}"
    match field.type:
        case FieldType.OTHER_ALGORITHM:
            return
        case _:
            is_harmless = any(_same(value, other) for other in (field.default, *field.harmless))
    if not is_harmless:
        raise NotYetSupported(f"{shown(value)} is not supported yet: leave it out{otherwise}", path)


def shown(value: Any) -> str:
    """A value in a message: short, and never the inside of something large."""
    match value:
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case dict():
            return "an object"
        case list() | tuple():
            return f"a list of {len(value)}"
        case str() if len(value) > SHOWN:
            return repr(value[:SHOWN] + "…")
        case _:
            return repr(value)


def listed(seeds: list[int]) -> str:
    """A few of the seeds, in words."""
    more = f" and {len(seeds) - LISTED} more" if len(seeds) > LISTED else ""
    return ", ".join(map(str, seeds[:LISTED])) + more


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _same(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _expect(field: FieldSupport, path: str, value: Any, holds: object) -> Any:
    if not holds:
        raise InvalidConfig(f"expected {field.expected}, got {shown(value)}", path)
    return value


def _number(field: FieldSupport, path: str, value: Any, kind: Any) -> Any:
    number = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    return _expect(field, path, value, number and field.low <= value <= field.high)


def _choices(field: FieldSupport, path: str, value: Any) -> tuple[str, ...]:
    """In the order of the field's choices."""
    fine = isinstance(value, list) and value and all(one in field.choices for one in value)
    _expect(field, path, value, fine and len(set(value)) == len(value))
    return tuple(one for one in field.choices if one in value)


def _strings(field: FieldSupport, path: str, value: Any, longest: int) -> tuple[str, ...]:
    fine = isinstance(value, list) and len(value) <= MAX_STRINGS
    for one in _expect(field, path, value, fine):
        _expect(field, path, one, isinstance(one, str) and 0 < len(one) <= longest)
    return tuple(value)


def _candidates(field: FieldSupport, path: str, value: Any) -> str | tuple[str, ...]:
    """A word, in lower case; or ids."""
    if isinstance(value, str):
        return str(_expect(field, path, value, value.lower() in ("best", "front"))).lower()
    fine = isinstance(value, list) and 1 <= len(value) <= MAX_CANDIDATES
    for one in _expect(field, path, value, fine):
        _expect(field, path, one, isinstance(one, str) and 0 < len(one) <= MAX_NAME)
    return tuple(_expect(field, path, value, len(set(value)) == len(value)))


def _url(field: FieldSupport, path: str, value: Any) -> str:
    """The URL without a slash at its end."""
    fine = isinstance(value, str) and len(value) <= 4 * MAX_NAME and not NOT_IN_A_URL.search(value)
    try:
        parts = urlsplit(_expect(field, path, value, fine))
        port = parts.port
    except ValueError:
        raise InvalidConfig(f"expected {field.expected}, got {shown(value)}", path) from None
    if parts.username is not None or parts.password is not None:
        raise InvalidConfig("a URL with credentials would be stored with the job: use task_app_api_key", path)
    whole = parts.scheme in ("http", "https") and parts.hostname and port != 0 and not ("?" in value or "#" in value)
    return str(_expect(field, path, value, whole)).rstrip("/")


def _seeds(field: FieldSupport, path: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, dict):
        return _seed_range(path, value)
    _expect(field, path, value, isinstance(value, list) and len(value) <= MAX_SEEDS)
    for seed in value:
        if not is_integer(seed) or not 0 <= seed <= MAX_SEED:
            raise InvalidConfig(f"a seed is an integer from 0 to 2^53, got {shown(seed)}", path)
    if len(set(value)) < len(value):
        twice = [seed for seed, count in Counter(value).items() if count > 1]
        raise InvalidConfig(f"seeds stand in the list more than once: {listed(twice)}", path)
    return tuple(value)


def _integers(field: FieldSupport, path: str, value: Any) -> tuple[int, ...]:
    """Ascending."""
    _expect(field, path, value, isinstance(value, list) and len(value) <= MAX_SEEDS)
    for one in value:
        _number(field, path, one, int)
    if len(set(value)) < len(value):
        raise InvalidConfig(f"expected {field.expected}, got one of them twice", path)
    return tuple(sorted(value))


def _spec(field: FieldSupport, path: str, value: Any) -> str | dict[str, Any]:
    text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict) and value else ""
    _expect(field, path, value, text.strip() and len(text) <= MAX_TEXT)
    return _without_redactions(value, path) if isinstance(value, dict) else text


def _seed_range(path: str, value: Mapping[str, Any]) -> tuple[int, ...]:
    """{start, end, step}: `end` is not included; `step` is 1 where it is left out."""
    start, end, step = value.get("start"), value.get("end"), value.get("step")
    step = 1 if step is None else step
    if not set(value) <= {"start", "end", "step"} or not all(map(is_integer, (start, end, step))):
        raise InvalidConfig("a range of seeds is {start, end} or {start, end, step}, all of them integers", path)
    seeds = range(start, end, step) if step > 0 else range(0)  # type: ignore[arg-type]
    if not seeds or seeds[0] < 0 or seeds[-1] > MAX_SEED or len(seeds) > MAX_SEEDS:
        raise InvalidConfig(
            f"a range of seeds has 0 <= start < end (not included), step >= 1, at most {MAX_SEEDS} seeds up to 2^53; "
            f"got start {start}, end {end}, step {step}",
            path,
        )
    return tuple(seeds)


def _without_redactions(value: dict[str, Any], path: str) -> dict[str, Any]:
    """Raises InvalidConfig where a secret stood in a free-form object, which is stored and shown with the job."""
    left: list[tuple[str, Any]] = [(path, value)]
    while left:
        where, part = left.pop()
        if part == REDACTED:
            raise InvalidConfig("a secret cannot stand here: it would be stored and shown with the job", where)
        if isinstance(part, dict):
            left += [(f"{where}.{key}", inner) for key, inner in part.items()]
        elif isinstance(part, list):
            left += [(f"{where}[{index}]", inner) for index, inner in enumerate(part)]
    return value
