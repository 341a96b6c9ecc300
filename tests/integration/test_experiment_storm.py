"""Workers, reapers and users at the same jobs at once: no place is taken twice, nobody waits for others in a circle.

Two wait so where they lock the same jobs in different orders. The database ends one of them with an error that nothing
here takes for an answer.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import asyncpg
import pytest

from promptjobs.db import experiments, job_commands, leases
from promptjobs.db.experiments import NewExperiment
from promptjobs.db.job_commands import NewJob, Place
from promptjobs.db.publishing import Ending, end_job
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.errors import JobConflict, JobNotFound, LeaseLost
from promptjobs.errors.experiments import ExperimentConflict, ExperimentNotFound
from tests.fakes.queued_jobs import queued_job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

EXPERIMENTS, JOBS, WORKERS, HELD, USERS = 6, 10, 6, 3, 4
WISHES = 40
"""Of each user."""

DEAD, ALIVE = 0.0, 60.0
"""Leases in seconds: of a worker that dies at once, and of one that lives."""

TOO_MANY = """
SELECT e.id, e.parallelism, count(*) FROM experiments e JOIN jobs j ON j.experiment_id = e.id
WHERE j.status = 'running' AND j.cancel_requested_at IS NULL GROUP BY e.id HAVING count(*) > e.parallelism"""

PLACELESS = """
SELECT id FROM jobs WHERE status = 'running' AND experiment_id IS NOT NULL AND experiment_slot IS NULL
AND cancel_requested_at IS NULL"""

numbers = itertools.count(1)
ENDED = Ending("succeeded", "budget", None, "prompt.learning.gepa.complete", "done", {}, {})


def new_job(place: Place) -> NewJob:
    return queued_job(f"pl_{10**9 - next(numbers):032}", place)


async def new_experiment(database: Database, parallelism: int) -> tuple[str, list[str]]:
    """Its id, and those of its jobs, whose order by id is the reverse of their positions."""
    experiment_id = f"exp_{next(numbers)}"
    made = [new_job(Place(experiment_id, at, f"job {at}", "all", "{}")) for at in range(1, JOBS + 1)]
    async with writing(database) as connection:
        new = NewExperiment(experiment_id, "default", "a test", None, parallelism, "{}", "{}")
        await experiments.create(connection, new)
        for job in made:
            await job_commands.create(connection, job)
    return experiment_id, [job.id for job in made]


class Storm:
    """All that happens. is_over: the users have gone, and every job has come to its end."""

    def __init__(self, database: Database, rng: random.Random) -> None:
        self.database, self.rng = database, rng
        self.jobs: dict[str, list[str]] = {}
        self.granted: Counter[str] = Counter()
        self.are_users_gone = self.is_over = False

    async def add(self, parallelism: int) -> None:
        experiment_id, jobs = await new_experiment(self.database, parallelism)
        self.jobs[experiment_id] = jobs

    async def work(self, connection: asyncpg.Connection, name: str) -> None:
        """Claim several jobs; keep them, and end each, hand it over, or die over it."""
        while not self.is_over:
            claims = [await leases.claim_next(connection, name, self.rng.choice((DEAD, ALIVE))) for _ in range(HELD)]
            held = {claim.job_id: claim.epoch for claim in claims if claim is not None}
            if not held:
                self.is_over = self.are_users_gone and not await connection.fetchval(
                    "SELECT 1 FROM jobs WHERE status IN ('queued', 'running') LIMIT 1"
                )
            await leases.heartbeat(connection, name, held, self.rng.choice((DEAD, ALIVE)))
            parked = {job_id: epoch for job_id, epoch in held.items() if self.rng.random() < 0.4}
            await leases.park(connection, name, parked)
            for job_id, epoch in held.items():
                if self.rng.random() < 0.7:
                    with suppress(LeaseLost):
                        await end_job(connection, job_id, epoch, ENDED)
            await leases.heartbeat(connection, name, held, DEAD)

    async def reap(self, connection: asyncpg.Connection) -> None:
        while not self.is_over:
            await leases.reap(connection)

    async def watch(self, connection: asyncpg.Connection) -> None:
        while not self.is_over:
            assert await connection.fetch(TOO_MANY) == []
            assert await connection.fetch(PLACELESS) == []

    async def use(self) -> None:
        """Pause, resume and cancel jobs and experiments, delete those that are over, and make others in their stead."""
        for _ in range(WISHES):
            experiment_id = self.rng.choice(list(self.jobs))
            job_id = self.rng.choice(self.jobs[experiment_id])
            match self.rng.choices(("pause", "resume", "cancel job", "cancel", "delete"), (6, 6, 2, 1, 3))[0]:
                case "pause":
                    await self._wish("pause", job_commands.pause, job_id)
                case "resume":
                    await self._wish("resume", job_commands.resume, job_id)
                case "cancel job":
                    await self._wish("cancel job", job_commands.cancel, job_id, None)
                case "cancel":
                    await self._wish("cancel", experiments.cancel, experiment_id, "enough")
                case _:
                    if await self._wish("delete", experiments.remove, experiment_id):
                        del self.jobs[experiment_id]
                        await self.add(self.rng.randint(1, EXPERIMENTS))

    async def _wish(self, name: str, command: Callable[..., Awaitable[None]], *of: str | None) -> bool:
        """Whether it was granted. What another user did first may forbid it, or have deleted what it is of."""
        with suppress(JobConflict, JobNotFound, ExperimentConflict, ExperimentNotFound):
            async with writing(self.database) as connection:
                await command(connection, *of)
            self.granted[name] += 1
            return True
        return False

    async def go_home(self) -> None:
        """The users resume what they have paused."""
        for jobs in list(self.jobs.values()):
            for job_id in jobs:
                await self._wish("resume", job_commands.resume, job_id)
        self.are_users_gone = True


@pytest.mark.parametrize("seed", range(2))
async def test_no_experiment_exceeds_its_places_in_a_storm_of_claims_deaths_and_wishes(
    database: Database, seed: int
) -> None:
    storm = Storm(database, random.Random(seed))
    for parallelism in range(1, EXPERIMENTS + 1):
        await storm.add(parallelism)
    connections = [await database.connect() for _ in range(WORKERS + 3)]
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for n, connection in enumerate(connections[:WORKERS]):
                group.create_task(storm.work(connection, f"worker {n}"))
            for connection in connections[WORKERS : WORKERS + 2]:
                group.create_task(storm.reap(connection))
            group.create_task(storm.watch(connections[-1]))
            users = [group.create_task(storm.use()) for _ in range(USERS)]
            await asyncio.gather(*users)
            await storm.go_home()
        assert all(storm.granted[wish] for wish in ("pause", "resume", "cancel job", "cancel", "delete"))
    finally:
        for connection in connections:
            connection.terminate()


WAITING = """
DO $$ BEGIN FOR i IN 1..3000 LOOP
  PERFORM pg_stat_clear_snapshot();
  IF (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock') = {}
  THEN RETURN; END IF;
  PERFORM pg_sleep(0.01);
END LOOP; RAISE 'they do not wait'; END $$"""


@pytest.mark.parametrize(
    "command", [partial(experiments.cancel, reason="enough"), experiments.remove], ids=["cancel", "delete"]
)
async def test_a_command_locks_the_jobs_of_an_experiment_in_the_order_of_heartbeats(
    database: Database, command: Callable[..., Awaitable[None]]
) -> None:
    """Both are made to wait for the job with the lowest id, which is the last in the experiment."""
    experiment_id, jobs = await new_experiment(database, 2)
    first, last = jobs[0], jobs[-1]
    blocker, worker = [await database.connect() for _ in range(2)]
    try:
        query = (
            "UPDATE jobs SET status = 'running', worker_id = 'a worker', epoch = 1, experiment_slot = {} WHERE id = $1"
        )
        for slot, job_id in enumerate((first, last)):
            await worker.execute(query.format(slot), job_id)

        async def commanded() -> None:
            with suppress(ExperimentConflict):
                async with writing(database) as connection:
                    await command(connection, experiment_id)

        async with asyncio.timeout(60), blocker.transaction():
            await blocker.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", last)
            beating = asyncio.create_task(leases.heartbeat(worker, "a worker", {first: 1, last: 1}, ALIVE))
            await blocker.execute(WAITING.format(1))
            commanding = asyncio.create_task(commanded())
            await blocker.execute(WAITING.format(2))
        await commanding
        assert set(await beating) == {first, last}
    finally:
        for connection in (blocker, worker):
            connection.terminate()
