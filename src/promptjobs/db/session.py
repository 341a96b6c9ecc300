"""The connection to Postgres: an SQLAlchemy engine, and plain asyncpg connections for the journal and LISTEN."""

from dataclasses import dataclass

import asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from promptjobs.errors import DatabaseUnavailable

IDLE_IN_TRANSACTION = "10s"
CONNECT_SECONDS = 10.0
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
    def open(url: str, pool_size: int = 10) -> "Database":
        url = normalized(url)
        engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=True,
            connect_args={"server_settings": {"idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION}},
        )
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
