"""Drives one optimizer from its journal to its end: recorded turns first, then the world."""

import asyncio
import logging
import traceback
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import asyncpg
import orjson

from promptjobs.core.asks import Answer, Ask, Body, EventFact, Fact, Key
from promptjobs.core.lanes import STOP_RANK, Cause, Lane, Lanes, Outcome, Turning, chain, distinct, outranks
from promptjobs.core.optimizer import Adopted, Optimizer
from promptjobs.core.trial import Phase
from promptjobs.db import history, journal
from promptjobs.db.journal import AnswerRecord, TokenRecord, TurnRecord
from promptjobs.errors import DatabaseUnavailable, JobFailed, JournalMismatch, LeaseLost
from promptjobs.jobs.reader import Reader
from promptjobs.jobs.writer import Writer

log = logging.getLogger(__name__)

BODIES_KEPT = 3_000
TURNS_WITHOUT_ANSWER = 1_000


class Suspended(Exception):
    """The run was asked to leave off: what it has is recorded, and another worker goes on."""


class World(Protocol):
    """Answers asks. `tokens` mints what a rollout needs before it may go out."""

    def observe(self, facts: Sequence[Fact]) -> None:
        """Told the facts of every new turn before its asks; replayed turns are not told again."""

    def tokens(self, asks: Sequence[Ask]) -> list[TokenRecord]: ...

    async def answer(self, ask: Ask) -> AnswerRecord:
        """Never raises for a failure of the world, which is an answer. Raises LeaseLost."""


