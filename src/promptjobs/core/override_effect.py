"""Which overrides of a job would not take effect, and why: each is looked up again in the config that will run."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from promptjobs.core.config import Resolution
from promptjobs.core.config_body import CONTROL_KEYS, KEY, KEY_PLACES, SERVERS_KEY, Json, Path, dotted
from promptjobs.core.config_fields import TABLE_OF, FieldTable
from promptjobs.core.config_prompt import PROMPT_KEYS
from promptjobs.core.config_support import SECTION, FieldSupport, FieldType
from promptjobs.core.config_values import read, shown
from promptjobs.core.override_places import ABSENT, ALWAYS, AS_RUN, CHECKS, IN_USE, PLACE_OF, WHY, contains, found_at
from promptjobs.errors import InvalidRequest

IN_PARTS = frozenset({FieldType.PROMPT, FieldType.PRICES, FieldType.OBJECT, FieldType.SPEC, FieldType.OTHER_ALGORITHM})
"""Fields of which an override may say a part; the rest is the config's."""

BOUNDS = frozenset({"start", "end"})
TASK_APP_KEY = f"{SECTION}.{KEY}"
MAX_COMPARED = 200
"""Characters of a path for which a similar one is looked for."""

NOTHING_IN_IT = "objects merge, so an empty one changes nothing"
MERGED = "objects merge, so what the config says beside it stays"
NOT_SAID = "the config that would run does not say it"
UNUSED = re.compile(r"(?:^|\s)(\S+) (?:has no effect|is ignored|is not used)")
"""How a resolution says that a setting, or a part of one, changes nothing."""


@dataclass(frozen=True, slots=True)
class Override:
    """What an override says of one setting. steps: its path, by whichever name. param: its place in the request.

    field: None where the path is none of a field's. root: steps of the name by which the field is meant, of which the
    path may be a part. is_switch: the path is that of a table, which stands for its switch.
    """

    steps: Path
    value: Any
    param: str
    field: FieldSupport | None = None
    root: Path = ()
    is_switch: bool = False

    @property
    def path(self) -> str:
        return dotted(self.steps)

    @property
    def says_nothing(self) -> bool:
        """It takes back what the config says."""
        harmless = () if self.field is None or not self.field.supported else self.field.harmless
        return self.value is None or (self.steps == self.root and self.value in harmless)

    @property
    def part(self) -> Any:
        """What it says of the whole field."""
        value = self.value
        for step in reversed(self.steps[len(self.root) :]):
            value = {step: value}
        return value


@dataclass(frozen=True, slots=True)
class Ineffective:
    """An override that changes nothing, and why."""

    path: str
    param: str
    why: str


def laid_over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Json:
    """Two nested trees in one: objects merge, everything else of `upper` replaces."""
    both = dict(lower)
    for key, value in upper.items():
        below = both.get(key)
        if isinstance(value, Mapping):
            both[key] = laid_over(below if isinstance(below, Mapping) else {}, value)
        else:
            both[key] = value
    return both


# --- what is overridden ----------------------------------------------------------------------------------------------


def overrides_of(
    changes: Mapping[str, Any], nested: Mapping[str, Any], algorithm: str, param: str, start: Path = ()
) -> list[Override]:
    """The overrides of one place of a request. changes: as sent; nested: the same as a tree.

    algorithm: one that there is not is refused later; until then its settings are taken for those of another. param:
    the place. start: where in the tree it is.
    """
    steers = [key for key in changes if key in CONTROL_KEYS]
    steering = [Override((key,), changes[key], param if start else f"{param}.{key}") for key in steers]
    table = TABLE_OF.get(algorithm, TABLE_OF["gepa"])
    return steering + [
        Override(steps, value, dotted((param, *steps[len(start) :])), field, root, dotted(steps) in table.tables)
        for steps, value, field, root in _walked(nested, table, ())
    ]


Found = tuple[Path, Any, FieldSupport | None, Path]


def _walked(tree: Mapping[str, Any], table: FieldTable, path: Path) -> Iterator[Found]:
    for key, value in tree.items():
        here = (*path, key)
        name = dotted(here)
        if name in table.at:
            yield from _parts(value, table.at[name], here, here)
        elif here in KEY_PLACES:
            yield here, value, table.at[TASK_APP_KEY], here
        elif isinstance(value, Mapping) and value:
            yield from _walked(value, table, here)
        elif name in table.switches and value is not None and (value != {} or table.switches[name] == "level"):
            field = table.at[f"{name}.{table.switches[name]}"]
            yield here, _switched(field, value), field, here
        else:
            yield here, value, None, here


