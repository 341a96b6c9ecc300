"""What a stranger can send before anybody asks for a key: the head of a request that has no end."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from promptjobs.api import http_protocol
from promptjobs.api.http_protocol import MAX_HEAD_BYTES, BoundedHttp
from promptjobs.api.server import uvicorn_config
from promptjobs.settings import Settings

pytestmark = pytest.mark.slow

BEGINNING = b"POST / HTTP/1.1\r\nhost: localhost\r\n"
SIZED = b"content-length: %d\r\n\r\n"
PIECE = b"x-long: " + b"a" * 10_000 + b"\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answers(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def connected() -> AsyncIterator[Streams]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(answers, http=BoundedHttp, lifespan="off", log_level="warning")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()
            server.should_exit = True
            await serving


async def status(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return (await reader.readuntil(b"\r\n")).split()[1]


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What is left, once the other side has closed."""
    async with asyncio.timeout(10):
        return await reader.read()


def test_the_service_speaks_http_with_these_limits() -> None:
    assert uvicorn_config(answers, Settings()).http is BoundedHttp


def test_an_idle_connection_outlives_the_pools_of_usual_clients() -> None:
    """What a client sends on a connection that is closed just then is lost: 15 s is what aiohttp keeps one."""
    assert uvicorn_config(answers, Settings()).timeout_keep_alive >= 60


async def flood(writer: asyncio.StreamWriter) -> None:
    for _ in range(2_000):  # 20 MB, of which the kernel's buffers hold a few
        writer.write(PIECE)
        await writer.drain()


async def test_a_head_without_end_is_not_taken() -> None:
    async with connected() as (_, writer):
        writer.write(BEGINNING)
        with pytest.raises(ConnectionError):
            await flood(writer)


async def test_a_head_that_is_too_large_is_told_so() -> None:
    async with connected() as (reader, writer):
        writer.write(BEGINNING + PIECE * (MAX_HEAD_BYTES // len(PIECE) + 1))
        assert await status(reader) == b"431"
        assert b"connection: close" in await ended(reader)


async def test_usual_heads_and_large_bodies_pass_one_after_the_other() -> None:
    async with connected() as (reader, writer):
        for _ in range(3):
            writer.write(BEGINNING + 3 * PIECE + SIZED % 1_000_000 + bytes(1_000_000))
            assert await status(reader) == b"200"
            await reader.readuntil(b"\r\n\r\nok")


@pytest.mark.parametrize("sent", [b"", BEGINNING])
async def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
    async with connected() as (reader, writer):
        writer.write(sent)
        assert await ended(reader) == b""


async def test_an_answer_under_way_is_not_cut_by_the_time_its_head_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
    async with connected() as (reader, writer):
        writer.write(BEGINNING + SIZED % 2 + b"1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await reader.read(1)
        writer.write(b"2")
        assert await status(reader) == b"200"
