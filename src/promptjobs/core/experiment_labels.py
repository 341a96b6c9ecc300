"""What the jobs of an experiment are called by: labels, the settings that vary, and groups of repetitions."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from promptjobs.core.config import JobConfig
from promptjobs.core.config_body import without_secrets
from promptjobs.core.config_support import SECTION

MAX_TEXT = 60
"""Characters of a value in a label, and of a text or a list in the settings."""
MAX_LABEL = 240
"""Characters of a label that is made up, without its number."""
MAX_NAME = 120
MAX_SETTINGS = 50
"""Characters of a name in the settings, and how many of them a job shows: every answer repeats them for every job."""
MORE = "…"
"""Stands in the settings for those that are not shown."""

KNOWN = {
    f"{SECTION}.algorithm": "algorithm",
    f"{SECTION}.policy.provider": "provider",
    f"{SECTION}.policy.model": "model",
}
"""Short names of settings by their paths; the random seed has another path for each algorithm."""
PATHS = {name: path for path, name in KNOWN.items()}

SEEDED = frozenset({"rng_seed", "front_seeds", "feedback_seeds"})
"""Of a search's config, what its random seed alone makes differ: how its seeds are divided is drawn by it."""


@dataclass(frozen=True, slots=True)
class Named:
    """What is known of a job's name. index: of the request's job, from 0. label: the client's.

    known: its algorithm, provider, model and seed. overrides: nested. of_matrix: paths of the matrix's keys, in order.
    """

    index: int
    label: str | None
    algorithm: str
    known: Mapping[str, Any]
    overrides: Mapping[str, Any]
    of_matrix: Sequence[str]


class Naming:
    """What tells the jobs of one experiment apart."""

    def __init__(self, jobs: Sequence[Named]) -> None:
        self._jobs, self._said = jobs, [_said(job) for job in jobs]
        self._varying, self._of_index = _varying(self._said), _varying_by_index(jobs, self._said)
        self._short = _short(self._varying)

    def labels(self) -> list[str]:
        """The client's, and behind it what varies; unique.

        A job without one is called by its algorithm. A client's label that stands alone keeps it; others get a number.
        """
        wanted = []
        for job, said in zip(self._jobs, self._said, strict=True):
            parts = self._varying - {"algorithm"} if job.label is None else self._of_index[job.index]
            label = self._title(job.label or job.algorithm, said, parts)
            wanted.append((label, label == job.label))
        return _unique(wanted)

    def settings(self) -> list[dict[str, Any]]:
        """What varies over the jobs, and what the matrix says, by job: by short names or dotted paths, no secrets."""
        shown = set(self._varying)
        for job, said in zip(self._jobs, self._said, strict=True):
            shown.update(_of_matrix(job, said))
        return [_shown({name: value for name, value in said.items() if name in shown}) for said in self._said]

    def groups(self, configs: Sequence[JobConfig]) -> list[str]:
        """By job the name of its group: the jobs whose configs, as they run, differ in their random seed alone."""
        keys = [_key(config) for config in configs]
        indexes: dict[str, set[int]] = {}
        for key, job in zip(keys, self._jobs, strict=True):
            indexes.setdefault(key, set()).add(job.index)
        titles: dict[str, str] = {}
        for key, job, said in zip(keys, self._jobs, self._said, strict=True):
            is_clients = job.label is not None and len(indexes[key]) == 1
            parts = self._of_index[job.index] if is_clients else self._varying - {"algorithm"}
            base = str(job.label) if is_clients else job.algorithm
            titles.setdefault(key, self._title(base, said, parts - {"seed"}))
        unique = dict(zip(titles, _unique([(title, False) for title in titles.values()]), strict=True))
        return [unique[key] for key in keys]

    def _title(self, base: str, said: Mapping[str, Any], parts: Set[str]) -> str:
        text = ", ".join(f"{self._short[name]}={_text(value)}" for name, value in said.items() if name in parts)
        return _cut(f"{base} · {text}", MAX_LABEL) if text else base


def _key(config: JobConfig) -> str:
    whole = config.model_dump(mode="json")
    whole[config.algorithm] = {name: value for name, value in whole[config.algorithm].items() if name not in SEEDED}
    return sha256(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)).hexdigest()


