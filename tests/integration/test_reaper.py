"""Leases that have run out: the job is queued again or paused, once, and never under a worker that still holds it."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from promptjobs.core.ledger import Caps
from promptjobs.db.connections import Connections
from promptjobs.db.journal import Group, open_session, write_group
from promptjobs.db.leases import Claim, claim_next, heartbeat, park, reap
from promptjobs.db.publishing import Ending, end_job
from promptjobs.db.session import Database
from promptjobs.errors import BudgetExhausted, LeaseLost
from promptjobs.jobs.claims import Claims
from promptjobs.jobs.reaper import Reaper
from tests.fakes.holds import amount, hold
from tests.fakes.journaled import new_job
from tests.fakes.ledgers import running_ledger

WORKER = "worker-1"
ENDING = Ending("succeeded", "completed", None, "prompt.learning.gepa.complete", "the job has succeeded", {}, {})


@dataclass
class Scene:
    """One connection, and jobs that were claimed over it."""

    database: Database
    connection: asyncpg.Connection

    async def claimed(self, lease_seconds: float = 60.0) -> Claim:
        await new_job(self.database)
        claim = await claim_next(self.connection, WORKER, lease_seconds)
        assert claim is not None
        return claim

    async def set(self, job_id: str, assignments: str) -> None:
        await self.connection.execute(f"UPDATE jobs SET {assignments} WHERE id = $1", job_id)

    async def expired(self) -> Claim:
        claim = await self.claimed()
        await self.set(claim.job_id, "lease_until = clock_timestamp() - interval '1 ms'")
        return claim

    async def row(self, job_id: str) -> dict[str, Any]:
        return dict(await self.connection.fetchrow("SELECT * FROM jobs WHERE id = $1", job_id))

    async def status(self, job_id: str) -> str:
        return str((await self.row(job_id))["status"])

    async def events(self, job_id: str) -> list[tuple[int, str]]:
        rows = await self.connection.fetch("SELECT seq, type FROM events WHERE job_id = $1 ORDER BY seq", job_id)
        return [(row["seq"], row["type"]) for row in rows]

    async def heard(self) -> "asyncio.Queue[str]":
        told: asyncio.Queue[str] = asyncio.Queue()
        await self.connection.add_listener("promptjobs_jobs", lambda *said: told.put_nowait(said[-1]))
        return told


@pytest.fixture
async def scene(database: Database) -> AsyncIterator[Scene]:
    connection = await database.connect()
    yield Scene(database, connection)
    connection.terminate()


@pytest.fixture
async def other(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect()
    yield connection
    connection.terminate()


async def test_a_job_whose_worker_is_gone_is_queued_and_its_next_worker_is_told(scene: Scene) -> None:
    claim = await scene.expired()
    told = await scene.heard()
    assert await reap(scene.connection) == [claim.job_id]
    row = await scene.row(claim.job_id)
    assert (row["status"], row["worker_id"], row["lease_until"], row["epoch"]) == ("queued", None, None, claim.epoch)
    assert await told.get() == claim.job_id
    assert await scene.events(claim.job_id) == []
    assert await reap(scene.connection) == []
    again = await claim_next(scene.connection, "worker-2", 60.0)
    assert again is not None
    assert (again.job_id, again.epoch) == (claim.job_id, claim.epoch + 1)


async def test_a_job_whose_lease_holds_is_left_alone(scene: Scene) -> None:
    claim = await scene.claimed()
    assert await reap(scene.connection) == []
    assert await scene.status(claim.job_id) == "running"


@pytest.mark.parametrize(("wishes", "status"), [("pause", "paused"), ("pause cancel", "queued"), ("cancel", "queued")])
async def test_what_its_user_wanted_decides_what_becomes_of_it(scene: Scene, wishes: str, status: str) -> None:
    claim = await scene.expired()
    for wish in wishes.split():
        await scene.set(claim.job_id, f"{wish}_requested_at = clock_timestamp()")
    await reap(scene.connection)
    row = await scene.row(claim.job_id)
    assert row["status"] == status
    assert (row["paused_at"] is not None) is (status == "paused")
    assert row["pause_requested_at"] is None
    is_told = [(1, "prompt.learning.paused")] if status == "paused" else []
    assert await scene.events(claim.job_id) == is_told
    assert row["last_seq"] == len(is_told)


async def test_parking_twice_writes_one_event(scene: Scene) -> None:
    claim = await scene.claimed()
    await scene.set(claim.job_id, "pause_requested_at = clock_timestamp()")
    assert await park(scene.connection, WORKER, {claim.job_id: claim.epoch}) == {claim.job_id: "paused"}
    assert await park(scene.connection, WORKER, {claim.job_id: claim.epoch}) == {}
    assert await scene.events(claim.job_id) == [(1, "prompt.learning.paused")]


async def test_only_the_worker_that_holds_a_job_can_park_it(scene: Scene) -> None:
    claim = await scene.claimed()
    assert await park(scene.connection, WORKER, {claim.job_id: claim.epoch - 1}) == {}
    assert await park(scene.connection, "worker-2", {claim.job_id: claim.epoch}) == {}
    assert await scene.status(claim.job_id) == "running"


async def test_time_in_a_pause_is_no_running_time(scene: Scene) -> None:
    claim = await scene.claimed()
    await scene.set(claim.job_id, "started_at = clock_timestamp() - interval '100 s', paused_seconds = 60")
    await park(scene.connection, WORKER, {claim.job_id: claim.epoch})
    again = await claim_next(scene.connection, WORKER, 60.0)
    assert again is not None
    assert 40 <= again.running_seconds < 60


async def test_claims_of_a_job_that_ends_its_workers_are_counted_unless_it_makes_progress(scene: Scene) -> None:
    claim = await scene.claimed()
    attempts = [claim.attempts]
    for n in range(6):
        if n == 2:
            await scene.connection.execute(
                "INSERT INTO turns(job_id, n, lane, cause, chain, search_version, epoch) "
                "VALUES ($1, 0, '0', 'start', '', 1, $2)",
                claim.job_id,
                claim.epoch + n,
            )
        await scene.set(claim.job_id, "lease_until = clock_timestamp() - interval '1 ms'")
        await reap(scene.connection)
        again = await claim_next(scene.connection, WORKER, 60.0)
        assert again is not None
        attempts.append(again.attempts)
    assert attempts == [1, 2, 3, 1, 2, 3, 4]


async def test_a_hand_over_is_no_attempt(scene: Scene) -> None:
    claim = await scene.claimed()
    for _ in range(7):
        assert await park(scene.connection, WORKER, {claim.job_id: claim.epoch}) == {claim.job_id: "queued"}
        again = await claim_next(scene.connection, WORKER, 60.0)
        assert again is not None
        claim = again
        assert claim.attempts == 1


# --- races: whoever has the row decides, and the other sees it -------------------------------------------------------


async def publish(connection: asyncpg.Connection, claim: Claim) -> str:
    try:
        await end_job(connection, claim.job_id, claim.epoch, ENDING)
    except LeaseLost:
        return "lost"
    return "done"


async def beat(connection: asyncpg.Connection, claim: Claim) -> str:
    return "done" if await heartbeat(connection, WORKER, {claim.job_id: claim.epoch}, 60.0) else "lost"


async def write(connection: asyncpg.Connection, claim: Claim) -> str:
    return "lost" if await write_group(connection, claim.job_id, claim.epoch, 1, Group()) is None else "done"


async def leave(connection: asyncpg.Connection, claim: Claim) -> str:
    return "done" if await park(connection, WORKER, {claim.job_id: claim.epoch}) else "lost"


ACTS = [publish, beat, write, leave]


@pytest.mark.parametrize("act", ACTS)
async def test_who_is_at_the_job_goes_before_the_reaper(
    scene: Scene, other: asyncpg.Connection, act: Callable[[asyncpg.Connection, Claim], Awaitable[str]]
) -> None:
    claim = await scene.expired()
    async with other.transaction():
        assert await act(other, claim) == "done"
        assert await reap(scene.connection) == []
    assert await reap(scene.connection) == ([claim.job_id] if act is write else [])


@pytest.mark.parametrize("act", ACTS)
async def test_the_reaper_goes_before_who_comes_later(
    scene: Scene, other: asyncpg.Connection, act: Callable[[asyncpg.Connection, Claim], Awaitable[str]]
) -> None:
    claim = await scene.expired()
    async with other.transaction():
        assert await reap(other) == [claim.job_id]
        late = asyncio.create_task(act(scene.connection, claim))
        await waits_for_a_lock(other)
    assert await late == "lost"
    assert (await scene.row(claim.job_id))["status"] == "queued"


async def waits_for_a_lock(connection: asyncpg.Connection) -> None:
    """Return when somebody waits for a row that is locked."""
    async with asyncio.timeout(10):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass


async def test_two_reapers_and_two_workers_give_each_job_to_one(scene: Scene, other: asyncpg.Connection) -> None:
    rng = random.Random(3)
    claims = [await scene.expired() for _ in range(30)]
    third = await scene.database.connect()
    reaped: list[str] = []
    taken: list[str] = []

    async def reaping(connection: asyncpg.Connection) -> None:
        for _ in range(5):
            reaped.extend(await reap(connection))

    async def claiming(name: str) -> None:
        connection = await scene.database.connect()
        while len(taken) < len(claims):
            claim = await claim_next(connection, name, 60.0)
            if claim is not None:
                taken.append(claim.job_id)
            elif rng.random() < 0.5:
                await asyncio.sleep(0)
        connection.terminate()

    async with asyncio.timeout(30):
        await asyncio.gather(reaping(other), reaping(third), claiming("a"), claiming("b"))
    third.terminate()
    assert sorted(reaped) == sorted(taken) == sorted(claim.job_id for claim in claims)


# --- the reaper's own life -------------------------------------------------------------------------------------------


@asynccontextmanager
async def reaping(reaper: Reaper) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(reaper.run())
        try:
            yield
        finally:
            reaper.stop()


@pytest.mark.slow
async def test_workers_are_given_time_to_come_back_before_anything_is_reaped(scene: Scene) -> None:
    """Each loss of the connection starts that time anew: leases ran out while nobody could renew them."""
    claim = await scene.expired()
    opened: asyncio.Queue[asyncpg.Connection] = asyncio.Queue()

    async def connect() -> asyncpg.Connection:
        connection = await scene.database.connect()
        opened.put_nowait(connection)
        return connection

    loop = asyncio.get_running_loop()
    told = await scene.heard()
    async with asyncio.timeout(30), reaping(Reaper(connect, lease_seconds=4.0)):
        (await opened.get()).terminate()
        await opened.get()
        since = loop.time()
        assert await told.get() == claim.job_id
        assert loop.time() - since >= 0.9


@pytest.mark.slow
async def test_a_reaper_goes_on_when_the_database_comes_back(scene: Scene) -> None:
    claim = await scene.expired()
    told = await scene.heard()
    refusals = iter(range(3))

    async def connect() -> asyncpg.Connection:
        if next(refusals, None) is not None:
            raise ConnectionRefusedError("nobody listens")
        return await scene.database.connect()

    async with asyncio.timeout(30), reaping(Reaper(connect, lease_seconds=1.0)):
        assert await told.get() == claim.job_id


# --- a worker that was away ------------------------------------------------------------------------------------------


@contextmanager
def claims_of(database: Database, revoked: list[str]) -> Iterator[Claims]:
    connections = Connections(database.connect, 2, open_session)
    yield Claims(connections, database.connect, WORKER, 60.0, revoked.append)
    connections.close()


async def test_a_worker_that_gets_its_own_job_again_gives_up_the_first_claim(scene: Scene) -> None:
    await new_job(scene.database)
    revoked: list[str] = []
    with claims_of(scene.database, revoked) as claims:
        first = await claims.claim()
        assert first is not None
        job_id = first.claim.job_id
        await scene.set(job_id, "lease_until = clock_timestamp() - interval '1 ms'")
        await reap(scene.connection)
        second = await claims.claim()
        assert second is not None
        assert first.is_lost
        assert revoked == [job_id]
        with pytest.raises(LeaseLost):
            first.lease.require()
        second.lease.require()
        await claims.let_go(first)
        claims.ended(first)
        assert claims.held == {job_id: second}
        assert await scene.status(job_id) == "running"
        await claims.let_go(second)
        claims.ended(second)
        assert await scene.status(job_id) == "queued"
        assert claims.held == {}


async def test_a_heartbeat_tells_of_every_wish_and_of_lost_jobs(scene: Scene) -> None:
    job_ids = [await new_job(scene.database) for _ in range(4)]
    revoked: list[str] = []
    with claims_of(scene.database, revoked) as claims:
        held = [await claims.claim() for _ in job_ids]
        paused, cancelled, lost, untouched = job_ids
        await scene.set(paused, "pause_requested_at = clock_timestamp()")
        await scene.set(cancelled, "pause_requested_at = clock_timestamp(), cancel_requested_at = clock_timestamp()")
        await scene.set(lost, "epoch = epoch + 1")
        keeping = asyncio.create_task(claims.keep_leases())
        async with asyncio.timeout(10):
            await asyncio.gather(*(each.interrupted.wait() for each in held[:3] if each is not None))
        keeping.cancel()
        wishes = {
            job_id: [name for name in ("is_paused", "is_cancelled", "is_lost") if getattr(each, name)]
            for job_id, each in claims.held.items()
        }
        assert wishes == {paused: ["is_paused"], cancelled: ["is_cancelled"], lost: ["is_lost"], untouched: []}
        assert revoked == [lost]


async def test_a_worker_hands_over_all_its_jobs_at_once(scene: Scene) -> None:
    job_ids = [await new_job(scene.database) for _ in range(20)]
    revoked: list[str] = []
    with claims_of(scene.database, revoked) as claims:
        held = [await claims.claim() for _ in job_ids]
        claims.stop()
        await asyncio.gather(*(claims.let_go(each) for each in held if each is not None))
        for each in held:
            assert each is not None
            assert each.is_suspended
            claims.ended(each)
        async with asyncio.timeout(10):
            await claims.keep_leases()
    assert sorted(revoked) == sorted(job_ids)
    assert {await scene.status(job_id) for job_id in job_ids} == {"queued"}


# --- what the dead have reserved -------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_what_a_dead_process_has_reserved_is_given_up_long_before_its_call_could_end(scene: Scene) -> None:
    claim = await scene.claimed()
    caps = Caps(total_usd=Decimal(1))
    await scene.connection.execute("INSERT INTO ledger(job_id, category) VALUES ($1, 'policy')", claim.job_id)
    reaper = Reaper(scene.database.connect, lease_seconds=1.0)
    async with running_ledger(scene.database.connect) as alive:
        await alive.reserve(hold(amount("0.25"), caps, job_id=claim.job_id, seconds=100))
        async with running_ledger(scene.database.connect) as dead:
            await dead.reserve(hold(amount("0.5"), caps, job_id=claim.job_id, seconds=100))
        reaping = asyncio.create_task(reaper.run())
        # It waits for what is held, until the dead one's part is given up; then it is refused for good.
        async with asyncio.timeout(15):
            with pytest.raises(BudgetExhausted):
                await alive.reserve(hold(amount("0.9"), caps, job_id=claim.job_id, seconds=4))
        reaper.stop()
        await reaping
    row = await scene.connection.fetchrow("SELECT held_usd, unsettled_usd FROM ledger WHERE job_id = $1", claim.job_id)
    assert tuple(row) == (Decimal("0.25"), Decimal("0.5"))
