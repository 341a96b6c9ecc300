"""Ledgers for parts that need one: over a real database, and one that nothing may be asked of."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from promptjobs.core.ledger import Category
from promptjobs.db.ledger import Ledger


@asynccontextmanager
async def running_ledger(
    connect: Callable[[], Awaitable[asyncpg.Connection]], patience_seconds: float = 5.0
) -> AsyncIterator[Ledger]:
    """At the end everything that was queued is stored."""
    ledger = Ledger(connect, patience_seconds=patience_seconds)
    async with asyncio.TaskGroup() as group:
        group.create_task(ledger.groups.run())
        try:
            yield ledger
        finally:
            ledger.groups.stop()


async def open_accounts(connection: asyncpg.Connection, job_id: str) -> None:
    """As the creation of a job does."""
    rows = [(job_id, category.value) for category in Category]
    await connection.executemany("INSERT INTO ledger(job_id, category) VALUES ($1, $2)", rows)


def unused_ledger() -> Ledger:
    """Of a world without completions: whoever asked it something would wait for ever."""

    async def connect() -> asyncpg.Connection:
        raise AssertionError

    return Ledger(connect)
