"""Outgoing HTTP: one shared session, a total deadline, a size cap, and foreign errors translated once."""

import asyncio
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import http_exceptions
from aiohttp.abc import AbstractResolver
from yarl import URL

from promptjobs.clients.addresses import GuardedResolver, check_address, is_literal
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
CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 4.0
"""Below the 5 s after which common servers close an idle connection, so that no request meets a closing one."""

LONGEST_RETRY_AFTER_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply. The body is decompressed; the names of `headers` match in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Outgoing:
    """The session that every outgoing call shares.

    allowed_targets: exact host:port pairs that may be dialled although they are loopback or private. allow_loopback
    opens every loopback address. The guard also holds for calls made with `session` itself, redirects included.
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

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the session; it belongs to the running event loop."""
        inner = self._resolver or aiohttp.ThreadedResolver()
        connector = aiohttp.TCPConnector(
            limit=0,
            resolver=GuardedResolver(inner, self.allowed_targets, self.allow_loopback),
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
            headers={"user-agent": "promptjobs"},
            middlewares=(self._check_literal,),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close every connection. Closing twice is no error."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """For streaming callers, who set their own deadline, cap and allow_redirects=False."""
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
        target = _target(url)
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self.session.request(method, target, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return Reply(response.status, response.headers, await _read(response, url, max_bytes))
        except (aiohttp.ClientError, OSError) as exc:
            raise _translated(exc, url, timeout_seconds) from exc
        except ValueError:
            # aiohttp's message repeats the header, which may be the one that holds the key.
            raise InvalidRequest(f"a header for {shown_url(url)} has a character that cannot be sent") from None

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


def _target(url: str) -> URL:
    try:
        target = URL(url)
    except ValueError:
        raise InvalidRequest(f"{shown_url(url)} is not an http(s) URL") from None
    if target.scheme not in {"http", "https"} or not target.raw_host:
        raise InvalidRequest(f"{shown_url(url)} is not an http(s) URL")
    if target.raw_user is not None or target.raw_password is not None:
        raise InvalidRequest(f"{shown_url(url)}: credentials do not belong into a URL")
    return target


async def _read(response: aiohttp.ClientResponse, url: str, max_bytes: int) -> bytes:
    """The whole body. The connection is closed, not drained, once the body is known to be too large."""
    declared = response.content_length
    chunks: list[bytes] = []
    size = declared if declared is not None and declared > max_bytes else 0
    if size == 0:
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > max_bytes:
                break
            chunks.append(chunk)
        else:
            return b"".join(chunks)
    response.close()
    raise InvalidReply(shown_url(url), f"it is larger than {max_bytes} bytes")


def _translated(exc: Exception, url: str, timeout_seconds: float) -> PromptjobsError:
    shown = shown_url(url)
    match exc:
        case aiohttp.ConnectionTimeoutError():
            return Unreachable(shown, f"no connection within {CONNECT_SECONDS:g} s")
        case TimeoutError():
            return DeadlineExceeded(shown, timeout_seconds)
        case aiohttp.ClientConnectorDNSError():
            return Unreachable(shown, "its name cannot be resolved")
        case aiohttp.ClientSSLError():
            return Unreachable(shown, f"TLS: {redacted(str(exc))}")
        case aiohttp.ClientConnectorError():
            return Unreachable(shown, os.strerror(exc.errno) if exc.errno else redacted(str(exc.os_error)))
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return InvalidRequest(f"{shown} is not an http(s) URL")
        case aiohttp.ClientResponseError():
            return InvalidReply(shown, f"it is not HTTP: {redacted(exc.message)}")
        case aiohttp.ClientPayloadError() if isinstance(exc.__cause__, http_exceptions.ContentEncodingError):
            return InvalidReply(shown, "its content-encoding cannot be decoded")
        case aiohttp.ServerDisconnectedError():
            return ConnectionLost(shown, "the server closed the connection without a reply")
        case aiohttp.ClientPayloadError():
            return ConnectionLost(shown, "the reply ended before it was complete")
        case _:
            return ConnectionLost(shown, redacted(str(exc)) or type(exc).__name__)
