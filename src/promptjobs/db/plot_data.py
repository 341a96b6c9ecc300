"""Queries of what plots show: a job's evaluations, and what jobs of an experiment can be compared by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.trial import Phase
from promptjobs.db.jobs import JobStatus
from promptjobs.db.models import Event, Job, LedgerRow, Snapshot, TrialRow
from promptjobs.db.results import CURVE_TYPES
from promptjobs.db.seed_scores import ByPhase, PhaseScores
from promptjobs.errors import JobNotFound

Json = Mapping[str, Any]

MAX_TRIALS = 10_000
"""The first so many of a job: its curve has long been flat by then."""

HELD_OUT = (Phase.VALIDATION, Phase.TEST)


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


@dataclass(frozen=True, slots=True)
class PlottedJob:
    """A job beside others. best_id: the candidate that it has published, or that is best so far."""

    id: str
    status: JobStatus
    group: str
    best_id: str | None
    progress: Json | None


async def read_jobs(connection: AsyncConnection, experiment_id: str) -> list[PlottedJob]:
    """In the order of their positions."""
    published = func.substring(Snapshot.payload, '"best_candidate_id":"([^"]+)"')
    query = (
        select(Job.id, Job.status, Job.experiment_group, Job.progress, Job.best_snapshot_id, published)
        .outerjoin(Snapshot, Snapshot.id == Job.best_snapshot_id)
        .where(Job.experiment_id == experiment_id)
        .order_by(Job.experiment_position)
    )
    found = []
    for job_id, status, group, progress, snapshot_id, published_id in await connection.execute(query):
        state = None if progress is None else orjson.loads(progress)
        best_id = published_id if snapshot_id is not None else (state or {}).get("best_candidate_id")
        found.append(PlottedJob(job_id, JobStatus(status), group or "", best_id, state))
    return found


async def read_curves(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """By job, (rollouts, best score) wherever it rose; every job has an entry."""
    found: dict[str, list[tuple[int, float]]] = {job_id: [] for job_id in job_ids}
    query = (
        select(Event.job_id, Event.data)
        .where(Event.job_id.in_(job_ids), Event.type.in_(CURVE_TYPES))
        .order_by(Event.job_id, Event.seq)
    )
    for job_id, text in await connection.execute(query):
        point = curve_point(text)
        if point is not None:
            found[job_id].append(point)
    return found


def curve_point(data: str) -> tuple[int, float] | None:
    """(rollouts, best score) that an event of the curve tells of; data: its JSON text."""
    told = orjson.loads(data)
    score = told["best_score"] if "best_score" in told else told["accuracy"]
    return None if score is None else (told["rollouts_completed"], score)


@dataclass(slots=True)
class HeldOut:
    """What a job has measured on seeds that did not steer its search."""

    best: ByPhase
    baseline: ByPhase


async def read_held_out(connection: AsyncConnection, jobs: Sequence[PlottedJob]) -> dict[str, HeldOut]:
    """By job, the scores of its best and of its baseline; every job has an entry.

    A best that is the baseline has the same ones.
    """
    best_ids = {job.id: job.best_id for job in jobs}
    found = {job.id: HeldOut({}, {}) for job in jobs}
    columns = (TrialRow.job_id, TrialRow.candidate_id, TrialRow.phase, TrialRow.is_baseline)
    query = (
        select(*columns, TrialRow.seeds, TrialRow.scores)
        .where(TrialRow.job_id.in_(best_ids), TrialRow.phase.in_(HELD_OUT))
        .order_by(TrialRow.job_id, TrialRow.n)
    )
    for job_id, candidate_id, phase, is_baseline, seeds, scores in await connection.execute(query):
        known = found[job_id]
        wanted = [known.baseline] if is_baseline else []
        wanted += [known.best] if candidate_id == best_ids[job_id] else []
        for each in wanted:
            measured = each.setdefault(Phase(phase), PhaseScores())
            for seed, score in zip(seeds, orjson.loads(scores), strict=True):
                measured.add(seed, score)
    return found


@dataclass(frozen=True, slots=True)
class JobCost:
    """usd: without the calls whose price is unknown."""

    usd: float
    tokens: int
    unpriced_calls: int


async def read_job_costs(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, JobCost]:
    """By job, what all of its calls have come to; those without a call are left out."""
    sums = (func.sum(LedgerRow.usd), func.sum(LedgerRow.tokens), func.sum(LedgerRow.unpriced_calls))
    query = select(LedgerRow.job_id, *sums).where(LedgerRow.job_id.in_(job_ids)).group_by(LedgerRow.job_id)
    return {
        job_id: JobCost(float(usd), int(tokens), int(unpriced))
        for job_id, usd, tokens, unpriced in await connection.execute(query)
    }
