"""Brings a database to the schema of this version, one process at a time."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from promptjobs.db.session import Database

MIGRATION_LOCK = 0x70726F6D  # an arbitrary key for pg_advisory_xact_lock


def migrations_dir() -> Path:
    """The revisions: beside the package in a wheel, at the top of the repository in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for path in (package / "migrations", package.parent.parent / "migrations"):
        if (path / "env.py").is_file():
            return path
    raise FileNotFoundError(f"no migrations beside {package}")


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()))
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str | None:
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


async def migrate(database: Database, revision: str = "head") -> tuple[str | None, str | None]:
    """Upgrade to `revision` (or downgrade, where it lies behind "-"). Returns the revision before and after."""

    def run(connection: Connection) -> tuple[str | None, str | None]:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        before = current_revision(connection)
        if revision.startswith("-") or revision == "base":
            command.downgrade(alembic_config(connection), revision)
        else:
            command.upgrade(alembic_config(connection), revision)
        return before, current_revision(connection)

    async with database.engine.begin() as connection:
        return await connection.run_sync(run)
