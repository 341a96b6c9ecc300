"""Outgoing connections: which are used again, which are given up, and how a name becomes one."""

import asyncio
import gzip
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from promptjobs.clients.http import Outgoing
from promptjobs.errors import ConnectionLost, InvalidReply, Unreachable

Talk = Callable[[int, int, asyncio.StreamWriter], Awaitable[None]]
HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[int]:
    """A server that calls talk(connection, request, writer) for each request, both from 1; yields its port."""
    writers: list[asyncio.StreamWriter] = []

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        connection, request = len(writers), 0
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                if b"content-length: 2" in head:
                    await reader.readexactly(2)
                request += 1
                await talk(connection, request, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


@pytest.fixture
async def outgoing() -> AsyncIterator[Outgoing]:
    async with Outgoing(allow_loopback=True) as opened:
        yield opened


async def ask(outgoing: Outgoing, port: int, method: str = "GET", host: str = "127.0.0.1") -> bytes:
    body = b"{}" if method == "POST" else None
    reply = await outgoing.request(method, f"http://{host}:{port}/", body=body, headers={}, timeout_seconds=10)
    return reply.body


def sends(data: bytes) -> Talk:
    async def talk(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return talk


def sends_and_closes(data: bytes) -> Talk:
    async def talk(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    return talk


# --- used again, or not ----------------------------------------------------------------------------------------------


async def closes_on_the_second_request(connection: int, request: int, writer: asyncio.StreamWriter) -> None:
    if request == 1:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % connection)
    else:
        writer.close()


async def test_a_get_over_a_connection_that_was_closed_meanwhile_goes_over_a_new_one(outgoing):
    async with talking(closes_on_the_second_request) as port:
        assert [await ask(outgoing, port), await ask(outgoing, port)] == [b"1", b"2"]


async def test_a_post_over_a_connection_that_was_closed_meanwhile_is_lost_and_not_repeated(outgoing):
    async with talking(closes_on_the_second_request) as port:
        assert await ask(outgoing, port, "POST") == b"1"
        with pytest.raises(ConnectionLost):
            await ask(outgoing, port, "POST")
        assert await ask(outgoing, port, "POST") == b"2"


@pytest.mark.parametrize(
    ("reply", "is_kept"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n%d", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n%d", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%dHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n9", False),
    ],
    ids=["kept", "closing", "HTTP/1.0", "with a second reply"],
)
async def test_a_connection_is_used_again_only_where_both_sides_keep_it(outgoing, reply, is_kept):
    async def talk(connection: int, _: int, writer: asyncio.StreamWriter) -> None:
        writer.write(reply % connection)

    async with talking(talk) as port:
        assert [await ask(outgoing, port), await ask(outgoing, port)] == [b"1", b"1" if is_kept else b"2"]


async def test_a_connection_whose_caller_gave_up_is_not_used_again(outgoing):
    arrived = asyncio.Event()

    async def stalls_once(connection: int, _: int, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        if connection > 1:
            writer.write(HELLO)

    async with talking(stalls_once) as port:
        call = asyncio.create_task(ask(outgoing, port))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await ask(outgoing, port) == b"hello"


async def test_closing_ends_the_calls_under_way():
    arrived = asyncio.Event()

    async def stalls(_: int, __: int, ___: asyncio.StreamWriter) -> None:
        arrived.set()

    async with talking(stalls) as port:
        outgoing = Outgoing(allow_loopback=True)
        await outgoing.open()
        call = asyncio.create_task(ask(outgoing, port))
        await arrived.wait()
        await outgoing.close()
        with pytest.raises(ConnectionLost):
            await call


# --- how a body ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        HELLO,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + HELLO,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: a trailer\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
    ],
    ids=["length", "interim replies", "chunks", "a trailer", "close", "HTTP/1.0"],
)
async def test_a_body_ends_where_its_framing_says(outgoing, reply):
    async with talking(sends_and_closes(reply)) as port:
        assert await ask(outgoing, port) == b"hello"


@pytest.mark.parametrize("reply", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n"])
async def test_a_reply_that_has_no_body_needs_no_end(outgoing, reply):
    async with talking(sends(reply)) as port:
        assert await ask(outgoing, port) == b""


async def test_a_body_without_a_length_is_lost_with_a_reset(outgoing):
    async def reset(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await writer.drain()
        linger = writer.get_extra_info("socket")
        linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()

    async with talking(reset) as port:
        with pytest.raises(ConnectionLost):
            await ask(outgoing, port)


def encoded(encoding: str, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-encoding: %s\r\n\r\n" % encoding.encode() + body


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hel") + gzip.compress(b"lo")),
        ("GZIP", gzip.compress(b"hello")),
        ("deflate", zlib.compress(b"hello")),
        ("deflate", zlib.compress(b"hello", wbits=-15)),
        ("identity", b"hello"),
    ],
    ids=["gzip of two members", "in capitals", "deflate", "deflate without its wrapper", "identity"],
)
async def test_a_compressed_body_is_unpacked(outgoing, encoding, body):
    async with talking(sends_and_closes(encoded(encoding, body))) as port:
        assert await ask(outgoing, port) == b"hello"


async def test_a_compressed_body_that_is_cut_off_cannot_be_used(outgoing):
    async with talking(sends_and_closes(encoded("gzip", gzip.compress(b"hello" * 100)[:-9]))) as port:
        with pytest.raises(InvalidReply, match="cannot be decoded"):
            await ask(outgoing, port)


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: " + b"y" * 10_000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", gzip.compress(b"") * 1000),
    ],
    ids=["interim replies", "trailers", "empty members"],
)
async def test_what_never_ends_is_cut_off_long_before_the_deadline(outgoing, start, again):
    async def flood(_: int, __: int, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()

    async with talking(flood) as port:
        with pytest.raises(InvalidReply):
            await outgoing.request(
                "GET", f"http://127.0.0.1:{port}/", headers={}, timeout_seconds=60, max_bytes=100_000
            )


# --- names -----------------------------------------------------------------------------------------------------------


class Names(AbstractResolver):
    """Says that every name has these addresses. asked: how often it was asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses, self.asked = addresses, 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        await asyncio.sleep(0)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None: ...


async def test_many_who_need_a_connection_ask_for_the_name_once():
    names = Names("127.0.0.1")
    async with talking(sends(HELLO)) as port, Outgoing(allow_loopback=True, resolver=names) as outgoing:
        found = await asyncio.gather(*(ask(outgoing, port, host="app.test") for _ in range(20)))
    assert (found, names.asked) == ([b"hello"] * 20, 1)


async def test_the_next_address_is_tried_where_one_refuses():
    # Nothing listens on the first one: all of 127.0.0.0/8 is this machine.
    names = Names("127.0.0.9", "127.0.0.1")
    async with talking(sends(HELLO)) as port, Outgoing(allow_loopback=True, resolver=names) as outgoing:
        assert await ask(outgoing, port, host="app.test") == b"hello"


async def test_a_name_is_asked_for_again_after_it_had_no_address():
    names = Names()
    async with talking(sends(HELLO)) as port, Outgoing(allow_loopback=True, resolver=names) as outgoing:
        with pytest.raises(Unreachable, match="no address"):
            await ask(outgoing, port, host="app.test")
        names.addresses = ("127.0.0.1",)
        assert await ask(outgoing, port, host="app.test") == b"hello"
