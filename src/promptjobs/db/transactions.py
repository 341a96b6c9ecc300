"""Connections from the pool for reading and for one transaction, with the driver's errors translated."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import asyncpg
from sqlalchemy import exc, text
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
        async with _taken(database) as connection:
            yield connection


@asynccontextmanager
async def at_one_moment(database: Database) -> AsyncIterator[AsyncConnection]:
    """A connection for reading whose statements all see what the first one sees. Raises like `reading`."""
    whole = _WHOLE.get()
    if whole is not None:
        yield whole
        return
    with _translated():
        async with _begun(database, isolation="repeatable_read", readonly=True) as connection:
            yield connection


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
    part = (await driver_of(connection)).transaction()
    await part.start()
    try:
        yield
    except BaseException:
        await _undone(part)
        raise
    await part.commit()


async def driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    """The driver's own connection: what it carries out is a part of the same transaction.

    Raises asyncpg.InterfaceError where that is lost: a new one, which SQLAlchemy would open, would be outside of it.
    """
    pooled = connection.sync_connection
    if pooled is None or pooled.invalidated:
        raise asyncpg.InterfaceError("the connection was lost")
    return pooled.connection.driver_connection


@asynccontextmanager
async def _taken(database: Database) -> AsyncIterator[AsyncConnection]:
    """A connection of the pool, which begins no transaction by itself."""
    async with database.engine.connect() as pooled:
        connection = await pooled.execution_options(isolation_level="AUTOCOMMIT")
        driver = await driver_of(connection)
        try:
            yield connection
        finally:
            if driver.is_closed() and not connection.invalidated:
                # What only the driver has met is unknown to the pool, which would hand out the dead connection again
                # and again. By a statement of its own it notices, and replaces all that are as old.
                with suppress(exc.DBAPIError):
                    await connection.execute(text("SELECT 1"))


@asynccontextmanager
async def _begun(database: Database, **options: Any) -> AsyncIterator[AsyncConnection]:
    """The driver's transaction: it begins here, whether SQLAlchemy or the driver carries out the first statement.

    Committed at the end of the block, or undone; what has ended the block is what its caller sees.
    """
    async with _taken(database) as connection:
        driver = await driver_of(connection)
        transaction, is_over = driver.transaction(**options), False
        try:
            await transaction.start()
            try:
                yield connection
            except BaseException:
                is_over = await _undone(transaction)
                raise
            await transaction.commit()
            is_over = True
        finally:
            # The driver cannot tell: a BEGIN that was cancelled before its answer came is none for it. In what is left
            # open, the next transaction would be a savepoint, and never be committed.
            if not is_over and not driver.is_closed():
                await connection.invalidate()


async def _undone(transaction: asyncpg.transaction.Transaction) -> bool:
    """Whether the server has said so. A connection that is gone has undone everything itself."""
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await transaction.rollback()
        return True
    return False


@contextmanager
def _translated() -> Iterator[None]:
    """A backend that dies in mid-query shows in many ways: all but errors of the statement itself mean it is gone."""
    try:
        yield
    except OWN_FAULTS:
        raise
    except (exc.DBAPIError, exc.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as lost:
        raise DatabaseUnavailable("the database cannot be reached; try again") from lost
