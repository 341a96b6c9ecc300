"""Outgoing HTTP: shared connections, a total deadline, a size cap, and foreign errors translated once."""

import asyncio
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from promptjobs.clients.addresses import GuardedResolver, check_address, is_literal
from promptjobs.clients.http_connection import Closed, Connection, NotDecodable, NotHttp, TooLarge
from promptjobs.clients.http_connection import Reply as Reply
from promptjobs.clients.http_pool import CONNECT_SECONDS, KEEPALIVE_SECONDS, NotConnected, Pool, Target, head_of
from promptjobs.clients.redaction import redacted, shown_url
from promptjobs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidReply,
    InvalidRequest,
    PromptjobsError,
    Unreachable,
)

MAX_REPLY_BYTES = 4 * 2**20
USER_AGENT = "promptjobs"
USUAL_HEADERS = {"user-agent": USER_AGENT, "accept": "*/*", "accept-encoding": "gzip, deflate"}
LONGEST_RETRY_AFTER_SECONDS = 86_400.0


class Outgoing:
    """What every outgoing call shares: connections for whole replies, and a session for streams.

    allowed_targets: exact host:port pairs that may be dialled although they are loopback or private. allow_loopback
    opens every loopback address. The guard holds for both, in the session for redirects too.
    """

    def __init__(
        self,
        allowed_targets: frozenset[str] = frozenset(),
        allow_loopback: bool = False,
        *,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self.allowed_targets = frozenset(target.lower() for target in allowed_targets)
        self.allow_loopback = allow_loopback
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None
        self._pool: Pool | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Make ready; all of it belongs to the running event loop."""
        inner = self._resolver or aiohttp.ThreadedResolver()
        resolver = GuardedResolver(inner, self.allowed_targets, self.allow_loopback)
        self._pool = Pool(resolver, self.allowed_targets, self.allow_loopback)
        connector = aiohttp.TCPConnector(limit=0, resolver=resolver, keepalive_timeout=KEEPALIVE_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
            headers={"user-agent": USER_AGENT},
            middlewares=(self._check_literal,),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close every connection. Closing twice is no error."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """For streams, whose readers set their own deadline, cap and allow_redirects=False."""
        if self._session is None:
            raise PromptjobsError("the outgoing session is not open")
        return self._session

    async def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str],
        timeout_seconds: float,
        max_bytes: int = MAX_REPLY_BYTES,
    ) -> Reply:
        """Send one request and read the whole reply, whatever its status. Redirects are replies like others.

        timeout_seconds covers everything from the name's resolution to the body's last byte; max_bytes counts after
        decompression. Raises Unreachable, ConnectionLost, DeadlineExceeded, InvalidReply, TargetNotAllowed, and
        InvalidRequest for a URL or header that cannot be sent.
        """
        if self._pool is None:
            raise PromptjobsError("the outgoing connections are not open")
        target = _target(url)
        message = _message(method, target, url, headers, body)
        ends_at = asyncio.get_running_loop().time() + timeout_seconds
        try:
            return await _exchanged(self._pool, target, message, max_bytes, ends_at, is_repeatable=method == "GET")
        except TimeoutError as exc:
            if exc.errno is not None:  # the other side has stopped to acknowledge what it is sent
                raise _translated(exc, shown_url(url)) from exc
            raise DeadlineExceeded(shown_url(url), timeout_seconds) from exc
        except (NotConnected, Closed, NotHttp, NotDecodable, OSError) as exc:
            raise _translated(exc, shown_url(url)) from exc
        except TooLarge as exc:
            raise InvalidReply(shown_url(url), f"it is larger than {max_bytes} bytes") from exc

    async def _check_literal(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        host = request.url.raw_host or ""
        if is_literal(host):
            check_address(host, request.url.port or 0, host, self.allowed_targets, self.allow_loopback)
        return await handler(request)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What Retry-After asks for, in seconds or as a date; at most a day, None where it is missing or unreadable."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS) if math.isfinite(seconds) else None


@lru_cache(maxsize=1024)
def _target(url: str) -> Target:
    try:
        parsed = URL(url)
    except ValueError:
        raise InvalidRequest(f"{shown_url(url)} is not an http(s) URL") from None
    host, authority = parsed.raw_host, parsed.host_port_subcomponent
    if parsed.scheme not in {"http", "https"} or not host or not authority or not parsed.port:
        raise InvalidRequest(f"{shown_url(url)} is not an http(s) URL")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise InvalidRequest(f"{shown_url(url)}: credentials do not belong into a URL")
    return Target(host, parsed.port, parsed.scheme == "https", authority, parsed.raw_path_qs or "/")


def _message(method: str, target: Target, url: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    try:
        head = head_of(method, target, {**USUAL_HEADERS, **headers}, None if body is None else len(body))
    except ValueError:
        # The error would show the header, which may be the one that holds the key.
        raise InvalidRequest(f"a header for {shown_url(url)} has a character that cannot be sent") from None
    return head if body is None else head + body


async def _exchanged(
    pool: Pool, target: Target, message: bytes, max_bytes: int, ends_at: float, *, is_repeatable: bool
) -> Reply:
    """The reply over a connection that is open, or else over a new one. Raises TimeoutError at `ends_at`."""
    connection = pool.take(target)
    if connection is not None:
        try:
            return await _over(connection, pool, target, message, max_bytes, ends_at)
        except Closed as closed:
            # It may have been closed while it was idle: what changes nothing is sent again.
            if closed.has_begun or not is_repeatable:
                raise
    async with asyncio.timeout_at(ends_at):
        connection = await pool.dial(target)
    return await _over(connection, pool, target, message, max_bytes, ends_at)


async def _over(
    connection: Connection, pool: Pool, target: Target, message: bytes, max_bytes: int, ends_at: float
) -> Reply:
    timer = asyncio.get_running_loop().call_at(ends_at, connection.abort, TimeoutError())
    try:
        return await connection.exchange(message, max_bytes)
    finally:
        timer.cancel()
        pool.give_back(target, connection)


def _translated(exc: Exception, shown: str) -> PromptjobsError:
    match exc:
        case NotConnected():
            return Unreachable(shown, str(exc))
        case NotHttp():
            return InvalidReply(shown, f"it is not HTTP: {redacted(str(exc))}")
        case NotDecodable():
            return InvalidReply(shown, "its content-encoding cannot be decoded")
        case Closed():
            return ConnectionLost(shown, str(exc))
        case _:
            return ConnectionLost(shown, redacted(str(exc)) or type(exc).__name__)
