"""Postgres is killed, alone or with the service: clients wait for seconds, and jobs go on where they were."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from promptjobs.db.migrate import migrate
from promptjobs.db.session import Database
from tests.acceptance.client import JOBS, Api, config
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import FaultyModel
from tests.acceptance.runs import FIXED, LANES, SLOTS, Found, Killing, assert_whole, column, found_by
from tests.acceptance.service import KillablePostgres, Ports, Processes, killable_postgres, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LONGEST_OUTAGE_SECONDS = 30.0
KILLS = 2


@pytest.fixture
def own_postgres() -> Iterator[KillablePostgres]:
    with killable_postgres() as own:
        yield own


@pytest.fixture
async def own_database(own_postgres: KillablePostgres) -> AsyncIterator[Database]:
    database = Database.open(own_postgres.url)
    await migrate(database)
    yield database
    await database.close()


@dataclass
class Watch:
    """Asks the service for its jobs again and again. longest: how long it answered nothing but 5xx, in seconds."""

    api: Api
    statuses: set[int] = field(default_factory=set)
    longest: float = 0.0

    async def __aenter__(self) -> "Watch":
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        last_good = clock()
        while True:
            status = (await self.api.http.get(JOBS, params={"limit": 1})).status_code
            self.statuses.add(status)
            self.longest = max(self.longest, clock() - last_good)
            if status < 500:
                last_good = clock()


async def killed_again_and_again(postgres: KillablePostgres, app: FaultyApp) -> None:
    for _ in range(KILLS):
        await app.visited(len(app.visits) + random.randint(1, 30))
        postgres.kill()
        await asyncio.to_thread(postgres.start)


async def test_jobs_outlive_a_killed_database_and_find_the_same(
    own_postgres: KillablePostgres, own_database: Database, task_app, ports: Ports, model: FaultyModel,
    undisturbed: Found, tmp_path: Path,
):  # fmt: skip
    app: FaultyApp = await task_app()
    processes = Processes(settings(own_postgres.url, ports), tmp_path)
    try:
        service = await processes.serve()
        async with Api.at(service.url) as api, Watch(api) as watch:
            job_id = await api.submit(config(ports.task_app_url, FIXED))
            await killed_again_and_again(own_postgres, app)
            await assert_whole(api, own_database, job_id)
            assert await found_by(api, job_id) == undisturbed
            assert await column(own_database, "epoch", [job_id]) == [1], "its worker kept it"
        assert watch.statuses == {200, 503}
        assert watch.longest <= LONGEST_OUTAGE_SECONDS
        assert model.repeated() == 0, "no process died, so nothing was paid twice"
    finally:
        processes.end()


async def test_jobs_outlive_the_whole_machine_and_find_the_same(
    own_postgres: KillablePostgres, own_database: Database, task_app, ports: Ports, model: FaultyModel,
    undisturbed: Found, tmp_path: Path,
):  # fmt: skip
    """The service with its embedded database: both are killed at the same moment, and only the service is started."""
    app: FaultyApp = await task_app()
    variables = settings("", ports, data_dir=own_postgres.data_dir.parent, lease_seconds=2)
    del variables["PROMPTJOBS_DATABASE_URL"]
    processes = Processes(variables, tmp_path)
    try:
        service = await processes.serve()
        async with Api.at(service.url) as api:
            job_id = await api.submit(config(ports.task_app_url, FIXED))
        run = Killing(processes, own_database, app, model, job_id, service)
        for _ in range(KILLS):
            await app.visited(len(app.visits) + random.randint(1, 30))
            run.service.kill()
            own_postgres.kill()
            run.service = await processes.serve()
        async with Api.at(run.service.url) as api:
            await assert_whole(api, own_database, job_id)
            assert await found_by(api, job_id) == undisturbed
        assert model.repeated() <= KILLS * (SLOTS + LANES)
    finally:
        processes.end()
