"""Connections from the pool for reading and for one transaction, with the driver's errors translated."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar

import asyncpg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.session import Database
from promptjobs.errors import DatabaseUnavailable

_WHOLE: ContextVar[AsyncConnection | None] = ContextVar("whole", default=None)
"""The transaction of which everything that this task does with the database is a part."""

IDLE = "60s"
"""How long a whole may go without a statement: its block may plan hundreds of jobs in between."""

OWN_FAULTS = (
    exc.DataError,
    exc.IntegrityError,
    exc.ProgrammingError,
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.SyntaxOrAccessError,
)
"""Errors of a statement itself, which tell nothing about the database. Those of one that is a part of a transaction
come from SQLAlchemy or from its driver, whoever has carried it out."""


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
            async with savepoint(whole):
                yield whole
            return
        async with _begun(database) as connection:
            yield connection


@asynccontextmanager
async def whole(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction that takes in every `reading` and `writing` of its block, each of the latter as a savepoint.

    They use its connection, one after the other: the block must not spread them over several tasks.
    Raises DatabaseUnavailable like `reading`.
    """
    with _translated():
        async with _begun(database) as connection:
            await (await driver_of(connection)).execute(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE}'")
            joined = _WHOLE.set(connection)
            try:
                yield connection
            finally:
                _WHOLE.reset(joined)


@asynccontextmanager
async def savepoint(connection: AsyncConnection) -> AsyncIterator[None]:
    """Undo what the block has done to a transaction, and nothing else, where it raises."""
    async with _transaction(await driver_of(connection)):
        yield


async def driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    """The driver's own connection: what it carries out is a part of the same transaction."""
    return (await connection.get_raw_connection()).driver_connection


@asynccontextmanager
async def _begun(database: Database) -> AsyncIterator[AsyncConnection]:
    """The driver's transaction: it begins here, whether SQLAlchemy or the driver carries out the first statement."""
    async with database.engine.connect() as pooled:
        connection = await pooled.execution_options(isolation_level="AUTOCOMMIT")
        driver = await driver_of(connection)
        try:
            async with _transaction(driver):
                yield connection
        finally:
            # A task that was cancelled in the middle may have kept the end from coming through.
            if not driver.is_closed() and driver.is_in_transaction():
                await connection.invalidate()


@asynccontextmanager
async def _transaction(driver: asyncpg.Connection) -> AsyncIterator[None]:
    """Committed at the end of the block, or undone; what has ended the block is what its caller sees."""
    transaction = driver.transaction()
    await transaction.start()
    try:
        yield
    except BaseException:
        # A connection that is gone has undone everything itself.
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await transaction.rollback()
        raise
    await transaction.commit()


@contextmanager
def _translated() -> Iterator[None]:
    """A backend that dies in mid-query shows in many ways: all but errors of the statement itself mean it is gone."""
    try:
        yield
    except OWN_FAULTS:
        raise
    except (exc.DBAPIError, exc.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as lost:
        raise DatabaseUnavailable("the database cannot be reached; try again") from lost
