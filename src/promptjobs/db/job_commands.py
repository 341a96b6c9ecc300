"""What is done to jobs from outside: create, start, pause, resume, cancel, delete.

Every command is decided under the lock of the job's row, which settles its races with other commands and with workers:
a claim, a hand-over and the publish at the end take the same lock. Each may be repeated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Double, cast, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.ledger import Category
from promptjobs.core.stats import Statistics
from promptjobs.db import balances, events
from promptjobs.db.balances import DEFAULT_ORGANISATION
from promptjobs.db.jobs import JobStatus
from promptjobs.db.models import (
    Artifact,
    Call,
    CandidateRow,
    CompletionRow,
    Event,
    Job,
    LedgerRow,
    RolloutRow,
    Snapshot,
    Token,
    TrialRow,
    Turn,
)
from promptjobs.db.transactions import driver_of
from promptjobs.db.webhook_messages import enqueue_end
from promptjobs.errors import JobConflict, JobNotFound
from promptjobs.errors.experiments import JobInExperiment


@dataclass(frozen=True, slots=True)
class Place:
    """A job's place in an experiment. position: from 1 on. settings: JSON text of what tells it from the others.

    group: the same for jobs that differ in their random seed alone.
    """

    experiment_id: str
    position: int
    label: str
    group: str
    settings: str


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as it is inserted. config, config_sent, warnings, metadata and event_data are JSON texts.

    labels: of the metadata what lists are filtered by. task_app_key: sealed.
    """

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
    organisation: str = DEFAULT_ORGANISATION
    labels: Mapping[str, str] = field(default_factory=dict)
    parent_id: str | None = None
    config_name: str | None = None
    place: Place | None = None


async def create(connection: AsyncConnection, job: NewJob) -> None:
    """Insert the job, its accounts and its first event, and tell readers and workers at commit."""
    values = _values(job)
    categories = [str(category) for category in Category]
    told = ("prompt.learning.created", job.event_message, job.event_data)
    driver = await driver_of(connection)
    await driver.execute(_create(tuple(values)), *values.values(), categories, *told)


@cache
def _create(columns: tuple[str, ...]) -> str:
    """All of a creation in one statement, since each is a round trip. columns: of the job, its id first."""
    given = [f"${n}" for n in range(1, len(columns) + 5)]
    categories, event_type, message, data = given[-4:]
    return f"""
    WITH job AS (INSERT INTO jobs({", ".join(columns)}) VALUES ({", ".join(given[:-4])})),
    accounts AS (INSERT INTO ledger(job_id, category) SELECT $1::text, unnest({categories}::text[])),
    told AS (INSERT INTO events(job_id, seq, type, message, level, data)
      VALUES ($1::text, 1, {event_type}, {message}, 'info', {data}))
    SELECT pg_notify('{events.EVENTS_CHANNEL}', $1::text), pg_notify('{events.JOBS_CHANNEL}', $1::text)"""


def _values(job: NewJob) -> dict[str, Any]:
    """By the names of the columns."""
    place = job.place
    return {
        "id": job.id,
        "organisation": job.organisation,
        "algorithm": job.algorithm,
        "status": job.status.value,
        "config": job.config,
        "config_sent": job.config_sent,
        "warnings": job.warnings,
        "metadata": job.metadata,
        "labels": orjson.dumps(dict(job.labels)).decode(),
        "parent_id": job.parent_id,
        "config_name": job.config_name,
        "task_app_key": job.task_app_key,
        "last_seq": 1,
        "experiment_id": place and place.experiment_id,
        "experiment_position": place and place.position,
        "experiment_label": place and place.label,
        "experiment_group": place and place.group,
        "experiment_settings": place and place.settings,
    }


async def start(connection: AsyncConnection, job_id: str) -> None:
    """Queue a pending job; one that was started before stays as it is.

    Raises JobNotFound; JobConflict where it is over; BalanceEmpty.
    """
    job = await _locked(connection, job_id)
    if job.status.is_terminal:
        raise JobConflict(job_id, job.status, "be started")
    if job.status is JobStatus.PENDING:
        balances.require_money(await balances.read(connection, job.organisation))
        await _change(connection, job_id, status=JobStatus.QUEUED)
        await events.append(connection, job_id, "prompt.learning.started", "The job waits for a worker", {})
        await events.notify(connection, events.JOBS_CHANNEL, job_id)


async def pause(connection: AsyncConnection, job_id: str) -> None:
    """Set a queued job aside, or have the worker of a running one do so; pending and paused ones stay as they are.

    Raises JobNotFound; JobConflict where it is over or is being cancelled.
    """
    job = await _locked(connection, job_id)
    if job.status.is_terminal:
        raise JobConflict(job_id, job.status, "be paused")
    if job.is_cancelled:
        raise JobConflict(job_id, "being cancelled", "be paused")
    now = func.clock_timestamp()
    if job.status is JobStatus.QUEUED:
        await _change(connection, job_id, status=JobStatus.PAUSED, paused_at=now, pause_requested_at=None)
        await events.append(connection, job_id, "prompt.learning.paused", "The job was paused", {})
    elif job.status is JobStatus.RUNNING and not job.is_to_be_paused:
        await _change(connection, job_id, pause_requested_at=now)
        message = "A pause was requested: what is under way is finished first"
        await events.append(connection, job_id, "prompt.learning.pause.requested", message, {})
        await events.notify(connection, events.JOBS_CHANNEL, job_id)


