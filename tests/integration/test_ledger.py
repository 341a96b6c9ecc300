"""The ledger on Postgres: what is reserved comes back, what is spent is counted once, whatever the connection does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from promptjobs.core.ledger import Account, Amount, Cap, Caps, Category, Refusal
from promptjobs.db import jobs
from promptjobs.db.ledger import (
    MARGIN_SECONDS,
    Hold,
    Ledger,
    Settlement,
    Spending,
    expire_holds,
    orphaned_holders,
    read_spending,
    reserve,
    settle,
)
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors import BudgetExhausted, DatabaseUnavailable
from tests.fakes.cutter import through_cutter
from tests.fakes.holds import account, amount, balance_of, hold, open_balance, settled
from tests.fakes.interceptor_world import make_job, until
from tests.fakes.ledgers import running_ledger
from tests.fakes.recorded_jobs import created_job


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect()
    await make_job(connection)
    yield connection
    await connection.close()


@pytest.fixture
async def ledger(database: Database, connection: asyncpg.Connection) -> AsyncIterator[Ledger]:
    async with running_ledger(database.connect) as ledger:
        yield ledger


async def policy_of(connection: asyncpg.Connection) -> Account:
    return (await read_spending(connection, "pl_1")).accounts[Category.POLICY]


async def test_what_is_reserved_counts_until_it_is_settled(connection: asyncpg.Connection) -> None:
    caps = Caps(total_usd=Decimal(1))
    first, second = hold(amount("0.6", 60), caps), hold(amount("0.6", 60), caps)
    assert await reserve(connection, [first, second]) == [
        None,
        Refusal(Cap.TOTAL, Decimal(1), Decimal("0.6"), Decimal("0.6"), may_pass_later=True),
    ]
    assert await policy_of(connection) == account(held=amount("0.6", 60))
    await settle(connection, [settled(first, amount("0.25", 20))])
    assert await policy_of(connection) == account(settled=amount("0.25", 20))
    assert await reserve(connection, [second]) == [None]
    await settle(connection, [Settlement.released(second)])
    spending = await read_spending(connection, "pl_1")
    assert spending.accounts == {each: account() for each in Category} | {
        Category.POLICY: account(settled=amount("0.25", 20))
    }
    assert spending.calls == dict.fromkeys(Category, 0) | {Category.POLICY: 1}
    assert spending.unpriced == dict.fromkeys(Category, 0)
    assert await connection.fetchval("SELECT count(*) FROM holds") == 0


@pytest.mark.parametrize(
    ("reserved", "settlement", "expected", "unpriced"),
    [
        (amount("0.5", 50), lambda held: settled(held, None), account(unsettled=amount("0.5", 50)), 0),
        (
            amount("0.5", 50),
            lambda held: settled(held, None, tokens_known=7),
            account(settled=amount(0, 7), unsettled=amount("0.5")),
            0,
        ),
        (amount(0, 50), lambda held: settled(held, None, tokens_known=7), account(settled=amount(0, 7)), 1),
        (amount("0.5", 50), lambda held: settled(held, amount(0)), account(), 0),
    ],
    ids=["nothing is known", "tokens are known", "there is no price", "refused upstream"],
)
async def test_hold_of_a_call_that_is_not_known_in_full_stands_for_it(
    connection: asyncpg.Connection,
    reserved: Amount,
    settlement: Callable[[Hold], Settlement],
    expected: Account,
    unpriced: int,
) -> None:
    held = hold(reserved, Caps(tokens=100))
    await reserve(connection, [held])
    await settle(connection, [settlement(held)])
    spending = await read_spending(connection, "pl_1")
    assert spending.accounts[Category.POLICY] == expected
    assert (spending.calls[Category.POLICY], spending.unpriced[Category.POLICY]) == (1, unpriced)


async def test_calls_of_a_job_without_caps_are_settled_without_a_hold(connection: asyncpg.Connection) -> None:
    known = Settlement("pl_1", Category.JUDGE, None, amount("0.125", 10))
    unknown = Settlement("pl_1", Category.JUDGE, None, None, tokens_known=3)
    await settle(connection, [known, unknown, known, replace(known, category=Category.TEST)])
    spending = await read_spending(connection, "pl_1")
    assert spending.accounts[Category.JUDGE] == account(settled=amount("0.25", 23))
    assert (spending.calls[Category.JUDGE], spending.unpriced[Category.JUDGE]) == (3, 1)
    assert spending.accounts[Category.TEST] == account(settled=amount("0.125", 10))


async def test_balance_pays_for_calls_with_and_without_a_hold(connection: asyncpg.Connection) -> None:
    await open_balance(connection, "1")
    free, paid = hold(amount("0.25"), Caps()), hold(amount("0.5"), Caps())
    assert await reserve(connection, [free, paid]) == [None, None]
    assert await balance_of(connection) == (Decimal(1), Decimal("0.75"))
    [refused] = await reserve(connection, [hold(amount("0.5"), Caps())])
    assert refused is not None
    assert (refused.cap, refused.may_pass_later) == (Cap.BALANCE, True)
    unlimited = Settlement("pl_1", Category.TEST, None, amount("0.01"))
    await settle(connection, [settled(free, None), settled(paid, amount("0.125")), unlimited])
    assert await balance_of(connection) == (Decimal("0.615"), Decimal(0))


async def test_hold_that_is_older_than_the_balance_leaves_nothing_held(connection: asyncpg.Connection) -> None:
    held = hold(amount("0.5"), Caps(total_usd=Decimal(1)))
    await reserve(connection, [held])
    await open_balance(connection, "2")
    await settle(connection, [settled(held, amount("0.25"))])
    assert await balance_of(connection) == (Decimal("1.75"), Decimal(0))


async def test_hold_of_a_deleted_job_is_settled_with_its_organisation(connection: asyncpg.Connection) -> None:
    await open_balance(connection, "1")
    held = hold(amount("0.5"), Caps())
    await reserve(connection, [held])
    await connection.execute("DELETE FROM jobs")
    assert await read_spending(connection, "pl_1") == Spending(
        dict.fromkeys(Category, account()), dict.fromkeys(Category, 0), dict.fromkeys(Category, 0)
    )
    await settle(connection, [settled(held, amount("0.25"))])
    assert await balance_of(connection) == (Decimal("0.75"), Decimal(0))
    assert await connection.fetchval("SELECT count(*) FROM holds") == 0


async def test_hold_that_outlives_its_call_counts_as_spent(connection: asyncpg.Connection) -> None:
    await open_balance(connection, "1")
    dead, alive = hold(amount("0.5", 5), Caps(), seconds=-MARGIN_SECONDS), hold(amount("0.25", 2), Caps())
    await reserve(connection, [dead, alive])
    assert await expire_holds(connection) == 1
    assert await expire_holds(connection) == 0
    assert await policy_of(connection) == account(held=amount("0.25", 2), unsettled=amount("0.5", 5))
    assert await balance_of(connection) == (Decimal("0.5"), Decimal("0.25"))


async def test_holds_of_a_process_that_is_gone_are_known_by_its_connection(
    database: Database, connection: asyncpg.Connection
) -> None:
    async with running_ledger(database.connect) as alive:
        await alive.reserve(hold(amount("0.25", 2), Caps()))
        async with running_ledger(database.connect) as dead:
            await dead.reserve(hold(amount("0.5", 5), Caps()))
            assert await orphaned_holders(connection) == frozenset()
        async with asyncio.timeout(10):
            while not (orphaned := await orphaned_holders(connection)):
                pass
        assert await expire_holds(connection) == 0
        assert await expire_holds(connection, orphaned) == 1
        assert await orphaned_holders(connection) == frozenset()
        assert await policy_of(connection) == account(held=amount("0.25", 2), unsettled=amount("0.5", 5))


async def test_process_that_has_lost_its_connection_is_known_again(
    database: Database, connection: asyncpg.Connection
) -> None:
    async with running_ledger(database.connect) as ledger:
        await ledger.reserve(hold(amount("0.5"), Caps()))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        )
        await ledger.reserve(hold(amount("0.25"), Caps()))
        assert await orphaned_holders(connection) == frozenset()


async def test_hold_is_reserved_once_however_often_it_is_sent(connection: asyncpg.Connection) -> None:
    caps = Caps(total_usd=Decimal(1))
    held = hold(amount("0.6"), caps)
    assert await reserve(connection, [held]) == [None]
    assert await reserve(connection, [held, hold(amount("0.1"), caps)]) == [None, None]
    assert await policy_of(connection) == account(held=amount("0.7"))


async def test_accounts_are_open_from_the_creation_and_a_job_shows_them(
    database: Database, connection: asyncpg.Connection
) -> None:
    job_id = await created_job(database)
    assert await connection.fetchval("SELECT count(*) FROM ledger WHERE job_id = $1", job_id) == len(Category)
    await settle(connection, [Settlement(job_id, Category.PROPOSAL, None, amount("1e-12", 4))])
    async with reading(database) as pooled:
        shown = (await jobs.read(pooled, job_id)).categories
    assert shown == await read_spending(connection, job_id)
    assert shown.accounts[Category.PROPOSAL] == account(settled=amount("1e-12", 4))


# --- the queue of a process ------------------------------------------------------------------------------------------


async def test_call_that_no_cap_can_hold_is_refused_at_once(ledger: Ledger) -> None:
    with pytest.raises(BudgetExhausted) as caught:
        await ledger.reserve(hold(amount(2), Caps(proposal_usd=Decimal(1)), category=Category.PROPOSAL))
    assert caught.value.cap == "proposal_cost_budget"
    assert caught.value.words == ("the limit on proposals of 1 USD does not hold a call of up to 2: 0 are taken")


async def test_call_waits_for_what_others_give_back(ledger: Ledger, connection: asyncpg.Connection) -> None:
    caps = Caps(tokens=10)
    first, second = hold(amount(0, 8), caps), hold(amount(0, 8), caps)
    await ledger.reserve(first)
    waiting = asyncio.create_task(ledger.reserve(second))
    # What was asked before has been answered: the second one has been refused once.
    await ledger.settle(Settlement("pl_1", Category.TEST, None, amount(0)))
    assert not waiting.done()
    await ledger.settle(settled(first, amount(0, 2)))
    await waiting
    assert await policy_of(connection) == account(settled=amount(0, 2), held=amount(0, 8))


async def test_call_waits_no_longer_than_it_may_take(ledger: Ledger, connection: asyncpg.Connection) -> None:
    caps = Caps(rollout_usd=Decimal(1))
    await ledger.reserve(hold(amount(1), caps))
    with pytest.raises(BudgetExhausted, match="rollout_cost_budget: the limit on rollouts of 1 USD"):
        await ledger.reserve(hold(amount(1), caps, seconds=0.1))
    assert await policy_of(connection) == account(held=amount(1))


async def test_reservation_that_nobody_waits_for_is_given_back(
    ledger: Ledger, database: Database, connection: asyncpg.Connection
) -> None:
    async with connection.transaction():
        await connection.execute("LOCK TABLE ledger IN EXCLUSIVE MODE")
        waiting = asyncio.create_task(ledger.reserve(hold(amount(1), Caps(total_usd=Decimal(2)))))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await ledger.settle(Settlement("pl_1", Category.TEST, None, amount(0)))
    assert await policy_of(connection) == account()
    assert await connection.fetchval("SELECT count(*) FROM holds") == 0


async def test_settlement_outlasts_an_outage(database: Database, connection: asyncpg.Connection) -> None:
    name = str(database.engine.url.database)
    dsn = database.engine.url.set(database="promptjobs", drivername="postgresql").render_as_string(False)
    home = await asyncpg.connect(dsn)
    async with running_ledger(database.connect, patience_seconds=0.1) as ledger:
        await ledger.groups.wait_up()
        await home.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await home.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        with pytest.raises(DatabaseUnavailable):
            await ledger.reserve(hold(amount(1), Caps(total_usd=Decimal(2))))
        with pytest.raises(DatabaseUnavailable):
            await ledger.settle(Settlement("pl_1", Category.POLICY, None, amount("0.5")))
        await home.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await home.close()
        await until(lambda: ledger.groups.is_up)
        await ledger.settle(Settlement("pl_1", Category.TEST, None, amount(0)))
    connection = await database.connect()
    assert await policy_of(connection) == account(settled=amount("0.5"))
    assert await connection.fetchval("SELECT count(*) FROM holds") == 0
    await connection.close()


@pytest.mark.parametrize("is_carried_out", [True, False], ids=["after COMMIT", "before COMMIT"])
async def test_settlement_of_unknown_outcome_counts_once(
    database: Database, connection: asyncpg.Connection, tmp_path: Path, is_carried_out: bool
) -> None:
    async with through_cutter(database, tmp_path) as (cut, cutter), running_ledger(cut.connect) as ledger:
        held = hold(amount("0.5"), Caps(total_usd=Decimal(1)))
        await ledger.reserve(held)
        cutter.cut_at = b"COMMIT\x00" if is_carried_out else b"SELECT 0\x00"
        await ledger.settle(Settlement("pl_1", Category.POLICY, None, amount("0.25", 3)))
        assert cutter.lost == 1
        cutter.cut_at = b"COMMIT\x00" if is_carried_out else b"UPDATE 0\x00"
        await ledger.reserve(hold(amount("0.125"), Caps(total_usd=Decimal(1))))
        assert cutter.lost == 2
    assert await policy_of(connection) == account(settled=amount("0.25", 3), held=amount("0.625"))


@pytest.mark.slow
async def test_replica_that_is_frozen_while_it_reserves_stops_the_others_only_briefly(
    database: Database, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    async with (
        through_cutter(database, tmp_path) as (cut, cutter),
        running_ledger(cut.connect) as frozen,
        running_ledger(database.connect) as other,
    ):
        cutter.freeze_at = b"SELECT 6\x00"
        reserving = asyncio.create_task(frozen.reserve(hold(amount("0.5"), Caps(total_usd=Decimal(1)))))
        await cutter.frozen.wait()
        async with asyncio.timeout(4):
            await other.settle(Settlement("pl_1", Category.POLICY, None, amount("0.25")))
        cutter.thawed.set()
        await reserving
    assert await policy_of(connection) == account(settled=amount("0.25"), held=amount("0.5"))
