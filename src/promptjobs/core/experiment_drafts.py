"""What an experiment's request asks for: each of its jobs by each combination of its matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import orjson

from promptjobs.core.config_body import as_json
from promptjobs.core.config_layers import as_sectioned
from promptjobs.core.config_support import SECTION
from promptjobs.core.config_values import shown
from promptjobs.errors import InvalidRequest

MAX_KEYS = 20
MAX_VALUES = 50
"""Of a matrix, and of each of its keys."""
MAX_LABEL = 200
"""Characters of a client's label."""

ALGORITHM = f"{SECTION}.algorithm"
JOB_FIELDS = frozenset({"config", "config_name", "algorithm", "config_overrides", "label", "metadata"})
OBJECTS = ("config", "config_overrides", "metadata")


@dataclass(frozen=True, slots=True)
class Draft:
    """A job whose config is not known yet. index: of the request's job, from 0. position: in the experiment, from 1.

    chosen: the job's value of each key of the matrix.
    """

    position: int
    index: int
    asked: Mapping[str, Any]
    chosen: Mapping[str, Any]

    @property
    def label(self) -> str | None:
        """The client's."""
        return self.asked.get("label")

    @property
    def algorithm(self) -> Any:
        """As the matrix says, else the job, else its overrides; None where the config is to say it."""
        of_matrix = next((value for key, value in self.chosen.items() if key in ("algorithm", ALGORITHM)), None)
        named = (of_matrix, self.asked.get("algorithm"), value_at(self.overrides, ALGORITHM))
        return next((name for name in named if name is not None), None)

    @property
    def overrides(self) -> Mapping[str, Any]:
        """The job's own."""
        return self.asked.get("config_overrides") or {}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A draft with its config. algorithm: the one it runs by."""

    draft: Draft
    algorithm: str
    body: Mapping[str, Any]


def expand(jobs: Sequence[Mapping[str, Any]], matrix: Mapping[str, Sequence[Any]], most: int) -> list[Draft]:
    """Every job by every combination: jobs outermost, keys in their order, the last one varying fastest.

    most: jobs in all. Raises InvalidRequest.
    """
    if not jobs:
        raise InvalidRequest("expected at least one job", "jobs")
    for index, job in enumerate(jobs):
        _check_job(job, f"jobs[{index}]")
    _check_labels(jobs)
    if len(matrix) > MAX_KEYS:
        raise InvalidRequest(f"expected at most {MAX_KEYS} keys, got {len(matrix)}", "matrix")
    for key, values in matrix.items():
        _check_values(key, values)
    count = len(jobs) * prod(len(values) for values in matrix.values())
    if count > most:
        raise InvalidRequest(f"the jobs and the matrix make {count} jobs, and an experiment has at most {most}", "jobs")
    combinations = [dict(zip(matrix, values, strict=True)) for values in product(*matrix.values())]
    made = [(index, job, chosen) for index, job in enumerate(jobs) for chosen in combinations]
    drafts = [Draft(position, *each) for position, each in enumerate(made, start=1)]
    for draft in drafts:
        if not isinstance(draft.algorithm, str | None):
            raise InvalidRequest(f"expected a name, got {shown(draft.algorithm)}", f"jobs[{draft.index}].algorithm")
    return drafts


def _check_job(job: Mapping[str, Any], path: str) -> None:
    for name in job:
        if name not in JOB_FIELDS:
            raise InvalidRequest("is not a field of this request", f"{path}.{shown(name)}")
    for name in OBJECTS:
        if job.get(name) is not None and not isinstance(job[name], Mapping):
            raise InvalidRequest(f"expected an object, got {shown(job[name])}", f"{path}.{name}")
    saved = job.get("config_name")
    if not isinstance(saved, str | None):
        raise InvalidRequest(f"expected a string, got {shown(saved)}", f"{path}.config_name")
    if job.get("config") is None and saved is None:
        raise InvalidRequest("is required, unless config_name names a saved config", f"{path}.config")
    label = job.get("label")
    if label is not None and not (isinstance(label, str) and len(label.strip()) > 0 and len(label) <= MAX_LABEL):
        raise InvalidRequest(f"expected a string of 1 to {MAX_LABEL} characters, got {shown(label)}", f"{path}.label")
    as_json(label, (f"{path}.label",))


def _check_labels(jobs: Sequence[Mapping[str, Any]]) -> None:
    seen: dict[str, int] = {}
    for index, job in enumerate(jobs):
        label = job.get("label")
        if label is not None and seen.setdefault(label, index) != index:
            raise InvalidRequest(f"is that of jobs[{seen[label]}] too: labels must differ", f"jobs[{index}].label")


def _check_values(key: str, values: Any) -> None:
    fine = isinstance(values, Sequence) and not isinstance(values, str) and 1 <= len(values) <= MAX_VALUES
    if not fine:
        raise InvalidRequest(f"expected a list of 1 to {MAX_VALUES} values, got {shown(values)}", f"matrix.{key}")
    # Jobs of equal values would look like runs of their own, and make a group seem surer than it is.
    texts = [orjson.dumps(as_json(value, ("matrix", key)), option=orjson.OPT_SORT_KEYS) for value in values]
    repeated = [value for at, value in enumerate(values) if texts[at] in texts[:at]]
    if repeated:
        raise InvalidRequest(f"expected values that differ, got {shown(repeated[0])} twice", f"matrix.{key}")


def loaded(draft: Draft, algorithm: str | None, body: Mapping[str, Any]) -> Loaded:
    """body: the draft's config. algorithm: None where the config is to say it. Raises InvalidRequest."""
    named = algorithm or value_at(as_sectioned(body), ALGORITHM)
    if not isinstance(named, str):
        raise InvalidRequest("is required, unless the config says it", f"jobs[{draft.index}].algorithm")
    return Loaded(draft, named, body)


def value_at(tree: Any, path: str) -> Any:
    """The value at a path of which any steps may stand in one key, joined by dots; None where there is none."""
    if not isinstance(tree, Mapping):
        return None
    if path in tree:
        return tree[path]
    inner = (value_at(tree[key], path[len(key) + 1 :]) for key in tree if path.startswith(f"{key}."))
    return next((found for found in inner if found is not None), None)
