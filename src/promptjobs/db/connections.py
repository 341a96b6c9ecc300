"""A bounded pool of plain connections that all running jobs of a process share."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg

from promptjobs.db.groups import OUTAGE
from promptjobs.errors import DatabaseUnavailable

T = TypeVar("T")

DEFINITE = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.SyntaxOrAccessError)
"""Errors that say for certain that the statement was not carried out and never will be."""

ATTEMPTS = 60
PAUSE_SECONDS = 0.5

log = logging.getLogger(__name__)


class Connections:
    """At most `size` connections, opened when they are needed. Who waits for one is served in the order of asking.

    prepare: done once for each connection. Nobody may ask for a second connection while using one: where everybody
    did, all would wait for ever.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        size: int,
        prepare: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
        *,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """pause_seconds: between two attempts to reach a database that is away."""
        self._connect, self._prepare, self._pause_seconds = connect, prepare, pause_seconds
        self._free = asyncio.Semaphore(size)
        self._idle: list[asyncpg.Connection] = []
        self._is_closed = False

    @asynccontextmanager
    async def use(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection that nobody else uses. Raises what connecting raises: OSError or asyncpg.PostgresError.

        It is kept for the next user, unless an error leaves open what state it is in.
        """
        async with self._free:
            connection = await self._taken()
            is_sound = False
            try:
                yield connection
                is_sound = True
            except DEFINITE:
                is_sound = True
                raise
            finally:
                if self._is_closed or not is_sound or connection.is_closed() or connection.is_in_transaction():
                    connection.terminate()
                else:
                    self._idle.append(connection)

    async def _taken(self) -> asyncpg.Connection:
        # The one used last: it has its statements prepared, and a few busy jobs open no more than they need.
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        connection = await self._connect()
        if self._prepare is not None:
            try:
                await self._prepare(connection)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def persist(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """The result of `work`, which may be repeated: it is, on another connection, where the database fails.

        Raises DatabaseUnavailable after ATTEMPTS, by default half a minute, and what `work` itself raises.
        """
        for attempt in range(ATTEMPTS):
            try:
                async with self.use() as connection:
                    return await work(connection)
            except DEFINITE:
                raise
            except OUTAGE as error:
                cause = error
            log.warning("the database is away; trying again", extra={"cause": type(cause).__name__})
            if attempt:
                await asyncio.sleep(self._pause_seconds)
        raise DatabaseUnavailable(f"the database does not answer: {cause}") from cause

    def close(self) -> None:
        """Close what is idle. What is in use closes when it is given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().terminate()
