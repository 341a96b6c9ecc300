"""Jobs and events in Postgres: creation, numbering, pages, and who wins against a worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from promptjobs.db import events, jobs
from promptjobs.db.jobs import JobFilter, JobStatus
from promptjobs.db.leases import claim_next, park
from promptjobs.db.secrets import open_task_app_key
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from promptjobs.errors import DatabaseUnavailable, InvalidRequest, JobConflict, JobNotFound
from tests.fakes.recorded_jobs import TASK_APP_KEY, VAULT, created_job, job_service, publish, running_job, searched_job

UNKNOWN = "pl_" + "0" * 32


@asynccontextmanager
async def heard(database: Database, channel: str) -> AsyncIterator[asyncio.Queue[str]]:
    """A queue of what is notified on `channel` in the block."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    connection = await database.connect()
    await connection.add_listener(channel, lambda *told: queue.put_nowait(told[-1]))
    try:
        yield queue
    finally:
        await connection.close()


async def stream(database: Database, job_id: str) -> list[tuple[int, str]]:
    async with reading(database) as connection:
        return [(row.seq, row.type) for row in await events.read_after(connection, job_id, 0, 1000)]


async def test_creation_stores_the_job_and_its_first_event_and_notifies(database: Database) -> None:
    async with heard(database, events.EVENTS_CHANNEL) as readers, heard(database, events.JOBS_CHANNEL) as workers:
        job_id = await created_job(database)
        assert [await readers.get(), await workers.get()] == [job_id, job_id]
    assert await stream(database, job_id) == [(1, "prompt.learning.created")]
    async with reading(database) as connection:
        row = await jobs.read(connection, job_id)
        key = (await connection.execute(text("SELECT task_app_key FROM jobs"))).scalar_one()
    assert (row.status, row.last_seq) == (JobStatus.QUEUED, 1)
    opened = open_task_app_key(VAULT, key, job_id)
    assert opened is not None
    assert TASK_APP_KEY not in key
    assert opened.get_secret_value() == TASK_APP_KEY


async def test_concurrent_writers_number_events_without_a_gap(database: Database) -> None:
    job_id = await created_job(database)

    async def write(writer: int) -> list[int]:
        numbers = []
        for i in range(10):
            async with writing(database) as connection:
                numbers.append(await events.append(connection, job_id, "some.event", f"{writer}.{i}", {}))
        return numbers

    allocated = await asyncio.gather(*(write(writer) for writer in range(8)))
    assert sorted(seq for numbers in allocated for seq in numbers) == list(range(2, 82))
    assert [seq for seq, _ in await stream(database, job_id)] == list(range(1, 82))


async def test_an_event_of_a_transaction_that_fails_takes_no_number(database: Database) -> None:
    job_id = await created_job(database)

    async def fail_after_an_event() -> None:
        async with writing(database) as connection:
            await events.append(connection, job_id, "some.event", "never", {})
            raise RuntimeError("defect")

    with pytest.raises(RuntimeError, match="defect"):
        await fail_after_an_event()
    async with writing(database) as connection:
        assert await events.append(connection, job_id, "some.event", "kept", {}) == 2


async def test_a_page_behind_a_cursor_is_the_same_while_jobs_are_added(database: Database) -> None:
    made = [await created_job(database) for _ in range(5)]
    async with reading(database) as connection:
        first = [row.id for row in await jobs.read_page(connection, JobFilter("default", limit=2))]
        before = [row.id for row in await jobs.read_page(connection, JobFilter("default", limit=2, after=first[-1]))]
    newer = await created_job(database)
    async with reading(database) as connection:
        after = [row.id for row in await jobs.read_page(connection, JobFilter("default", limit=2, after=first[-1]))]
        newest = [row.id for row in await jobs.read_page(connection, JobFilter("default", limit=1))]
    assert first + before == made[:0:-1]
    assert (after, newest) == (before, [newer])


async def test_a_page_is_filtered_by_status_algorithm_and_time(database: Database) -> None:
    running = await running_job(database)
    queued = await created_job(database)
    async with reading(database) as connection:
        since = (await jobs.read(connection, queued)).created_at

        async def ids(**wanted: object) -> list[str]:
            return [row.id for row in await jobs.read_page(connection, JobFilter("default", limit=9, **wanted))]  # type: ignore[arg-type]

        assert await ids(status=JobStatus.RUNNING) == [running.job_id]
        assert await ids(algorithm="mipro") == []
        assert await ids(since=since) == [queued]
        assert await ids(offset=1) == [running.job_id]
        with pytest.raises(InvalidRequest, match="there is no job"):
            await ids(after=UNKNOWN)


