"""The pool's connections: one that died while it was idle is replaced, and the caller does not notice."""

import pytest
from sqlalchemy import text

from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors import DatabaseUnavailable

KILL_OTHERS = text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def backend(database: Database) -> int:
    async with reading(database) as connection:
        return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


async def kill_others(database: Database) -> None:
    async with reading(database) as connection:
        await connection.execute(KILL_OTHERS)


async def test_a_connection_that_died_while_it_was_idle_is_replaced_unseen(database: Database) -> None:
    asking = Database.open(database.url, 1, ping_after_seconds=0.0)
    before = await backend(asking)
    await kill_others(database)
    assert await backend(asking) != before
    await asking.close()


async def test_one_that_dies_right_after_its_use_costs_one_request(database: Database) -> None:
    trusting = Database.open(database.url, 2, ping_after_seconds=60.0)
    before = await backend(trusting)
    await kill_others(database)
    with pytest.raises(DatabaseUnavailable):
        await backend(trusting)
    assert await backend(trusting) != before
    await trusting.close()
