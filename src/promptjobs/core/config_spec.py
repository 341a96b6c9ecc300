"""The specification that proposals must follow: from what a client sends to the text that the meta-model reads."""

import json
from typing import Any

from promptjobs.core.config_support import SECTION
from promptjobs.core.config_values import Given
from promptjobs.errors import InvalidConfig

EXAMPLES = frozenset({"example", "examples"})
PRIORITY = "priority"


def read_spec(given: Given) -> tuple[str | None, list[str]]:
    """The text, and warnings. An object is shown as JSON, without what the client wants left out.

    Raises InvalidConfig where parts of a free text are to be left out: it has none that could be told apart.
    """
    path = f"{SECTION}.mipro.spec"
    spec, with_examples = given.values[path], given.values[f"{path}_include_examples"]
    least = given.values[f"{path}_priority_threshold"]
    if spec is None:
        is_set = not with_examples or least is not None
        return None, ["there is no mipro.spec: the other spec_… fields have no effect"] if is_set else []
    if isinstance(spec, str):
        for name, is_set in (("include_examples", not with_examples), ("priority_threshold", least is not None)):
            if is_set:
                raise InvalidConfig(
                    "needs a spec that is an object: parts of a free text cannot be told apart", f"{path}_{name}"
                )
        return spec, []
    kept = _kept(spec, with_examples, least)
    if not kept:
        raise InvalidConfig("nothing is left of it without what is left out", path)
    return json.dumps(kept, ensure_ascii=False, indent=2), []


def _kept(part: Any, with_examples: bool, least: int | None) -> Any:
    if isinstance(part, dict):
        named = ((k, v) for k, v in part.items() if with_examples or k.lower() not in EXAMPLES)
        return {key: _kept(value, with_examples, least) for key, value in named}
    if isinstance(part, list):
        return [_kept(one, with_examples, least) for one in part if least is None or not _is_below(one, least)]
    return part


def _is_below(entry: Any, least: int) -> bool:
    """An entry without a priority stays."""
    priority = entry.get(PRIORITY) if isinstance(entry, dict) else None
    return isinstance(priority, int | float) and not isinstance(priority, bool) and priority < least
