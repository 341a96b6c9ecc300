"""Counts each request to the API, and logs it: those that an operator has to know of are heard without debugging."""

import asyncio
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptjobs.telemetry.metrics import REQUEST_LATENCY, REQUESTS

log = logging.getLogger(__name__)

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
OTHER = "other"
"""For methods and paths of whatever form, which must not become labels."""

SLOW_SECONDS = 1.0
CLIENT_GONE = 499


class AccessLog:
    """Stands outside of what turns errors into answers, and inside of what names requests.

    A request counts when its answer begins: an event stream's answer lasts as long as its job.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        is_seen = False

        async def send_seen(message: Message) -> None:
            nonlocal is_seen
            if message["type"] == "http.response.start":
                is_seen = True
                _note(scope, message["status"], time.perf_counter() - started)
            await send(message)

        try:
            await self._app(scope, receive, send_seen)
        except asyncio.CancelledError:
            if not is_seen:
                _note(scope, CLIENT_GONE, time.perf_counter() - started)
            raise


def route_of(scope: Scope) -> str:
    """The template of the path that was matched, its prefix included; OTHER where none was."""
    template = getattr(scope.get("route"), "path_format", None)
    if template is None:
        return OTHER
    own = [segment for segment in template.split("/") if segment]
    path = scope["path"].split("/")
    # The route of a router knows no prefix, under which parameters may stand as well.
    values = {str(value): name for name, value in scope.get("path_params", {}).items() if f"{{{name}}}" not in own}
    prefix = [f"{{{values[segment]}}}" if segment in values else segment for segment in path[: len(path) - len(own)]]
    return "/".join([*prefix, *own])


def _note(scope: Scope, status: int, seconds: float) -> None:
    route = route_of(scope)
    method = scope["method"] if scope["method"] in METHODS else OTHER
    REQUESTS.labels(method, route, str(status)).inc()
    REQUEST_LATENCY.labels(route).observe(seconds)
    if status >= 500:
        level, said = logging.WARNING, "a request was answered with an error of the service"
    elif seconds > SLOW_SECONDS:
        level, said = logging.INFO, "a request was slow"
    else:
        level, said = logging.DEBUG, "a request was answered"
    if log.isEnabledFor(level):
        fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        organisation = scope.get("state", {}).get("organisation")
        log.log(level, said, extra=fields if organisation is None else {**fields, "organisation": organisation})
