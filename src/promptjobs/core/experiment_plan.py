"""The jobs of an experiment as they will run: their overrides laid over their configs, and what they are called."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from promptjobs.core.config import Resolution, resolve
from promptjobs.core.config_body import Json, as_json, merged
from promptjobs.core.config_layers import as_sectioned
from promptjobs.core.config_support import SECTION
from promptjobs.core.experiment_drafts import ALGORITHM, JOB_FIELDS, Draft, Loaded, value_at
from promptjobs.core.experiment_labels import Named, Naming
from promptjobs.core.override_effect import Override, ineffective, laid_over, overrides_of, overruled
from promptjobs.errors import InvalidRequest
from promptjobs.errors.experiments import OverrideIneffective

MAX_OVERRIDES = 500
"""Settings, or parts of one, that a job's overrides and the matrix say together."""
MAX_OVERRIDES_IN_ALL = 20_000
"""The same of all jobs: each of them is looked up in what will run, which takes time."""
MAX_BYTES = 8 * 1024 * 1024
"""Of JSON, of the configs of all jobs together, with what the matrix says of each."""

SHORT = {"algorithm": ALGORITHM, "model": f"{SECTION}.policy.model", "provider": f"{SECTION}.policy.provider"}
"""Short names of a matrix's keys; `seed` is another setting for each algorithm."""

PARAM_OF = {"config_body": "config", "overrides": "config_overrides"}
"""What a job's request calls the fields that errors name."""


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
    layered = _all_layered(jobs)
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
    """Every job is stored with the config that it was made of, and with its values of the matrix."""
    parts = [(job.body, job.draft.asked, *job.draft.chosen.values()) for job in jobs]
    once = {id(part): part for those in parts for part in those}
    sizes = {name: len(orjson.dumps(part)) for name, part in once.items()}
    size = sum(
        max(sizes[id(body)], sizes[id(asked)]) + sum(sizes[id(value)] for value in chosen)
        for body, asked, *chosen in parts
    )
    if size > MAX_BYTES:
        raise InvalidRequest(
            f"the configs of its {len(jobs)} jobs have {size} bytes of JSON together, at most {MAX_BYTES}", "jobs"
        )


def _all_layered(jobs: Sequence[Loaded]) -> list[_Layered]:
    found: list[_Layered] = []
    count = 0
    for job in jobs:
        found.append(_layered(job))
        count += len(found[-1].overrides)
        if count > MAX_OVERRIDES_IN_ALL:
            said = f"expected at most {MAX_OVERRIDES_IN_ALL} overridden settings of its {len(jobs)} jobs together"
            raise InvalidRequest(f"{said}: what is large belongs in the config", "jobs")
    return found


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
    if any(value_at(known, ALGORITHM) is not None for known in (as_sectioned(job.body), tree)):
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
        "provider": value_at(whole, SHORT["provider"]),
        "model": value_at(whole, SHORT["model"]),
        "seed": value_at(whole, _path("seed", job.algorithm)) or 0,
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
