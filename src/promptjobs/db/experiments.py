"""Experiments as they are stored, read and commanded. Where one stands is read from its jobs, always."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import FromClause, Row, Select, and_, case, delete, func, insert, select, true, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db import job_commands, jobs
from promptjobs.db.columns import created_at_of
from promptjobs.db.jobs import JobFilter, JobRow, JobStatus
from promptjobs.db.models import Experiment, Job
from promptjobs.errors.experiments import ExperimentConflict, ExperimentNotFound

MAX_JOBS = 200
"""Of one experiment."""

OPEN = (JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED)


class ExperimentStatus(StrEnum):
    """Where an experiment stands. Failed: none of its jobs has come to an end of its own. Completed: some have."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in (ExperimentStatus.COMPLETED, ExperimentStatus.FAILED, ExperimentStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class NewExperiment:
    """An experiment as it is inserted. sent, metadata: JSON texts without secrets. parallelism: 1..64."""

    id: str
    organisation: str
    name: str
    description: str | None
    parallelism: int
    sent: str
    metadata: str


@dataclass(frozen=True, slots=True)
class ExperimentRow:
    """An experiment as its readers see it. sent, metadata: JSON texts. counts: its jobs by status, those that are none
    left out; num_jobs: all of them. started_at: of its first job. finished_at: of its last, once all are over.
    """

    id: str
    organisation: str
    name: str
    description: str | None
    parallelism: int
    sent: str
    metadata: str
    created_at: datetime
    cancel_requested_at: datetime | None
    status: ExperimentStatus
    num_jobs: int
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    counts: Mapping[JobStatus, int]


