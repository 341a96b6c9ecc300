"""Commands on jobs in Postgres: what each does in each status, and who wins when several come at once."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from promptjobs.db import balances, events, jobs
from promptjobs.db.jobs import JobRow, JobStatus
from promptjobs.db.leases import claim_next, park
from promptjobs.db.models import Base
from promptjobs.db.publishing import Ending, end_job
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from promptjobs.errors import BalanceEmpty, JobConflict, JobNotFound, LeaseLost
from promptjobs.jobs.service import JobService
from tests.fakes.recorded_jobs import RunningJob, created_job, job_service, publish, running_job, searched_job

UNKNOWN = "pl_" + "0" * 32
CREATED, STARTED, PAUSED, RESUMED, CANCELLED = (
    f"prompt.learning.{name}" for name in ("created", "started", "paused", "resumed", "gepa.cancelled")
)
PAUSE_REQUESTED, CANCEL_REQUESTED = (f"prompt.learning.{name}.requested" for name in ("pause", "cancel"))
END = Ending("succeeded", "rollout_budget", None, "prompt.learning.gepa.complete", "the end", {}, {})


async def types(database: Database, job_id: str) -> list[str]:
    """The job's events, of which none is missing."""
    async with reading(database) as connection:
        rows = await events.read_after(connection, job_id, 0, 1000)
        row = await jobs.read(connection, job_id)
    assert [each.seq for each in rows] == list(range(1, row.last_seq + 1))
    return [each.type for each in rows]


async def claimed(database: Database) -> Any:
    connection = await database.connect()
    try:
        return await claim_next(connection, "worker-1", 60.0)
    finally:
        await connection.close()


async def parked(job: RunningJob) -> str | None:
    """As its worker does when nothing is under way any more."""
    connection = await job.database.connect()
    try:
        return (await park(connection, "worker-1", {job.job_id: job.epoch})).get(job.job_id)
    finally:
        await connection.close()


async def a_job(database: Database, status: JobStatus) -> str:
    """A job in that status: paused after it was started, over where it has published."""
    match status:
        case JobStatus.PENDING:
            return await created_job(database, auto_start=False)
        case JobStatus.QUEUED:
            return await created_job(database)
        case JobStatus.RUNNING:
            return (await running_job(database)).job_id
        case JobStatus.PAUSED:
            job = await running_job(database)
            await job_service(database).pause(job.job_id)
            assert await parked(job) == "paused"
            return job.job_id
        case _:
            job = await running_job(database)
            await publish(job, status)
            return job.job_id


OVER = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
GONE = "deleted"
OUTCOMES: dict[str, dict[JobStatus, JobStatus | str]] = {
    "start": {
        JobStatus.PENDING: JobStatus.QUEUED,
        JobStatus.QUEUED: JobStatus.QUEUED,
        JobStatus.RUNNING: JobStatus.RUNNING,
        JobStatus.PAUSED: JobStatus.PAUSED,
    },
    "pause": {
        JobStatus.PENDING: JobStatus.PENDING,
        JobStatus.QUEUED: JobStatus.PAUSED,
        JobStatus.RUNNING: JobStatus.RUNNING,
        JobStatus.PAUSED: JobStatus.PAUSED,
    },
    "resume": {
        JobStatus.QUEUED: JobStatus.QUEUED,
        JobStatus.RUNNING: JobStatus.RUNNING,
        JobStatus.PAUSED: JobStatus.QUEUED,
    },
    "cancel": {
        JobStatus.PENDING: JobStatus.CANCELLED,
        JobStatus.QUEUED: JobStatus.CANCELLED,
        JobStatus.RUNNING: JobStatus.RUNNING,
        JobStatus.PAUSED: JobStatus.QUEUED,
        **{status: status for status in OVER},
    },
    "delete": dict.fromkeys(OVER, GONE),
}
"""What becomes of a job; a command that is missing for a status is a conflict."""


