"""The ASGI side of a call: reading a bounded body, and answering."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from promptjobs.errors import CallerGone, CallInvalid, CallTooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

BODY_SECONDS = 30.0
JSON_TYPE = (b"content-type", b"application/json")


def error_body(message: str, code: str | None, kind: str = "promptjobs_error", param: str | None = None) -> bytes:
    """An error in OpenAI's form."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Raises CallTooLarge, CallerGone, and CallInvalid for a body that takes longer than 30 s."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > max_bytes:
            raise CallTooLarge(max_bytes)
        return body
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read_on(message, receive, max_bytes)
    except TimeoutError:
        raise CallInvalid(f"the body did not arrive within {BODY_SECONDS:g} s") from None


async def _read_on(message: Message, receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        if message["type"] != "http.request":
            raise CallerGone("the connection was closed before the body was complete")
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise CallTooLarge(max_bytes)
        if not message.get("more_body", False):
            return bytes(body)
        message = await receive()


async def send_reply(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """A whole reply."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
