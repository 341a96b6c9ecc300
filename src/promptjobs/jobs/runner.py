"""Drives one optimizer from its journal to its end: recorded turns first, then the world."""

import asyncio
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from promptjobs.core.asks import Answer, Ask, EventFact, Fact, Key, Rollout
from promptjobs.core.lanes import STOP_RANK, Cause, Lane, Lanes, Outcome, Turning, chain, outranks
from promptjobs.core.optimizer import Adopted, Optimizer
from promptjobs.core.trial import Phase
from promptjobs.db import history
from promptjobs.db.connections import Connections
from promptjobs.db.journal import AnswerRecord, TokenRecord, TurnRecord
from promptjobs.errors import BudgetExhausted, DatabaseUnavailable, JobFailed, JournalMismatch, LeaseLost
from promptjobs.jobs.asking import Asking, World
from promptjobs.jobs.recalls import Recalls
from promptjobs.jobs.writer import Writer
from promptjobs.telemetry.call_tallies import OK
from promptjobs.telemetry.context import JOB_ID, bound
from promptjobs.telemetry.metrics import ROLLOUTS

log = logging.getLogger(__name__)

TURNS_WITHOUT_ANSWER = 1_000
TURNS_IN_A_ROW = 100
"""Replayed without letting anything else run: heartbeats and the other jobs of the process have to go on."""


class Suspended(Exception):
    """The run was asked to leave off: what it has is recorded, and another worker goes on."""


