"""What every answer of the API carries: a request id, and headers that keep browsers from misreading it."""

import re
import uuid

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptjobs.telemetry.context import REQUEST_ID, bound

HEADER = "x-request-id"
SENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""An answer that says otherwise keeps what it says."""


def request_id_of(connection: HTTPConnection) -> str:
    """The id of the request under way: the client's own, or a new one."""
    found: str = connection.scope["state"]["request_id"]
    return found


class RequestIds:
    """Names each request in its answer, its log lines and its problem."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = HTTPConnection(scope).headers.get(HEADER, "")
        request_id = sent if SENT_ID.fullmatch(sent) else f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[HEADER] = request_id
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with bound(REQUEST_ID, request_id):
            await self._app(scope, receive, send_named)
