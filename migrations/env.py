"""Alembic's entry: runs the revisions against the URL given by the caller, the command line or the environment."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

from promptjobs.db.models import Base


def run(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=Base.metadata, compare_type=True, compare_server_default=True
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run(url: str) -> None:
    engine = create_async_engine(url, poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
            await connection.commit()
    finally:
        await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get("PROMPTJOBS_DATABASE_URL")
    if not url:
        raise SystemExit("name the database: alembic -x url=postgresql+asyncpg://… or PROMPTJOBS_DATABASE_URL")
    asyncio.run(connect_and_run(url))
