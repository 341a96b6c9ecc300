"""Slots bound the calls under way, and a stop leaves unasked what has not gone out."""

import pytest

from promptjobs.core.asks import Ask, Rollout
from promptjobs.core.lanes import Cause
from promptjobs.core.trial import Phase
from promptjobs.db.journal import AnswerRecord
from promptjobs.db.session import Database
from tests.fakes.journaled import Journaled, new_job
from tests.fakes.searches import Evolving
from tests.fakes.worlds import HashWorld


class Counting(HashWorld):
    """Notes how many calls are under way at once, and stops the run at its n-th call, if it is told to."""

    def __init__(self, job: Journaled, cause: Cause | None = None, at: int = 0) -> None:
        super().__init__()
        self.job, self.cause, self.at = job, cause, at
        self.under_way = self.most = 0
        self.after_the_stop: list[Ask] = []

    async def answer(self, ask: Ask) -> AnswerRecord:
        run = self.job.last
        assert run is not None
        if run.stopped is not None:
            self.after_the_stop.append(ask)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.cause is not None and self.moments["call"] == self.at:
            run.request_stop(self.cause)
        try:
            return await super().answer(ask)
        finally:
            self.under_way -= 1


@pytest.mark.parametrize("slots", [1, 3, 64])
async def test_no_more_calls_are_under_way_than_there_are_slots(database: Database, slots: int) -> None:
    job = Journaled(database, await new_job(database), lambda: Evolving(lanes=8, budget=80), slots=slots)
    world = Counting(job)
    await job.run(world)
    assert world.most <= slots
    assert world.most == slots or slots == 64


@pytest.mark.parametrize("cause", [Cause.MONEY, Cause.DEADLINE, Cause.ERRORS])
async def test_what_has_not_gone_out_by_a_stop_is_not_asked(database: Database, cause: Cause) -> None:
    """Eight lanes wait for two slots: most asks are still here when the stop comes, and none of them is paid for."""
    job = Journaled(database, await new_job(database), lambda: Evolving(lanes=8, budget=400), slots=2)
    world = Counting(job, cause, 30)
    result = await job.run(world)
    assert result["cause"] == cause
    asked = [ask for ask in world.after_the_stop if isinstance(ask, Rollout)]
    assert asked
    assert {ask.phase for ask in asked} == {Phase.VALIDATION}
    assert len(asked) == len(world.after_the_stop)
    nobody = HashWorld()
    assert await job.run(nobody) == result
    assert not nobody.calls
