"""Every call that was made is recorded once, before its reply has ended, whatever the database does meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import orjson
import pytest
from aiohttp import web

from promptjobs.clients.http import Outgoing
from promptjobs.clients.providers import Providers
from promptjobs.core.ledger import Category
from promptjobs.db.session import Database
from promptjobs.errors import DatabaseUnavailable
from promptjobs.interceptor.app import Interceptor
from promptjobs.interceptor.recent import RecentCalls
from tests.fakes.cutter import through_cutter
from tests.fakes.interceptor_world import (
    DONE,
    MESSAGES,
    STREAM,
    VAULT,
    World,
    completes,
    make_job,
    running_world,
    stream_of,
    streams,
)

pytestmark = pytest.mark.slow


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with running_world(database) as world:
        yield world


async def test_reply_does_not_end_before_it_is_recorded(world: World) -> None:
    streaming, whole = await world.token(), await world.token()
    async with world.connection.transaction():
        await world.connection.execute("LOCK TABLE calls IN EXCLUSIVE MODE")
        world.upstream.handler = streams
        async with world.openai(streaming) as client:
            stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            texts = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
            assert texts == ["Y", "es.", None]
            end = asyncio.create_task(anext(stream, "end"))
            await world.until_blocked()
            world.upstream.handler = completes
            reply = asyncio.create_task(world.post(whole))
            await until_forwarded(world, 2)
            assert not end.done()
            assert not reply.done()
            await world.connection.execute("ROLLBACK; BEGIN")
            assert await end == "end"
            assert (await reply)[0] == 200
    assert len(await world.calls(streaming)) == len(await world.calls(whole)) == 1


async def test_what_the_worker_of_the_same_process_is_told_are_the_rows(world: World) -> None:
    recent = world.interceptor.meter.recent = RecentCalls()
    token = await world.token()
    for handler, is_streamed in ((completes, False), (streams, True), (completes, False)):
        world.upstream.handler = handler
        assert (await world.post(token, stream=is_streamed))[0] == 200
    rows = await world.calls(token)
    assert len(rows) == 3
    assert recent.take(token.digest) == rows
    assert recent.take(token.digest) is None


async def until_forwarded(world: World, count: int) -> None:
    async with asyncio.timeout(10):
        while len(world.upstream.bodies) < count:
            await world.connection.fetchval("SELECT 1")


async def test_concurrent_calls_are_recorded_each(world: World) -> None:
    tokens = [await world.token() for _ in range(8)]
    answers = await asyncio.gather(*(world.post(token, user=str(n)) for n in range(16) for token in tokens))
    assert {status for status, _ in answers} == {200}
    for token in tokens:
        calls = await world.calls(token)
        assert len({call.n for call in calls}) == len(calls) == 16


async def test_number_that_another_replica_has_taken_is_not_used(world: World) -> None:
    token = await world.token()
    await world.post(token)
    await world.connection.execute(
        "CREATE TEMPORARY TABLE copy AS SELECT * FROM calls;"
        "UPDATE copy SET n = (n + 1) % 2147483648, error = 'theirs';"
        "INSERT INTO calls SELECT * FROM copy"
    )
    await world.post(token)
    calls = await world.calls(token)
    assert [call.error for call in calls] == [None, "theirs", None]
    assert len({call.n for call in calls}) == 3


async def test_without_the_database_nothing_is_forwarded(database: Database) -> None:
    async with running_world(database, patience_seconds=0.1) as world:
        known, unknown = await world.token(), await world.token()
        assert (await world.post(known))[0] == 200
        await world.shut_database()
        async with world.openai(known) as client:
            with pytest.raises(openai.InternalServerError) as failed:
                await client.chat.completions.create(model="m", messages=MESSAGES)
        assert (failed.value.status_code, failed.value.code) == (503, "metering_unavailable")
        status, body = await world.post(unknown)
        assert (status, orjson.loads(body)["error"]["code"]) == (503, "database_unavailable")
        await world.open_database()
        assert len(world.upstream.bodies) == len(await world.calls(known)) == 1
        assert await world.calls(unknown) == []


async def test_interceptor_does_not_start_without_the_database(database: Database) -> None:
    async with running_world(database, patience_seconds=0.1) as world:
        await world.shut_database()
        async with Outgoing() as outgoing:
            other = Interceptor(database, outgoing, Providers({}), world.ledger, vault=VAULT, patience_seconds=0.1)
            with pytest.raises(DatabaseUnavailable):
                await other.start()
        await world.open_database()


async def test_short_outage_delays_a_call(world: World) -> None:
    token = await world.token()
    await world.post(token)
    await world.shut_database()
    call = asyncio.create_task(world.post(token))
    await world.open_database()
    assert (await call)[0] == 200
    assert len(await world.calls(token)) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_reply_that_cannot_be_recorded_is_withheld_and_recorded_later(database: Database, stream: bool) -> None:
    shut = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await shut.wait()
        return await (stream_of([STREAM[0], DONE]) if stream else completes)(request)

    async with running_world(database, patience_seconds=0.1) as world:
        world.upstream.handler = handler
        token = await world.token()
        call = asyncio.create_task(world.post(token, stream=stream))
        await until_forwarded(world, 1)
        await world.shut_database()
        shut.set()
        status, body = await call
        assert b"metering_unavailable" in body
        assert DONE not in body
        assert status == (200 if stream else 503)
        await world.open_database()
        [record] = await world.recorded(token)
        assert (record.status, record.streamed) == (200, stream)


async def test_call_whose_job_is_deleted_meanwhile_harms_no_other(world: World) -> None:
    await make_job(world.connection, "pl_2")
    deleted, kept = await world.token(job_id="pl_2"), await world.token()
    go = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await completes(request)

    world.upstream.handler = handler
    calls = [asyncio.create_task(world.post(token)) for token in (kept, deleted, kept)]
    await until_forwarded(world, 3)
    await world.connection.execute("DELETE FROM jobs WHERE id = 'pl_2'")
    go.set()
    assert [(await call)[0] for call in calls] == [200, 200, 200]
    assert len(await world.calls(kept)) == 2


async def test_calls_under_way_are_recorded_when_the_interceptor_stops(database: Database) -> None:
    async with running_world(database) as world:
        token = await world.token()
        async with world.connection.transaction():
            await world.connection.execute("LOCK TABLE calls IN EXCLUSIVE MODE")
            call = asyncio.create_task(world.post(token))
            await world.until_blocked()
            stopping = asyncio.create_task(world.interceptor.stop())
        await stopping
        assert (await call)[0] == 200
        assert len(await world.calls(token)) == 1
        assert (await world.post(token))[0] == 503
        assert len(world.upstream.bodies) == 1


async def test_statement_of_unknown_outcome_records_once(database: Database, tmp_path: Path) -> None:
    async with through_cutter(database, tmp_path) as (cut, cutter), running_world(cut) as world:
        token = await world.token()
        await world.post(token)
        cutter.cut_at = b"SELECT 1"
        assert (await world.post(token))[0] == 200
        assert cutter.lost == 1
        assert len(await world.calls(token)) == 2
        spending = await world.spending()
        assert (spending.calls[Category.POLICY], spending.accounts[Category.POLICY].settled.tokens) == (2, 220)
