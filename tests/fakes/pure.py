"""Drives an optimizer in this process: no database, no event loop, answers in any order that a seed names."""

import random
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    Answer,
    Ask,
    Body,
    CandidateFact,
    Completion,
    EventFact,
    Fact,
    Key,
    ProgressFact,
    Recall,
    Rollout,
    TrialFact,
)
from promptjobs.core.lanes import Cause, Lane, Lanes, Outcome, Turning, chain, distinct
from promptjobs.core.optimizer import Optimizer
from promptjobs.core.trial import Phase, Trial

Told = tuple[Answer, Body]


class World(Protocol):
    """Answers asks; told of the facts of each turn before its asks."""

    def observe(self, facts: Sequence[Fact]) -> None: ...

    def answer(self, ask: Ask) -> Told: ...


@dataclass(frozen=True)
class Turn:
    lane: str
    cause: Cause
    facts: tuple[Fact, ...]
    opened: tuple[tuple[str, tuple[Ask, ...]], ...]


@dataclass
class Pure:
    """One run. order: which complete lane goes on, "arrival" or "fixed"; arrival_seed: in which order answers come.

    calls: the asks that went out, each once. repeated: asks that were yielded again after they had been delivered.
    """

    make_optimizer: Callable[[], Optimizer]
    world: World
    rng_seed: int = 0
    order: str = "arrival"
    arrival_seed: int = 0
    answers: dict[Key, Told] = field(default_factory=dict)
    calls: list[Ask] = field(default_factory=list)
    repeated: list[Ask] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    chain: bytes = b""

    def __post_init__(self) -> None:
        self.optimizer: Any = self.make_optimizer()
        self.lanes = Lanes(self.optimizer, self.rng_seed)
        self._arrival = random.Random(self.arrival_seed)
        self._under_way: list[Ask] = []
        self._ready: deque[str] = deque()
        self._delivered: set[Key] = set()

    # --- driving -----------------------------------------------------------------------------------------------------

    def run(self, until: Callable[["Pure"], bool] | None = None) -> Any:
        """To the end, or to the first turn after which `until` holds; returns the result."""
        if not self.turns:
            self._take("0", Cause.START, self.lanes.start(), ())
        while not self.lanes.has_ended and not (until and until(self)):
            self._resume_next()
        return self.lanes.result

    def stop(self, cause: Cause) -> Any:
        """Stop as the runner does, after a failure on a search rebuilt by replay; returns the result of closing."""
        if not self.lanes.open:
            self.rebuild()
        self._ready.clear()
        self._take("", cause, self.lanes.stop(cause), ())
        return self.run()

    def _resume_next(self) -> None:
        path = self._complete_lane()
        while path is None:
            self._answer_one()
            path = self._complete_lane()
        asks = self.lanes.open[path].waiting
        told = [self.answers[ask.key][0] for ask in asks]
        self._delivered.update(ask.key for ask in asks)
        self._take(path, Cause.RESUME, self.lanes.resume(path, told), asks)

    def _complete_lane(self) -> str | None:
        if self.order == "arrival":
            return self._ready.popleft() if self._ready else None
        lane = self.lanes.next_in_fixed_order()
        return lane.path if self._is_complete(lane) else None

    def _is_complete(self, lane: Lane) -> bool:
        return all(ask.key in self.answers for ask in lane.waiting)

    def _answer_one(self) -> None:
        assert self._under_way, "the search waits, and nothing is under way"
        ask = self._under_way.pop(self._arrival.randrange(len(self._under_way)))
        self.answers[ask.key] = self.world.answer(ask)
        for lane in self.lanes.waiting_lanes():
            if lane.path not in self._ready and ask.key in distinct(lane.waiting) and self._is_complete(lane):
                self._ready.append(lane.path)

    def _take(self, path: str, cause: Cause, turning: Turning, delivered: Sequence[Ask]) -> None:
        try:
            outcome = self._drive(turning)
        except BaseException:
            self.lanes.open.clear()
            raise
        self.chain = chain(self.chain, path, cause, delivered, outcome.opened)
        opened = tuple((lane.path, tuple(lane.waiting)) for lane in outcome.opened)
        self.turns.append(Turn(path, cause, tuple(outcome.facts), opened))
        self.world.observe(outcome.facts)
        for lane in outcome.opened:
            self._send(lane)

    def _send(self, lane: Lane) -> None:
        open_keys = {ask.key for ask in self._under_way}
        for key, ask in distinct(lane.waiting).items():
            if key in self._delivered:
                self.repeated.append(ask)
            if key not in self.answers and key not in open_keys:
                self._under_way.append(ask)
                self.calls.append(ask)
        if self._is_complete(lane):
            self._ready.append(lane.path)

    def _drive(self, turning: Turning) -> Outcome:
        return drive(turning, lambda recall: [self.answers[key][1] for key in recall.keys])

    def rebuild(self) -> None:
        """Replay the turns so far on a new optimizer: nothing is asked, no fact is told again."""
        self.optimizer = self.make_optimizer()
        self.lanes = Lanes(self.optimizer, self.rng_seed)
        for turn in self.turns:
            if turn.cause is Cause.START:
                turning = self.lanes.start()
            elif turn.cause is Cause.RESUME:
                asks = self.lanes.open[turn.lane].waiting
                turning = self.lanes.resume(turn.lane, [self.answers[ask.key][0] for ask in asks])
            else:
                turning = self.lanes.stop(turn.cause)
            assert tuple(self._drive(turning).facts) == turn.facts, "replay tells other facts"

    # --- what was told -----------------------------------------------------------------------------------------------

    @property
    def facts(self) -> list[Fact]:
        return [fact for turn in self.turns for fact in turn.facts]

    @property
    def trials(self) -> list[Trial]:
        return [fact.trial for fact in self.facts if isinstance(fact, TrialFact)]

    @property
    def candidates(self) -> list[Candidate]:
        return [fact.candidate for fact in self.facts if isinstance(fact, CandidateFact)]

    @property
    def progress(self) -> list[Mapping[str, Any]]:
        return [fact.data for fact in self.facts if isinstance(fact, ProgressFact)]

    def events(self, kind: str = "") -> list[EventFact]:
        """Events whose type ends with `kind`."""
        return [fact for fact in self.facts if isinstance(fact, EventFact) and fact.type.endswith(kind)]

    @property
    def rollouts(self) -> list[Rollout]:
        return [ask for ask in self.calls if isinstance(ask, Rollout)]

    @property
    def completions(self) -> list[Completion]:
        return [ask for ask in self.calls if isinstance(ask, Completion)]

    @property
    def spent(self) -> int:
        """Rollouts that the budget counts."""
        return sum(ask.phase is not Phase.TEST for ask in self.rollouts)


def drive(turning: Generator[Recall, Any, Outcome], recalled: Callable[[Recall], list[Any]]) -> Outcome:
    """Run one turn to its end."""
    try:
        recall = next(turning)
        while True:
            recall = turning.send(recalled(recall))
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
