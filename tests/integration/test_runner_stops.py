"""Stops, defects, deploys and lost leases: a run ends with what it has, and never writes where it may not."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from promptjobs.core.asks import EventFact, Fork, Rollout, Step, Steps
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.optimizer import Optimizer
from promptjobs.core.trial import Phase
from promptjobs.db.connections import Connections
from promptjobs.db.journal import open_session
from promptjobs.db.session import Database
from promptjobs.errors import JobFailed, LeaseLost
from promptjobs.jobs.runner import Run, Suspended
from tests.fakes.journaled import Journaled, new_job
from tests.fakes.searches import Evolving, Toy, result_of
from tests.fakes.worlds import HashWorld


async def job_of(database: Database, make: Callable[[], Optimizer], **more: Any) -> Journaled:
    return Journaled(database, await new_job(database), make, **more)


async def turns_of(job: Journaled) -> list[tuple[str, str, str | None]]:
    rows = await job.fetch("SELECT lane, cause, detail FROM turns WHERE job_id = $1 ORDER BY n")
    return [(r["lane"], r["cause"], r["detail"]) for r in rows]


async def assert_replays(job: Journaled, result: object) -> None:
    world = HashWorld()
    assert await job.run(world) == result
    assert not world.calls


class StoppingWorld(HashWorld):
    """Asks the run to stop when the n-th answer arrives."""

    def __init__(self, run_of: Journaled, cause: Cause, at: int) -> None:
        super().__init__()
        self.run_of, self.cause, self.at = run_of, cause, at

    def _moment(self, kind: str) -> None:
        super()._moment(kind)
        if kind == "answer" and self.moments[kind] == self.at:
            assert self.run_of.last is not None
            self.run_of.last.request_stop(self.cause, f"stopped at {self.at}")


@pytest.mark.parametrize("cause", [Cause.DEADLINE, Cause.MONEY, Cause.ERRORS, Cause.CANCEL])
async def test_a_stop_is_a_turn_and_closing_ends_the_run(database: Database, cause: Cause) -> None:
    job = await job_of(database, lambda: Evolving(lanes=4, budget=200))
    result = await job.run(StoppingWorld(job, cause, 40))
    assert result["cause"] == cause
    assert ("", cause, "stopped at 40") in await turns_of(job)
    assert job.last is not None
    assert job.last.stopped is cause
    validated = await job.fetch("SELECT 1 FROM rollouts WHERE job_id = $1 AND phase = 'validation'")
    assert bool(validated) is (cause is not Cause.CANCEL)
    await assert_replays(job, result)


async def test_a_higher_stop_restarts_closing_and_a_lower_one_does_not(database: Database) -> None:
    job = await job_of(database, lambda: Evolving(lanes=2, budget=100))

    class Twice(StoppingWorld):
        async def answer(self, ask: Any) -> Any:
            if isinstance(ask, Rollout) and ask.phase is Phase.VALIDATION:
                assert job.last is not None
                job.last.request_stop(Cause.MONEY)
                job.last.request_stop(Cause.CANCEL)
            return await super().answer(ask)

    result = await job.run(Twice(job, Cause.DEADLINE, 30))
    assert [cause for _, cause, _ in await turns_of(job) if cause in ("deadline", "money", "cancel")] == [
        "deadline",
        "cancel",
    ]
    assert result["cause"] == "cancel"
    await assert_replays(job, result)


@dataclass
class Raising(Toy):
    """Raises in the second lane after half of a change was made."""

    error: Exception = ZeroDivisionError("a defect")  # noqa: RUF009 - one error for all runs is what the test wants

    def search(self, lane: Lane) -> Steps:
        yield Fork([self.lane] * 2)

    def lane(self, lane: Lane) -> Steps:
        for i in range(4):
            yield Step([Rollout("candidate", i + 100 * (lane.path.endswith("1")), "policy", Phase.OPTIMIZATION)])
            self.members.append(f"{lane.path}-{i}")
            if lane.path.endswith("1") and i == 2:
                raise self.error

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        yield Step(facts=[EventFact("result", "the end", {"members": list(self.members)})])
        return {"members": list(self.members), "cause": cause}


@pytest.mark.parametrize(
    ("error", "cause", "said"),
    [
        (ZeroDivisionError("a defect"), Cause.BUG, "ZeroDivisionError: a defect"),
        (JobFailed("the task app is of no use"), Cause.ERRORS, "the task app is of no use"),
    ],
)
async def test_an_exception_in_the_search_is_undone_and_stops_it(
    database: Database, error: Exception, cause: Cause, said: str
) -> None:
    job = await job_of(database, lambda: Raising(error=error))
    result = await job.run(HashWorld())
    assert result["cause"] == cause
    assert not [m for m in result["members"] if m.endswith("1-2")], "the half-made change must be gone"
    assert job.last is not None
    assert job.last.stop_detail == said
    await assert_replays(job, result)


class Hopeless(Raising):
    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        raise KeyError("closing fails too")
        yield Step()


async def test_a_defect_in_closing_fails_the_job_with_its_cause(database: Database) -> None:
    job = await job_of(database, Hopeless)
    with pytest.raises(JobFailed, match="closing fails too"):
        await job.run(HashWorld())


class Idle(Toy):
    """Asks what it knows, for ever."""

    def search(self, lane: Lane) -> Steps:
        while True:
            yield from self.score("candidate", [1, 2])


async def test_a_search_that_learns_nothing_new_is_stopped(database: Database) -> None:
    job = await job_of(database, Idle)
    result = await job.run(HashWorld())
    assert result["cause"] == Cause.NO_PROGRESS
    await assert_replays(job, result)


class Endless(Toy):
    """Never asks and never ends."""

    def search(self, lane: Lane) -> Steps:
        while True:
            yield Step()


async def test_a_turn_without_end_is_a_defect_not_a_hang(database: Database) -> None:
    job = await job_of(database, Endless)
    assert (await job.run(HashWorld()))["cause"] == Cause.BUG


async def test_a_changed_search_goes_on_from_the_published_facts(database: Database) -> None:
    version = 1

    def make() -> Evolving:
        return Evolving(lanes=4, budget=150, search_version=version)

    job = await job_of(database, make)
    assert await job.run_until_killed(HashWorld(kill_at=("answer", 60)))
    [recorded] = await job.fetch("SELECT count(*) AS n FROM rollouts WHERE job_id = $1")
    published = await job.fetch("SELECT candidate_id FROM candidates WHERE job_id = $1")
    version = 2
    assert await job.run_until_killed(HashWorld(kill_at=("answer", 10), jitter=random.Random(3)))
    result = await job.run(HashWorld(jitter=random.Random(4)))
    turns = await turns_of(job)
    assert [cause for _, cause, _ in turns].count("deploy") == 1
    [total] = await job.fetch("SELECT count(*) AS n FROM rollouts WHERE job_id = $1 AND phase = 'optimization'")
    assert recorded["n"] < total["n"] <= 150, "what was spent before counts"
    assert job.last is not None
    assert job.last.optimizer.adopted_candidates == len(published)  # type: ignore[attr-defined]
    seqs = [r["seq"] for r in await job.fetch("SELECT seq FROM events WHERE job_id = $1 ORDER BY seq")]
    assert seqs == list(range(1, len(seqs) + 1))
    [event] = await job.fetch(
        "SELECT level, data FROM events WHERE job_id = $1 AND type = 'prompt.learning.search.changed'"
    )
    assert event["level"] == "warning"
    await assert_replays(job, result)


@dataclass
class Different(Evolving):
    """The search changed, and nobody raised its version."""

    def lane(self, lane: Lane) -> Steps:
        lane.rng()
        yield from super().lane(lane)


async def test_a_change_without_a_version_is_reported_as_an_error_and_survived(database: Database) -> None:
    job = await job_of(database, lambda: Evolving(lanes=2, budget=120))
    assert await job.run_until_killed(HashWorld(kill_at=("answer", 50)))
    job.make_optimizer = lambda: Different(lanes=2, budget=120)
    result = await job.run(HashWorld())
    [event] = await job.fetch("SELECT level FROM events WHERE job_id = $1 AND type = 'prompt.learning.search.changed'")
    assert event["level"] == "error"
    await assert_replays(job, result)


async def test_a_stopped_run_whose_search_changed_closes_with_the_recorded_cause(database: Database) -> None:
    version = 1
    job = await job_of(database, lambda: Evolving(lanes=2, budget=150, search_version=version))

    class KilledInClosing(StoppingWorld):
        async def answer(self, ask: Any) -> Any:
            if isinstance(ask, Rollout) and ask.phase is Phase.VALIDATION:
                self.kill_at = ("call", self.moments["call"] + 1)
            return await super().answer(ask)

    assert await job.run_until_killed(KilledInClosing(job, Cause.DEADLINE, 30))
    version = 2
    result = await job.run(HashWorld())
    assert result["cause"] == Cause.DEADLINE
    await assert_replays(job, result)


async def test_a_replaced_runner_writes_nothing_more(database: Database) -> None:
    job = await job_of(database, lambda: Evolving(lanes=4, budget=100))
    stale = HashWorld(gate=asyncio.Event())
    claim = await job.claim()
    first = asyncio.create_task(job.run(stale, claim))
    await stale.called.wait()
    result = await job.run(HashWorld())
    before = await job.fetch("SELECT key FROM rollouts WHERE job_id = $1")
    assert stale.gate is not None
    stale.gate.set()
    with pytest.raises(LeaseLost):
        await first
    assert await job.fetch("SELECT key FROM rollouts WHERE job_id = $1") == before
    await assert_replays(job, result)


async def test_a_suspended_run_leaves_off_and_another_goes_on(database: Database) -> None:
    reference = result_of(await (await job_of(database, lambda: Evolving(lanes=1, budget=80))).run(HashWorld()))
    job = await job_of(database, lambda: Evolving(lanes=1, budget=80))

    class Suspending(HashWorld):
        def _moment(self, kind: str) -> None:
            super()._moment(kind)
            if kind == "answer" and self.moments[kind] == 25:
                assert job.last is not None
                job.last.suspend()

    with pytest.raises(Suspended):
        await job.run(Suspending())
    second = HashWorld()
    result = await job.run(second)
    assert result_of(result) == reference
    await assert_replays(job, result)


GONE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


async def kill_backends(database: Database) -> None:
    """End every other connection to the database; one that is itself ended by another such call has done its work."""
    with contextlib.suppress(*GONE):
        connection = await database.connect()
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        finally:
            connection.terminate()


async def test_connections_that_break_in_mid_commit_lose_and_repeat_nothing(database: Database) -> None:
    def make() -> Evolving:
        return Evolving(lanes=4, budget=200)

    reference = await (await job_of(database, make, turn_order="fixed")).run(HashWorld())
    job = await job_of(database, make, turn_order="fixed")

    class Breaking(HashWorld):
        async def answer(self, ask: Any) -> Any:
            if self.moments["call"] % 20 == 10:
                await kill_backends(database)
            return await super().answer(ask)

    world = Breaking()
    result = await job.run(world)
    assert result == reference
    assert max(world.calls.values()) == 1
    seqs = [r["seq"] for r in await job.fetch("SELECT seq FROM events WHERE job_id = $1 ORDER BY seq")]
    assert seqs == list(range(1, len(seqs) + 1))
    await assert_replays(job, result)


@pytest.mark.slow
async def test_a_transport_cut_at_a_random_byte_loses_and_repeats_nothing(database: Database) -> None:
    """The outcome of a group is then unknown: it may or may not have been committed."""
    job = await job_of(database, lambda: Evolving(lanes=4, budget=200))
    rng = random.Random(5)
    cuts = 0

    async def connect() -> asyncpg.Connection:
        nonlocal cuts
        connection = await database.connect()
        if cuts < 25:
            cuts += 1
            transport = connection._transport
            asyncio.get_running_loop().call_later(rng.uniform(0.0, 0.03), transport.abort)
        return connection

    def breaking(run: Run) -> None:
        make = run.make_writer

        def make_writer(n: int) -> Any:
            writer = make(n)
            writer._connections = Connections(connect, 1, open_session)
            return writer

        run.make_writer = make_writer

    job.before_run = breaking
    world = HashWorld()
    result = await job.run(world)
    job.before_run = None
    assert cuts > 5
    assert max(world.calls.values()) == 1
    await assert_replays(job, result)
