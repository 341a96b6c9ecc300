"""The jobs of an experiment: each job of the request by each combination of its matrix, as overrides of its config."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import orjson

from promptjobs.core.config import Resolution, resolve
from promptjobs.core.config_body import Json, as_json, merged
from promptjobs.core.config_layers import as_sectioned
from promptjobs.core.config_support import SECTION
from promptjobs.core.config_values import shown
from promptjobs.core.experiment_labels import Named, Naming
from promptjobs.core.override_effect import Override, ineffective, laid_over, overrides_of, overruled
from promptjobs.errors import InvalidRequest
from promptjobs.errors.experiments import OverrideIneffective

MAX_KEYS = 20
MAX_VALUES = 50
"""Of a matrix, and of each of its keys."""
MAX_LABEL = 200
"""Characters of a client's label."""
MAX_OVERRIDES = 500
"""Settings, or parts of one, that a job's overrides and the matrix say together."""
MAX_BYTES = 8 * 1024 * 1024
"""Of JSON, of the configs of all jobs together."""

ALGORITHM = f"{SECTION}.algorithm"
SHORT = {"algorithm": ALGORITHM, "model": f"{SECTION}.policy.model", "provider": f"{SECTION}.policy.provider"}
"""Short names of a matrix's keys; `seed` is another setting for each algorithm."""

JOB_FIELDS = frozenset({"config", "config_name", "algorithm", "config_overrides", "label", "metadata"})
OBJECTS = ("config", "config_overrides", "metadata")
PARAM_OF = {"config_body": "config", "overrides": "config_overrides"}
"""What a job's request calls the fields that errors name."""


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
        named = (of_matrix, self.asked.get("algorithm"), _at(self.overrides, ALGORITHM))
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


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job as it will run. overrides: all of them, nested. group: the same for jobs that differ in rng_seed alone.

    settings: what varies over the experiment's jobs, by short names or dotted paths, without secrets. places: where
    the request says what its overrides say, by their paths in the config.
    """

    draft: Draft
    algorithm: str
    resolution: Resolution
    overrides: Json
    label: str
    group: str
    settings: Mapping[str, Any]
    places: Mapping[str, str]


# --- expansion -------------------------------------------------------------------------------------------------------


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


def loaded(draft: Draft, algorithm: str | None, body: Mapping[str, Any]) -> Loaded:
    """body: the draft's config. algorithm: None where the config is to say it. Raises InvalidRequest."""
    named = algorithm or _at(as_sectioned(body), ALGORITHM)
    if not isinstance(named, str):
        raise InvalidRequest("is required, unless the config says it", f"jobs[{draft.index}].algorithm")
    return Loaded(draft, named, body)


def _at(tree: Any, path: str) -> Any:
    """The value at a path of which any steps may stand in one key, joined by dots; None where there is none."""
    if not isinstance(tree, Mapping):
        return None
    if path in tree:
        return tree[path]
    inner = (_at(tree[key], path[len(key) + 1 :]) for key in tree if path.startswith(f"{key}."))
    return next((found for found in inner if found is not None), None)


# --- plan ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layered:
    """A job's overrides, each with the place of the request that it comes from; and all of them in one tree."""

    overrides: Sequence[Override]
    tree: Json

    @property
    def places(self) -> dict[str, str]:
        return {each.path: each.param for each in self.overrides}


def plan(jobs: Sequence[Loaded]) -> list[PlannedJob]:
    """The jobs with their overrides, labels and groups, in the order of their positions.

    Raises OverrideIneffective for an override that would not take effect; and what `resolve` raises, naming the job.
    """
    _check_size(jobs)
    layered = [_layered(job) for job in jobs]
    naming = Naming([_named(job, each.tree) for job, each in zip(jobs, layered, strict=True)])
    labels = naming.labels()
    found = []
    for job, each, label in zip(jobs, layered, labels, strict=True):
        with naming_job(job.draft, label, each.places):
            found.append(_resolved(job, each, label))
    groups, settings = naming.groups([each.config for each in found]), naming.settings()
    return [
        PlannedJob(job.draft, job.algorithm, resolution, each.tree, label, group, varying, each.places)
        for job, resolution, each, label, group, varying in zip(
            jobs, found, layered, labels, groups, settings, strict=True
        )
    ]


def _check_size(jobs: Sequence[Loaded]) -> None:
    """Every job is stored with the config that it was made of."""
    bodies = {id(body): body for job in jobs for body in (job.body, job.draft.asked)}
    sizes = {name: len(orjson.dumps(body)) for name, body in bodies.items()}
    size = sum(max(sizes[id(job.body)], sizes[id(job.draft.asked)]) for job in jobs)
    if size > MAX_BYTES:
        raise InvalidRequest(
            f"the configs of its {len(jobs)} jobs have {size} bytes of JSON together, at most {MAX_BYTES}", "jobs"
        )


