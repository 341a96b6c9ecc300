"""No form of URL reaches what must not be dialled: a server on this machine counts who came through."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from promptjobs.clients.http import Outgoing
from promptjobs.errors import InvalidRequest, PromptjobsError, TargetForbidden, TargetNotAllowed, Unreachable

LOOPBACK = [
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://127.255.255.254:{port}/",
    "http://2130706433:{port}/",
    "http://017700000001:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://127.000.000.001:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "http://ip6-localhost:{port}/",
    "http://[::1]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[2002:7f00:1::1]:{port}/",
    "http://[::1%25lo]:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://127。0。0。1:{port}/",
    "http://example.com@127.0.0.1:{port}/",
    "http://example.com:80@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.com/",
    "http://127.0.0.1:{port}?@example.com/",
    "http://127.0.0.1:{port}\\@example.com/",
    "http://example.com\\@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}%00.example.com/",
    "http://127.0.0.1%09:{port}/",
    " http://127.0.0.1:{port}/",
    "HTTP://127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\r\nHost: example.com/",
    "https://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_GET%20/",
    "file://127.0.0.1:{port}/etc/passwd",
    "ftp://127.0.0.1:{port}/",
    "ws://127.0.0.1:{port}/",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "jar:http://127.0.0.1:{port}/!/",
]

NEVER = [
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1%25eth0]/",
    "http://169.254.170.2/v2/credentials",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://255.255.255.255/",
    "http://[ff02::1]/",
]
"""Metadata services, link-local, broadcast: also where loopback and exactly this target are allowed."""


@asynccontextmanager
async def canary() -> AsyncIterator[tuple[int, list[object]]]:
    """A port on every loopback address, and who has connected to it."""
    seen: list[object] = []

    async def noted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername"))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(noted, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    servers = [server]
    if socket.has_dualstack_ipv6():
        servers.append(await asyncio.start_server(noted, "::1", port))
    try:
        yield port, seen
    finally:
        for each in servers:
            each.close()
            await each.wait_closed()


async def asked(outgoing: Outgoing, url: str) -> None:
    await outgoing.request("GET", url, headers={}, timeout_seconds=5)


@pytest.mark.parametrize("form", LOOPBACK)
async def test_no_form_of_url_reaches_this_machine(form: str) -> None:
    async with canary() as (port, seen), Outgoing() as outgoing:
        with pytest.raises((TargetNotAllowed, InvalidRequest, Unreachable)):
            await asked(outgoing, form.format(port=port))
        assert seen == []


@pytest.mark.parametrize("url", NEVER)
async def test_metadata_and_link_local_are_never_dialled_whatever_is_allowed(url: str) -> None:
    listed = url.split("/")[2]
    allowed = frozenset({listed, f"{listed}:80", "169.254.169.254:80"})
    async with Outgoing(allowed, allow_loopback=True) as outgoing:
        with pytest.raises((TargetForbidden, InvalidRequest)):
            await asked(outgoing, url)


class Rebinding(AbstractResolver):
    """A name server that changes its mind: each question gets the next answer."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.questions = list(answers), 0

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        answer = self.answers[min(self.questions, len(self.answers) - 1)]
        self.questions += 1
        numbers = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        family = socket.AF_INET6 if ":" in answer else socket.AF_INET
        return [ResolveResult(hostname=host, host=answer, port=port, family=family, proto=0, flags=numbers)]

    async def close(self) -> None:
        pass


async def test_the_address_that_was_checked_is_the_one_that_is_dialled() -> None:
    """The name is asked once: a second answer, after the check, would be the attacker's."""
    async with canary() as (port, seen):
        resolver = Rebinding("127.0.0.1", "169.254.169.254")
        allowed = frozenset({f"app.test:{port}", f"other.test:{port}"})
        async with Outgoing(allowed, resolver=resolver) as outgoing:
            for _ in range(3):
                await asked(outgoing, f"http://app.test:{port}/")
            assert (len(seen), resolver.questions) == (3, 1)
            with pytest.raises(TargetForbidden):
                await asked(outgoing, f"http://other.test:{port}/")
        assert len(seen) == 3


async def test_a_name_that_turns_to_this_machine_is_refused() -> None:
    async with canary() as (port, seen), Outgoing(resolver=Rebinding("127.0.0.1")) as outgoing:
        with pytest.raises(TargetNotAllowed):
            await asked(outgoing, f"http://public.example:{port}/")
        assert seen == []


async def test_a_target_that_is_allowed_opens_no_other_port_and_no_other_name() -> None:
    async with canary() as (port, seen), canary() as (other, others):
        async with Outgoing(frozenset({f"127.0.0.1:{port}"}), resolver=ThreadedResolver()) as outgoing:
            await asked(outgoing, f"http://127.0.0.1:{port}/")
            for url in (f"http://127.0.0.1:{other}/", f"http://localhost:{port}/", f"http://127.0.0.2:{port}/"):
                with pytest.raises(TargetNotAllowed):
                    await asked(outgoing, url)
        assert (len(seen), others) == (1, [])


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "ключ"])
async def test_a_header_cannot_begin_another_one(value: str) -> None:
    async with canary() as (port, seen), Outgoing(allow_loopback=True) as outgoing:
        with pytest.raises(PromptjobsError) as refused:
            await outgoing.request("GET", f"http://127.0.0.1:{port}/", headers={"x-api-key": value}, timeout_seconds=5)
        assert seen == []
        assert value not in str(refused.value)


@pytest.mark.parametrize("path", ["/a b", "/a\r\nX-Evil: 1", "/\x00", "/ä", "/%0d%0aX-Evil:%201"])
async def test_a_path_cannot_begin_a_header(path: str) -> None:
    """It is sent escaped, or not at all."""
    lines: list[bytes] = []

    async def heard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.extend((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(heard, "127.0.0.1", 0)
    async with server, Outgoing(allow_loopback=True) as outgoing:
        port = server.sockets[0].getsockname()[1]
        try:
            await asked(outgoing, f"http://127.0.0.1:{port}{path}")
        except InvalidRequest:
            assert lines == []
        else:
            assert lines[0].startswith(b"GET /")
            assert not any(line.lower().startswith(b"x-evil") for line in lines)
