"""Puts the parts together from the settings: interceptor, worker and API, and runs them until a signal."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from promptjobs.api.app import create_app
from promptjobs.api.auth import Access, is_loopback
from promptjobs.api.http_protocol import BoundedHttp
from promptjobs.api.parts import Parts, open_database, open_parts
from promptjobs.api.rate_limits import RateLimits
from promptjobs.clients.llm import Llm
from promptjobs.core.optimizers import check_budget
from promptjobs.db import api_keys
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.errors import KeysRequired
from promptjobs.interceptor.app import Interceptor
from promptjobs.interceptor.recent import RecentCalls
from promptjobs.jobs.service import JobService
from promptjobs.jobs.worker import Worker, WorkerOptions
from promptjobs.settings import Settings
from promptjobs.telemetry.metrics_port import MetricsPort

GRACEFUL_SECONDS = 5

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open. Longer than clients keep theirs in a pool (aiohttp 15 s, httpx 5 s, undici
4 s): a POST that a task app sends on a connection just as it is closed here would fail its rollout."""


def worker_of(settings: Settings, parts: Parts, public_url: str, interceptor: Interceptor | None) -> Worker:
    options = WorkerOptions(
        public_url=public_url,
        jobs=settings.worker_jobs,
        database_connections=settings.database_connections,
        lease_seconds=settings.lease_seconds,
        outage_seconds=settings.outage_seconds,
        rollout_timeout_seconds=settings.rollout_timeout_seconds,
        environment_key=settings.environment_api_key,
    )
    recent = None
    if interceptor is not None and settings.public_url is None:
        # Task apps dial this very process, so that every call under our tokens is made here.
        recent = interceptor.meter.recent = RecentCalls()
    return Worker(
        parts.database,
        task_apps=parts.task_apps,
        llm=Llm(parts.models, parts.providers),
        grants=interceptor.grants if interceptor else None,
        ledger=parts.ledger,
        vault=parts.vault,
        options=options,
        recent=recent,
    )


class Server(uvicorn.Server):
    """Says when it listens, and stops the worker before the interceptor goes away.

    Otherwise rollouts under way would seem to fail.
    """

    def __init__(
        self, config: uvicorn.Config, after_startup: Callable[[], None], before_shutdown: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(config)
        self._after_startup, self._before_shutdown = after_startup, before_shutdown

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._after_startup()

    def leave(self) -> None:
        """Shut down, as on a signal."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._before_shutdown()
        await super().shutdown(sockets)


@dataclass(frozen=True, slots=True)
class Listening:
    """A server that is ready. needs_key: whether requests need an API key now."""

    url: str
    needs_key: bool


async def open_access(settings: Settings, database: Database) -> Access:
    """Who may use the service. Raises KeysRequired where everybody on the network could."""
    async with writing(database) as connection:
        if settings.initial_api_key is not None:
            await api_keys.adopt(connection, settings.initial_api_key.get_secret_value())
        has_keys = await api_keys.are_any(connection)
    is_local = is_loopback(settings.host)
    if not is_local and not has_keys:
        raise KeysRequired(settings.host)
    own_name = urlsplit(settings.public_url or "").hostname
    return Access(
        database,
        RateLimits(settings.requests_per_second, settings.max_streams),
        is_open_without_keys=is_local,
        allowed_hosts=frozenset({own_name} if own_name else ()),
    )


async def serve(
    settings: Settings, *, with_worker: bool = True, ready: Callable[[Listening], None] | None = None
) -> None:
    """API, interceptor and, unless told otherwise, a worker, until SIGTERM or SIGINT; `ready` is told when they are.

    Raises KeysRequired, OSError where it cannot listen.
    """
    listening = listen(settings)
    port = listening.getsockname()[1]
    url = f"http://{_shown_host(settings.host)}:{port}"
    async with open_database(settings) as database, open_parts(settings, database) as parts:
        access = await open_access(settings, database)
        needs_key = not await access.is_open()
        interceptor = Interceptor(database, parts.models, parts.providers, ledger=parts.ledger, vault=parts.vault)
        worker = worker_of(settings, parts, settings.public_url or url, interceptor) if with_worker else None
        running: asyncio.Task[None] | None = None

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            nonlocal running
            await interceptor.start()
            parts.background.start("interceptor", interceptor.wait())
            if worker is not None:
                running = parts.background.start("worker", worker.run())
            yield
            await interceptor.stop()

        def listens() -> None:
            if ready is not None:
                ready(Listening(url, needs_key))

        async def leave_off() -> None:
            if worker is not None and running is not None:
                worker.stop()
                await asyncio.wait([running])

        service = JobService(database, parts.providers, check_budget, parts.vault)
        app = create_app(
            database=database,
            service=service,
            access=access,
            courier=parts.courier,
            interceptor=interceptor,
            lifespan=lifespan,
        )
        server = Server(uvicorn_config(app, settings), listens, leave_off)
        parts.background.ends_by(server.leave)
        await server.serve(sockets=[listening])
        parts.background.result()


def _shown_host(host: str) -> str:
    """The host of a URL under which a process on this machine reaches what listens on `host`."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a comparison
    return f"[{reached}]" if ":" in reached else reached


def listen(settings: Settings) -> socket.socket:
    """A bound socket, so that the port is known before anything starts. Raises OSError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError:
        listening.close()
        raise
    return listening


def uvicorn_config(app: object, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="uvloop",
        http=BoundedHttp,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        log_level=settings.log_level,
    )


async def work(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """A worker alone, until SIGTERM or SIGINT; task apps reach the interceptor of another process."""
    async with open_database(settings) as database, open_parts(settings, database) as parts:
        worker = worker_of(settings, parts, settings.public_url or f"http://{settings.host}:{settings.port}", None)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        async with AsyncExitStack() as stack:
            if settings.metrics_port is not None:
                metrics = MetricsPort(settings.metrics_host, settings.metrics_port)
                stack.push_async_callback(asyncio.to_thread, metrics.close)
            if ready is not None:
                ready(worker.worker_id)
            parts.background.ends_by(worker.stop)
            await worker.run()
