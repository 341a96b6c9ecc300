"""Connections from the pool for reading and for one transaction, with the driver's errors translated."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.session import Database
from promptjobs.errors import DatabaseUnavailable


@asynccontextmanager
async def reading(database: Database) -> AsyncIterator[AsyncConnection]:
    """A connection whose statements each see the newest state; without BEGIN and ROLLBACK around them.

    Raises DatabaseUnavailable where the database cannot be reached, or goes away.
    """
    with _translated():
        async with database.engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")


@asynccontextmanager
async def writing(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction, committed at the end of the block. Raises DatabaseUnavailable like `reading`."""
    with _translated():
        async with database.engine.begin() as connection:
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    """A backend that dies in mid-query shows in many ways: all but errors of the statement itself mean it is gone."""
    try:
        yield
    except (exc.DataError, exc.IntegrityError, exc.ProgrammingError):
        raise
    except (exc.DBAPIError, exc.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as lost:
        raise DatabaseUnavailable("the database cannot be reached; try again") from lost