@pytest.mark.parametrize("status", list(JobStatus))
async def test_each_command_has_one_outcome_in_each_status_however_often_it_comes(
    database: Database, status: JobStatus
) -> None:
    service = job_service(database)
    for name, outcomes in OUTCOMES.items():
        job_id = await a_job(database, status)
        before, command = await service.get(job_id), getattr(service, name)
        if status not in outcomes:
            with pytest.raises(JobConflict, match=f"is {status}: it cannot be"):
                await command(job_id)
            assert await service.get(job_id) == before
        elif outcomes[status] is GONE:
            await command(job_id)
            with pytest.raises(JobNotFound):
                await command(job_id)
        else:
            first = await command(job_id)
            assert first.status is outcomes[status], name
            assert await again(service, name, job_id) == first
        await shift(database, "status = 'cancelled'")  # so that the next claim takes the next job


async def again(service: JobService, name: str, job_id: str) -> JobRow:
    found: JobRow = await getattr(service, name)(job_id)
    return found


async def test_a_running_job_is_asked_to_pause_and_its_worker_pauses_it(database: Database) -> None:
    job, service = await running_job(database), job_service(database)
    asked = await service.pause(job.job_id)
    assert (asked.status, asked.paused_at) == (JobStatus.RUNNING, None)
    assert asked.pause_requested_at is not None
    assert await parked(job) == "paused"
    row = await service.get(job.job_id)
    assert (row.status, row.pause_requested_at) == (JobStatus.PAUSED, None)
    assert row.paused_at is not None
    assert await claimed(database) is None
    resumed = await service.resume(job.job_id)
    assert (resumed.status, resumed.paused_at) == (JobStatus.QUEUED, None)
    assert (await claimed(database)).job_id == job.job_id
    assert await types(database, job.job_id) == [CREATED, PAUSE_REQUESTED, PAUSED, RESUMED]


async def test_a_pause_that_is_called_off_before_it_begins_leaves_the_job_to_a_worker(database: Database) -> None:
    job, service = await running_job(database), job_service(database)
    await service.pause(job.job_id)
    resumed = await service.resume(job.job_id)
    assert (resumed.status, resumed.pause_requested_at) == (JobStatus.RUNNING, None)
    assert await parked(job) == "queued"
    assert await types(database, job.job_id) == [CREATED, PAUSE_REQUESTED, RESUMED]


async def test_time_in_a_pause_is_no_running_time(database: Database) -> None:
    job, service = await running_job(database), job_service(database)
    await service.pause(job.job_id)
    await parked(job)
    await shift(database, "started_at = started_at - interval '2 h', paused_at = paused_at - interval '90 min'")
    await service.resume(job.job_id)
    assert 1800 <= (await claimed(database)).running_seconds < 1860


async def test_a_pause_before_the_start_takes_nothing_from_the_running_time(database: Database) -> None:
    job_id, service = await created_job(database), job_service(database)
    await service.pause(job_id)
    await shift(database, "paused_at = paused_at - interval '1 h'")
    await service.resume(job_id)
    assert 0 <= (await claimed(database)).running_seconds < 60


async def shift(database: Database, changes: str) -> None:
    async with writing(database) as connection:
        await connection.execute(text(f"UPDATE jobs SET {changes}"))


async def test_a_paused_job_that_was_never_started_is_cancelled_at_once(database: Database) -> None:
    job_id, service = await created_job(database), job_service(database)
    await service.pause(job_id)
    row = await service.cancel(job_id, "enough")
    assert (row.status, row.paused_at, row.finish_reason) == (JobStatus.CANCELLED, None, "cancelled")
    assert await types(database, job_id) == [CREATED, PAUSED, CANCELLED]


async def test_a_paused_job_that_has_results_is_cancelled_by_its_next_worker(database: Database) -> None:
    job, service = await searched_job(database), job_service(database)
    await service.pause(job.job_id)
    await parked(job)
    row = await service.cancel(job.job_id)
    assert (row.status, row.paused_at, row.pause_requested_at) == (JobStatus.QUEUED, None, None)
    assert (await claimed(database)).is_cancel_requested
    with pytest.raises(JobConflict, match="is being cancelled: it cannot be paused"):
        await service.pause(job.job_id)
    assert (await types(database, job.job_id))[-3:] == [PAUSE_REQUESTED, PAUSED, CANCEL_REQUESTED]


