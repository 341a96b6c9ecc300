"""A run that is drained asks nothing more and loses nothing; one that runs out of money ends with what it has."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from promptjobs.core.asks import Ask, Rollout
from promptjobs.core.lanes import Cause
from promptjobs.core.trial import Phase
from promptjobs.db.journal import AnswerRecord
from promptjobs.db.session import Database
from promptjobs.errors import BudgetExhausted, JobFailed
from promptjobs.jobs.runner import Run, Suspended
from tests.fakes.journaled import Journaled, new_job
from tests.fakes.searches import Evolving, result_of
from tests.fakes.worlds import HashWorld

pytestmark = pytest.mark.slow


async def evolving(database: Database, **more: Any) -> Journaled:
    return Journaled(database, await new_job(database), lambda: Evolving(lanes=4, budget=120), **more)


async def turns_of(job: Journaled) -> list[tuple[str, str | None]]:
    return [(r["cause"], r["detail"]) for r in await job.fetch("SELECT * FROM turns WHERE job_id = $1 ORDER BY n")]


async def recorded(job: Journaled) -> set[bytes]:
    rows = await job.fetch(
        "SELECT key FROM rollouts WHERE job_id = $1 UNION ALL SELECT key FROM completions WHERE job_id = $1"
    )
    return {row["key"] for row in rows}


async def assert_replays(job: Journaled, result: object) -> None:
    world = HashWorld()
    assert await job.run(world) == result
    assert not world.calls


class Interrupting(HashWorld):
    """Holds back every answer from the n-th call on, and then does something to the run; `go_on` lets them come."""

    def __init__(self, job: Journaled, at: int, act: Callable[[Run], None]) -> None:
        super().__init__()
        self.job, self.at, self.act = job, at, act
        self.acted, self.go_on = asyncio.Event(), asyncio.Event()
        self.asked_later: list[Ask] = []

    async def answer(self, ask: Ask) -> AnswerRecord:
        if self.acted.is_set():
            self.asked_later.append(ask)
        if self.moments["call"] + 1 >= self.at:
            if not self.acted.is_set():
                assert self.job.last is not None
                self.act(self.job.last)
                self.acted.set()
            await self.go_on.wait()
        return await super().answer(ask)


@pytest.mark.parametrize("turn_order", ["arrival", "fixed"])
async def test_a_drained_run_records_what_is_under_way_and_repeats_none_of_it(
    database: Database, turn_order: str
) -> None:
    reference = await (await evolving(database, turn_order="fixed")).run(HashWorld())
    job = await evolving(database, turn_order=turn_order, slots=3)
    first = Interrupting(job, 30, Run.drain)
    running = asyncio.create_task(job.run(first))
    await first.acted.wait()
    before = await turns_of(job)
    first.go_on.set()
    with pytest.raises(Suspended):
        await running
    assert len(first.asked_later) < job.slots, "only what had a slot already goes out"
    assert await recorded(job) == set(first.calls), "whatever was asked is recorded"
    assert len(await turns_of(job)) - len(before) <= 1, "at most the turn that was being written"
    second = HashWorld()
    result = await job.run(second)
    calls = Counter(first.calls) + Counter(second.calls)
    assert set(calls.values()) == {1}, "no call is repeated because of a pause"
    if turn_order == "fixed":
        assert result_of(result) == result_of(reference)
    await assert_replays(job, result)


async def test_a_run_that_is_drained_before_it_starts_does_nothing(database: Database) -> None:
    job = await evolving(database)
    job.before_run = Run.drain
    world = HashWorld()
    with pytest.raises(Suspended):
        await job.run(world)
    assert not world.calls
    assert await turns_of(job) == []
    job.before_run = None
    await assert_replays(job, await job.run(HashWorld()))


async def test_a_run_that_is_drained_during_its_replay_asks_nothing(database: Database) -> None:
    job = await evolving(database)
    assert await job.run_until_killed(HashWorld(kill_at=("answer", 40)))
    before = await turns_of(job)
    job.before_run = Run.drain
    world = HashWorld()
    with pytest.raises(Suspended):
        await job.run(world)
    assert not world.calls
    assert await turns_of(job) == before


async def test_a_run_that_has_ended_is_not_to_be_drained(database: Database) -> None:
    """Publishing goes before a pause."""
    job = await evolving(database)
    result = await job.run(HashWorld())
    job.before_run = Run.drain
    assert await job.run(HashWorld()) == result


async def test_a_cancel_goes_before_a_pause(database: Database) -> None:
    def pause_and_cancel(run: Run) -> None:
        run.drain()
        run.request_stop(Cause.CANCEL, "the job was cancelled")

    job = await evolving(database)
    world = Interrupting(job, 30, pause_and_cancel)
    result = await job.run(world)
    assert result["cause"] == Cause.CANCEL
    await assert_replays(job, result)


async def test_a_cancel_ends_a_run_that_is_draining(database: Database) -> None:
    job = await evolving(database)
    world = Interrupting(job, 30, Run.drain)
    running = asyncio.create_task(job.run(world))
    await world.acted.wait()
    assert job.last is not None
    job.last.request_stop(Cause.CANCEL, "the job was cancelled")
    assert (await running)["cause"] == Cause.CANCEL


async def test_any_other_stop_waits_until_the_pause_is_over(database: Database) -> None:
    def pause_and_stop(run: Run) -> None:
        run.drain()
        run.request_stop(Cause.DEADLINE, "late")

    job = await evolving(database)
    world = Interrupting(job, 30, pause_and_stop)
    world.go_on.set()
    with pytest.raises(Suspended):
        await job.run(world)
    assert "deadline" not in {cause for cause, _ in await turns_of(job)}


async def test_a_worker_that_ends_does_not_wait_for_a_drain(database: Database) -> None:
    job = await evolving(database)
    world = Interrupting(job, 30, Run.drain)
    running = asyncio.create_task(job.run(world))
    await world.acted.wait()
    assert job.last is not None
    job.last.suspend()
    with pytest.raises(Suspended):
        await running
    assert not world.go_on.is_set()
    await assert_replays(job, await job.run(HashWorld()))


# --- out of money ----------------------------------------------------------------------------------------------------


class Poor(HashWorld):
    """Can pay so many calls of the search, and so many of its validation; two are refused at once."""

    def __init__(self, search: int, end: int) -> None:
        super().__init__()
        self.left = {True: search, False: end}
        self.refused = 0
        self.several = asyncio.Event()

    async def answer(self, ask: Ask) -> AnswerRecord:
        is_search = not (isinstance(ask, Rollout) and ask.phase is Phase.VALIDATION)
        self.left[is_search] -= 1
        if self.left[is_search] < 0:
            self.refused += 1
            if self.refused > 1:
                self.several.set()
            await self.several.wait()
            raise BudgetExhausted("cost_budget", "the job's limit does not hold it")
        return await super().answer(ask)


STOPPED = "cost_budget: the job's limit does not hold it"


async def test_a_refused_call_is_no_answer_and_stops_the_search_once(database: Database) -> None:
    job = await evolving(database)
    world = Poor(search=40, end=1_000)
    result = await job.run(world)
    assert result["cause"] == Cause.MONEY
    assert world.refused > 1
    assert [turn for turn in await turns_of(job) if turn[0] not in ("start", "resume")] == [("money", STOPPED)]
    assert job.last is not None
    assert job.last.stop_detail == STOPPED
    assert await recorded(job) == set(world.calls)
    assert any(r["phase"] == "validation" for r in await job.fetch("SELECT phase FROM rollouts WHERE job_id = $1"))
    await assert_replays(job, result)


async def test_where_the_end_cannot_be_paid_either_it_ends_with_what_is_known(database: Database) -> None:
    job = await evolving(database)
    result = await job.run(Poor(search=40, end=1))
    assert result["cause"] == Cause.SPENT
    stops = [turn for turn in await turns_of(job) if turn[0] not in ("start", "resume")]
    assert stops == [("money", STOPPED), ("spent", STOPPED)]
    await assert_replays(job, result)


async def test_money_that_lasts_for_the_search_but_not_for_its_end(database: Database) -> None:
    job = await evolving(database)
    result = await job.run(Poor(search=1_000, end=1))
    assert result["cause"] == Cause.SPENT
    assert [turn for turn in await turns_of(job) if turn[0] not in ("start", "resume")] == [("spent", STOPPED)]
    await assert_replays(job, result)


async def test_a_stop_by_money_is_recorded_and_is_not_asked_for_again(database: Database) -> None:
    """The next worker may find that there is money again: the search has ended all the same."""
    job = await evolving(database)

    class Dying(Poor):
        async def answer(self, ask: Ask) -> AnswerRecord:
            if isinstance(ask, Rollout) and ask.phase is Phase.VALIDATION and self.left[False] == 998:
                self.kill_at = ("call", self.moments["call"] + 1)
            return await super().answer(ask)

    assert await job.run_until_killed(Dying(search=40, end=1_000))
    result = await job.run(HashWorld())
    assert result["cause"] == Cause.MONEY
    assert [turn for turn in await turns_of(job) if turn[0] not in ("start", "resume")] == [("money", STOPPED)]


async def test_a_refusal_while_a_defect_is_closed_ends_the_run(database: Database) -> None:
    """It cannot go on, and must not wait for ever."""

    class Stopping(Poor):
        async def answer(self, ask: Ask) -> AnswerRecord:
            if self.moments["call"] == 30:
                assert job.last is not None
                job.last.request_stop(Cause.BUG, "a defect")
            return await super().answer(ask)

    job = await evolving(database)
    with pytest.raises(JobFailed, match="cost_budget"):
        await job.run(Stopping(search=1_000, end=0))