async def test_a_page_is_of_one_organisation_and_so_is_its_cursor(database: Database) -> None:
    ours, theirs = await created_job(database), await created_job(database, organisation="other")
    async with reading(database) as connection:

        async def ids(organisation: str, after: str | None = None) -> list[str]:
            return [row.id for row in await jobs.read_page(connection, JobFilter(organisation, 9, after))]

        assert (await ids("default"), await ids("other"), await ids("nobody")) == ([ours], [theirs], [])
        with pytest.raises(InvalidRequest, match="there is no job"):
            await ids("default", after=theirs)


@pytest.mark.parametrize("auto_start", [True, False])
async def test_a_job_that_no_worker_has_had_is_cancelled_at_once(database: Database, auto_start: bool) -> None:
    job_id = await created_job(database, auto_start=auto_start)
    service = job_service(database)
    first = await service.cancel(job_id, "wrong data")
    again = await service.cancel(job_id, "once more")
    assert (first.status, first.finish_reason) == (JobStatus.CANCELLED, "cancelled")
    assert first.finished_at is not None
    assert again == first
    assert await stream(database, job_id) == [(1, "prompt.learning.created"), (2, "prompt.learning.gepa.cancelled")]


async def test_a_running_job_is_asked_to_end_once(database: Database) -> None:
    job = await running_job(database)
    service = job_service(database)
    async with heard(database, events.JOBS_CHANNEL) as workers:
        first = await service.cancel(job.job_id, "too slow")
        assert await workers.get() == job.job_id
    again = await service.cancel(job.job_id)
    assert first.status is JobStatus.RUNNING
    assert first.cancel_requested_at is not None
    assert first.cancel_requested_at == again.cancel_requested_at
    assert [kind for _, kind in await stream(database, job.job_id)] == [
        "prompt.learning.created",
        "prompt.learning.cancel.requested",
    ]
    await job.write()


async def test_a_job_that_was_handed_over_is_left_to_its_next_worker(database: Database) -> None:
    """It has results, which only a worker can publish."""
    job = await searched_job(database)
    connection = await database.connect()
    assert await park(connection, "worker-1", {job.job_id: job.epoch}) == {job.job_id: JobStatus.QUEUED}
    row = await job_service(database).cancel(job.job_id)
    assert row.status is JobStatus.QUEUED
    claim = await claim_next(connection, "worker-2", 60.0)
    await connection.close()
    assert claim is not None
    assert claim.is_cancel_requested


async def test_a_cancel_and_a_claim_at_once_have_one_winner(database: Database) -> None:
    service = job_service(database)
    connection = await database.connect()
    for _ in range(10):
        job_id = await created_job(database)
        row, claim = await asyncio.gather(service.cancel(job_id), claim_next(connection, "worker-1", 60.0))
        if claim is None:
            assert row.status is JobStatus.CANCELLED
        else:
            assert row.status is JobStatus.RUNNING
            assert row.cancel_requested_at is not None
    await connection.close()


async def test_a_finished_job_stays_as_it_is(database: Database) -> None:
    job = await searched_job(database)
    await publish(job)
    service = job_service(database)
    before = await service.get(job.job_id)
    assert await service.cancel(job.job_id) == before
    with pytest.raises(JobConflict, match="it cannot be started"):
        await service.start(job.job_id)


async def test_a_pending_job_waits_until_it_is_started(database: Database) -> None:
    job_id = await created_job(database, auto_start=False)
    connection = await database.connect()
    assert await claim_next(connection, "worker-1", 60.0) is None
    started = await job_service(database).start(job_id)
    claim = await claim_next(connection, "worker-1", 60.0)
    await connection.close()
    assert started.status is JobStatus.QUEUED
    assert claim is not None
    assert claim.job_id == job_id
    assert (await job_service(database).start(job_id)).status is JobStatus.RUNNING


async def test_an_unknown_job_is_not_found(database: Database) -> None:
    service = job_service(database)
    for ask in (service.get, service.cancel, service.start, service.config):
        with pytest.raises(JobNotFound):
            await ask(UNKNOWN)


async def test_a_lost_connection_is_told_as_such_and_the_next_one_works(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with reading(database) as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    async with reading(database) as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_database_that_does_not_answer_is_unavailable() -> None:
    nowhere = Database.open("postgresql://127.0.0.1:1/nothing")
    with pytest.raises(DatabaseUnavailable):
        async with writing(nowhere):
            pass
    await nowhere.close()
