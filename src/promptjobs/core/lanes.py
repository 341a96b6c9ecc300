"""Drives an optimizer's generators without IO: lanes are opened, resumed, joined and stopped, one turn at a time."""

import hashlib
import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, assert_never

from promptjobs.core.asks import Answer, Ask, Completion, Fact, Fork, Key, Recall, Rollout, Step, Steps, digest

if TYPE_CHECKING:
    from promptjobs.core.optimizer import Optimizer

STEPS_PER_TURN = 100_000
"""More steps than this without an ask in one turn is a search that will never ask again."""


class Cause(StrEnum):
    """Why a turn was taken. The stops are ranked: a higher one may follow a lower one.

    MONEY: a limit does not hold a call of the search. SPENT: nor one of the end, so nothing further is asked.
    """

    START = "start"
    RESUME = "resume"
    DEPLOY = "deploy"
    NO_PROGRESS = "no_progress"
    DEADLINE = "deadline"
    MONEY = "money"
    SPENT = "spent"
    ERRORS = "errors"
    BUG = "bug"
    CANCEL = "cancel"


STOP_RANK: dict[Cause, int] = {
    Cause.NO_PROGRESS: 1,
    Cause.DEADLINE: 1,
    Cause.MONEY: 1,
    Cause.SPENT: 2,
    Cause.ERRORS: 2,
    Cause.BUG: 2,
    Cause.CANCEL: 3,
}


def outranks(cause: Cause, recorded: Cause | None) -> bool:
    """Whether a stop by `cause` may follow the stop already recorded, if any."""
    return STOP_RANK[cause] > (STOP_RANK[recorded] if recorded else 0)


def virtual_seconds(ask: Ask) -> int:
    """What an ask costs in virtual time: constants, so that the fixed order does not depend on any clock."""
    match ask:
        case Rollout():
            return 1
        case Completion():
            return 20
        case _:
            assert_never(ask)


class Stuck(RuntimeError):
    """A turn took too many steps without parking: a defect of the search."""


