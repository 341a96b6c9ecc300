"""The database of the settings, for commands that work on it without a service: opened, and known to answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import asyncpg
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.cli.logs import log_to_stderr
from promptjobs.cli.service_settings import read_settings
from promptjobs.cli.signals import uninterrupted
from promptjobs.db import embedded
from promptjobs.db.migrate import current_revision, head_revision, migrate
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.errors import DatabaseUnavailable, OptionInvalid
from promptjobs.settings import Settings

T = TypeVar("T")

CONNECT_SECONDS = 10.0


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """The URL of the settings' database; without one that of the embedded PostgreSQL, which runs during the block.

    Raises EmbeddedPostgresFailed.
    """
    if settings.database_url is not None:
        yield settings.database_url
        return
    with uninterrupted():
        running = embedded.start(settings.data_dir / "postgres")
    with running:
        yield running.url


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """A database that answers. Raises OptionInvalid for a URL that cannot be read, DatabaseUnavailable."""
    try:
        database = Database.open(url, 1)
    except (ArgumentError, ValueError) as error:
        raise OptionInvalid("PROMPTJOBS_DATABASE_URL", "expected postgresql://user:password@host/name") from error
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await database.connect()
            await connection.close()
        yield database
    except TimeoutError as error:
        raise DatabaseUnavailable(f"the database does not answer within {CONNECT_SECONDS:g} s") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError) as error:
        raise DatabaseUnavailable(f"the database cannot be used: {error}") from error
    finally:
        await database.close()


def carried_out(work: Callable[[AsyncConnection], Awaitable[T]], data_dir: Path | None) -> T:
    """The result of `work`, in one transaction on the database of the settings.

    The embedded one is brought to this version's schema first, as `serve` does; any other is its operator's to migrate.
    Raises OptionInvalid, EmbeddedPostgresFailed, DatabaseUnavailable.
    """
    settings = read_settings(data_dir=data_dir)
    log_to_stderr(settings.log_level, settings.log_format)

    async def carry_out(url: str) -> T:
        async with opened(url) as database:
            if settings.database_url is None:
                await migrate(database)
            await require_schema(database)
            async with writing(database) as connection:
                return await work(connection)

    with database_url(settings) as url:
        return asyncio.run(carry_out(url))


async def require_schema(database: Database) -> None:
    """The database must have this version's schema. Raises DatabaseUnavailable."""
    wanted = head_revision()
    async with database.engine.connect() as connection:
        found = await connection.run_sync(current_revision)
    if found != wanted:
        said = f"the database has schema {found or 'none'}, and this version needs {wanted}"
        raise DatabaseUnavailable(f"{said}: run `promptjobs migrate`")
