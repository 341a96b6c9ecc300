"""Queries of the jobs table: create, read, list, start, cancel."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, Text, and_, cast, func, insert, literal, null, select, tuple_, update
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db import events
from promptjobs.db.models import CandidateRow, Event, Job, Snapshot
from promptjobs.errors import InvalidRequest, JobConflict, JobNotFound


class JobStatus(StrEnum):
    """Where a job stands. A pending one waits for its start."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as it is inserted. config, config_sent, warnings, metadata and event_data are JSON texts."""

    id: str
    algorithm: str
    status: JobStatus
    config: str
    config_sent: str
    warnings: str
    metadata: str
    task_app_key: str | None
    event_message: str
    event_data: str


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as its readers see it, without secrets.

    config, warnings, metadata, progress: JSON texts. best_prompt: the best candidate's template while the job runs;
    best_messages: those of the published snapshot; best_snapshot: its payload, where it was asked for. All JSON texts.
    """

    id: str
    algorithm: str
    status: JobStatus
    config: str
    warnings: str
    metadata: str
    error: str | None
    finish_reason: str | None
    best_score: float | None
    best_train_score: float | None
    best_validation_score: float | None
    best_snapshot_id: str | None
    progress: str | None
    last_seq: int
    cancel_requested_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    best_prompt: str | None
    best_messages: str | None
    best_snapshot: str | None


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list. after: the id of the job behind which the page starts; since: created then or later."""

    limit: int
    after: str | None = None
    offset: int = 0
    status: JobStatus | None = None
    algorithm: str | None = None
    since: datetime | None = None


COLUMNS = (
    Job.id,
    Job.algorithm,
    Job.status,
    Job.config,
    Job.warnings,
    Job.metadata_json,
    Job.error,
    Job.finish_reason,
    Job.best_score,
    Job.best_train_score,
    Job.best_validation_score,
    Job.best_snapshot_id,
    Job.progress,
    Job.last_seq,
    Job.cancel_requested_at,
    Job.created_at,
    Job.updated_at,
    Job.started_at,
    Job.finished_at,
)


def _jobs(*, with_snapshot: bool) -> Select[*tuple[Any, ...]]:
    """Jobs with the prompt that is best now: from the snapshot once there is one, else from the candidate in progress.

    The casts are to json, not jsonb: a payload may hold what jsonb refuses, and what is taken out stays as it is.
    """
    best_id = cast(Job.progress, JSON)["best_candidate_id"].astext
    messages = cast(cast(Snapshot.payload, JSON)["best_prompt_messages"], Text)
    payload = cast(Snapshot.payload if with_snapshot else null(), Text)
    candidate = and_(Snapshot.id.is_(None), CandidateRow.job_id == Job.id, CandidateRow.candidate_id == best_id)
    return (
        select(*COLUMNS, CandidateRow.prompt, messages, payload)
        .outerjoin(Snapshot, Snapshot.id == Job.best_snapshot_id)
        .outerjoin(CandidateRow, candidate)
    )


def _row(values: tuple[Any, ...]) -> JobRow:
    job_id, algorithm, status, *rest = values
    return JobRow(job_id, algorithm, JobStatus(status), *rest)


async def create(connection: AsyncConnection, job: NewJob) -> None:
    """Insert the job and its first event, and tell readers and workers at commit."""
    await connection.execute(
        insert(Job).values(
            id=job.id,
            algorithm=job.algorithm,
            status=job.status,
            config=job.config,
            config_sent=job.config_sent,
            warnings=job.warnings,
            metadata_json=job.metadata,
            task_app_key=job.task_app_key,
            last_seq=1,
        )
    )
    await connection.execute(
        insert(Event).values(
            job_id=job.id,
            seq=1,
            type="prompt.learning.created",
            message=job.event_message,
            level="info",
            data=job.event_data,
        )
    )
    await events.notify(connection, events.EVENTS_CHANNEL, job.id)
    await events.notify(connection, events.JOBS_CHANNEL, job.id)


async def read(connection: AsyncConnection, job_id: str) -> JobRow:
    """The job with its snapshot's payload. Raises JobNotFound."""
    found = (await connection.execute(_jobs(with_snapshot=True).where(Job.id == job_id))).first()
    if found is None:
        raise JobNotFound(job_id)
    return _row(tuple(found))


