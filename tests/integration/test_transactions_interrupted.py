"""What a task leaves behind that is cancelled at any step of a transaction, or whose connection is gone."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from promptjobs.db.models import BalanceRow
from promptjobs.db.session import Database
from promptjobs.db.transactions import driver_of, reading, whole, writing
from promptjobs.errors import DatabaseUnavailable

INSERT = "INSERT INTO balances(organisation, usd) VALUES ($1, 5)"
KILL_OTHERS = text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
MOST_STEPS = 60


@pytest.fixture
async def single(database: Database) -> AsyncIterator[Database]:
    """The same database through a pool of one connection, so that the next user has the one before's."""
    opened = Database.open(database.url, pool_size=1, ping_after_seconds=60.0)
    yield opened
    await opened.close()


async def names(database: Database) -> set[str]:
    async with reading(database) as connection:
        return set((await connection.execute(select(BalanceRow.organisation))).scalars())


async def add(database: Database, name: str) -> None:
    async with writing(database) as connection:
        await (await driver_of(connection)).execute(INSERT, name)


async def add_in_a_whole(database: Database, name: str) -> None:
    async with whole(database):
        await add(database, name)


async def cancelled_after(steps: int, task: "asyncio.Task[None]") -> bool:
    """Whether the task was cancelled: it may have ended within so many steps of the loop."""
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    [outcome] = await asyncio.gather(task, return_exceptions=True)
    assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
    return outcome is not None


@pytest.mark.parametrize("write", [add, add_in_a_whole])
async def test_what_is_committed_after_a_cancelled_task_stays(single: Database, database: Database, write) -> None:
    await names(single)
    expected = set()
    for steps in range(MOST_STEPS):
        is_cancelled = await cancelled_after(steps, asyncio.create_task(write(single, f"cancelled {steps}")))
        if not is_cancelled:
            expected.add(f"cancelled {steps}")
        await add(single, f"next {steps}")
        expected.add(f"next {steps}")
        found = await names(database)
        assert found - {f"cancelled {steps}"} == expected - {f"cancelled {steps}"}, steps
        expected |= found


async def read_by_driver(database: Database) -> None:
    async with reading(database) as connection:
        await (await driver_of(connection)).fetch("SELECT 1")


async def write_by_driver(database: Database) -> None:
    async with writing(database) as connection:
        await (await driver_of(connection)).fetch("SELECT 1")


@pytest.mark.parametrize("use", [read_by_driver, write_by_driver])
async def test_a_dead_connection_that_only_the_driver_has_used_costs_one_request(
    single: Database, database: Database, use
) -> None:
    await use(single)
    async with reading(database) as connection:
        await connection.execute(KILL_OTHERS)
    with pytest.raises(DatabaseUnavailable):
        await use(single)
    await use(single)


async def die_within(database: Database, other: Database) -> None:
    async with writing(database) as connection:
        async with reading(other) as killing:
            await killing.execute(KILL_OTHERS)
        await (await driver_of(connection)).execute(INSERT, "a")


async def test_a_connection_that_dies_within_a_transaction_is_replaced(single: Database, database: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        await die_within(single, database)
    await add(single, "b")
    assert await names(single) == {"b"}


async def backend(database: Database) -> int:
    async with reading(database) as connection:
        return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


async def refuse_within(database: Database) -> None:
    async with writing(database):
        raise LookupError


async def test_a_refusal_costs_no_connection(single: Database) -> None:
    before = await backend(single)
    with pytest.raises(LookupError):
        await refuse_within(single)
    assert await backend(single) == before


async def go_on_after_a_loss(database: Database, other: Database) -> None:
    async with writing(database) as connection:
        async with reading(other) as killing:
            await killing.execute(KILL_OTHERS)
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT 1"))
        await (await driver_of(connection)).execute(INSERT, "outside")


async def test_what_follows_the_loss_of_a_connection_is_not_carried_out_outside_of_its_transaction(
    single: Database, database: Database
) -> None:
    with pytest.raises(DatabaseUnavailable):
        await go_on_after_a_loss(single, database)
    assert await names(single) == set()
