"""Requests as they are counted and logged: the app's routes are real, and the log's lines are its own."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response, StreamingResponse

from promptjobs.api.access_log import AccessLog
from promptjobs.telemetry.metrics import REGISTRY

ITEM = "/api/{owner}/items/{item_id}"


def make_app() -> FastAPI:
    router = APIRouter()

    @router.get("/{item_id}")
    async def read(request: Request, item_id: str) -> dict[str, str]:
        request.state.organisation = "acme"
        return {"item": item_id}

    @router.get("")
    async def browse() -> Response:
        return Response(status_code=503)

    @router.post("/{item_id}/break")
    async def fail(item_id: str) -> None:
        raise RuntimeError(item_id)

    @router.get("/{item_id}/stream")
    async def stream(item_id: str) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            yield b"last"

        return StreamingResponse(parts())

    @router.get("/{item_id}/wait")
    async def wait(item_id: str) -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(0)

    app = FastAPI()
    app.include_router(router, prefix="/api/{owner}/items")
    return app


@asynccontextmanager
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(AccessLog(make_app()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


def counted(method: str, route: str, status: int) -> float:
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("promptjobs_http_requests_total", labels) or 0.0


def fields(record: logging.LogRecord) -> dict[str, Any]:
    names = ("method", "route", "status", "organisation")
    return {name: vars(record)[name] for name in names if name in vars(record)}


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/api/o1/items/i1", ITEM, 200),
        ("GET", "/api/items/items/items", "/api/{owner}/{owner}/{item_id}", 200),
        ("DELETE", "/api/o1/items/i1", ITEM, 405),
        ("GET", "/api/o1/items", "/api/{owner}/items", 503),
        ("POST", "/api/o1/items/i1/break", f"{ITEM}/break", 500),
        ("GET", "/api/o1/items/i1/stream", f"{ITEM}/stream", 200),
        ("GET", "/nowhere/at/all", "other", 404),
    ],
)
async def test_requests_count_by_the_template_of_their_route(method: str, path: str, route: str, status: int):
    before = counted(method, route, status)
    async with client() as http:
        assert (await http.request(method, path)).status_code == status
    assert counted(method, route, status) == before + 1


async def test_methods_of_any_name_are_one_label():
    before = counted("other", "other", 404)
    async with client() as http:
        await http.request("BREW", "/nowhere")
    assert counted("other", "other", 404) == before + 1


async def test_who_has_gone_before_the_answer_is_counted():
    before = counted("GET", f"{ITEM}/wait", 499)
    async with client() as http:
        with pytest.raises(asyncio.CancelledError):
            await http.get("/api/o1/items/i1/wait")
    assert counted("GET", f"{ITEM}/wait", 499) == before + 1


async def test_answered_request_is_logged_for_debugging_only(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "promptjobs.api.access_log")
    async with client() as http:
        await http.get("/api/o1/items/i1")
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert fields(record) == {"method": "GET", "route": ITEM, "status": 200, "organisation": "acme"}


async def test_own_errors_are_warnings_without_the_path(caplog: pytest.LogCaptureFixture):
    async with client() as http:
        await http.post("/api/o1/items/secret-item/break")
    record = next(record for record in caplog.records if record.name == "promptjobs.api.access_log")
    assert record.levelno == logging.WARNING
    assert fields(record) == {"method": "POST", "route": f"{ITEM}/break", "status": 500}
    assert "secret-item" not in str(vars(record))