def _parts(value: Any, field: FieldSupport, here: Path, root: Path) -> Iterator[Found]:
    if field.type in IN_PARTS and isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _parts(inner, field, (*here, key), root)
    else:
        yield here, value, field, root


def _switched(field: FieldSupport, value: Any) -> Any:
    """What a table that is written as the value of its switch says of the switch."""
    if field.type is not FieldType.CHOICE or isinstance(value, str):
        return value
    return "NONE" if value is False else field.default if value is True or value == {} else value


def _at(steps: Path, tree: Any) -> Any:
    for step in steps:
        if not isinstance(tree, Mapping) or step not in tree:
            return ABSENT
        tree = tree[step]
    return tree


def _is_below(path: Path, table: Path) -> bool:
    return path[: len(table)] == table


def _is_said(each: Override, tree: Json) -> bool:
    """Whether a tree says at the override's path what the override says."""
    found = _at(each.steps, tree)
    if each.is_switch and each.field is not None:
        found = _switched(each.field, found)
    return contains(found, each.value)


# --- before the config is resolved -----------------------------------------------------------------------------------


def overruled(overrides: Sequence[Override], tree: Json, algorithm: str) -> Ineffective | None:
    """The first one that no config could carry out: no setting of this algorithm's, or another override wins.

    tree: all of them, the later over the earlier.
    """
    table = TABLE_OF.get(algorithm)
    if table is None:
        return None
    for at, each in enumerate(overrides):
        why = _unknown(each, table, algorithm)
        if why is None and not _is_said(each, tree):
            why = _overwritten(each, overrides[at + 1 :], algorithm)
        if why is not None:
            return Ineffective(each.path, each.param, why)
    return _contradicted(overrides, tree)


def _unknown(each: Override, table: FieldTable, algorithm: str) -> str | None:
    if each.path in CONTROL_KEYS:
        return "it steers the client, not the job"
    for other in TABLE_OF:
        if other != algorithm and _is_below(each.steps, (SECTION, other)):
            return f"it is a setting of {other} jobs, and this one runs {algorithm}"
    if each.field is None:
        return None if each.path in table.tables else _no_setting(each.path, table)
    below = each.steps[len(each.root) :]
    if each.field.type is FieldType.PROMPT and below and below[0] not in PROMPT_KEYS:
        return _no_setting(each.path, table)
    return None


def _no_setting(path: str, table: FieldTable) -> str:
    whole = f"{SECTION}.{path}"
    near = [whole] if whole in table.at else get_close_matches(path[:MAX_COMPARED], list(table.at), 1, 0.8)
    return "there is no such setting" + (f"; did you mean {near[0]}?" if near else "")


def _overwritten(each: Override, later: Sequence[Override], algorithm: str) -> str:
    related = (one for one in later if _is_below(one.steps, each.steps) or _is_below(each.steps, one.steps))
    winner = next(related, None)
    if winner is not None:
        return f"{winner.param} overrides the same"
    return NOTHING_IN_IT if each.value == {} else f"the job runs {algorithm}"


def _contradicted(overrides: Sequence[Override], tree: Json) -> Ineffective | None:
    """The first of two that name the same setting by two of its names and say different things; null gives way."""
    of_field: dict[str, dict[Path, Override]] = {}
    for each in overrides:
        if each.field is not None:
            of_field.setdefault(each.field.path, {}).setdefault(each.root, each)
    for named in of_field.values():
        for loser, winner in _rivals(list(named.values())):
            if loser.says_nothing or not _say_the_same(loser, winner, tree):
                why = f"{winner.param} is another name of the same setting, and says otherwise"
                return Ineffective(loser.path, loser.param, why)
    return None


def _rivals(named: Sequence[Override]) -> Iterator[tuple[Override, Override]]:
    """Pairs of overrides of one setting that must say the same, else the first one loses."""
    loud = [each for each in named if not each.says_nothing]
    if not loud:
        return
    if loud[0].field is not None and loud[0].field.type is FieldType.SECRET:
        loud.sort(key=lambda each: KEY_PLACES.index(each.root), reverse=True)  # The first of the places is taken.
    yield from ((each, loud[0]) for each in named if each.says_nothing)
    yield from pairwise(loud)