async def read_page(connection: AsyncConnection, wanted: JobFilter) -> list[JobRow]:
    """Jobs, newest first, without payloads. Raises InvalidRequest for a cursor that is no job."""
    query = _jobs(with_snapshot=False).order_by(Job.created_at.desc(), Job.id.desc())
    if wanted.after is not None:
        cursor = select(Job.created_at).where(Job.id == wanted.after)
        after = (await connection.execute(cursor)).scalar_one_or_none()
        if after is None:
            raise InvalidRequest(f"there is no job {wanted.after!r}", "after")
        query = query.where(tuple_(Job.created_at, Job.id) < tuple_(literal(after), literal(wanted.after)))
    if wanted.status is not None:
        query = query.where(Job.status == wanted.status)
    if wanted.algorithm is not None:
        query = query.where(Job.algorithm == wanted.algorithm)
    if wanted.since is not None:
        query = query.where(Job.created_at >= wanted.since)
    found = await connection.execute(query.offset(wanted.offset).limit(wanted.limit))
    return [_row(tuple(row)) for row in found]


async def require(connection: AsyncConnection, job_id: str) -> None:
    """Raises JobNotFound."""
    if (await connection.execute(select(Job.id).where(Job.id == job_id))).first() is None:
        raise JobNotFound(job_id)


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How far a job's stream goes now; nothing will follow where is_final."""

    last_seq: int
    is_final: bool


async def stream_end(connection: AsyncConnection, job_id: str) -> StreamEnd:
    """Raises JobNotFound."""
    found = (await connection.execute(select(Job.last_seq, Job.status).where(Job.id == job_id))).first()
    if found is None:
        raise JobNotFound(job_id)
    return StreamEnd(found.last_seq, JobStatus(found.status).is_terminal)


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """What was sent, what runs, and what was noted in between; JSON texts without secrets."""

    sent: str
    resolved: str
    warnings: str


async def read_config(connection: AsyncConnection, job_id: str) -> ConfigRow:
    """Raises JobNotFound."""
    query = select(Job.config_sent, Job.config, Job.warnings).where(Job.id == job_id)
    found = (await connection.execute(query)).first()
    if found is None:
        raise JobNotFound(job_id)
    return ConfigRow(*found)


async def start(connection: AsyncConnection, job_id: str) -> None:
    """Queue a pending job; one that was started before stays as it is. Raises JobNotFound, JobConflict."""
    status, _, _ = await _locked(connection, job_id)
    if status.is_terminal:
        raise JobConflict(job_id, status, "be started")
    if status is JobStatus.PENDING:
        await connection.execute(
            update(Job).where(Job.id == job_id).values(status=JobStatus.QUEUED, updated_at=func.clock_timestamp())
        )
        await events.notify(connection, events.JOBS_CHANNEL, job_id)
        await events.notify(connection, events.EVENTS_CHANNEL, job_id)


async def cancel(connection: AsyncConnection, job_id: str, reason: str | None) -> None:
    """End a job that no worker has touched, or ask the worker of any other to end it; a terminal one stays as it is.

    A queued job that was started before has results to publish: its next worker ends it. Raises JobNotFound.
    """
    status, algorithm, is_untouched = await _locked(connection, job_id)
    if status.is_terminal:
        return
    why = {"reason": reason} if reason else {}
    if is_untouched and status in (JobStatus.PENDING, JobStatus.QUEUED):
        data = {"finish_reason": "cancelled", "best_score": None, **why}
        message = "The job was cancelled before it started"
        await events.append(connection, job_id, f"prompt.learning.{algorithm}.cancelled", message, data)
        now = func.clock_timestamp()
        changes = {"status": JobStatus.CANCELLED, "finish_reason": "cancelled", "finished_at": now, "updated_at": now}
        await connection.execute(
            update(Job).where(Job.id == job_id).values(**changes, cancel_requested_at=now, task_app_key=None)
        )
        return
    asked = await connection.execute(
        update(Job)
        .where(Job.id == job_id, Job.cancel_requested_at.is_(None))
        .values(cancel_requested_at=func.clock_timestamp())
        .returning(Job.id)
    )
    if asked.first() is not None:
        message = "Cancellation was requested"
        await events.append(connection, job_id, "prompt.learning.cancel.requested", message, dict(why))
    await events.notify(connection, events.JOBS_CHANNEL, job_id)


async def _locked(connection: AsyncConnection, job_id: str) -> tuple[JobStatus, str, bool]:
    """Status, algorithm, and whether no worker has had the job; the row stays locked until the transaction ends.

    The lock decides the race with a worker that is claiming the job.
    """
    query = select(Job.status, Job.algorithm, Job.started_at).where(Job.id == job_id).with_for_update()
    found = (await connection.execute(query)).first()
    if found is None:
        raise JobNotFound(job_id)
    return JobStatus(found.status), found.algorithm, found.started_at is None
