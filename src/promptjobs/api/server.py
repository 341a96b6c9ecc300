"""Puts the parts together from the settings: database, interceptor, worker and API, and runs them until a signal."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI

from promptjobs.api.app import create_app
from promptjobs.clients.http import Outgoing
from promptjobs.clients.llm import Llm
from promptjobs.clients.pricing import load_prices
from promptjobs.clients.providers import Providers
from promptjobs.core.optimizers import check_budget
from promptjobs.db import embedded
from promptjobs.db.ledger import Ledger
from promptjobs.db.migrate import migrate
from promptjobs.db.session import Database
from promptjobs.interceptor.app import Interceptor
from promptjobs.interceptor.recent import RecentCalls
from promptjobs.jobs.reaper import Reaper
from promptjobs.jobs.service import JobService
from promptjobs.jobs.worker import Worker, WorkerOptions
from promptjobs.settings import Settings, provider_environment

log = logging.getLogger(__name__)

GRACEFUL_SECONDS = 5
POOL_SIZE = 10

COLLECTIONS = 10_000, 50, 1_000
"""Thresholds of the garbage collector. A full collection stops the event loop for as long as it takes to walk all that
hundreds of jobs know, which is tenths of a second. Reference counts free nearly everything, so it may be rare."""


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The database of the settings, or the embedded one. Raises EmbeddedPostgresFailed, DatabaseUnavailable."""
    async with AsyncExitStack() as stack:
        url = settings.database_url
        if url is None:
            server = await asyncio.to_thread(embedded.start, settings.data_dir / "postgres")
            stack.push_async_callback(asyncio.to_thread, server.stop)
            url = server.url
        database = Database.open(url, POOL_SIZE)
        stack.push_async_callback(database.close)
        if settings.database_url is None:  # any other database is its operator's to migrate
            await migrate(database)
        yield database


class Background:
    """Parts that run beside the server. One that ends for whatever reason ends the process."""

    def __init__(self) -> None:
        self._leave: Callable[[], None] = lambda: None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda _: self._leave())
        self._tasks.append(task)
        return task

    def ends_by(self, leave: Callable[[], None]) -> None:
        """Call `leave` when a part ends, also where one has ended before."""
        self._leave = leave
        if any(task.done() for task in self._tasks):
            leave()

    def result(self) -> None:
        """Raises what a part has failed of."""
        for task in self._tasks:
            if task.done():
                task.result()


@dataclass(frozen=True, slots=True)
class Parts:
    """What every process of the service shares. `ledger` and `reaper` run in its background."""

    database: Database
    providers: Providers
    task_apps: Outgoing
    models: Outgoing
    ledger: Ledger
    background: Background


@asynccontextmanager
async def open_parts(settings: Settings, database: Database) -> AsyncIterator[Parts]:
    """Task apps and providers have a session each: a task app's URL must not reach what only providers may."""
    providers = Providers(provider_environment())
    allows_loopback = settings.allowed_targets is None and settings.database_url is None
    if allows_loopback:
        log.info("task apps on loopback addresses are allowed; PROMPTJOBS_ALLOWED_TARGETS restricts them")
    task_apps = Outgoing(frozenset(settings.allowed_targets or ()), allow_loopback=allows_loopback)
    async with task_apps, Outgoing(providers.targets()) as models:
        await asyncio.to_thread(load_prices)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTIONS)
        ledger, reaper = Ledger(database.connect), Reaper(database.connect, settings.lease_seconds)
        background = Background()
        settling = background.start("ledger", ledger.groups.run())
        reaping = background.start("reaper", reaper.run())
        try:
            yield Parts(database, providers, task_apps, models, ledger, background)
        finally:
            # The ledger goes last: what has ended by now settles what it had reserved.
            reaper.stop()
            ledger.groups.stop()
            await asyncio.wait({settling, reaping})
        background.result()


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


async def serve(settings: Settings, *, with_worker: bool = True, ready: Callable[[str], None] | None = None) -> None:
    """API, interceptor and, unless told otherwise, a worker, until SIGTERM or SIGINT. `ready` is told the URL."""
    listening = listen(settings)
    port = listening.getsockname()[1]
    url = f"http://{_shown_host(settings.host)}:{port}"
    async with open_database(settings) as database, open_parts(settings, database) as parts:
        interceptor = Interceptor(database, parts.models, parts.providers, ledger=parts.ledger)
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
                ready(url)

        async def leave_off() -> None:
            if worker is not None and running is not None:
                worker.stop()
                await asyncio.wait([running])

        service = JobService(database, parts.providers, check_budget)
        app = create_app(database=database, service=service, interceptor=interceptor, lifespan=lifespan)
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
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        log_level=settings.log_level,
    )


async def work(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """A worker alone, until SIGTERM or SIGINT; task apps reach the interceptor of another process."""
    async with open_database(settings) as database, open_parts(settings, database) as parts:
        worker = worker_of(settings, parts, settings.public_url or f"http://{settings.host}:{settings.port}", None)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        if ready is not None:
            ready(worker.worker_id)
        parts.background.ends_by(worker.stop)
        await worker.run()
