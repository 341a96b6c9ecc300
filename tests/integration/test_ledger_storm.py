"""Many replicas on the same accounts at once: no cap is passed at any time, nothing deadlocks, nothing stays held."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal

import asyncpg
import pytest

from promptjobs.core.ledger import Amount, Caps, Category
from promptjobs.db.calls import Bill, CallRecord, insert_calls
from promptjobs.db.ledger import MARGIN_SECONDS, Hold, Ledger, Settlement, expire_holds, settle
from promptjobs.db.session import Database
from promptjobs.errors import BudgetExhausted
from tests.fakes.holds import amount, balance_of, hold, open_balance, settled
from tests.fakes.interceptor_world import make_job
from tests.fakes.ledgers import running_ledger

ORGANISATIONS = ("acme", "zenith")
JOBS = {f"pl_{n}": (*ORGANISATIONS, "unlimited")[n % 3] for n in range(6)}
CAPS = Caps(total_usd=Decimal("0.9"), rollout_usd=Decimal("0.8"), proposal_usd=Decimal("0.3"), tokens=900)
BALANCE = Decimal("1.5")
CALLS = 120
"""By each job and replica: far more than the caps hold."""


@pytest.mark.slow
async def test_no_cap_is_passed_at_any_time_by_many_replicas(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await database.connect()
    for job_id, organisation in JOBS.items():
        await make_job(connection, job_id, organisation=organisation)
    for organisation in ORGANISATIONS:
        await open_balance(connection, str(BALANCE), organisation)
    rng = random.Random(7)
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(replica_on(database)) for _ in range(3)]
        storm = asyncio.gather(
            *(one_call(replica, job_id, rng) for _ in range(CALLS) for replica in replicas for job_id in JOBS)
        )
        looks = 0
        while not storm.done():
            await assert_within(connection)
            await expire_holds(connection)
            looks += 1
        reserved = sum(await storm)
    assert not caplog.records, "a deadlock would show as a lost connection"
    assert looks > 10
    assert reserved > 4 * len(JOBS)
    await expire_holds(connection)
    await assert_within(connection)
    held = "SELECT sum(held_usd), sum(held_tokens), (SELECT sum(held_usd) FROM balances) FROM ledger"
    assert tuple(await connection.fetchrow(held)) == (0, 0, 0)
    assert await connection.fetchval("SELECT count(*) FROM holds") == 0
    left = "SELECT organisation, b.usd + sum(l.usd + l.unsettled_usd) FROM balances b JOIN jobs USING (organisation) "
    rows = await connection.fetch(f"{left} JOIN ledger l ON l.job_id = jobs.id GROUP BY organisation, b.usd")
    assert {row[0]: row[1] for row in rows} == dict.fromkeys(ORGANISATIONS, BALANCE)
    await connection.close()


async def test_replicas_that_settle_the_same_accounts_do_not_deadlock(database: Database) -> None:
    connections = [await database.connect() for _ in range(4)]
    for job_id, organisation in JOBS.items():
        await make_job(connections[0], job_id, organisation=organisation)
    for organisation in ORGANISATIONS:
        await open_balance(connections[0], "0", organisation)
    rng, rounds = random.Random(7), 20

    async def replica(connection: asyncpg.Connection) -> None:
        given = [Settlement(job_id, each, None, amount("0.001", 1)) for job_id in JOBS for each in Category]
        for _ in range(rounds):
            rng.shuffle(given)
            await settle(connection, given)

    await asyncio.gather(*map(replica, connections))
    count = rounds * len(connections)
    spent = await connections[0].fetch("SELECT DISTINCT calls, usd, tokens FROM ledger")
    assert [tuple(row) for row in spent] == [(count, count * Decimal("0.001"), count)]
    for organisation in ORGANISATIONS:
        assert await balance_of(connections[0], organisation) == (-2 * len(Category) * count * Decimal("0.001"), 0)
    for connection in connections:
        await connection.close()


@dataclass
class Replica:
    """A process: its ledger, and the connection over which it records calls."""

    ledger: Ledger
    recording: asyncpg.Connection
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def record(self, held: Hold, cost: Decimal | None, tokens: int) -> None:
        """A call of a task app. Its statement is sent twice, as after an unknown outcome."""
        phase = "optimization" if held.category is Category.POLICY else held.category
        call = CallRecord(
            held.id, 1, held.job_id, b"k", "c", 7, phase, 1, "openai", "m", False, 200, None, "[]", None, None,
            tokens, 0, 0, None if cost is None else float(cost), 0.1,
        )  # fmt: skip
        async with self.turn:
            for stored in ({(held.id, 1)}, set[tuple[bytes, int]]()):
                bill = Bill(held.id, None if cost is None else tokens, 1)
                assert await insert_calls(self.recording, [call], [bill]) == stored


@asynccontextmanager
async def replica_on(database: Database) -> AsyncIterator[Replica]:
    recording = await database.connect()
    async with running_ledger(database.connect) as ledger:
        yield Replica(ledger, recording)
    await recording.close()


async def one_call(replica: Replica, job_id: str, rng: random.Random) -> bool:
    """A call that may be refused, settled, left unsettled, given back, or forgotten. Whether it was reserved."""
    usd, tokens = Decimal(rng.randint(1, 40)) / 1000, rng.randint(1, 40)
    is_dead = rng.random() < 0.1
    held = hold(
        Amount(usd, tokens),
        CAPS,
        seconds=-MARGIN_SECONDS if is_dead else 0.05,
        job_id=job_id,
        organisation=JOBS[job_id],
        category=rng.choice(list(Category)),
    )
    try:
        await replica.ledger.reserve(held)
    except BudgetExhausted:
        return False
    if is_dead:
        return True
    share = rng.choice([0, 25, 50, 100])
    known = Amount(usd * share / 100, tokens * share // 100)
    if held.category.is_rollout and rng.random() < 0.7:
        await replica.record(held, rng.choice([known.usd, None]), known.tokens)
        return True
    await replica.ledger.settle(
        rng.choice([settled(held, known), settled(held, known), settled(held, None), Settlement.released(held)])
    )
    return True


async def assert_within(connection: asyncpg.Connection) -> None:
    row = await connection.fetchrow(
        """
        WITH l AS (SELECT *, usd + held_usd + unsettled_usd AS taken FROM ledger), jobs AS (
            SELECT sum(taken) AS total, sum(taken) FILTER (WHERE category NOT IN ('proposal', 'judge')) AS rollouts,
                   sum(taken) FILTER (WHERE category = 'proposal') AS proposals,
                   sum(tokens + held_tokens + unsettled_tokens) AS tokens
            FROM l GROUP BY job_id
        )
        SELECT max(total) AS total, max(rollouts) AS rollouts, max(proposals) AS proposals, max(tokens) AS tokens,
               (SELECT bool_and(held_usd <= usd) FROM balances) AS covered
        FROM jobs
        """
    )
    assert row["total"] <= CAPS.total_usd
    assert row["rollouts"] <= CAPS.rollout_usd
    assert row["proposals"] <= CAPS.proposal_usd
    assert row["tokens"] <= CAPS.tokens
    assert row["covered"]
