"""The shared connections: never more than allowed, handed on in order, and replaced when their state is unknown."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from promptjobs.db.connections import Connections
from promptjobs.db.journal import open_session
from promptjobs.db.session import Database
from promptjobs.errors import DatabaseUnavailable, LeaseLost
from tests.fakes.journaled import Journaled, new_job
from tests.fakes.searches import Evolving
from tests.fakes.worlds import HashWorld


class Opened:
    """Opens connections, and keeps them to be counted. Refuses as long as it is told to."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.all: list[asyncpg.Connection] = []
        self.refuses = 0

    async def connect(self) -> asyncpg.Connection:
        if self.refuses:
            self.refuses -= 1
            raise ConnectionRefusedError("nobody listens")
        self.all.append(await self.database.connect())
        return self.all[-1]


@pytest.fixture
async def opened(database: Database) -> AsyncIterator[Opened]:
    made = Opened(database)
    yield made
    for connection in made.all:
        connection.terminate()


async def backend(connections: Connections) -> int:
    async with connections.use() as connection:
        pid: int = await connection.fetchval("SELECT pg_backend_pid()")
    return pid


async def test_no_more_are_opened_than_allowed_and_no_more_than_needed(opened: Opened) -> None:
    connections = Connections(opened.connect, 3)
    assert len({await backend(connections) for _ in range(5)}) == 1
    pids = await asyncio.gather(*(backend(connections) for _ in range(40)))
    assert len(set(pids)) == len(opened.all) == 3


async def test_who_asks_first_is_served_first_whoever_used_a_connection_last(opened: Opened) -> None:
    connections = Connections(opened.connect, 1)
    served: list[str] = []

    async def ask(name: str, times: int) -> None:
        for _ in range(times):
            async with connections.use() as connection:
                served.append(name)
                await connection.fetchval("SELECT 1")

    await asyncio.gather(ask("greedy", 4), ask("b", 2), ask("c", 2))
    assert served == ["greedy", "b", "c", "greedy", "b", "c", "greedy", "greedy"]


async def test_each_connection_is_prepared_once(opened: Opened) -> None:
    prepared: list[asyncpg.Connection] = []

    async def prepare(connection: asyncpg.Connection) -> None:
        prepared.append(connection)

    connections = Connections(opened.connect, 2, prepare)
    await asyncio.gather(*(backend(connections) for _ in range(10)))
    assert prepared == opened.all


async def test_a_statement_that_is_refused_for_certain_leaves_the_connection_in_use(opened: Opened) -> None:
    connections = Connections(opened.connect, 1)
    pid = await backend(connections)
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with connections.use() as connection:
            await connection.execute("SELECT 1/0")
    assert await backend(connections) == pid


@pytest.mark.parametrize("error", [asyncpg.AdminShutdownError("gone"), OSError("cut"), LeaseLost("job")])
async def test_after_any_other_error_nobody_else_gets_the_connection(opened: Opened, error: Exception) -> None:
    connections = Connections(opened.connect, 1)
    pid = await backend(connections)
    with pytest.raises(type(error)):
        async with connections.use():
            raise error
    assert await backend(connections) != pid
    assert opened.all[0].is_closed()


async def test_a_query_that_is_cancelled_gives_its_place_back_but_not_its_connection(opened: Opened) -> None:
    connections = Connections(opened.connect, 1)
    pid = await backend(connections)
    under_way = asyncio.Event()

    async def sleep() -> None:
        async with connections.use() as connection:
            under_way.set()
            await connection.execute("SELECT pg_sleep(60)")

    sleeping = asyncio.create_task(sleep())
    await under_way.wait()
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert await backend(connections) != pid


async def test_a_connection_that_broke_while_idle_is_not_handed_out(opened: Opened) -> None:
    connections = Connections(opened.connect, 1)
    await backend(connections)
    lost = asyncio.Event()
    opened.all[0].add_termination_listener(lambda _: lost.set())
    opened.all[0].terminate()
    await lost.wait()
    await backend(connections)
    assert len(opened.all) == 2


async def test_what_persists_is_repeated_until_the_database_answers(opened: Opened) -> None:
    connections = Connections(opened.connect, 1, pause_seconds=0.001)
    opened.refuses = 5
    assert await connections.persist(lambda c: c.fetchval("SELECT 7")) == 7
    assert opened.refuses == 0
    opened.refuses = 1_000
    opened.all[0].terminate()
    with pytest.raises(DatabaseUnavailable, match="nobody listens"):
        await connections.persist(lambda c: c.fetchval("SELECT 7"))
    opened.refuses = 0
    with pytest.raises(asyncpg.SyntaxOrAccessError):
        await connections.persist(lambda c: c.execute("SELEC 7"))


async def test_closed_connections_are_closed_when_they_come_back(opened: Opened) -> None:
    connections = Connections(opened.connect, 2)
    await asyncio.gather(backend(connections), backend(connections))
    async with connections.use():
        connections.close()
        assert [connection.is_closed() for connection in opened.all].count(False) == 1
    assert all(connection.is_closed() for connection in opened.all)


async def test_many_jobs_share_a_few_connections_and_all_get_on_at_once(database: Database, opened: Opened) -> None:
    connections = Connections(opened.connect, 2, open_session)
    jobs = [
        Journaled(database, await new_job(database), lambda: Evolving(lanes=2, budget=20), shared=connections)
        for _ in range(10)
    ]
    claims = [await job.claim() for job in jobs]
    got_on: list[bool] = []

    async def run(n: int) -> None:
        await jobs[n].run(HashWorld(), claims[n])
        got_on.append(all(job.last is not None and job.last.writer.groups > 1 for job in jobs))

    async with asyncio.timeout(60):
        await asyncio.gather(*(run(n) for n in range(len(jobs))))
    assert got_on == [True] * len(jobs)
    assert len(opened.all) == 2
