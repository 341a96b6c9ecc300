"""Outgoing calls against real servers on loopback, good ones and hostile ones."""

import asyncio
import gzip
import socket
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from promptjobs.clients.http import Outgoing, Reply, retry_after_seconds
from promptjobs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidReply,
    InvalidRequest,
    PromptjobsError,
    TargetForbidden,
    TargetNotAllowed,
    Unreachable,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MIB = 2**20


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A real HTTP server; yields its URL."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[str]:
    """A server that reads a request's head and then does what `talk` does with the raw connection."""
    open_writers: set[asyncio.StreamWriter] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in open_writers:
            writer.transport.abort()
        await server.wait_closed()


@pytest.fixture
async def outgoing() -> AsyncIterator[Outgoing]:
    async with Outgoing(allow_loopback=True) as opened:
        yield opened


async def get(outgoing: Outgoing, url: str, *, timeout_seconds: float = 10.0, **more: object) -> Reply:
    return await outgoing.request("GET", url, headers={}, timeout_seconds=timeout_seconds, **more)


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- what is sent and what comes back ------------------------------------------------------------------------------


async def test_a_reply_comes_back_whole_whatever_its_status(outgoing):
    async def echo(request: web.Request) -> web.Response:
        body = await request.read()
        return web.Response(
            status=418, body=request.method.encode() + body, headers={"X-Seen": request.headers["X-Key"]}
        )

    async with serving(echo) as url:
        reply = await outgoing.request("POST", url, body=b"-body", headers={"x-key": "k"}, timeout_seconds=5)
    assert (reply.status, reply.body, reply.headers["x-seen"]) == (418, b"POST-body", "k")


async def test_cookies_are_not_kept_and_proxies_not_used(outgoing, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    cookies = []

    async def sets_cookie(request: web.Request) -> web.Response:
        cookies.append(dict(request.cookies))
        reply = web.Response()
        reply.set_cookie("session", "1")
        return reply

    async with serving(sets_cookie) as url:
        await get(outgoing, url)
        await get(outgoing, url)
    assert cookies == [{}, {}]


async def test_connections_are_reused(outgoing):
    peers = set()

    async def note(request: web.Request) -> web.Response:
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response()

    async with serving(note) as url:
        for _ in range(5):
            await get(outgoing, url)
    assert len(peers) == 1


async def test_a_redirect_is_a_reply_and_is_not_followed(outgoing):
    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"})

    async with serving(redirect) as url:
        assert (await get(outgoing, url)).status == 302


async def test_a_follower_of_redirects_meets_the_guard(outgoing):
    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"})

    async with serving(redirect) as url:
        with pytest.raises(TargetForbidden):
            await outgoing.session.get(url, allow_redirects=True)


# --- the guard -------------------------------------------------------------------------------------------------------


async def hello(request: web.Request) -> web.Response:
    return web.Response(body=b"hello")


async def test_loopback_is_refused_by_address_and_by_name():
    async with serving(hello) as url, Outgoing() as guarded:
        for target in (url, f"http://localhost:{port_of(url)}"):
            with pytest.raises(TargetNotAllowed):
                await get(guarded, target)


async def test_an_exact_target_is_allowed_and_its_other_spelling_is_not():
    async with serving(hello) as url, Outgoing(frozenset({f"LOCALHOST:{port_of(url)}"})) as guarded:
        assert (await get(guarded, f"http://localhost:{port_of(url)}")).body == b"hello"
        with pytest.raises(TargetNotAllowed):
            await get(guarded, url)


@pytest.mark.parametrize(
    "host", ["2130706433", "127.1", "0x7f.1", "0177.0.0.1", "127.0.0.1.", "[::ffff:7f00:1]", "[::1]"]
)
async def test_no_spelling_of_loopback_gets_through(host):
    async with Outgoing() as guarded:
        with pytest.raises((TargetNotAllowed, InvalidRequest)):
            await get(guarded, f"http://{host}:80/")


async def test_metadata_is_refused_even_with_loopback_allowed_and_listed():
    async with Outgoing(frozenset({"169.254.169.254:80"}), allow_loopback=True) as guarded:
        with pytest.raises(TargetForbidden):
            await get(guarded, "http://169.254.169.254/latest/meta-data")


# --- what goes wrong -------------------------------------------------------------------------------------------------


async def test_a_refused_connection_is_unreachable(outgoing):
    with pytest.raises(Unreachable, match="refused") as failed:
        await get(outgoing, f"http://127.0.0.1:{free_port()}/p?key=secret")
    assert not isinstance(failed.value, ConnectionLost)
    assert "secret" not in str(failed.value)
    assert failed.value.__cause__ is not None


async def test_an_unknown_name_is_unreachable(outgoing):
    with pytest.raises(Unreachable, match="cannot be resolved"):
        await get(outgoing, "http://no-such-host.invalid/", timeout_seconds=30)


async def test_tls_to_a_server_without_it_is_unreachable(outgoing):
    async with serving(hello) as url:
        with pytest.raises(Unreachable):
            await get(outgoing, url.replace("http:", "https:"))


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"])
async def test_a_reset_is_a_lost_connection(outgoing, sent):
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        linger = writer.get_extra_info("socket")
        linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()

    async with talking(reset) as url:
        with pytest.raises(ConnectionLost):
            await outgoing.request("POST", url, body=b"{}", headers={}, timeout_seconds=5)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", b"HTTP/1.1 200"])
async def test_a_closed_connection_is_a_lost_connection(outgoing, sent):
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    async with talking(close) as url:
        with pytest.raises(ConnectionLost):
            await outgoing.request("POST", url, body=b"{}", headers={}, timeout_seconds=5)


async def test_a_body_that_drips_ends_at_the_total_deadline(outgoing):
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with talking(drip) as url:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded) as failed:
            await get(outgoing, url, timeout_seconds=0.3)
    assert 0.3 <= time.monotonic() - started < 2
    assert failed.value.seconds == 0.3


