"""The stream of an experiment, whatever fails around it: nothing is lost, and nobody is held up."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import httpx
import pytest
from sqlalchemy import text

from promptjobs.api.app import EXPERIMENTS_PATH, create_app
from promptjobs.api.experiment_channel import cursor_text
from promptjobs.api.sse import StreamTiming
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.telemetry.metrics import REGISTRY
from tests.fakes.experiment_streams import Http, Running, all_of, keys, reading, whole, written_experiment
from tests.fakes.recorded_jobs import job_service
from tests.fakes.served import Served, served

pytestmark = pytest.mark.slow

QUICK = StreamTiming(terminal_delay=0.05, read_seconds=0.0)
NEVER = 3600.0

Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(database: Database) -> Serve:
    def app(timing: StreamTiming = QUICK) -> AbstractAsyncContextManager[Served]:
        return served(create_app(database=database, service=job_service(database), timing=timing))

    return app


@pytest.fixture
async def three(database: Database) -> Running:
    return await written_experiment(database, 3)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


async def silently(three: Running, position: int, *, is_end: bool = False) -> None:
    """An event whose notification is lost. is_end: the job's last one, together with its status."""
    async with writing(three.database) as connection:
        await connection.execute(
            text(
                "WITH j AS (UPDATE jobs SET last_seq = last_seq + 1, status = CASE WHEN :is_end THEN 'succeeded' "
                "ELSE status END WHERE id = :job RETURNING last_seq) "
                "INSERT INTO events(job_id, seq, type, message, level, data) "
                "SELECT :job, last_seq, :type, 'silent', 'info', '{}' FROM j"
            ),
            {
                "job": three.jobs[position - 1],
                "type": "prompt.learning.gepa.complete" if is_end else "some.event",
                "is_end": is_end,
            },
        )


async def test_lost_notifications_are_repaired_by_the_sweep(serve: Serve, http: Http, three: Running) -> None:
    async with serve(StreamTiming(sweep=0.05, terminal_delay=0.0)) as here, reading(http, here, three) as stream:
        assert len([await anext(stream) for _ in range(3)]) == 3
        await silently(three, 2)
        assert (await anext(stream)).event["message"] == "silent"
        for position in (1, 2, 3):
            await silently(three, position, is_end=True)
        *rest, last = [each async for each in stream]
    assert sorted(keys(rest)) == [(1, 2), (2, 3), (3, 2)]
    assert last.event["status"] == "completed"


@pytest.mark.parametrize(
    "victims", ["application_name = 'promptjobs-events'", "true"], ids=["the listener", "everyone"]
)
async def test_a_lost_connection_is_opened_again(serve: Serve, http: Http, three: Running, victims: str) -> None:
    """What was notified meanwhile is looked for, the end too: here everything, as there is no sweep."""
    timing = StreamTiming(sweep=NEVER, retry_least=0.05, retry_most=0.1, terminal_delay=0.0)
    async with serve(timing) as here, reading(http, here, three) as stream:
        received = [await anext(stream) for _ in range(3)]
        await three.end(1, 2)
        received += [await anext(stream) for _ in range(2)]
        connection = await three.database.connect()
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {victims}"
        )
        await connection.close()
        await three.database.engine.dispose()  # our own connections were among them
        await silently(three, 3)
        received.append(await anext(stream))
        await three.end(3)
        received += [each async for each in stream]
    assert sorted(keys(received)) == whole(await three.last_seqs())
    assert received[-1].event["type"] == "experiment.completed"


async def test_a_stream_ends_when_its_experiment_is_deleted(serve: Serve, http: Http, three: Running) -> None:
    async with serve(StreamTiming(sweep=0.05)) as here, reading(http, here, three) as stream:
        assert len([await anext(stream) for _ in range(3)]) == 3
        async with writing(three.database) as connection:
            for table in ("events", "jobs", "experiments"):
                await connection.execute(text(f"DELETE FROM {table}"))
        assert [each.event async for each in stream] == []