def _say_the_same(first: Override, second: Override, tree: Json) -> bool:
    """What cannot be read is refused later, for what it is."""
    values = [_at(each.root, tree) for each in (first, second)]
    field = first.field
    if field is not None and field.type not in IN_PARTS:
        try:
            values = [read(field, first.path, value) for value in values]
        except InvalidRequest:
            return True
    return contains(values[0], values[1]) and contains(values[1], values[0])


# --- in what will run ------------------------------------------------------------------------------------------------


def ineffective(overrides: Sequence[Override], whole: Json, found: Resolution) -> Ineffective | None:
    """The first one that the resolved config does not say. whole: the body with all of them applied."""
    unused = _unused(found)
    for each in overrides:
        why = _lost(each, whole, found) or _warned_of(each, unused)
        if why is not None:
            return Ineffective(each.path, each.param, why)
    return None


def _lost(each: Override, whole: Json, found: Resolution) -> str | None:
    if not _is_said(each, whole):
        is_merged = each.value == {} or (each.is_switch and isinstance(_at(each.steps, whole), Mapping))
        return NOTHING_IN_IT if is_merged else "the config says otherwise"
    if each.field is None:
        return _left_beside(each, whole, TABLE_OF[found.config.algorithm])
    if each.field.path == TASK_APP_KEY:
        return _other_key(each, found)
    if each.says_nothing or not each.field.supported:
        return None
    return _said_otherwise(each, each.field, whole, found)


def _other_key(each: Override, found: Resolution) -> str | None:
    """Keys are in no config and in no message. An empty one takes back nothing."""
    wanted = None if each.value in (None, "", SERVERS_KEY) else each.value
    if found.task_app_key == wanted:
        return None
    return "an empty one takes no key back" if wanted is None else "another key of the request is taken"


def _left_beside(each: Override, whole: Json, table: FieldTable) -> str | None:
    """A table that is taken back: its fields must not be said by other names."""
    for path, field in table.at.items():
        if not _is_below(tuple(path.split(".")), each.steps):
            continue
        for other in (field.path, *field.aliases):
            steps = tuple(other.split("."))
            if not _is_below(steps, each.steps) and _at(steps, whole) not in (None, ABSENT):
                return f"{other} is another name of what it takes back, and still says it"
    return None


def _said_otherwise(each: Override, field: FieldSupport, whole: Json, found: Resolution) -> str | None:
    config = found.config
    if field.path in CHECKS:
        return None if CHECKS[field.path](each.part, config) else WHY.get(field.path, NOT_SAID)
    value = each.value
    if field.type is FieldType.SEEDS and isinstance(value, Mapping) and not value.keys() >= BOUNDS:
        value = _at(each.steps, whole)
    as_read = read(field, each.path, value)
    wanted = AS_RUN[field.path](as_read) if field.path in AS_RUN else as_read
    runs = found_at(config, PLACE_OF[config.algorithm][field.path])
    if runs is ABSENT:
        return "what it belongs to is switched off"
    if not (contains(runs, wanted) and contains(wanted, runs)):
        return f"{shown(runs)} would run" + (f": {MERGED}" if isinstance(value, Mapping) else "")
    is_in_use, why = IN_USE.get(field.path, ALWAYS)
    return None if as_read == field.default or is_in_use(as_read, config.search) else why


def _unused(found: Resolution) -> dict[str, list[tuple[str, str]]]:
    """What the resolution itself says is not used: by the field's path, what of it, and in which words."""
    table = TABLE_OF[found.config.algorithm]
    told: dict[str, list[tuple[str, str]]] = {}
    for warning in found.warnings:
        for token in UNUSED.findall(warning):
            name = f"{SECTION}.{token.removeprefix(f'{SECTION}.')}"
            ends = [end for end in range(len(name) + 1) if end == len(name) or name[end] in ".["]
            root = next((name[:end] for end in ends if name[:end] in table.at), None)
            if root is not None:
                told.setdefault(table.at[root].path, []).append((name[len(root) :].lstrip("."), warning))
    return told


def _warned_of(each: Override, unused: Mapping[str, Sequence[tuple[str, str]]]) -> str | None:
    """It is the part that is not used, or one of its parts is."""
    if each.field is None:
        return None
    part = dotted(each.steps[len(each.root) :])
    for other, warning in unused.get(each.field.path, ()):
        if _holds(part, other) or _holds(other, part):
            return warning
    return None


def _holds(part: str, other: str) -> bool:
    return not part or other == part or other.startswith((f"{part}.", f"{part}["))