class Run:
    """One claimed job.

    make_optimizer builds the search anew: replay starts from nothing. turn_order: arrival or fixed. slots: how many
    rollouts may be under way at once.
    """

    def __init__(
        self,
        *,
        job_id: str,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        make_writer: Callable[[int], Writer],
        world: World,
        make_optimizer: Callable[[], Optimizer],
        rng_seed: int,
        turn_order: str,
        slots: int,
    ) -> None:
        self.job_id = job_id
        self.reader = Reader(connect)
        self.world = world
        self.make_writer = make_writer
        self.make_optimizer = make_optimizer
        self.rng_seed = rng_seed
        self.is_fixed = turn_order == "fixed"
        self.answers: dict[Key, Answer] = {}
        self.delivered: set[Key] = set()
        self.stopped: Cause | None = None
        self.stop_detail: str | None = None
        self.calls = 0
        self._wanted: tuple[Cause, str | None] | None = None
        self._bodies: OrderedDict[Key, str] = OrderedDict()
        self._wake = asyncio.Event()
        self._open: dict[Key, list[str]] = {}
        self._missing: dict[str, int] = {}
        self._ready: deque[str] = deque()
        self._free_slots = slots
        self._unsent: deque[Ask] = deque()
        self._under_way: set[Key] = set()
        self._stops = 0
        self._asking: set[asyncio.Task[None]] = set()
        self._idle_turns = 0
        self._is_suspended = False

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

    async def run(self) -> Any:
        """Returns what the optimizer's closing returned.

        Raises LeaseLost, Suspended, JobFailed where closing itself failed, DatabaseUnavailable.
        """
        try:
            return await self._run()
        finally:
            await self.reader.close()

    async def _run(self) -> Any:
        next_n = await self._load()
        self.writer = self.make_writer(next_n)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self.writer.run())
                await self._resume()
                while not (self.lanes.has_ended or self._is_suspended):
                    await self._turn()
                await self._abandon()
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
        for n, answer in await self.reader.read(lambda c: history.load_answers(c, self.job_id)):
            self.answers[answer.key] = answer
            next_n = max(next_n, n + 1)
        return next_n

    async def _turns(self) -> list[TurnRecord]:
        return await self.reader.read(lambda c: history.load_turns(c, self.job_id))

    async def _resume(self) -> None:
        """Replay what is recorded, then send what is missing, or take the first turn."""
        turns = await self._turns()
        try:
            await self._replay(turns)
        except JournalMismatch as mismatch:
            await self._deploy(turns, mismatch)
        if self.lanes.has_ended:
            return
        if self._is_started:
            tokens, asks = self._open_lanes(self.lanes.waiting_lanes())
            self._send(asks, self.writer.put_tokens(tokens))
        elif self.stopped:
            await self._stop(self.stopped, self.stop_detail)
        else:
            await self._guarded("0", Cause.START, self.lanes.start, ())

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
        for turn in turns:
            await self._replay_turn(turn)

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
        spent = await self.reader.read(lambda c: history.load_facts(c, self.job_id, n))
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
        facts = await self.reader.read(lambda c: history.load_facts(c, self.job_id, turn.n))
        rollouts = {Phase(phase): count for phase, count in detail["rollouts"].items()}
        self.optimizer.adopt(Adopted(facts.candidates, facts.trials, rollouts, detail["completions"]))
        self.stopped = Cause(detail["stopped"]) if detail["stopped"] else None
        self.stop_detail = detail["stop_detail"]

    # --- live --------------------------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        """Wait for the next lane that can go on, or for a stop, and take one turn."""
        while not self._is_suspended:
            stop = self._pending_stop()
            if stop:
                await self._stop(*stop)
                return
            path = self._next_path()
            if path is not None:
                break
            self._wake.clear()
            await self._wake.wait()
        else:
            return
        lane = self.lanes.open[path]
        asks = lane.waiting
        del self._missing[path]
        self._idle_turns = 0 if any(ask.key not in self.delivered for ask in asks) else self._idle_turns + 1
        self._note_delivered(asks)
        told = [self.answers[ask.key] for ask in asks]
        await self._guarded(path, Cause.RESUME, lambda: self.lanes.resume(path, told), asks)
        if self._idle_turns >= TURNS_WITHOUT_ANSWER:
            self.request_stop(Cause.NO_PROGRESS, f"{TURNS_WITHOUT_ANSWER} turns brought no new answer")

    def _next_path(self) -> str | None:
        if self.is_fixed:
            path = self.lanes.next_in_fixed_order().path
            return path if self._missing[path] == 0 else None
        return self._ready.popleft() if self._ready else None

    def _pending_stop(self) -> tuple[Cause, str | None] | None:
        if self._wanted is None or not outranks(self._wanted[0], self.stopped):
            return None
        return self._wanted

    async def _stop(self, cause: Cause, detail: str | None) -> None:
        """A stop is a turn of its own: all lanes are closed, and closing begins."""
        self.stopped, self.stop_detail = cause, detail
        if cause is Cause.CANCEL:
            await self._abandon()
        self._forget_unsent()
        self._missing.clear()
        self._ready.clear()
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
                recall = turning.send(await self._recall(recall.keys))
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome

    async def _recall(self, keys: Sequence[Key]) -> list[Body]:
        absent = [key for key in keys if key not in self._bodies]
        found: Mapping[Key, str] = {}
        if absent:
            found = await self.reader.read(lambda c: history.load_bodies(c, self.job_id, absent))
        bodies = [journal.body_from(self._bodies[key] if key in self._bodies else found[key]) for key in keys]
        for key, text in found.items():
            self._remember(key, text)
        return bodies

    def _remember(self, key: Key, text: str) -> None:
        self._bodies[key] = text
        if len(self._bodies) > BODIES_KEPT:
            self._bodies.popitem(last=False)

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
        self._send(asks, self.writer.put_turn(turn, tokens))

    def _open_lanes(self, lanes: Sequence[Lane]) -> tuple[list[TokenRecord], list[Ask]]:
        """Note what each lane waits for; returns the asks that no other lane has open, with their tokens."""
        asks: list[Ask] = []
        for lane in lanes:
            missing = 0
            for key, ask in distinct(lane.waiting).items():
                if key in self.answers:
                    continue
                missing += 1
                if key in self._open:
                    self._open[key].append(lane.path)
                else:
                    self._open[key] = [lane.path]
                    asks.append(ask)
            self._missing[lane.path] = missing
            if not missing:
                self._ready.append(lane.path)
                self._wake.set()
        return self.world.tokens(asks), asks

    def _send(self, asks: Sequence[Ask], committed: asyncio.Future[None]) -> None:
        if asks:
            self._spawn(self._go_out(asks, committed, self._stops))

    async def _go_out(self, asks: Sequence[Ask], committed: asyncio.Future[None], stops: int) -> None:
        await asyncio.shield(committed)
        if stops == self._stops:
            self._unsent.extend(asks)
            self._fill_slots()

    def _fill_slots(self) -> None:
        while self._unsent and self._free_slots:
            self._free_slots -= 1
            self._spawn(self._ask(self._unsent.popleft()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """A task that `_abandon` may cancel, and whose failure ends the run."""
        task = self._group.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, ask: Ask) -> None:
        """One ask up to its answer's commit, which is what frees the slot."""
        self.calls += 1
        self._under_way.add(ask.key)
        try:
            record = await self.world.answer(ask)
            await self.writer.put_answer(record)
        finally:
            self._under_way.discard(ask.key)
            self._free_slots += 1
        self.answers[ask.key] = record.answer
        self._remember(ask.key, record.body)
        for path in self._open.pop(ask.key, ()):
            if path in self._missing:
                self._missing[path] -= 1
                if not self._missing[path]:
                    self._ready.append(path)
                    self._wake.set()
        self._fill_slots()

    def _note_delivered(self, asks: Sequence[Ask]) -> None:
        self.delivered.update(ask.key for ask in asks)

    def _forget_unsent(self) -> None:
        """What has not gone out by a stop is not asked any more: it would be paid for, and its lane is closed."""
        self._stops += 1
        self._unsent.clear()
        self._open = {key: paths for key, paths in self._open.items() if key in self._under_way}

    async def _abandon(self) -> None:
        """Give up on what is still open: called but never delivered."""
        self._unsent.clear()
        tasks = list(self._asking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._open.clear()


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
