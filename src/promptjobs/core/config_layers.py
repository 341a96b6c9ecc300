"""One config on top of another: what the upper one says goes before, by whichever of a setting's names it says it."""

from collections.abc import Mapping
from typing import Any

from promptjobs.core.config_body import Json, as_json, merged
from promptjobs.core.config_fields import TABLE_OF
from promptjobs.core.config_support import SECTION
from promptjobs.core.config_values import REDACTED


def on_top_of(algorithm: str, lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Json:
    """Both in one body. lower: a whole config. upper: overrides, or a config of which any part may be missing.

    Objects merge, everything else replaces. Secrets that are only shown as redacted are left out. Raises InvalidConfig.
    """
    whole, changes = merged(as_json(lower), as_json(upper, ("overrides",)))
    table = TABLE_OF.get(algorithm)
    for path, field in table.at.items() if table is not None else ():
        if _at(changes, path) is not None:
            for other in (field.path, *field.aliases):
                if other != path and _at(changes, other) is None:
                    _remove(whole, other)
    kept: Json = without_redacted(whole)
    return kept


def as_sectioned(body: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose fields may stand at the top, with its section."""
    return dict(body) if body.get(SECTION) is not None else {SECTION: {k: v for k, v in body.items() if k != SECTION}}


def without_warm_start(body: Json) -> Json:
    """A whole config without what it began with."""
    section = body[SECTION]
    return {**body, SECTION: {name: value for name, value in section.items() if name != "warm_start"}}


def without_redacted(value: Any) -> Any:
    """A deep copy without the keys of objects whose value was a secret."""
    match value:
        case dict():
            return {key: without_redacted(inner) for key, inner in value.items() if inner != REDACTED}
        case list():
            return [without_redacted(inner) for inner in value]
        case _:
            return value


def _at(tree: Any, path: str) -> Any:
    for step in path.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree


def _remove(tree: Any, path: str) -> None:
    *steps, last = path.split(".")
    for step in steps:
        tree = tree.get(step) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree.pop(last, None)