async def test_a_cancel_calls_off_a_pause(database: Database) -> None:
    job, service = await running_job(database), job_service(database)
    await service.pause(job.job_id)
    row = await service.cancel(job.job_id)
    assert row.pause_requested_at is None
    assert await parked(job) == "queued"


async def test_nothing_is_started_or_resumed_with_an_empty_balance(database: Database) -> None:
    service = job_service(database)
    pending, paused = await a_job(database, JobStatus.PENDING), await a_job(database, JobStatus.PAUSED)
    async with writing(database) as connection:
        await balances.put(connection, balances.DEFAULT_ORGANISATION, Decimal(0))
    for command, job_id in ((service.start, pending), (service.resume, paused)):
        before = await service.get(job_id)
        with pytest.raises(BalanceEmpty):
            await command(job_id)
        assert await service.get(job_id) == before
    async with writing(database) as connection:
        await balances.add(connection, balances.DEFAULT_ORGANISATION, Decimal("0.01"))
    assert (await service.start(pending)).status is (await service.resume(paused)).status is JobStatus.QUEUED


async def test_an_unknown_job_is_not_found_by_any_command(database: Database) -> None:
    service = job_service(database)
    for name in OUTCOMES:
        with pytest.raises(JobNotFound):
            await getattr(service, name)(UNKNOWN)


# --- deletion --------------------------------------------------------------------------------------------------------


OUTLIVING = frozenset({"holds", "webhook_deliveries"})
"""Tables whose rows of a job stay when it is deleted."""


async def rows(database: Database, job_id: str) -> dict[str, int]:
    """How many rows of the job each table has that loses them with it."""
    connection = await database.connect()
    try:
        named = {"jobs": "id"} | {t.name: "job_id" for t in Base.metadata.tables.values() if "job_id" in t.c}
        return {
            table: await connection.fetchval(f"SELECT count(*) FROM {table} WHERE {column} = $1", job_id)
            for table, column in named.items()
            if table not in OUTLIVING
        }
    finally:
        await connection.close()


FILL = (
    "INSERT INTO completions(job_id, key, n, purpose, provider, model, draw, prompt_tokens, completion_tokens, "
    "unknown_tokens, seconds, attempts, request, body, epoch) "
    "VALUES ($1, 'k', 1, 'reflection', 'p', 'm', 0, 1, 1, 0, 0.1, 1, '{}', '{}', 1)",
    "INSERT INTO tokens(digest, job_id, key, candidate_id, seed, phase, attempt, epoch, expires_at) "
    "VALUES (sha256($1::bytea), $1, 'k', 'c_0', 1, 'optimization', 1, 1, clock_timestamp())",
    "INSERT INTO calls(token, n, job_id, key, candidate_id, seed, phase, attempt, provider, model, streamed, status, "
    "messages, prompt_tokens, completion_tokens, unknown_tokens, seconds) "
    "VALUES (sha256($1::bytea), 1, $1, 'k', 'c_0', 1, 'optimization', 1, 'p', 'm', false, 200, '[]', 1, 1, 0, 0.1)",
)


async def fill(database: Database, job_id: str) -> None:
    """Rows in the tables that `searched_job` leaves empty."""
    connection = await database.connect()
    try:
        for statement in FILL:
            await connection.execute(statement.replace("$1::bytea", "$1::text::bytea").replace("$1", f"'{job_id}'"))
    finally:
        await connection.close()


async def test_a_deleted_job_leaves_no_row_behind_and_no_other_job_is_touched(database: Database) -> None:
    doomed, kept = await searched_job(database), await searched_job(database)
    for job in (doomed, kept):
        await publish(job)
        await fill(database, job.job_id)
    before = await rows(database, kept.job_id)
    assert min(before.values()) > 0, before
    await job_service(database).delete(doomed.job_id)
    assert set((await rows(database, doomed.job_id)).values()) == {0}
    assert await rows(database, kept.job_id) == before


# --- at once ---------------------------------------------------------------------------------------------------------