async def resume(connection: AsyncConnection, job_id: str) -> None:
    """Queue a paused job again, or withdraw the request to pause it; any other that is under way stays as it is.

    Raises JobNotFound; JobConflict where it is over or was never started; BalanceEmpty.
    """
    job = await _locked(connection, job_id)
    if job.status.is_terminal or job.status is JobStatus.PENDING:
        raise JobConflict(job_id, job.status, "be resumed")
    if job.status is JobStatus.PAUSED:
        balances.require_money(await balances.read(connection, job.organisation))
        await _queue_again(connection, job)
    elif job.is_to_be_paused:
        await _change(connection, job_id, pause_requested_at=None)
    else:
        return
    await events.append(connection, job_id, "prompt.learning.resumed", "The job goes on", {})
    await events.notify(connection, events.JOBS_CHANNEL, job_id)


async def cancel(connection: AsyncConnection, job_id: str, reason: str | None) -> None:
    """End a job that no worker has touched, or have a worker end any other; a terminal one stays as it is.

    A queued or paused job that was started before has results to publish: its next worker ends it.
    Raises JobNotFound.
    """
    job = await _locked(connection, job_id)
    if job.status.is_terminal:
        return
    why = {"reason": reason} if reason else {}
    if job.is_untouched and job.status is not JobStatus.RUNNING:
        await _end_untouched(connection, job, why)
        return
    if job.status is JobStatus.PAUSED:
        await _queue_again(connection, job)
    if not job.is_cancelled:
        await _change(connection, job_id, cancel_requested_at=func.clock_timestamp(), pause_requested_at=None)
        message = "Cancellation was requested"
        await events.append(connection, job_id, "prompt.learning.cancel.requested", message, dict(why))
    await events.notify(connection, events.JOBS_CHANNEL, job_id)


BY_JOB = (Event, CandidateRow, TrialRow, RolloutRow, CompletionRow, Turn, Token, Call, Artifact, Snapshot, LedgerRow)
"""Tables with rows of a job, in an order in which those that refer to others go first."""


async def remove(connection: AsyncConnection, job_id: str, *, with_experiment: bool = False) -> None:
    """Delete a job that is over, with everything it has left. with_experiment: the whole experiment goes.

    Raises JobNotFound; JobConflict where it is not over; JobInExperiment where it would go alone.

    What its last calls have reserved of the organisation's balance stays until they are settled or the reservation
    expires: only then it is known what is to be charged.
    """
    job = await _locked(connection, job_id)
    if not job.status.is_terminal:
        raise JobConflict(job_id, job.status, "be deleted")
    if job.experiment_id is not None and not with_experiment:
        raise JobInExperiment(job_id, job.experiment_id)
    # Settling locks the accounts in this order; deleting them in another could wait for it in a circle.
    accounts = select(LedgerRow.category).where(LedgerRow.job_id == job_id).order_by(LedgerRow.category)
    await connection.execute(accounts.with_for_update())
    for table in BY_JOB:
        await connection.execute(delete(table).where(table.job_id == job_id))
    await connection.execute(delete(Job).where(Job.id == job_id))
    await events.notify(connection, events.EVENTS_CHANNEL, job_id)


# --- under the lock --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Standing:
    """Where a job stands while its row is locked. is_untouched: no worker has had it."""

    id: str
    organisation: str
    status: JobStatus
    algorithm: str
    is_untouched: bool
    is_cancelled: bool
    is_to_be_paused: bool
    experiment_id: str | None


async def _locked(connection: AsyncConnection, job_id: str) -> _Standing:
    """The row stays locked until the transaction ends. Raises JobNotFound."""
    columns = (Job.organisation, Job.status, Job.algorithm, Job.started_at, Job.cancel_requested_at)
    query = select(*columns, Job.pause_requested_at, Job.experiment_id).where(Job.id == job_id).with_for_update()
    found = (await connection.execute(query)).first()
    if found is None:
        raise JobNotFound(job_id)
    return _Standing(
        id=job_id,
        organisation=found.organisation,
        status=JobStatus(found.status),
        algorithm=found.algorithm,
        is_untouched=found.started_at is None,
        is_cancelled=found.cancel_requested_at is not None,
        is_to_be_paused=found.pause_requested_at is not None,
        experiment_id=found.experiment_id,
    )


async def _change(connection: AsyncConnection, job_id: str, **values: Any) -> None:
    await connection.execute(update(Job).where(Job.id == job_id).values(updated_at=func.clock_timestamp(), **values))


async def _queue_again(connection: AsyncConnection, job: _Standing) -> None:
    """A paused job is to be claimed. Its pause does not count as running time, and never began to, before its start."""
    values: dict[str, Any] = {"status": JobStatus.QUEUED, "paused_at": None}
    if not job.is_untouched:
        seconds = func.extract("epoch", func.clock_timestamp() - Job.paused_at)
        values["paused_seconds"] = Job.paused_seconds + cast(seconds, Double)
    await _change(connection, job.id, **values)


async def _end_untouched(connection: AsyncConnection, job: _Standing, why: dict[str, Any]) -> None:
    data = {"finish_reason": "cancelled", "best_score": None, **why}
    message = "The job was cancelled before it started"
    await events.append(connection, job.id, f"prompt.learning.{job.algorithm}.cancelled", message, data)
    now = func.clock_timestamp()
    await _change(
        connection,
        job.id,
        status=JobStatus.CANCELLED,
        finish_reason="cancelled",
        finished_at=now,
        cancel_requested_at=now,
        paused_at=None,
        task_app_key=None,
    )
    metadata = (await connection.execute(select(Job.metadata_json).where(Job.id == job.id))).scalar_one()
    await enqueue_end(
        await driver_of(connection),
        job.id,
        detail=why.get("reason"),
        metadata=orjson.loads(metadata),
        figures=data,
        stats={**Statistics().to_json(), "total_time_seconds": 0.0},
    )