async def test_an_experiment_that_is_over_and_read_can_be_deleted(serve: Serve, http: Http, three: Running) -> None:
    await three.end_all()
    async with serve() as here, reading(http, here, three) as stream:
        assert (await anext(stream)).event["seq"] == 1
        url = f"{here.base_url}{EXPERIMENTS_PATH}/{three.experiment_id}"
        assert (await http.delete(url)).status_code == 204
        assert (await http.get(here.base_url + three.path)).status_code == 404
        async with asyncio.timeout(10):
            assert {each.event.get("experiment_id") async for each in stream} <= {three.experiment_id}


async def test_a_notification_needs_no_sweep_and_other_jobs_are_not_told(
    serve: Serve, http: Http, three: Running
) -> None:
    other = await written_experiment(three.database, 1)
    async with serve(StreamTiming(sweep=NEVER)) as here, reading(http, here, three) as stream:
        assert len([await anext(stream) for _ in range(3)]) == 3
        async with asyncio.timeout(5):
            await other.write(1, 3)
            await three.write(2)
            assert (await anext(stream)).event["job_id"] == three.jobs[1]


@pytest.mark.slow
async def test_a_reader_who_takes_nothing_is_disconnected_and_holds_up_nobody(
    serve: Serve, http: Http, three: Running
) -> None:
    async with serve(StreamTiming(stall=0.3, terminal_delay=0.0, read_seconds=0.0)) as here:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect(("127.0.0.1", here.port))
        reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
        writer.write(f"GET {three.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b"200 OK" in await reader.readline()
        # The server's side of the connection takes a few megabytes; the rest has to wait for the reader.
        for _ in range(10):
            await three.write(2, 10, padding="x" * 100_000)
        async with reading(http, here, three) as stream:
            assert len([await anext(stream) for _ in range(103)]) == 103
        async with asyncio.timeout(20):
            while REGISTRY.get_sample_value("promptjobs_sse_clients"):
                assert (await http.get(f"{here.base_url}/healthz")).status_code == 200
        writer.close()


async def test_streams_end_when_the_server_stops(serve: Serve, http: Http, three: Running) -> None:
    async with serve() as here, reading(http, here, three) as stream:
        assert len([await anext(stream) for _ in range(3)]) == 3
        async with asyncio.timeout(5):
            await here.stop()
            assert [each async for each in stream] == []


async def test_an_experiment_that_nobody_reads_is_forgotten(http: Http, database: Database, three: Running) -> None:
    app = create_app(database=database, service=job_service(database), timing=QUICK)
    streams = app.api.state.hub.experiments
    async with served(app) as here:
        await three.end_all()
        assert len(await all_of(http, here, three)) == 7
        assert (streams._channels, streams._experiments) == ({}, {})


@asynccontextmanager
async def away(database: Database) -> AsyncIterator[None]:
    """No connection to the database survives, and none can be made, until the end of the block."""
    name = str(database.engine.url.database)
    home = await asyncpg.connect(
        database.engine.url.set(database="promptjobs", drivername="postgresql").render_as_string(False)
    )
    try:
        await home.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await home.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await home.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await home.close()


@pytest.mark.slow
async def test_an_outage_of_the_database_ends_no_stream(serve: Serve, http: Http, three: Running) -> None:
    """Neither of one who waits for what happens, nor of one who is in the middle of a long history."""
    for position in (1, 2, 3):
        await three.write(position, 60, padding="x" * 100_000)
    timing = StreamTiming(sweep=0.05, retry_least=0.05, retry_most=0.1, terminal_delay=0.0)
    cursor = cursor_text(await three.last_seqs())
    async with (
        serve(timing) as here,
        reading(http, here, three, params={"cursor": cursor}) as live,
        reading(http, here, three) as late,
    ):
        received = [await anext(late)]
        await three.write(1)
        waited = [await anext(live)]
        async with away(three.database):
            refused = await http.get(here.base_url + three.path)
            assert refused.status_code == 503
            received += [await anext(late) for _ in range(30)]
        await three.end_all()
        received += [each async for each in late]
        waited += [each async for each in live]
    assert sorted(keys(received)) == whole(await three.last_seqs())
    assert sorted(keys(waited)) == [(1, 62), (1, 63), (2, 62), (3, 62)]
    assert received[-1].event == waited[-1].event