# --- what varies -----------------------------------------------------------------------------------------------------


def _said(job: Named) -> dict[str, Any]:
    """All that a job is told apart by: what the matrix says first, its random seed last."""
    leaves = {_named(path, job.algorithm): value for path, value in _leaves(without_secrets(job.overrides))}
    whole = {**{name: value for name, value in job.known.items() if name != "seed"}, **leaves, **job.known}
    return {name: whole[name] for name in dict.fromkeys((*_of_matrix(job, whole), *whole))}


def _of_matrix(job: Named, names: Iterable[str]) -> list[str]:
    """Of these, what stands at a path of the matrix or below it, in the matrix's order."""
    paths = {_path(name, job.algorithm): name for name in names}
    return [name for key in job.of_matrix for path, name in paths.items() if f"{path}.".startswith(f"{key}.")]


def _named(path: str, algorithm: str) -> str:
    return "seed" if path == _seed(algorithm) else KNOWN.get(path, path)


def _path(name: str, algorithm: str) -> str:
    return _seed(algorithm) if name == "seed" else PATHS.get(name, name)


def _seed(algorithm: str) -> str:
    return f"{SECTION}.{algorithm}.rng_seed"


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, here)
        else:
            yield here, value


def _varying(said: Sequence[Mapping[str, Any]]) -> set[str]:
    """The names under which not all say the same; what one does not say differs from what another does."""
    values: dict[str, set[bytes]] = {}
    times: Counter[str] = Counter()
    for one in said:
        for name, value in one.items():
            values.setdefault(name, set()).add(_exact(value))
            times[name] += 1
    return {name for name, found in values.items() if len(found) > 1 or times[name] < len(said)}


def _varying_by_index(jobs: Sequence[Named], said: Sequence[Mapping[str, Any]]) -> dict[int, set[str]]:
    """Over the combinations of each of the request's jobs."""
    combinations: dict[int, list[Mapping[str, Any]]] = {}
    for job, one in zip(jobs, said, strict=True):
        combinations.setdefault(job.index, []).append(one)
    return {index: _varying(those) for index, those in combinations.items()}


# --- texts -----------------------------------------------------------------------------------------------------------


def _exact(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _short(names: Iterable[str]) -> dict[str, str]:
    """The last step of each path, where it is of no other."""
    known = list(names)
    times = Counter(name.rpartition(".")[2] for name in known)
    return {name: last if times[last := name.rpartition(".")[2]] == 1 else name for name in known}


def _compact(value: Any) -> Any:
    """A number, a flag or a short text as it is; of anything long its size, and what tells it from others."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        return value
    text = _exact(value)
    if not isinstance(value, str) and len(text) <= MAX_TEXT:
        return value
    size = f"{len(value)} characters" if isinstance(value, str) else f"{len(value)} items"
    return f"{size} ({sha256(text).hexdigest()[:6]})"


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The first of a job's settings, those of the matrix; of all others how many there are, and what tells them."""
    names = list(settings)[:MAX_SETTINGS]
    found = {_short_name(name): _compact(settings[name]) for name in names}
    left = {name: value for name, value in settings.items() if name not in names}
    if left:
        found[MORE] = f"{len(left)} more ({_print(left)})"
    return found


def _short_name(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 10]}… ({_print(name)})"


def _print(value: Any) -> str:
    return sha256(_exact(value)).hexdigest()[:6]


def _text(value: Any) -> str:
    """On one line."""
    compact = _compact(value)
    return " ".join((compact if isinstance(compact, str) else _exact(compact).decode()).split())


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _unique(wanted: Sequence[tuple[str, bool]]) -> list[str]:
    """Each text once: the first of those that must stay as they are does, the others get a number."""
    kept = {text: at for at, (text, stays) in reversed(list(enumerate(wanted))) if stays}
    taken = set(kept)
    found = []
    for at, (text, _) in enumerate(wanted):
        number, name = 1, text
        while name in taken and kept.get(name) != at:
            number += 1
            name = f"{text} ({number})"
        taken.add(name)
        found.append(name)
    return found
