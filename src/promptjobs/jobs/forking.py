"""Jobs that begin with an earlier one: with its candidates' prompts, and forks also with its config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.config import JobConfig, Resolution, WarmPrompt, WarmStartConfig, begun_with, read_config
from promptjobs.core.config_layers import on_top_of, without_warm_start
from promptjobs.core.config_support import SECTION
from promptjobs.core.config_values import listed
from promptjobs.core.config_warm_start import CANDIDATES, JOB_ID
from promptjobs.core.warm_start import as_sections
from promptjobs.db import earlier_jobs
from promptjobs.db.earlier_jobs import EarlierJob
from promptjobs.errors import InvalidConfig, JobNotFound, MiproConfigurationError
from promptjobs.errors.shown import MAX_SHOWN

WIDTHS = (8, 4, 2, 1)
LEARNT_FROM = ("train_seeds", "bootstrap_seeds", "online_seeds", "reference_seeds")
MEASURED_ON = ("validation_seeds", "test_seeds")


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """What a client asks of a fork. candidates: None where it begins with its baseline alone.

    is_asked_for: the client has said that it is to begin with the parent's; else it may have none.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] | None = None
    candidates: Mapping[str, Any] | None = field(default_factory=dict)
    is_asked_for: bool = False
    auto_start: bool = True
    task_app_api_key: str | None = None
    unknown: Sequence[str] = ()


def narrowing(asked: ForkRequest) -> list[ForkRequest]:
    """The request with fewer candidates each time, where the client has not said which: the budget may be small."""
    if asked.is_asked_for or asked.candidates is None:
        return [asked]
    return [replace(asked, candidates={"candidates": "front", "max_candidates": most}) for most in WIDTHS]


@dataclass(frozen=True, slots=True)
class Forked:
    """The parent's request, as far as the fork takes it over, with the fork's own overrides."""

    algorithm: str
    config_body: dict[str, Any]
    overrides: dict[str, Any]


async def forked(connection: AsyncConnection, organisation: str, job_id: str, asked: ForkRequest) -> Forked:
    """Raises JobNotFound, and InvalidConfig where the parent's request cannot be read any more."""
    parent = await earlier_jobs.read(connection, organisation, job_id)
    if parent is None:
        raise JobNotFound(job_id)
    sent = orjson.loads(parent.config_sent)
    body = without_warm_start(on_top_of(parent.algorithm, sent["config_body"], sent["overrides"]))
    if asked.candidates is not None and (asked.is_asked_for or parent.best is not None):
        warm_start = {**asked.candidates, "job_id": job_id}
        body = {**body, SECTION: {**body[SECTION], "warm_start": warm_start}}
    overrides = dict(asked.overrides)
    if asked.task_app_api_key is not None:
        overrides["task_app_api_key"] = asked.task_app_api_key
    return Forked(parent.algorithm, body, overrides)


# --- prompts of an earlier job ---------------------------------------------------------------------------------------


async def warm_started(connection: AsyncConnection, organisation: str, found: Resolution) -> Resolution:
    """With the prompts of the earlier job that the config names, in the config: what runs is what is stored.

    Raises InvalidConfig, of a MIPRO job MiproConfigurationError: there is no such job or candidate, or one does not
    fit. Another organisation's job looks like one that does not exist.
    """
    config, warm = found.config, found.config.search.warm_start
    if warm is None or warm.job_id is None:
        return found
    refusal = MiproConfigurationError if config.algorithm == "mipro" else InvalidConfig
    earlier = await earlier_jobs.read(connection, organisation, warm.job_id)
    if earlier is None:
        raise refusal(f"there is no job {warm.job_id[:MAX_SHOWN]!r}", JOB_ID)
    ids = _chosen(earlier, warm)
    if not ids:
        raise refusal(f"job {earlier.id!r} has no candidate yet", JOB_ID)
    prompts = await earlier_jobs.read_prompts(connection, earlier.id, ids)
    taken = []
    for candidate_id in ids:
        prompt = prompts.get(candidate_id)
        if prompt is None:
            known = "has no prompt of its own" if candidate_id in prompts else "does not exist"
            raise refusal(f"candidate {candidate_id[:MAX_SHOWN]!r} of job {earlier.id!r} {known}", CANDIDATES)
        taken.append(WarmPrompt(prompt=as_sections(prompt), candidate_id=candidate_id, job_id=earlier.id))
    begun = begun_with(found, taken)
    learnt = _learnt_from(earlier, config)
    return begun if learnt is None else _warned(begun, learnt)


def _chosen(earlier: EarlierJob, warm: WarmStartConfig) -> Sequence[str]:
    match warm.candidates:
        case "best":
            return earlier.front[:1] if earlier.best is not None else ()
        case "front":
            return earlier.front[: warm.max_candidates]
        case _:
            return warm.candidates


def _learnt_from(earlier: EarlierJob, config: JobConfig) -> str | None:
    """A warning where prompts have learnt from what this job measures them on."""
    before = read_config(earlier.config).search
    learnt = {seed for name in LEARNT_FROM for seed in getattr(before, name, ())}
    measured = {seed for name in MEASURED_ON for seed in getattr(config.search, name, ())}
    both = sorted(learnt & measured)
    if not both:
        return None
    return (
        f"job {earlier.id} has learnt from seeds that this one validates or tests on: {listed(both)}; if they mean the "
        "same inputs, its prompts look better there than they are"
    )


def _warned(found: Resolution, warning: str) -> Resolution:
    return replace(found, warnings=(*found.warnings, warning))