async def at_once(*commands: Awaitable[Any]) -> list[Any]:
    """What came of each: its result, or the error that it has raised on purpose."""
    found = await asyncio.gather(*commands, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException) and not isinstance(each, JobConflict | JobNotFound | LeaseLost):
            raise each
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "name", "told"),
    [
        (JobStatus.PENDING, "start", STARTED),
        (JobStatus.QUEUED, "pause", PAUSED),
        (JobStatus.RUNNING, "pause", PAUSE_REQUESTED),
        (JobStatus.PAUSED, "resume", RESUMED),
        (JobStatus.QUEUED, "cancel", CANCELLED),
        (JobStatus.RUNNING, "cancel", CANCEL_REQUESTED),
    ],
)
async def test_a_command_that_comes_twenty_times_at_once_is_carried_out_and_told_once(
    database: Database, status: JobStatus, name: str, told: str
) -> None:
    service, job_id = job_service(database), await a_job(database, status)
    before = await types(database, job_id)
    found = await at_once(*(getattr(service, name)(job_id) for _ in range(20)))
    assert len({row.status for row in found}) == 1
    assert await types(database, job_id) == [*before, told]


@pytest.mark.slow
async def test_of_twenty_deletions_at_once_one_deletes(database: Database) -> None:
    job = await searched_job(database)
    await publish(job)
    found = await at_once(*(job_service(database).delete(job.job_id) for _ in range(20)))
    assert sorted(type(each).__name__ for each in found) == ["JobNotFound"] * 19 + ["NoneType"]


async def test_a_pause_and_a_claim_at_once_have_one_winner(database: Database) -> None:
    service, connection = job_service(database), await database.connect()
    for _ in range(10):
        job_id = await created_job(database)
        row, claim = await asyncio.gather(service.pause(job_id), claim_next(connection, "worker-1", 60.0))
        if claim is None:
            assert row.status is JobStatus.PAUSED
        else:
            assert row.status is JobStatus.RUNNING
            assert row.pause_requested_at is not None
            assert await park(connection, "worker-1", {job_id: claim.epoch}) == {job_id: "paused"}
    await connection.close()


@pytest.mark.slow
async def test_a_cancel_and_a_pause_at_once_leave_the_job_to_be_cancelled(database: Database) -> None:
    service = job_service(database)
    for status in (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED):
        for _ in range(4):
            job_id = await a_job(database, status)
            await at_once(service.pause(job_id), service.cancel(job_id), service.resume(job_id))
            row = await service.get(job_id)
            assert row.status is not JobStatus.PAUSED
            assert row.status is JobStatus.CANCELLED or row.cancel_requested_at is not None
            assert row.pause_requested_at is row.paused_at is None
            if row.status is JobStatus.QUEUED:
                assert (await claimed(database)).is_cancel_requested


@pytest.mark.slow
async def test_a_deletion_and_the_publish_at_once_leave_a_whole_job_or_none(database: Database) -> None:
    async def published(job: RunningJob) -> None:
        connection: asyncpg.Connection = await database.connect()
        try:
            await end_job(connection, job.job_id, job.epoch, END)
        finally:
            await connection.close()

    for _ in range(8):
        job = await searched_job(database)
        _, deleted = await at_once(published(job), job_service(database).delete(job.job_id))
        if isinstance(deleted, JobConflict):
            assert (await job_service(database).get(job.job_id)).status is JobStatus.SUCCEEDED
            assert (await types(database, job.job_id))[-1] == END.event_type
        else:
            assert set((await rows(database, job.job_id)).values()) == {0}


Command = Callable[[str], Awaitable[Any]]


@pytest.mark.slow
async def test_any_mix_of_commands_at_once_leaves_a_job_in_order(database: Database) -> None:
    """With a worker that claims and parks; deadlocks and lost events would show."""
    service = job_service(database)
    commands: list[Command] = [service.pause, service.resume, service.start, service.cancel, service.delete]

    async def work() -> None:
        connection = await database.connect()
        try:
            for _ in range(5):
                claim = await claim_next(connection, "worker-1", 60.0)
                if claim is not None:
                    await park(connection, "worker-1", {claim.job_id: claim.epoch})
        finally:
            await connection.close()

    for round_ in range(6):
        job_id = await created_job(database, auto_start=round_ % 2 == 0)
        await at_once(work(), *(command(job_id) for command in commands * 3))
        left = await rows(database, job_id)
        if left["jobs"]:
            await types(database, job_id)
        else:
            assert set(left.values()) == {0}
