"""Queries of what only plots show: a job's evaluations one by one, and the learning curves of many jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.trial import Phase
from promptjobs.db.models import Event, Job, TrialRow
from promptjobs.db.results import CURVE_TYPES, curve_step
from promptjobs.errors import JobNotFound

Json = Mapping[str, Any]

MAX_TRIALS = 10_000
"""The first so many of a job: its curve has long been flat by then."""


# --- of a job --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlottedTrial:
    """scores[i] belongs to seeds[i]. reused: so many of them had been known before, and cost no rollout."""

    candidate_id: str
    phase: Phase
    is_baseline: bool
    seeds: tuple[int, ...]
    scores: tuple[float | None, ...]
    reused: int


async def read_trials(connection: AsyncConnection, job_id: str) -> list[PlottedTrial]:
    """In their order."""
    columns = (TrialRow.candidate_id, TrialRow.phase, TrialRow.is_baseline, TrialRow.seeds, TrialRow.scores)
    query = select(*columns, TrialRow.reused).where(TrialRow.job_id == job_id).order_by(TrialRow.n).limit(MAX_TRIALS)
    return [
        PlottedTrial(candidate_id, Phase(phase), is_baseline, tuple(seeds), tuple(orjson.loads(scores)), reused)
        for candidate_id, phase, is_baseline, seeds, scores, reused in await connection.execute(query)
    ]


@dataclass(frozen=True, slots=True)
class JobState:
    """config: as it runs. progress: None before the job's first answer. label: in its experiment."""

    config: Json
    progress: Json | None
    label: str | None


async def read_state(connection: AsyncConnection, job_id: str) -> JobState:
    """Raises JobNotFound."""
    query = select(Job.config, Job.progress, Job.experiment_label).where(Job.id == job_id)
    found = (await connection.execute(query)).first()
    if found is None:
        raise JobNotFound(job_id)
    config, progress, label = found
    return JobState(orjson.loads(config), None if progress is None else orjson.loads(progress), label)


# --- of an experiment ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PlottedCurve:
    """steps: (rollouts, best score) wherever it rose. rollouts: spent by the search until now."""

    steps: list[tuple[int, float]]
    rollouts: int


async def read_curves(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, PlottedCurve]:
    """By job; every one that exists has an entry."""
    found: dict[str, PlottedCurve] = {}
    for job_id, progress in await connection.execute(select(Job.id, Job.progress).where(Job.id.in_(job_ids))):
        state = {} if progress is None else orjson.loads(progress)
        found[job_id] = PlottedCurve([], state.get("rollouts_completed", 0))
    query = (
        select(Event.job_id, Event.data)
        .where(Event.job_id.in_(job_ids), Event.type.in_(CURVE_TYPES))
        .order_by(Event.job_id, Event.seq)
    )
    for job_id, data in await connection.execute(query):
        step = curve_step(orjson.loads(data))
        if step is not None and job_id in found:
            found[job_id].steps.append(step)
    return found
