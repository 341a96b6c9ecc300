"""An app asked in this process or served over real HTTP on this machine, and a reader of event streams."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp


@asynccontextmanager
async def in_process(app: ASGIApp, *, raises: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app without a network. raises: whether what the app fails of is raised here, or answered."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@dataclass
class Served:
    """base_url has no slash at its end."""

    base_url: str
    port: int
    server: uvicorn.Server
    running: asyncio.Task[None]

    async def stop(self) -> None:
        """As on a signal: connections end, then the lifespan."""
        self.server.should_exit = True
        await self.running


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[Served]:
    """The listening socket exists before the server runs: clients wait in its queue, and nobody has to poll."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            app, lifespan="on", log_level="warning", ws="none", timeout_graceful_shutdown=10, access_log=False
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        here = Served(f"http://127.0.0.1:{port}", port, server, running)
        try:
            yield here
        finally:
            await here.stop()


@dataclass(frozen=True)
class Received:
    """One block of a stream. arrived: when, in seconds of the loop's clock; block: as it came."""

    event: dict[str, Any]
    arrived: float
    block: str


async def receive(response: httpx.Response) -> AsyncIterator[Received]:
    """The events of a stream as the existing client reads them: blocks end at an empty line, comments are skipped."""
    buffer = ""
    async for part in response.aiter_text():
        buffer += part
        *blocks, buffer = buffer.split("\n\n")
        for block in blocks:
            data = [line[6:] for line in block.split("\n") if line.startswith("data: ")]
            if data:
                yield Received(json.loads(data[-1]), asyncio.get_running_loop().time(), block)
