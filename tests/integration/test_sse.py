"""The event stream over real HTTP: complete, in order, without repeats, whatever fails around it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.api.channel import RECENT_BYTES, RECENT_EVENTS, Channel, Frame
from promptjobs.api.sse import StreamTiming
from promptjobs.core.asks import EventFact
from promptjobs.db import events
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.telemetry.metrics import REGISTRY
from tests.fakes.recorded_jobs import RunningJob, job_service, publish, running_job
from tests.fakes.served import Received, Served, receive, served

QUICK = StreamTiming(terminal_delay=0.05, read_seconds=0.0)
NEVER = 3600.0

Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(database: Database) -> Serve:
    def app(timing: StreamTiming = QUICK) -> AbstractAsyncContextManager[Served]:
        return served(create_app(database=database, service=job_service(database), timing=timing))

    return app


@pytest.fixture
async def job(database: Database) -> RunningJob:
    return await running_job(database)


@asynccontextmanager
async def reading(here: Served, job: RunningJob, **request: Any) -> AsyncIterator[AsyncIterator[Received]]:
    url = f"{here.base_url}{JOBS_PATH}/{job.job_id}/events/stream"
    async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", url, **request) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield receive(response)


async def numbers(here: Served, job: RunningJob, **request: Any) -> list[int]:
    """All event numbers of a stream, to its end."""
    async with reading(here, job, **request) as stream:
        return [each.event["seq"] async for each in stream]


async def first_numbers(here: Served, job: RunningJob, count: int, **request: Any) -> list[int]:
    async with reading(here, job, **request) as stream:
        return [(await anext(stream)).event["seq"] for _ in range(count)]


async def write(job: RunningJob, count: int, padding: str = "") -> None:
    await job.write([EventFact("some.event", f"number {i}", {"padding": padding}) for i in range(count)])


async def append_silently(database: Database, job: RunningJob) -> None:
    """An event whose notification is lost."""
    async with writing(database) as connection:
        await connection.execute(
            text(
                "WITH j AS (UPDATE jobs SET last_seq = last_seq + 1 WHERE id = :job RETURNING last_seq) "
                "INSERT INTO events(job_id, seq, type, message, level, data) "
                "SELECT :job, last_seq, 'some.event', 'silent', 'info', '{}' FROM j"
            ),
            {"job": job.job_id},
        )


# --- what is sent ----------------------------------------------------------------------------------------------------


async def test_history_comes_first_then_what_happens(serve: Serve, job: RunningJob) -> None:
    await write(job, 3)
    async with serve() as here, reading(here, job) as stream:
        assert [(await anext(stream)).event["seq"] for _ in range(4)] == [1, 2, 3, 4]
        await write(job, 2)
        assert [(await anext(stream)).event["seq"] for _ in range(2)] == [5, 6]
        await publish(job)
        last = await anext(stream)
        assert last.event["type"] == "prompt.learning.gepa.complete"
        assert [each async for each in stream] == []


async def test_each_event_is_one_line_of_json_with_its_number_and_type(serve: Serve, job: RunningJob) -> None:
    """Also for readers who end a line wherever Unicode may."""
    await job.write([EventFact("some.event", "two\nlines \u2028, \u2029, \x85: ü", {"text": "a\r\n\nb\x0c\u2028"})])
    await publish(job)
    async with serve() as here, reading(here, job) as stream:
        received = [each async for each in stream]
        async with httpx.AsyncClient() as client:
            page = (await client.get(f"{here.base_url}{JOBS_PATH}/{job.job_id}/events")).json()["events"]
    assert [each.event for each in received] == page
    assert received[1].event["data"] == {"text": "a\r\n\nb\x0c\u2028"}
    for each in received:
        head, kind, data = each.block.splitlines()
        assert (head, kind) == (f"id: {each.event['seq']}", f"event: {each.event['type']}")
        assert data.startswith("data: {")


@pytest.mark.slow
async def test_many_writers_and_readers_see_no_gap_and_no_repeat(
    serve: Serve, job: RunningJob, database: Database
) -> None:
    async def writer() -> None:
        for _ in range(25):
            async with writing(database) as connection:
                await events.append(connection, job.job_id, "some.event", "one of many", {})

    async with serve() as here, asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(numbers(here, job))]
        async with asyncio.TaskGroup() as writers:
            for _ in range(8):
                writers.create_task(writer())
            readers += [tasks.create_task(numbers(here, job, params={"since_seq": seq})) for seq in (0, 1)]
        readers.append(tasks.create_task(numbers(here, job)))
        await publish(job)
    assert [reader.result() for reader in readers] == [
        list(range(1, 203)),
        list(range(1, 203)),
        list(range(2, 203)),
        list(range(1, 203)),
    ]


async def test_a_history_longer_than_what_is_kept_is_sent_whole(serve: Serve, job: RunningJob) -> None:
    await write(job, 2 * RECENT_EVENTS + 100)
    async with serve() as here, reading(here, job) as stream:
        first = [(await anext(stream)).event["seq"] for _ in range(2 * RECENT_EVENTS + 101)]
        await write(job, 2 * RECENT_EVENTS)
        await publish(job)
        rest = [each.event["seq"] async for each in stream]
    assert first + rest == list(range(1, 4 * RECENT_EVENTS + 103))


async def test_the_terminal_event_comes_alone_half_a_second_after_the_others(serve: Serve, job: RunningJob) -> None:
    """Also where all is history: the existing client loses what shares a burst with the end."""
    await write(job, 5)
    await publish(job)
    async with serve(StreamTiming()) as here, reading(here, job) as stream:
        *others, last = [each async for each in stream]
    assert [each.event["seq"] for each in others] == [1, 2, 3, 4, 5, 6]
    assert last.event["type"] == "prompt.learning.gepa.complete"
    assert last.arrived - others[-1].arrived >= 0.45


async def test_comments_keep_a_silent_connection_alive(serve: Serve, job: RunningJob) -> None:
    async with serve(StreamTiming(heartbeat=0.05)) as here, httpx.AsyncClient() as client:
        url = f"{here.base_url}{JOBS_PATH}/{job.job_id}/events/stream?since_seq=1"
        async with client.stream("GET", url) as response:
            lines = response.aiter_lines()
            first = [await anext(lines) for _ in range(4)]
    assert first == [": connected", "", ": heartbeat", ""]


# --- where it starts -------------------------------------------------------------------------------------------------


async def test_a_broken_stream_resumes_behind_the_last_event_that_was_read(serve: Serve, job: RunningJob) -> None:
    await write(job, 9)
    async with serve() as here:
        async with reading(here, job) as stream:
            assert [(await anext(stream)).event["seq"] for _ in range(4)] == [1, 2, 3, 4]
        await publish(job)
        resumed = await numbers(here, job, headers={"Last-Event-ID": "4"}, params={"since_seq": 0})
        assert resumed == list(range(5, 12))
        assert await numbers(here, job, params={"since_seq": 7}) == [8, 9, 10, 11]


async def test_nothing_follows_the_terminal_event(serve: Serve, job: RunningJob) -> None:
    await publish(job)
    async with serve() as here, httpx.AsyncClient() as client:
        url = f"{here.base_url}{JOBS_PATH}/{job.job_id}/events/stream"
        for request in ({"headers": {"Last-Event-ID": "2"}}, {"params": {"since_seq": 2}}):
            answer = await client.get(url, **request)  # type: ignore[arg-type]
            assert (answer.status_code, answer.content) == (204, b"")
        assert await numbers(here, job, headers={"Last-Event-ID": "1"}) == [2]


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "99999999999999999999", "5", "²"])
async def test_a_cursor_that_is_no_event_of_the_job_is_refused(serve: Serve, job: RunningJob, cursor: str) -> None:
    """Waiting for what follows an event that does not exist would be waiting for ever."""
    async with serve() as here, httpx.AsyncClient() as client:
        url = f"{here.base_url}{JOBS_PATH}/{job.job_id}/events/stream"
        answer = await client.get(url, headers={"Last-Event-ID": cursor.encode()})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert (await client.get(url, params={"since_seq": cursor})).status_code == 422


async def test_an_unknown_job_is_told_before_the_stream_begins(serve: Serve, database: Database) -> None:
    async with serve() as here, httpx.AsyncClient() as client:
        answer = await client.get(f"{here.base_url}{JOBS_PATH}/pl_{'0' * 32}/events/stream")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


# --- what goes wrong around it ---------------------------------------------------------------------------------------


async def test_a_lost_notification_is_repaired_by_the_sweep(serve: Serve, job: RunningJob, database: Database) -> None:
    async with serve(StreamTiming(sweep=0.05)) as here, reading(here, job) as stream:
        assert (await anext(stream)).event["seq"] == 1
        await append_silently(database, job)
        assert (await anext(stream)).event["message"] == "silent"


async def test_a_stream_ends_when_its_job_is_deleted(serve: Serve, job: RunningJob, database: Database) -> None:
    async with serve(StreamTiming(sweep=0.05)) as here, reading(here, job) as stream:
        assert (await anext(stream)).event["seq"] == 1
        async with writing(database) as connection:
            for table in ("events", "jobs"):
                await connection.execute(text(f"DELETE FROM {table}"))
        assert [each.event async for each in stream] == []


async def test_a_notification_needs_no_sweep(serve: Serve, job: RunningJob, database: Database) -> None:
    async with serve(StreamTiming(sweep=NEVER)) as here, reading(here, job) as stream:
        assert (await anext(stream)).event["seq"] == 1
        async with asyncio.timeout(5):
            await write(job, 1)
            assert (await anext(stream)).event["seq"] == 2


@pytest.mark.parametrize(
    "victims", ["application_name = 'promptjobs-events'", "true"], ids=["the listener", "everyone"]
)
async def test_a_lost_connection_is_opened_again(
    serve: Serve, job: RunningJob, database: Database, victims: str
) -> None:
    """What was notified meanwhile is looked for: here everything, as there is no sweep."""
    async with serve(StreamTiming(sweep=NEVER, retry_least=0.05)) as here, reading(here, job) as stream:
        assert (await anext(stream)).event["seq"] == 1
        connection = await database.connect()
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {victims}"
        )
        await connection.close()
        await database.engine.dispose()  # our own connections were among them
        await append_silently(database, job)
        assert (await anext(stream)).event["seq"] == 2
        await write(job, 1)
        assert (await anext(stream)).event["seq"] == 3


async def test_a_reader_who_takes_nothing_is_disconnected_and_holds_up_nobody(serve: Serve, job: RunningJob) -> None:
    async with serve(StreamTiming(stall=0.3, terminal_delay=0.0, read_seconds=0.0)) as here:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect(("127.0.0.1", here.port))
        reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
        path = f"{JOBS_PATH}/{job.job_id}/events/stream"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b"200 OK" in await reader.readline()
        # The server's side of the connection takes a few megabytes; the rest has to wait for the reader.
        for _ in range(10):
            await write(job, 10, padding="x" * 100_000)
        assert await first_numbers(here, job, 101) == list(range(1, 102))
        async with asyncio.timeout(20), httpx.AsyncClient(base_url=here.base_url) as client:
            while REGISTRY.get_sample_value("promptjobs_sse_clients"):
                assert (await client.get("/healthz")).status_code == 200
        taken = bytearray()
        async with asyncio.timeout(60):
            while part := await reader.read(1_000_000):
                taken += part
        writer.close()
        assert b"id: 101\n" not in taken
        assert await first_numbers(here, job, 21, headers={"Last-Event-ID": "80"}) == list(range(81, 102))


async def test_streams_end_when_the_server_stops(serve: Serve, job: RunningJob) -> None:
    async with serve() as here, reading(here, job) as stream:
        assert (await anext(stream)).event["seq"] == 1
        async with asyncio.timeout(5):
            await here.stop()
            assert [each async for each in stream] == []


async def test_a_job_that_nobody_reads_is_forgotten(database: Database, job: RunningJob) -> None:
    app = create_app(database=database, service=job_service(database), timing=QUICK)
    hub = app.api.state.hub
    async with served(app) as here:
        await publish(job)
        assert await numbers(here, job) == [1, 2]
        assert hub._channels == {}


# --- what is kept ----------------------------------------------------------------------------------------------------


def frames(first: int, last: int, size: int = 100) -> list[Frame]:
    return [Frame(seq, False, b"%d " % seq + b"x" * size) for seq in range(first, last + 1)]


def read_all(channel: Channel, seq: int) -> list[int]:
    seen: list[int] = []
    while (chunk := channel.after(seq)) is not None:
        seen += [int(each.split(b" ")[0]) for each in chunk.body.replace(b"x", b"").split()]
        seq = chunk.last_seq
    return seen


@pytest.mark.parametrize(("size", "kept"), [(100, RECENT_EVENTS), (100_000, RECENT_BYTES // 100_005)])
def test_a_channel_keeps_a_bounded_part(size: int, kept: int) -> None:
    channel = Channel(floor=10)
    for first in range(11, 2011, 100):
        channel.add(frames(first, first + 99, size))
    assert (channel.head, channel.floor) == (2010, 2010 - kept)
    assert not channel.reaches(channel.floor - 1)
    assert channel.reaches(channel.floor)
    assert read_all(channel, channel.floor) == list(range(channel.floor + 1, 2011))


def test_readers_at_one_place_share_the_bytes() -> None:
    channel = Channel(floor=0)
    channel.add(frames(1, 50))
    one, other = channel.after(20), channel.after(20)
    assert one is other
    assert channel.after(50) is None


def test_an_event_larger_than_all_that_is_kept_is_left_to_the_database() -> None:
    channel = Channel(floor=0)
    channel.add(frames(1, 1, size=RECENT_BYTES + 1))
    assert (channel.head, channel.floor) == (1, 1)
    assert not channel.reaches(0)