def _layered(job: Loaded) -> _Layered:
    """The job's own overrides, those of the matrix over them, and the algorithm that both together have led to."""
    draft, is_sectioned = job.draft, job.body.get(SECTION) is not None
    overrides: list[Override] = []
    tree: Json = {}
    chosen = [
        (f"matrix.{key}", (path := _path(key, job.algorithm)), {path: value}) for key, value in draft.chosen.items()
    ]
    for param, path, changes in [(f"jobs[{draft.index}].config_overrides", "", draft.overrides), *chosen]:
        with naming_job(draft, draft.label or job.algorithm, {"": param}):
            nested = _nested(changes, is_sectioned=is_sectioned)
        start = tuple(path.split(".")) if path else ()
        start = start if not start or start[0] == SECTION or is_sectioned else (SECTION, *start)
        overrides += overrides_of(changes, nested, job.algorithm, param, start)
        tree = laid_over(tree, nested)
    if len(overrides) > MAX_OVERRIDES:
        said = f"expected at most {MAX_OVERRIDES} settings, got {len(overrides)}: what is large belongs in the config"
        raise InvalidRequest(said, f"jobs[{draft.index}].config_overrides")
    if any(_at(known, ALGORITHM) is not None for known in (as_sectioned(job.body), tree)):
        tree = laid_over(tree, {SECTION: {"algorithm": job.algorithm}})
    return _Layered(overrides, tree)


def _path(key: str, algorithm: str) -> str:
    return f"{SECTION}.{algorithm}.rng_seed" if key == "seed" else SHORT.get(key, key)


def _nested(changes: Mapping[str, Any], *, is_sectioned: bool) -> Json:
    base: Json = {SECTION: {}} if is_sectioned else {"algorithm": None}
    _, nested = merged(base, as_json(changes, ("overrides",)))
    return nested


def _resolved(job: Loaded, layered: _Layered, label: str) -> Resolution:
    draft = job.draft
    if draft.asked.get("algorithm") not in (None, job.algorithm):
        why = f"the matrix says {job.algorithm!r}"
        raise OverrideIneffective("algorithm", why, f"jobs[{draft.index}].algorithm", draft.position, label)
    lost = overruled(layered.overrides, layered.tree, job.algorithm)
    if lost is None:
        found = resolve(job.algorithm, job.body, layered.tree)
        whole, _ = merged(as_json(job.body), layered.tree)
        lost = ineffective(layered.overrides, whole, found)
    if lost is not None:
        raise OverrideIneffective(lost.path, lost.why, lost.param, draft.position, label)
    return found


def _named(job: Loaded, tree: Json) -> Named:
    """What the job is called by."""
    whole = laid_over(as_sectioned(job.body), tree)
    known = {
        "algorithm": job.algorithm,
        "provider": _at(whole, SHORT["provider"]),
        "model": _at(whole, SHORT["model"]),
        "seed": _at(whole, _path("seed", job.algorithm)) or 0,
    }
    of_matrix = [_path(key, job.algorithm) for key in job.draft.chosen]
    return Named(job.draft.index, job.draft.label, job.algorithm, known, tree, of_matrix)


# --- refusals --------------------------------------------------------------------------------------------------------


@contextmanager
def naming_job(draft: Draft, label: str, places: Mapping[str, str]) -> Iterator[None]:
    """Have what is refused in the block name the job; its class, code and facts stay.

    places: by paths in the config, where the request says it; "" for all that is not in the config itself.
    """
    try:
        yield
    except OverrideIneffective:
        raise
    except InvalidRequest as error:
        error.args = (f"job {draft.position} ({label!r}): {error}",)
        error.param = _place(draft.index, error.param or "", places)
        vars(error).update(position=draft.position, label=label)
        raise


def _place(index: int, param: str, places: Mapping[str, str]) -> str:
    """Where the request says what an error is about. param: as the error names it, a field or a path in the config."""
    if "" in places:
        return places[""]
    first = param.partition(".")[0]
    in_config = param if first == SECTION else f"{SECTION}.{param}"
    for end in [*(at for at, character in enumerate(in_config) if character in ".["), len(in_config)]:
        if in_config[:end] in places:
            return places[in_config[:end]] + in_config[end:]
    within = next((place for path, place in places.items() if path.startswith(f"{in_config}.")), None)
    if within is not None:
        return within
    own = next((param.replace(name, mine, 1) for name, mine in PARAM_OF.items() if first == name), param)
    is_field = first in PARAM_OF or first in JOB_FIELDS
    return ".".join(step for step in (f"jobs[{index}]", *(() if is_field or not param else ("config",)), own) if step)
