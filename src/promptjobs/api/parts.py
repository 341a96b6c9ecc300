"""What every process of the service is made of: database, outgoing connections, ledger, reaper, vault."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from promptjobs.clients.http import Outgoing
from promptjobs.clients.pricing import load_prices
from promptjobs.clients.providers import Providers
from promptjobs.db import embedded
from promptjobs.db.ledger import Ledger
from promptjobs.db.migrate import migrate
from promptjobs.db.session import Database
from promptjobs.db.vault import Vault
from promptjobs.jobs.reaper import Reaper
from promptjobs.jobs.webhooks import WebhookCourier, WebhookSender
from promptjobs.settings import PROVIDERS, Settings, provider_environment
from promptjobs.telemetry import tracing
from promptjobs.telemetry.loop_lag import LoopLag

log = logging.getLogger(__name__)

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
    vault: Vault
    courier: WebhookCourier
    background: Background


@asynccontextmanager
async def open_parts(settings: Settings, database: Database) -> AsyncIterator[Parts]:
    """Task apps and providers have a session each: a task app's URL must not reach what only providers may."""
    vault = await asyncio.to_thread(Vault.open, settings.secret_key, settings.data_dir)
    providers = Providers(provider_environment(), PROVIDERS)
    allows_loopback = settings.allowed_targets is None and settings.database_url is None
    if allows_loopback:
        log.info("task apps on loopback addresses are allowed; PROMPTJOBS_ALLOWED_TARGETS restricts them")
    task_apps = Outgoing(frozenset(settings.allowed_targets or ()), allow_loopback=allows_loopback)
    urls = {provider.name: provider.base_url for provider in providers}
    tracing.start(settings.otlp_endpoint, version("promptjobs"), urls)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, tracing.stop)
        await stack.enter_async_context(task_apps)
        models = await stack.enter_async_context(Outgoing(providers.targets()))
        await asyncio.to_thread(load_prices)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTIONS)
        ledger, reaper = Ledger(database.connect), Reaper(database.connect, settings.lease_seconds)
        background, lag = Background(), LoopLag()
        settling = background.start("ledger", ledger.groups.run())
        reaping = background.start("reaper", reaper.run())
        lagging = background.start("loop lag", lag.run())
        courier = WebhookCourier(task_apps, vault)
        sender = WebhookSender(lambda: database.connect("promptjobs-webhooks"), courier)
        sending = background.start("webhooks", sender.run())
        try:
            yield Parts(database, providers, task_apps, models, ledger, vault, courier, background)
        finally:
            # The ledger goes last: what has ended by now settles what it had reserved.
            reaper.stop()
            lag.stop()
            sender.stop()
            ledger.groups.stop()
            await asyncio.wait({settling, reaping, lagging, sending})
        background.result()
