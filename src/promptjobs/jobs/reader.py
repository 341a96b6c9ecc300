"""Reads for a running job on a connection of its own, which is replaced when it breaks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from promptjobs.errors import DatabaseUnavailable

T = TypeVar("T")

ATTEMPTS = 60
PAUSE_SECONDS = 0.5


class Reader:
    """`read` repeats what failed with the connection; a read changes nothing, so that is safe."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()

    async def read(self, query: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Raises DatabaseUnavailable where the database stays away for half a minute."""
        async with self._lock:
            for attempt in range(ATTEMPTS):
                try:
                    if self._connection is None:
                        self._connection = await self._connect()
                    return await query(self._connection)
                except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                    cause: Exception = error
                except (asyncpg.OperatorInterventionError, OSError) as error:
                    cause = error
                await self.close()
                if attempt:
                    await asyncio.sleep(PAUSE_SECONDS)
            raise DatabaseUnavailable(f"the database does not answer: {cause}") from cause

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
