"""Of an experiment's jobs at most so many run at a time, whoever claims them, in the order of their positions."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from promptjobs.db import experiments, job_commands, leases
from promptjobs.db.experiments import ExperimentStatus, NewExperiment
from promptjobs.db.job_commands import NewJob, Place
from promptjobs.db.leases import Claim
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from promptjobs.errors.experiments import ExperimentConflict, ExperimentNotFound, JobInExperiment
from tests.fakes.queued_jobs import queued_job

numbers = itertools.count(1)


def new_job(place: Place | None = None) -> NewJob:
    return queued_job(f"pl_{next(numbers):032x}", place)


async def new_experiment(database: Database, parallelism: int, jobs: int) -> tuple[str, list[str]]:
    """Its id, and those of its jobs."""
    experiment_id = f"exp_{next(numbers):032x}"
    made = [new_job(Place(experiment_id, at, f"job {at}", "all", "{}")) for at in range(1, jobs + 1)]
    async with writing(database) as connection:
        await experiments.create(
            connection, NewExperiment(experiment_id, "default", "a test", None, parallelism, "{}", "{}")
        )
        for job in made:
            await job_commands.create(connection, job)
    return experiment_id, [job.id for job in made]


@asynccontextmanager
async def connected(database: Database, count: int = 1) -> AsyncIterator[Sequence[asyncpg.Connection]]:
    connections = [await database.connect() for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            await connection.close()


async def claim(connection: asyncpg.Connection) -> Claim | None:
    return await leases.claim_next(connection, "a worker", 60.0)


async def end(connection: asyncpg.Connection, job_id: str, status: str = "succeeded") -> None:
    await connection.execute(
        "UPDATE jobs SET status = $2, finished_at = clock_timestamp() WHERE id = $1", job_id, status
    )


async def status_of(database: Database, experiment_id: str) -> ExperimentStatus:
    async with reading(database) as connection:
        return (await experiments.read(connection, experiment_id)).status


async def test_jobs_of_an_experiment_are_claimed_in_order_as_far_as_there_are_places(database: Database) -> None:
    _, jobs = await new_experiment(database, 2, 5)
    async with writing(database) as connection:
        alone = new_job()
        await job_commands.create(connection, alone)
    async with connected(database) as [connection]:
        claimed = [await claim(connection) for _ in range(4)]
        assert [each and each.job_id for each in claimed] == [jobs[0], jobs[1], alone.id, None]
        await end(connection, jobs[1], "failed")
        again = [await claim(connection) for _ in range(2)]
        assert [each and each.job_id for each in again] == [jobs[2], None]


async def test_workers_that_claim_at_the_same_time_never_exceed_the_parallelism(database: Database) -> None:
    experiment_id, jobs = await new_experiment(database, 3, 24)
    running = "SELECT count(*) FROM jobs WHERE experiment_id = $1 AND status = 'running'"
    ended: list[str] = []
    most = 0

    async def work(connection: asyncpg.Connection) -> None:
        nonlocal most
        while len(ended) < len(jobs):
            held = await claim(connection)
            most = max(most, await connection.fetchval(running, experiment_id))
            if held is not None:
                await end(connection, held.job_id)
                ended.append(held.job_id)

    async with connected(database, 8) as connections, asyncio.timeout(30):
        await asyncio.gather(*map(work, connections))
    assert sorted(ended) == jobs
    assert most <= 3
    assert await status_of(database, experiment_id) is ExperimentStatus.COMPLETED


async def test_a_place_cannot_be_taken_twice_whatever_writes_it(database: Database) -> None:
    _, jobs = await new_experiment(database, 2, 2)
    async with connected(database) as [connection]:
        first = await claim(connection)
        assert first is not None
        assert first.job_id == jobs[0]
        taken = await connection.fetchval("SELECT experiment_slot FROM jobs WHERE id = $1", jobs[0])
        run = "UPDATE jobs SET status = 'running', experiment_slot = $2 WHERE id = $1"
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(run, jobs[1], taken)
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(run, jobs[1], None)


async def test_jobs_of_full_experiments_keep_nobody_from_later_ones(database: Database) -> None:
    ahead = [await new_experiment(database, 1, 5) for _ in range(3)]
    _, last = await new_experiment(database, 2, 2)
    async with connected(database) as [connection]:
        claimed = [await claim(connection) for _ in range(6)]
    firsts = [jobs[0] for _, jobs in ahead]
    assert [each and each.job_id for each in claimed] == [*firsts, *last, None]


async def test_an_experiment_whose_jobs_had_all_succeeded_before_the_cancel_reached_them_is_complete(
    database: Database,
) -> None:
    experiment_id, jobs = await new_experiment(database, 2, 2)
    async with connected(database) as [connection]:
        for _ in jobs:
            await claim(connection)
        async with writing(database) as writer:
            await experiments.cancel(writer, experiment_id, None)
        for job_id in jobs:
            await end(connection, job_id)
    assert await status_of(database, experiment_id) is ExperimentStatus.COMPLETED


async def test_a_job_whose_worker_has_died_gets_its_place_back_before_later_ones(database: Database) -> None:
    _, jobs = await new_experiment(database, 1, 3)
    async with connected(database) as [connection]:
        await claim(connection)
        late = "UPDATE jobs SET lease_until = clock_timestamp() - interval '1 s' WHERE id = $1"
        await connection.execute(late, jobs[0])
        assert await leases.reap(connection) == [jobs[0]]
        again = await claim(connection)
        assert again is not None
        assert again.job_id == jobs[0]


async def test_a_cancelled_job_needs_no_place_to_publish_what_it_has(database: Database) -> None:
    experiment_id, jobs = await new_experiment(database, 1, 3)
    async with connected(database) as [connection]:
        await claim(connection)
        await connection.execute(
            "UPDATE jobs SET cancel_requested_at = clock_timestamp(), started_at = clock_timestamp() WHERE id = $1",
            jobs[2],
        )
        held = await claim(connection)
        assert held is not None
        assert (held.job_id, held.is_cancel_requested) == (jobs[2], True)
        assert await claim(connection) is None
    async with writing(database) as writer:
        await experiments.cancel(writer, experiment_id, "enough")
    async with connected(database) as [connection]:
        rows = await connection.fetch("SELECT status FROM jobs ORDER BY experiment_position")
        assert [row["status"] for row in rows] == ["running", "cancelled", "running"]
        assert await status_of(database, experiment_id) is ExperimentStatus.RUNNING
        for job_id in (jobs[0], jobs[2]):
            await end(connection, job_id, "cancelled")
    assert await status_of(database, experiment_id) is ExperimentStatus.CANCELLED


async def test_an_experiment_is_deleted_with_its_jobs_once_all_are_over(database: Database) -> None:
    experiment_id, jobs = await new_experiment(database, 2, 2)
    async with connected(database) as [connection]:
        await end(connection, jobs[0])
        with pytest.raises(ExperimentConflict, match="is queued"):
            async with writing(database) as writer:
                await experiments.remove(writer, experiment_id)
        with pytest.raises(JobInExperiment):
            async with writing(database) as writer:
                await job_commands.remove(writer, jobs[0])
        await end(connection, jobs[1], "failed")
        async with writing(database) as writer:
            await experiments.remove(writer, experiment_id)
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 0
    with pytest.raises(ExperimentNotFound):
        await status_of(database, experiment_id)
