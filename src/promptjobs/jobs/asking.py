"""The asking side of a run: what its lanes wait for goes out as slots are free, and counts once it is recorded."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from promptjobs.core.asks import Answer, Ask, Fact, Key
from promptjobs.core.lanes import Lane, distinct
from promptjobs.db.journal import AnswerRecord, TokenRecord
from promptjobs.errors import BudgetExhausted
from promptjobs.jobs.writer import Writer


class World(Protocol):
    """Answers asks. `tokens` mints what a rollout needs before it may go out."""

    def observe(self, facts: Sequence[Fact]) -> None:
        """Told the facts of every new turn before its asks; replayed turns are not told again."""

    def tokens(self, asks: Sequence[Ask]) -> list[TokenRecord]: ...

    async def answer(self, ask: Ask) -> AnswerRecord:
        """Never raises for a failure of the world, which is an answer. Raises LeaseLost, BudgetExhausted."""


class Asking:
    """Open asks of the lanes of one run.

    answers: the run's, to which each new one is added. slots: how many asks may be under way at once. wake: set when a
    lane can go on. noted: told each new answer's record. refused: told of an ask that a lane waits for and that no
    money is left for; then nothing further goes out until the lanes are closed.
    """

    def __init__(
        self,
        world: World,
        answers: dict[Key, Answer],
        slots: int,
        wake: asyncio.Event,
        noted: Callable[[AnswerRecord], None],
        refused: Callable[[BudgetExhausted], None],
    ) -> None:
        self.calls = 0
        self._world, self._answers, self._wake = world, answers, wake
        self._noted, self._refused = noted, refused
        self._slots = self._free_slots = slots
        self._paths: dict[Key, list[str]] = {}
        self._missing: dict[str, int] = {}
        self._ready: deque[str] = deque()
        self._unsent: deque[Ask] = deque()
        self._under_way: set[Key] = set()
        self._is_held = False
        self._closings = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, group: asyncio.TaskGroup, writer: Writer) -> None:
        """To be called before anything is sent. group: where what goes out runs, and fails."""
        self._group, self._writer = group, writer

    # --- lanes -------------------------------------------------------------------------------------------------------

    def open(self, lanes: Sequence[Lane]) -> list[Ask]:
        """Note what each lane waits for; returns the asks that no other lane has open."""
        asks: list[Ask] = []
        for lane in lanes:
            missing = 0
            for key, ask in distinct(lane.waiting).items():
                if key in self._answers:
                    continue
                missing += 1
                if key in self._paths:
                    self._paths[key].append(lane.path)
                else:
                    self._paths[key] = [lane.path]
                    asks.append(ask)
            self._missing[lane.path] = missing
            if not missing:
                self._lane_is_ready(lane.path)
        return asks

    def first_ready(self) -> str | None:
        """The lane whose asks were answered first, which then counts as resumed; None where no lane can go on."""
        if not self._ready:
            return None
        path = self._ready.popleft()
        del self._missing[path]
        return path

    def take_if_ready(self, path: str) -> str | None:
        """`path` where all its asks are answered; then it counts as resumed."""
        if self._missing[path]:
            return None
        del self._missing[path]
        return path

    def close_lanes(self) -> None:
        """Forget every lane. What has not gone out is not asked any more: it would be paid for, and nobody waits."""
        self._closings += 1
        self._is_held = False
        self._unsent.clear()
        self._missing.clear()
        self._ready.clear()
        self._paths = {key: paths for key, paths in self._paths.items() if key in self._under_way}

    def _lane_is_ready(self, path: str) -> None:
        self._ready.append(path)
        self._wake.set()

    # --- asks --------------------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    def hold(self) -> None:
        """Send nothing further. What is under way goes on, and `wake` is set with each end of it."""
        self._is_held = True

    def send(self, asks: Sequence[Ask], committed: asyncio.Future[None]) -> None:
        """Let `asks` go out when `committed` is done, unless the lanes have been closed by then."""
        if asks:
            self._spawn(self._go_out(asks, committed, self._closings))

    async def abandon(self) -> None:
        """Give up on what is still open: called but never delivered."""
        self._unsent.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._paths.clear()
        self._under_way.clear()
        self._free_slots = self._slots

    async def _go_out(self, asks: Sequence[Ask], committed: asyncio.Future[None], closings: int) -> None:
        await asyncio.shield(committed)
        if closings == self._closings:
            self._unsent.extend(asks)
            self._fill_slots()

    def _fill_slots(self) -> None:
        while self._unsent and self._free_slots and not self._is_held:
            ask = self._unsent.popleft()
            self._free_slots -= 1
            self._under_way.add(ask.key)
            self._spawn(self._ask(ask))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """A task that `abandon` may cancel, and whose failure ends the run."""
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, ask: Ask) -> None:
        """One ask up to its answer's commit, which is what frees the slot."""
        self.calls += 1
        try:
            record = await self._world.answer(ask)
            await self._writer.put_answer(record)
        except BudgetExhausted as error:
            self._give_up(ask, error)
        else:
            self._answered(record)
        finally:
            self._under_way.discard(ask.key)
            self._free_slots += 1
            if self._is_held:
                self._wake.set()
        self._fill_slots()

    def _answered(self, record: AnswerRecord) -> None:
        key = record.answer.key
        self._answers[key] = record.answer
        self._noted(record)
        for path in self._paths.pop(key, ()):
            if path in self._missing:
                self._missing[path] -= 1
                if not self._missing[path]:
                    self._lane_is_ready(path)

    def _give_up(self, ask: Ask, error: BudgetExhausted) -> None:
        """No answer comes. That ends the search, unless the lanes that wanted it are closed already."""
        if any(path in self._missing for path in self._paths.pop(ask.key, ())):
            self._is_held = True
            self._refused(error)