async def test_a_server_that_stalls_ends_at_the_total_deadline(outgoing):
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with talking(stall) as url:
        with pytest.raises(DeadlineExceeded):
            await get(outgoing, url, timeout_seconds=0.2)


async def test_cancelling_a_call_is_not_an_error_of_the_world(outgoing):
    arrived = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()

    async with talking(stall) as url:
        call = asyncio.create_task(get(outgoing, url))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_body_of_300_mb_is_cut_at_the_cap(outgoing):
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(300):
            await response.write(b"x" * MIB)
            sent += MIB
        return response

    async with serving(flood) as url:
        started = time.monotonic()
        with pytest.raises(InvalidReply, match="larger than 4194304 bytes"):
            await get(outgoing, url)
        assert time.monotonic() - started < 3
    assert sent < 20 * MIB


async def test_a_declared_length_over_the_cap_is_refused_unread(outgoing):
    async def declare(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 300000000\r\n\r\n")
        await reader.read()

    async with talking(declare) as url:
        with pytest.raises(InvalidReply, match="larger"):
            await get(outgoing, url)


async def test_a_body_of_exactly_the_cap_is_read(outgoing):
    async def exact(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1000)

    async with serving(exact) as url:
        assert len((await get(outgoing, url, max_bytes=1000)).body) == 1000
        with pytest.raises(InvalidReply):
            await get(outgoing, url, max_bytes=999)


def bomb(encoding: str) -> bytes:
    """300 MB of zeros, compressed to 0.3 MB. After a full flush every block of them has the same bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    first, block = (packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + 299 * block


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compression_bomb_is_capped_after_decompression(outgoing, encoding):
    packed = bomb(encoding)

    async def send(request: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": encoding})

    async with serving(send) as url:
        tracemalloc.start()
        try:
            with pytest.raises(InvalidReply, match="larger"):
                await get(outgoing, url)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 30 * MIB


async def test_an_honest_compressed_body_is_unpacked(outgoing):
    async def send(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"hello" * 100), headers={"Content-Encoding": "gzip"})

    async with serving(send) as url:
        assert (await get(outgoing, url)).body == b"hello" * 100


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_a_body_that_cannot_be_unpacked_is_an_invalid_reply(outgoing, encoding):
    async def send(request: web.Request) -> web.Response:
        return web.Response(body=b"no such thing" * 100, headers={"Content-Encoding": encoding})

    async with serving(send) as url:
        reply: Reply | PromptjobsError
        try:
            reply = await get(outgoing, url)
        except InvalidReply as exc:
            reply = exc
    # An encoding that nothing here can unpack may also come through as it is: then it is no JSON later.
    assert isinstance(reply, InvalidReply) or encoding in {"br", "zstd"}


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_a_world_error_without_long_excerpts(outgoing, sent):
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    async with talking(send) as url:
        with pytest.raises((InvalidReply, ConnectionLost)) as failed:
            await get(outgoing, url)
    assert len(str(failed.value)) < 400


@pytest.mark.parametrize(
    "url",
    ["ftp://h.test/", "file:///etc/passwd", "h.test", "", "http://", "http://user:secret@127.0.0.1/", "http://[x/"],
)
async def test_a_url_that_cannot_be_called_is_an_invalid_request(outgoing, url):
    with pytest.raises(InvalidRequest) as failed:
        await get(outgoing, url)
    assert "secret" not in str(failed.value)


async def test_a_header_that_cannot_be_sent_is_not_repeated(outgoing):
    async with serving(hello) as url:
        with pytest.raises(InvalidRequest) as failed:
            await outgoing.request("GET", url, headers={"x-api-key": "secret\r\nx: y"}, timeout_seconds=5)
    assert "secret" not in str(failed.value)
    assert failed.value.__cause__ is None


async def test_a_closed_session_says_so():
    with pytest.raises(PromptjobsError, match="not open"):
        await get(Outgoing(), "http://127.0.0.1:1/")


async def test_closing_twice_is_no_error():
    outgoing = Outgoing()
    await outgoing.open()
    await outgoing.close()
    await outgoing.close()


# --- Retry-After -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3), ("0.5", 0.5), ("-4", 0), ("1e9", 86_400), ("inf", None), ("nan", None), ("soon", None), ("", None)],
)
def test_retry_after_in_seconds(value, seconds):
    assert retry_after_seconds({"Retry-After": value}) == seconds


def test_retry_after_as_a_date():
    later = datetime.now(UTC) + timedelta(seconds=60)
    assert retry_after_seconds({"Retry-After": format_datetime(later, usegmt=True)}) == pytest.approx(60, abs=3)
    assert retry_after_seconds({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after_seconds({}) is None