async def create(connection: AsyncConnection, new: NewExperiment) -> None:
    """Without its jobs, which follow in the same transaction."""
    await connection.execute(
        insert(Experiment).values(
            id=new.id,
            organisation=new.organisation,
            name=new.name,
            description=new.description,
            parallelism=new.parallelism,
            sent=new.sent,
            metadata_json=new.metadata,
        )
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def _of_jobs() -> FromClause:
    """What is known of an experiment by its jobs."""
    counts = [func.count().filter(Job.status == status).label(status.value) for status in JobStatus]
    query = select(
        func.count().label("num_jobs"),
        func.min(Job.started_at).label("started_at"),
        func.max(Job.finished_at).label("finished_at"),
        func.max(Job.updated_at).label("updated_at"),
        *counts,
    )
    return query.where(Job.experiment_id == Experiment.id).lateral("known")


def _shown() -> tuple[Select[*tuple[Any, ...]], Any]:
    """All experiments; and the status of each, by which they may be filtered.

    One that has no job, which is seen by nobody but for an instant, is queued.
    """
    known = _of_jobs()
    is_open = sum((known.c[status.value] for status in OPEN[1:]), known.c[OPEN[0].value]) > 0
    is_active = known.c.queued + known.c.running > 0
    status = case(
        (and_(is_open, ~is_active), ExperimentStatus.PAUSED),
        (and_(is_open, known.c.started_at.is_(None)), ExperimentStatus.QUEUED),
        (is_open, ExperimentStatus.RUNNING),
        (known.c.num_jobs == 0, ExperimentStatus.QUEUED),
        (and_(Experiment.cancel_requested_at.is_not(None), known.c.cancelled > 0), ExperimentStatus.CANCELLED),
        (known.c.succeeded > 0, ExperimentStatus.COMPLETED),
        (known.c.failed > 0, ExperimentStatus.FAILED),
        else_=ExperimentStatus.CANCELLED,
    )
    shown = select(
        Experiment.id,
        Experiment.organisation,
        Experiment.name,
        Experiment.description,
        Experiment.parallelism,
        Experiment.sent,
        Experiment.metadata_json.label("metadata"),
        Experiment.created_at,
        Experiment.cancel_requested_at,
        status.label("status"),
        known.c.num_jobs,
        known.c.started_at,
        case((~is_open, known.c.finished_at)).label("finished_at"),
        func.coalesce(known.c.updated_at, Experiment.created_at).label("updated_at"),
        *(known.c[status.value] for status in JobStatus),
    ).join(known, true())
    return shown, status


def _row(found: Row[*tuple[Any, ...]]) -> ExperimentRow:
    shown = dict(found._mapping)
    counts = {status: shown.pop(status.value) for status in JobStatus}
    shown["status"] = ExperimentStatus(shown["status"])
    return ExperimentRow(**shown, counts={status: count for status, count in counts.items() if count})


async def read(connection: AsyncConnection, experiment_id: str) -> ExperimentRow:
    """Raises ExperimentNotFound."""
    shown, _ = _shown()
    found = (await connection.execute(shown.where(Experiment.id == experiment_id))).first()
    if found is None:
        raise ExperimentNotFound(experiment_id)
    return _row(found)


async def read_page(
    connection: AsyncConnection,
    organisation: str,
    limit: int,
    after: str | None = None,
    status: ExperimentStatus | None = None,
) -> list[ExperimentRow]:
    """Newest first. after: the id behind which the page starts. Raises InvalidRequest for one that there is not."""
    shown, its_status = _shown()
    ours = Experiment.organisation == organisation
    key = tuple_(Experiment.created_at, Experiment.id)
    query = shown.where(ours).order_by(Experiment.created_at.desc(), Experiment.id.desc()).limit(limit)
    if after is not None:
        created_at = await created_at_of(connection, Experiment, after, "experiment", ours)
        query = query.where(key < tuple_(created_at, after))
    if status is not None:
        query = query.where(its_status == status)
        if not status.is_terminal:
            # Few experiments have open jobs, and an index finds those; the jobs of all others need not be counted.
            theirs = select(Job.experiment_id).where(Job.organisation == organisation, Job.status.in_(OPEN))
            query = query.where(Experiment.id.in_(theirs))
    return [_row(found) for found in await connection.execute(query)]


async def read_jobs(connection: AsyncConnection, row: ExperimentRow) -> list[JobRow]:
    """Its jobs, in the order of their positions, as in lists."""
    found = await jobs.read_page(connection, JobFilter(row.organisation, MAX_JOBS, experiment_id=row.id))
    return sorted(found, key=lambda job: job.experiment_position or 0)


async def organisation_of(connection: AsyncConnection, experiment_id: str) -> str | None:
    """None for an experiment that does not exist."""
    query = select(Experiment.organisation).where(Experiment.id == experiment_id)
    found: str | None = (await connection.execute(query)).scalar_one_or_none()
    return found


# --- commands --------------------------------------------------------------------------------------------------------


async def cancel(connection: AsyncConnection, experiment_id: str, reason: str | None) -> None:
    """Cancel all its jobs that are not over, as `job_commands.cancel` does; repeating it changes nothing.

    Raises ExperimentNotFound.
    """
    found = await _locked(connection, experiment_id)
    if all(JobStatus(status).is_terminal for _, status in found):
        return
    query = update(Experiment).where(Experiment.id == experiment_id, Experiment.cancel_requested_at.is_(None))
    await connection.execute(query.values(cancel_requested_at=func.clock_timestamp()))
    for job_id, _ in found:
        await job_commands.cancel(connection, job_id, reason)


async def remove(connection: AsyncConnection, experiment_id: str) -> None:
    """Delete an experiment whose jobs are all over, with them and everything they have left.

    Raises ExperimentNotFound, ExperimentConflict.
    """
    found = await _locked(connection, experiment_id)
    if not all(JobStatus(status).is_terminal for _, status in found):
        status = (await read(connection, experiment_id)).status
        raise ExperimentConflict(experiment_id, status, "be deleted")
    for job_id, _ in found:
        await job_commands.remove(connection, job_id, with_experiment=True)
    await connection.execute(delete(Experiment).where(Experiment.id == experiment_id))


async def _locked(connection: AsyncConnection, experiment_id: str) -> list[tuple[str, str]]:
    """Its jobs with their statuses, locked in the order of their ids, like everywhere where several are.

    Raises ExperimentNotFound.
    """
    query = select(Job.id, Job.status).where(Job.experiment_id == experiment_id).order_by(Job.id).with_for_update()
    found = [(job_id, status) for job_id, status in await connection.execute(query)]
    if not found and await organisation_of(connection, experiment_id) is None:
        raise ExperimentNotFound(experiment_id)
    return found
