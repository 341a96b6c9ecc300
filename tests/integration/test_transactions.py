"""A transaction takes in what SQLAlchemy carries out and what its driver does, and never goes back to the pool open."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import bindparam, select, text

from promptjobs.db.models import BalanceRow
from promptjobs.db.session import Database
from promptjobs.db.statements import Statement
from promptjobs.db.transactions import at_one_moment, driver_of, reading, whole, writing

INSERT = "INSERT INTO balances(organisation, usd) VALUES ($1, 5)"
BY_NAME = select(BalanceRow.organisation, BalanceRow.usd).where(BalanceRow.organisation == bindparam("name"))


@pytest.fixture
async def single(database: Database) -> AsyncIterator[Database]:
    """The same database through a pool of one connection, so that the next user has the one before's."""
    opened = Database.open(database.url, pool_size=1)
    yield opened
    await opened.close()


async def names(database: Database) -> list[str]:
    async with reading(database) as connection:
        return sorted((await connection.execute(select(BalanceRow.organisation))).scalars())


async def add(database: Database, name: str) -> None:
    async with writing(database) as connection:
        await (await driver_of(connection)).execute(INSERT, name)


async def test_what_the_driver_does_first_is_undone_with_the_rest(single: Database) -> None:
    async def fail() -> None:
        async with writing(single) as connection:
            await (await driver_of(connection)).execute(INSERT, "a")
            await connection.execute(text("INSERT INTO balances(organisation, usd) VALUES ('b', 1)"))
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await names(single) == []


async def test_a_fault_of_the_statement_is_no_outage_whoever_carries_it_out(single: Database) -> None:
    await add(single, "a")
    with pytest.raises(asyncpg.UniqueViolationError):
        await add(single, "a")
    assert await names(single) == ["a"]


async def test_a_part_of_a_whole_can_fail_alone(single: Database) -> None:
    async with whole(single):
        await add(single, "a")
        with pytest.raises(asyncpg.UniqueViolationError):
            await add(single, "a")
        await add(single, "b")
    assert await names(single) == ["a", "b"]


async def test_a_task_that_is_cancelled_leaves_no_transaction_to_the_next(single: Database) -> None:
    has_written = asyncio.Event()

    async def hang() -> None:
        async with writing(single) as connection:
            await (await driver_of(connection)).execute(INSERT, "a")
            has_written.set()
            await connection.execute(text("SELECT pg_sleep(60)"))

    task = asyncio.create_task(hang())
    await has_written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with reading(single) as connection:
        assert not (await driver_of(connection)).is_in_transaction()
    assert await names(single) == []


async def test_at_one_moment_nothing_changes_between_two_reads(database: Database) -> None:
    await add(database, "a")
    async with at_one_moment(database) as connection:
        first = (await connection.execute(select(BalanceRow.organisation))).scalars().all()
        await add(database, "b")
        again = (await connection.execute(select(BalanceRow.organisation))).scalars().all()
    assert first == again == ["a"]
    assert await names(database) == ["a", "b"]


async def test_a_statement_finds_what_its_query_finds_and_wants_all_of_its_values(single: Database) -> None:
    await add(single, "a")
    statement = Statement(BY_NAME)
    async with reading(single) as connection:
        expected = (await connection.execute(BY_NAME, {"name": "a"})).all()
        assert [tuple(row) for row in await statement.rows(connection, name="a")] == [tuple(row) for row in expected]
        assert await statement.row(connection, name="nobody") is None
        with pytest.raises(KeyError, match="name"):
            await statement.rows(connection)
