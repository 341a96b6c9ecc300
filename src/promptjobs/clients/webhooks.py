"""Signed messages to receivers, by the Standard Webhooks specification: secrets, signatures, one attempt to send."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
from pydantic import SecretStr
from yarl import URL

from promptjobs.clients.addresses import Reach, check_address, is_literal, reach
from promptjobs.clients.http import Outgoing, retry_after_seconds
from promptjobs.clients.redaction import redacted, shown_url
from promptjobs.errors import ConnectionLost, DeadlineExceeded, InvalidReply, InvalidRequest, Unreachable

SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
NEW_SECRET_BYTES = 32
LEAST_SECRET_BYTES, MOST_SECRET_BYTES = 24, 64
MAX_URL = 2_000
MAX_REPLY_BYTES = 64 * 1024
"""Of a reply so much is read, and thrown away; the connection of a longer one is closed."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """How a receiver has answered. retry_after_seconds: how long it asks to be left alone, at most a day."""

    status: int
    retry_after_seconds: float | None = None


def new_secret() -> SecretStr:
    return SecretStr(SECRET_PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode())


def check_secret(secret: SecretStr) -> None:
    """Raises InvalidRequest, without the value, for what is not `whsec_` and 24 to 64 bytes in base64."""
    try:
        size = len(_key_of(secret))
    except (ValueError, binascii.Error):
        size = 0
    if not LEAST_SECRET_BYTES <= size <= MOST_SECRET_BYTES:
        wanted = f"{SECRET_PREFIX} and {LEAST_SECRET_BYTES} to {MOST_SECRET_BYTES} bytes in base64"
        raise InvalidRequest(f"expected {wanted}", "secret")


def signature_of(secret: SecretStr, message_id: str, timestamp: int, body: str) -> str:
    """`v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64. timestamp: in seconds of Unix time.

    Source: Standard Webhooks 1.0.0, "Symmetric signatures".
    """
    signed = f"{message_id}.{timestamp}.{body}".encode()
    digest = hmac.new(_key_of(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key_of(secret: SecretStr) -> bytes:
    text = secret.get_secret_value()
    if not text.startswith(SECRET_PREFIX):
        raise ValueError("it has another prefix")
    return base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)


def check_url(url: str, outgoing: Outgoing) -> None:
    """Raise unless messages could be sent there, as far as the URL itself tells. Names are resolved when one is sent.

    Raises InvalidRequest; TargetForbidden and TargetNotAllowed for an address that may not be dialled.
    """
    try:
        parsed = URL(url)
        host, port = parsed.raw_host, parsed.port
    except ValueError:
        raise InvalidRequest("expected an http(s) URL", "url") from None
    if len(url) > MAX_URL:
        raise InvalidRequest(f"expected at most {MAX_URL} characters, got {len(url)}", "url")
    if parsed.scheme not in ("http", "https") or not host or not port or not url.isprintable() or " " in url:
        raise InvalidRequest("expected an http(s) URL", "url")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise InvalidRequest("credentials do not belong into a URL: the signature proves who sends", "url")
    if is_literal(host):
        check_address(host, port, host, outgoing.allowed_targets, outgoing.allow_loopback)
    if parsed.scheme == "http" and not _may_be_plain(host, port, outgoing):
        raise InvalidRequest("expected https: http is for targets on this machine, or that the operator allows", "url")


def _may_be_plain(host: str, port: int, outgoing: Outgoing) -> bool:
    shown = f"[{host}]" if ":" in host else host
    if f"{shown.lower()}:{port}" in outgoing.allowed_targets:
        return True
    is_here = reach(host) is Reach.LOOPBACK if is_literal(host) else host == "localhost"
    return is_here and outgoing.allow_loopback


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """One attempt at a message. id: the same in every attempt; timestamp: of this one, in seconds of Unix time."""

    id: str
    timestamp: int
    body: str
    secret: SecretStr

    @property
    def headers(self) -> dict[str, str]:
        return {
            "content-type": "application/json",
            "webhook-id": self.id,
            "webhook-timestamp": str(self.timestamp),
            "webhook-signature": signature_of(self.secret, self.id, self.timestamp, self.body),
        }


async def send(outgoing: Outgoing, url: str, message: SignedMessage, deadline_seconds: float) -> Acknowledgement:
    """Send a message once. The status counts as soon as it is there, whatever becomes of the rest of the reply.

    deadline_seconds: from the name's resolution to the last byte that is read.
    Raises Unreachable, ConnectionLost, DeadlineExceeded, InvalidReply, TargetNotAllowed.
    """
    shown = shown_url(url)
    ends_at = asyncio.get_running_loop().time() + deadline_seconds
    try:
        async with asyncio.timeout_at(ends_at):
            response = await outgoing.session.post(
                url, data=message.body.encode(), headers=message.headers, allow_redirects=False
            )
    except aiohttp.ConnectionTimeoutError as exc:
        raise Unreachable(shown, "no connection in time") from exc
    except TimeoutError as exc:
        raise DeadlineExceeded(shown, deadline_seconds) from exc
    except aiohttp.ClientConnectorError as exc:
        raise Unreachable(shown, redacted(exc.strerror or str(exc.os_error))) from exc
    except aiohttp.ClientResponseError as exc:
        raise InvalidReply(shown, "it is not HTTP") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise ConnectionLost(shown, redacted(str(exc)) or type(exc).__name__) from exc
    acknowledged = Acknowledgement(response.status, retry_after_seconds(response.headers))
    await _discard(response, ends_at)
    return acknowledged


async def _discard(response: aiohttp.ClientResponse, ends_at: float) -> None:
    """Read what is left of a short reply, so that its connection can serve the next message; close any other."""
    left = MAX_REPLY_BYTES
    try:
        with suppress(aiohttp.ClientError, OSError):  # a reply that is late is one, too
            async with asyncio.timeout_at(ends_at):
                async for chunk in response.content.iter_chunked(MAX_REPLY_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        break
    finally:
        if left >= 0 and response.content.at_eof():
            response.release()
        else:
            response.close()
