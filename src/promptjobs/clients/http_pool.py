"""Outgoing connections by target: dialled under the address guard, kept for a few seconds after use."""

import asyncio
import os
import ssl
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from aiohttp.abc import AbstractResolver

from promptjobs.clients.addresses import check_address, is_literal
from promptjobs.clients.http_connection import Connection
from promptjobs.clients.redaction import redacted
from promptjobs.errors import PromptjobsError

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 4.0
"""Below the 5 s after which common servers close an idle connection, so that no request meets a closing one."""

RESOLVED_SECONDS = 10.0
"""How long the addresses of a name are used without asking again."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes. host: a name or address without brackets; authority: as the Host header has it."""

    host: str
    port: int
    is_tls: bool
    authority: str
    path: str


class NotConnected(Exception):
    """No connection came about, so nothing was sent; the text says why."""


class Pool:
    """Hands out connections, one for each request under way; there is no limit of their number.

    resolver: already guarded. Addresses in place of names are checked here.
    """

    def __init__(self, resolver: AbstractResolver, allowed: frozenset[str], allow_loopback: bool) -> None:
        self._resolver, self._allowed, self._allow_loopback = resolver, allowed, allow_loopback
        self._idle: dict[tuple[str, int, bool], deque[Connection]] = {}
        self._resolved: dict[tuple[str, int], tuple[float, asyncio.Task[list[str] | Exception]]] = {}
        self._busy: set[Connection] = set()
        self._tls: ssl.SSLContext | None = None
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, target: Target) -> Connection | None:
        """A connection that was used before; the one last used is the likeliest to be still open."""
        idle = self._idle.get((target.host, target.port, target.is_tls))
        while idle:
            connection = idle.pop()
            if connection.is_reusable and time.monotonic() - connection.idle_since < KEEPALIVE_SECONDS:
                self._busy.add(connection)
                return connection
            connection.abort()
        return None

    def give_back(self, target: Target, connection: Connection) -> None:
        """After the exchange, however it ended."""
        self._busy.discard(connection)
        if not connection.is_reusable:
            connection.abort()
            return
        connection.idle_since = time.monotonic()
        self._idle.setdefault((target.host, target.port, target.is_tls), deque()).append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEEPALIVE_SECONDS, self._close_old)

    async def dial(self, target: Target) -> Connection:
        """A new connection, within CONNECT_SECONDS. Each address has an equal share of the time that is left.

        Raises NotConnected, TargetNotAllowed.
        """
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                ends_at = time.monotonic() + CONNECT_SECONDS
                *others, last = await self._addresses(target)
                for left, address in zip(range(len(others) + 1, 1, -1), others, strict=True):
                    with suppress(OSError):  # a share of the time that is over is one, too
                        async with asyncio.timeout((ends_at - time.monotonic()) / left):
                            return await self._connect(target, address)
                return await self._connect(target, last)
        except TimeoutError as exc:
            raise NotConnected(f"no connection within {CONNECT_SECONDS:g} s") from exc
        except ssl.SSLError as exc:
            raise NotConnected(f"TLS: {redacted(str(exc))}") from exc
        except OSError as exc:
            raise NotConnected(os.strerror(exc.errno) if exc.errno else redacted(str(exc))) from exc

    async def _connect(self, target: Target, address: str) -> Connection:
        if target.is_tls and self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection,
            address,
            target.port,
            ssl=self._tls if target.is_tls else None,
            server_hostname=target.host if target.is_tls else None,
        )
        self._busy.add(connection)
        return connection

    async def _addresses(self, target: Target) -> list[str]:
        if is_literal(target.host):
            check_address(target.host, target.port, target.host, self._allowed, self._allow_loopback)
            return [target.host]
        name = target.host, target.port
        known = self._resolved.get(name)
        if known is None or time.monotonic() > known[0]:
            question = asyncio.ensure_future(self._resolve(*name))
            known = self._resolved[name] = (time.monotonic() + RESOLVED_SECONDS, question)
        # Many who dial at once ask once; one who stops waiting does not end the question of the others.
        found = await asyncio.shield(known[1])
        if isinstance(found, Exception):
            self._resolved.pop(name, None)
            raise found
        return found

    async def _resolve(self, host: str, port: int) -> list[str] | Exception:
        try:
            found = [result["host"] for result in await self._resolver.resolve(host, port)]
            return found or NotConnected("its name has no address")
        except OSError as error:
            unknown = NotConnected("its name cannot be resolved")
            unknown.__cause__ = error
            return unknown
        except PromptjobsError as error:
            return error

    def _close_old(self) -> None:
        self._sweep = None
        oldest = time.monotonic() - KEEPALIVE_SECONDS
        for key, idle in list(self._idle.items()):
            while idle and (idle[0].idle_since <= oldest or not idle[0].is_reusable):
                idle.popleft().abort()
            if not idle:
                del self._idle[key]
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(KEEPALIVE_SECONDS / 2, self._close_old)

    def close(self) -> None:
        """Close every connection; requests under way fail."""
        if self._sweep is not None:
            self._sweep.cancel()
        for _, question in self._resolved.values():
            question.cancel()
        idle = [connection for connections in self._idle.values() for connection in connections]
        for connection in (*idle, *self._busy):
            connection.abort()
        self._idle.clear()


def head_of(method: str, target: Target, headers: Mapping[str, str], length: int | None) -> bytes:
    """The head of a request. Raises ValueError, without the value in it, for a header that cannot be sent."""
    given = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if given.count("\r") != len(headers) or given.count("\n") != len(headers) or "\0" in given:
        raise ValueError("a header has a character that ends it")
    measured = "" if length is None else f"content-length: {length}\r\n"
    return f"{method} {target.path} HTTP/1.1\r\nhost: {target.authority}\r\n{given}{measured}\r\n".encode("latin-1")
