"""The connection to Postgres: an SQLAlchemy engine, and plain asyncpg connections for the journal and LISTEN."""

import time
from dataclasses import dataclass

import asyncpg
from sqlalchemy import Engine, event, exc
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from promptjobs.errors import DatabaseUnavailable

IDLE_IN_TRANSACTION = "10s"
CONNECT_SECONDS = 10.0
PING_AFTER_SECONDS = 1.0
STATEMENT_SECONDS = 60.0
"""After so long without an answer, the server counts as gone: a cut cable tells nobody."""


def normalized(url: str) -> str:
    """`url` with the asyncpg driver named. Raises DatabaseUnavailable for anything but PostgreSQL."""
    parsed = make_url(url)
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise DatabaseUnavailable(f"the database must be PostgreSQL, got {parsed.get_backend_name()!r}")
    return parsed.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


@dataclass(frozen=True, slots=True)
class Database:
    """One Postgres database; `engine` is a pool, `connect()` a connection of one's own."""

    url: str
    engine: AsyncEngine

    @staticmethod
    def open(url: str, pool_size: int = 10, ping_after_seconds: float = PING_AFTER_SECONDS) -> "Database":
        """ping_after_seconds: a connection of the pool that was idle for longer is asked whether it lives."""
        url = normalized(url)
        engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            connect_args={"server_settings": {"idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION}},
        )
        _ping_after_idleness(engine.sync_engine, ping_after_seconds)
        return Database(url, engine)

    async def connect(self, application_name: str = "promptjobs") -> "asyncpg.Connection":
        """A plain asyncpg connection outside the pool. Raises OSError or asyncpg.PostgresError."""
        dsn = make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
        settings = {"idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION, "application_name": application_name}
        return await asyncpg.connect(
            dsn, server_settings=settings, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS
        )

    async def close(self) -> None:
        await self.engine.dispose()


def _ping_after_idleness(engine: Engine, seconds: float) -> None:
    """Ask a connection whether it lives only where it has been idle: asking each time is three of a read's five round
    trips. One that dies within a second of its use costs a request, and the pool replaces all others.
    """

    @event.listens_for(engine, "checkin")
    def note(_: object, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def check(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        idle_since = record.info.get("idle_since")
        if idle_since is None or time.monotonic() - idle_since < seconds:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise exc.DisconnectionError("the connection was lost while it was idle") from error