@dataclass(slots=True)
class Lane:
    """One strand of a search, named by its path: parent, number of the fork, index in it."""

    path: str
    rng_seed: int
    parent: "Lane | None" = None
    index: int = 0
    virtual_time: int = 0
    generator: Steps | None = None
    waiting: Sequence[Ask] = ()
    children_left: int = 0
    results: list[Any] = field(default_factory=list)
    forks: int = 0
    draws: int = 0

    def rng(self) -> random.Random:
        """A generator of its own for each call: f(rng_seed, path, n-th call), never shared between lanes."""
        self.draws += 1
        return random.Random(digest("rng", self.rng_seed, self.path, self.draws))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one turn decided: its facts, and the lanes that now wait for answers."""

    facts: list[Fact]
    opened: list[Lane]


Turning = Generator[Recall, Any, Outcome]


class Lanes:
    """The running generators of one optimizer.

    `start`, `resume` and `stop` are generators that yield Recall and return an Outcome: recall is the only thing a
    turn waits for. When `search` has ended, `closing(None)` follows in the same turn.
    """

    def __init__(self, optimizer: "Optimizer", rng_seed: int) -> None:
        self.optimizer = optimizer
        self.rng_seed = rng_seed
        self.open: dict[str, Lane] = {}
        self.result: Any = None
        self.has_ended = False
        self.is_closing = False
        self._closings = 0

    def start(self) -> Turning:
        return self._run(self._root("0", self.optimizer.search), None)

    def resume(self, path: str, answers: Sequence[Answer]) -> Turning:
        lane = self.open[path]
        lane.waiting = ()
        return self._run(lane, answers)

    def stop(self, cause: Cause) -> Turning:
        """Close every lane, deepest first, and start closing."""
        for path in sorted(self.open, reverse=True):
            generator = self.open[path].generator
            if generator is not None:
                generator.close()
        self.open.clear()
        return self._run(self._closing_lane(cause), None)

    def waiting_lanes(self) -> list[Lane]:
        return [lane for _, lane in sorted(self.open.items()) if lane.waiting]

    def next_in_fixed_order(self) -> Lane:
        """The waiting lane with the smallest virtual time; ties by path."""
        return min(self.waiting_lanes(), key=lambda lane: (lane.virtual_time, lane.path))

    def _root(self, path: str, make: Callable[[Lane], Steps]) -> Lane:
        lane = Lane(path, self.rng_seed)
        lane.generator = make(lane)
        self.open[path] = lane
        return lane

    def _closing_lane(self, cause: Cause | None) -> Lane:
        self._closings += 1
        self.is_closing = True
        return self._root(f"c{self._closings}", lambda lane: self.optimizer.closing(lane, cause))

    def _run(self, first: Lane, value: Any) -> Turning:
        facts: list[Fact] = []
        opened: list[Lane] = []
        todo: deque[tuple[Lane, Any]] = deque([(first, value)])
        steps = 0
        while todo:
            lane, value = todo.popleft()
            while True:
                steps += 1
                if steps > STEPS_PER_TURN:
                    raise Stuck(f"{STEPS_PER_TURN} steps of lane {lane.path} without an ask")
                try:
                    step = lane.generator.send(value)  # type: ignore[union-attr]
                except StopIteration as end:
                    todo.extend(self._ended(lane, end.value))
                    break
                match step:
                    case Step():
                        facts.extend(step.facts)
                        if step.asks:
                            self._park(lane, step.asks)
                            opened.append(lane)
                            break
                        value = []
                    case Recall():
                        value = yield step
                    case Fork():
                        if step.makers:
                            todo.extend(self._fork(lane, step.makers))
                            break
                        value = []
                    case _:
                        assert_never(step)
        return Outcome(facts, opened)

    def _park(self, lane: Lane, asks: Sequence[Ask]) -> None:
        lane.waiting = tuple(asks)
        lane.virtual_time += max(virtual_seconds(ask) for ask in asks)

    def _fork(self, lane: Lane, makers: Sequence[Callable[[Lane], Steps]]) -> list[tuple[Lane, Any]]:
        lane.forks += 1
        lane.children_left, lane.results = len(makers), [None] * len(makers)
        children = []
        for index, make in enumerate(makers):
            path = f"{lane.path}.{lane.forks}.{index:03d}"
            child = Lane(path, self.rng_seed, lane, index, lane.virtual_time)
            child.generator = make(child)
            self.open[path] = child
            children.append((child, None))
        return children

    def _ended(self, lane: Lane, value: Any) -> list[tuple[Lane, Any]]:
        """What runs next after a lane has ended: its parent, when it was the last child; closing, after the search."""
        del self.open[lane.path]
        parent = lane.parent
        if parent is None:
            if not self.is_closing:
                return [(self._closing_lane(None), None)]
            self.result, self.has_ended = value, True
            return []
        parent.children_left -= 1
        parent.results[lane.index] = value
        parent.virtual_time = max(parent.virtual_time, lane.virtual_time)
        return [] if parent.children_left else [(parent, parent.results)]


def chain(before: bytes, lane: str, cause: Cause, delivered: Sequence[Ask], opened: Sequence[Lane]) -> bytes:
    """The hash that ties a turn to all turns before it: what was delivered, which lanes it opened with which asks."""
    state = hashlib.blake2b(before, digest_size=16)
    state.update(f"{lane}|{cause}|".encode())
    state.update(b"".join(ask.key for ask in delivered))
    for each in opened:
        state.update(b"|" + each.path.encode() + b"|")
        state.update(b"".join(ask.key for ask in each.waiting))
    return state.digest()


def distinct(asks: Sequence[Ask]) -> dict[Key, Ask]:
    """The asks by key: the same ask twice in a batch is one call."""
    return {ask.key: ask for ask in asks}
