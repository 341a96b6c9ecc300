"""Connections from the pool for reading and for one transaction, with the driver's errors translated."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

import asyncpg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.session import Database
from promptjobs.errors import DatabaseUnavailable

_WHOLE: ContextVar[AsyncConnection | None] = ContextVar("whole", default=None)
"""The transaction of which everything that this task does with the database is a part."""


@asynccontextmanager
async def reading(database: Database) -> AsyncIterator[AsyncConnection]:
    """A connection whose statements each see the newest state; without BEGIN and ROLLBACK around them.

    Raises DatabaseUnavailable where the database cannot be reached, or goes away.
    """
    whole = _WHOLE.get()
    if whole is not None:
        yield whole
        return
    with _translated():
        async with database.engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")


@asynccontextmanager
async def writing(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction, committed at the end of the block. Raises DatabaseUnavailable like `reading`."""
    whole = _WHOLE.get()
    with _translated():
        if whole is not None:
            async with whole.begin_nested():
                yield whole
            return
        async with database.engine.begin() as connection:
            yield connection


@asynccontextmanager
async def whole(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction that takes in every `reading` and `writing` of its block, each of the latter as a savepoint.

    They use its connection, one after the other: the block must not spread them over several tasks.
    Raises DatabaseUnavailable like `reading`.
    """
    with _translated():
        async with database.engine.begin() as connection:
            joined = _WHOLE.set(connection)
            try:
                yield connection
            finally:
                _WHOLE.reset(joined)


@contextmanager
def _translated() -> Iterator[None]:
    """A backend that dies in mid-query shows in many ways: all but errors of the statement itself mean it is gone."""
    try:
        yield
    except (exc.DataError, exc.IntegrityError, exc.ProgrammingError):
        raise
    except (exc.DBAPIError, exc.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as lost:
        raise DatabaseUnavailable("the database cannot be reached; try again") from lost