class Run:
    """One claimed job.

    make_optimizer builds the search anew: replay starts from nothing. turn_order: arrival or fixed. slots: how many
    rollouts may be under way at once.
    """

    def __init__(
        self,
        *,
        job_id: str,
        connections: Connections,
        make_writer: Callable[[int], Writer],
        world: World,
        make_optimizer: Callable[[], Optimizer],
        rng_seed: int,
        turn_order: str,
        slots: int,
    ) -> None:
        self.job_id = job_id
        self.connections = connections
        self.world = world
        self.make_writer = make_writer
        self.make_optimizer = make_optimizer
        self.rng_seed = rng_seed
        self.is_fixed = turn_order == "fixed"
        self.answers: dict[Key, Answer] = {}
        self.delivered: set[Key] = set()
        self.stopped: Cause | None = None
        self.stop_detail: str | None = None
        self._wanted: tuple[Cause, str | None] | None = None
        self._recalls = Recalls(job_id, connections)
        self._wake = asyncio.Event()
        self._asking = Asking(world, self.answers, slots, self._wake, self._note, self._refused)
        self._idle_turns = 0
        self._is_suspended = False
        self._is_draining = False
        self._is_sending = False

    @property
    def calls(self) -> int:
        """How many asks have gone out."""
        return self._asking.calls

    # --- from outside ------------------------------------------------------------------------------------------------

    def request_stop(self, cause: Cause, detail: str | None = None) -> None:
        """End the search at the next turn. A higher-ranked cause replaces a lower one."""
        if self._wanted is None or STOP_RANK[cause] > STOP_RANK[self._wanted[0]]:
            self._wanted = (cause, detail)
            self._wake.set()

    def suspend(self) -> None:
        """Leave off at the next turn; `run` then raises Suspended."""
        self._is_suspended = True
        self._wake.set()

    def drain(self) -> None:
        """Leave off when what is under way is answered and recorded; nothing further is asked. A cancel goes first."""
        self._is_draining = True
        self._asking.hold()
        self._wake.set()

    async def run(self) -> Any:
        """Returns what the optimizer's closing returned.

        Raises LeaseLost, Suspended, JobFailed where closing itself failed, DatabaseUnavailable.
        """
        with bound(JOB_ID, self.job_id):
            return await self._run()

    async def _run(self) -> Any:
        next_n = await self._load()
        self.writer = self.make_writer(next_n)
        try:
            async with asyncio.TaskGroup() as group:
                self._asking.begin(group, self.writer)
                group.create_task(self.writer.run())
                await self._resume()
                while not (self.lanes.has_ended or self._is_suspended):
                    await self._turn()
                await self._asking.abandon()
                await self.writer.flush()
                self.writer.close()
        except BaseExceptionGroup as failed:
            raise _first(failed) from failed
        if not self.lanes.has_ended:
            raise Suspended
        return self.lanes.result

    # --- replay ------------------------------------------------------------------------------------------------------

    async def _load(self) -> int:
        next_n = 0
        for n, answer in await self.connections.persist(lambda c: history.load_answers(c, self.job_id)):
            self.answers[answer.key] = answer
            next_n = max(next_n, n + 1)
        return next_n

    async def _turns(self) -> list[TurnRecord]:
        return await self.connections.persist(lambda c: history.load_turns(c, self.job_id))

    async def _resume(self) -> None:
        """Replay what is recorded."""
        turns = await self._turns()
        try:
            await self._replay(turns)
        except JournalMismatch as mismatch:
            await self._deploy(turns, mismatch)

    async def _replay(self, turns: Sequence[TurnRecord]) -> None:
        """Feed the recorded answers in the recorded order. Raises JournalMismatch where that does not fit."""
        self.optimizer = self.make_optimizer()
        self.lanes = Lanes(self.optimizer, self.rng_seed)
        self.delivered.clear()
        self._is_started, self.stopped, self.stop_detail, self.chain, self._idle_turns = False, None, None, b"", 0
        self.n = len(turns)
        deployed = max((i for i, turn in enumerate(turns) if turn.cause is Cause.DEPLOY), default=None)
        if deployed is not None:
            await self._adopt(turns[deployed])
            turns = turns[deployed + 1 :]
        for n, turn in enumerate(turns, 1):
            await self._replay_turn(turn)
            if n % TURNS_IN_A_ROW == 0:
                await asyncio.sleep(0)
                if self._is_suspended:
                    raise Suspended

    async def _replay_turn(self, turn: TurnRecord) -> None:
        if turn.search_version != self.optimizer.search_version:
            raise JournalMismatch(self.job_id, turn.n)
        delivered: Sequence[Ask] = ()
        match turn.cause:
            case Cause.START:
                self._is_started, turning = True, self.lanes.start()
            case Cause.RESUME:
                lane = self.lanes.open.get(turn.lane)
                if lane is None or not lane.waiting or any(ask.key not in self.answers for ask in lane.waiting):
                    raise JournalMismatch(self.job_id, turn.n)
                delivered = lane.waiting
                turning = self.lanes.resume(turn.lane, [self.answers[ask.key] for ask in delivered])
            case _:
                self._is_started, self.stopped, self.stop_detail = True, turn.cause, turn.detail
                turning = self.lanes.stop(turn.cause)
        try:
            outcome = await self._drive(turning)
        except (DatabaseUnavailable, LeaseLost):
            raise
        except Exception as error:
            # A turn that was recorded had not raised: the search is another one, or a defect has been found since.
            raise JournalMismatch(self.job_id, turn.n) from error
        self._note_delivered(delivered)
        self.chain = chain(self.chain, turn.lane, turn.cause, delivered, outcome.opened)
        if self.chain != turn.chain:
            raise JournalMismatch(self.job_id, turn.n)

    async def _deploy(self, turns: Sequence[TurnRecord], mismatch: JournalMismatch) -> None:
        """The search changed under the job: record it, and go on from the published facts."""
        version = self.make_optimizer().search_version
        recorded = turns[-1].search_version
        is_planned = version != recorded
        log.log(
            logging.WARNING if is_planned else logging.ERROR,
            "the search changed under a running job",
            extra={"job_id": self.job_id, "turn": mismatch.turn, "recorded": recorded, "current": version},
        )
        stop = next((turn for turn in reversed(turns) if turn.cause in STOP_RANK), None)
        n = turns[-1].n + 1
        spent = await self.connections.persist(lambda c: history.load_facts(c, self.job_id, n))
        detail = {
            "rollouts": {phase.value: count for phase, count in spent.rollouts.items()},
            "completions": spent.completions,
            "stopped": stop and stop.cause,
            "stop_detail": stop and stop.detail,
        }
        fact = EventFact(
            "prompt.learning.search.changed",
            f"the search is now version {version} (was {recorded}); it goes on from the candidates and trials so far",
            {"turn": mismatch.turn, "from_version": recorded, "to_version": version},
            "warning" if is_planned else "error",
        )
        turn = TurnRecord(n, "", Cause.DEPLOY, b"", version, [fact], orjson.dumps(detail).decode())
        await self.writer.put_turn(turn, ())
        await self._replay([*turns, turn])

    async def _adopt(self, turn: TurnRecord) -> None:
        detail = orjson.loads(turn.detail or "{}")
        facts = await self.connections.persist(lambda c: history.load_facts(c, self.job_id, turn.n))
        rollouts = {Phase(phase): count for phase, count in detail["rollouts"].items()}
        self.optimizer.adopt(Adopted(facts.candidates, facts.trials, rollouts, detail["completions"]))
        self.stopped = Cause(detail["stopped"]) if detail["stopped"] else None
        self.stop_detail = detail["stop_detail"]

    # --- live --------------------------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        """Wait until there is something to do, and do it: start, stop, resume a lane, or leave off."""
        while not self._is_suspended:
            stop = self._pending_stop()
            if self._is_draining and (stop is None or stop[0] is not Cause.CANCEL):
                self._is_suspended = self._asking.is_idle
            elif not self._is_sending:
                return await self._start()
            elif stop is not None:
                return await self._stop(*stop)
            elif (path := self._next_path()) is not None:
                return await self._resume_lane(path)
            if not self._is_suspended:
                self._wake.clear()
                await self._wake.wait()
        return None

    async def _start(self) -> None:
        """After replay: send what the lanes still wait for, or take the first turn."""
        self._is_sending = True
        if self._is_started:
            tokens, asks = self._open_lanes(self.lanes.waiting_lanes())
            self._asking.send(asks, self.writer.put_tokens(tokens))
        elif self.stopped:
            await self._stop(self.stopped, self.stop_detail)
        else:
            await self._guarded("0", Cause.START, self.lanes.start, ())

    async def _resume_lane(self, path: str) -> None:
        asks = self.lanes.open[path].waiting
        self._idle_turns = 0 if any(ask.key not in self.delivered for ask in asks) else self._idle_turns + 1
        self._note_delivered(asks)
        told = [self.answers[ask.key] for ask in asks]
        await self._guarded(path, Cause.RESUME, lambda: self.lanes.resume(path, told), asks)
        if self._idle_turns >= TURNS_WITHOUT_ANSWER:
            self.request_stop(Cause.NO_PROGRESS, f"{TURNS_WITHOUT_ANSWER} turns brought no new answer")

    def _next_path(self) -> str | None:
        """The lane to resume now, which then counts as resumed."""
        if self.is_fixed:
            return self._asking.take_if_ready(self.lanes.next_in_fixed_order().path)
        return self._asking.first_ready()

    def _pending_stop(self) -> tuple[Cause, str | None] | None:
        if self._wanted is None or not outranks(self._wanted[0], self.stopped):
            return None
        return self._wanted

    def _refused(self, error: BudgetExhausted) -> None:
        """A cap ends the search; where even the end cannot be paid, it ends with what is known."""
        cause = Cause.SPENT if self.lanes.is_closing else Cause.MONEY
        if not outranks(cause, self.stopped):
            raise JobFailed(f"closing the search failed: {error}") from error
        self.request_stop(cause, f"{error.cap}: {error.words}")

    async def _stop(self, cause: Cause, detail: str | None) -> None:
        """A stop is a turn of its own: all lanes are closed, and closing begins."""
        self.stopped, self.stop_detail = cause, detail
        if cause is Cause.CANCEL:
            await self._asking.abandon()
        self._asking.close_lanes()
        try:
            outcome = await self._drive(self.lanes.stop(cause))
        except (DatabaseUnavailable, LeaseLost):
            raise
        except Exception as error:
            raise JobFailed(f"closing the search failed: {_described(error)}") from error
        self._commit("", cause, (), outcome, detail)

    async def _guarded(self, path: str, cause: Cause, turning: Callable[[], Turning], delivered: Sequence[Ask]) -> None:
        """Take a turn; where the core raises, rebuild it by replay up to here and stop instead."""
        try:
            outcome = await self._drive(turning())
        except (DatabaseUnavailable, LeaseLost):
            raise
        except Exception as error:
            # Whatever the core raises ends the search; what it has found is kept.
            failed = isinstance(error, JobFailed)
            detail = str(error) if failed else _described(error)
            log.error("the search raised", extra={"job_id": self.job_id, "trace": traceback.format_exc()})
            if self.lanes.is_closing:
                raise JobFailed(f"closing the search failed: {detail}") from error
            await self.writer.flush()
            await self._replay(await self._turns())
            await self._stop(Cause.ERRORS if failed else Cause.BUG, detail)
            return
        self._is_started = True
        self._commit(path, cause, delivered, outcome)

    async def _drive(self, turning: Turning) -> Outcome:
        """Run one turn of the core to its end; its recalls are all that it waits for."""
        try:
            recall = next(turning)
            while True:
                recall = turning.send(await self._recalls.bodies(recall.keys))
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome

    def _note(self, record: AnswerRecord) -> None:
        self._recalls.keep(record.answer.key, record.body)
        if isinstance(record.ask, Rollout):
            ROLLOUTS.labels(record.ask.phase, record.answer.reason or OK).inc()

    def _commit(
        self, path: str, cause: Cause, delivered: Sequence[Ask], outcome: Outcome, detail: str | None = None
    ) -> None:
        """Queue the turn with its facts and tokens; its asks go out when that is durable."""
        self.chain = chain(self.chain, path, cause, delivered, outcome.opened)
        facts: list[Fact] = outcome.facts
        self.world.observe(facts)
        tokens, asks = self._open_lanes(outcome.opened)
        turn = TurnRecord(self.n, path, cause, self.chain, self.optimizer.search_version, facts, detail)
        self.n += 1
        self._asking.send(asks, self.writer.put_turn(turn, tokens))

    def _open_lanes(self, lanes: Sequence[Lane]) -> tuple[list[TokenRecord], list[Ask]]:
        """What has to go out for these lanes to go on, with its tokens."""
        asks = self._asking.open(lanes)
        return self.world.tokens(asks), asks

    def _note_delivered(self, asks: Sequence[Ask]) -> None:
        self.delivered.update(ask.key for ask in asks)


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a task group failed of: a lost lease only where nothing else explains it, for it often follows."""
    flat: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if not isinstance(error, LeaseLost)), flat[0])
