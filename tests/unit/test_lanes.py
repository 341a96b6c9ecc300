"""Lanes: forks and joins, order, randomness, stops, and the chain that ties turns together."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from tests.fakes.gepa_runs import fraction
from tests.fakes.pure import Pure, Told, drive
from tests.fakes.searches import Evolving, Nested

from promptjobs.core.asks import (
    Answer,
    Ask,
    Completion,
    CompletionBody,
    EventFact,
    Fact,
    Fork,
    MetaModel,
    Recall,
    Rollout,
    RolloutBody,
    Step,
    Steps,
)
from promptjobs.core.lanes import (
    Cause,
    Lane,
    Lanes,
    Outcome,
    Stuck,
    Turning,
    chain,
    distinct,
    outranks,
    virtual_seconds,
)
from promptjobs.core.optimizer import Adopted
from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase

THINK = Completion("reflection", MetaModel("fake", "meta"), (Message("user", "think"),))


def rollout(seed: int, candidate: str = "c") -> Rollout:
    return Rollout(candidate, seed, "policy", Phase.OPTIMIZATION)


def fact(text: str) -> EventFact:
    return EventFact("test", text, {})


@dataclass
class Scripted:
    """A search made of two functions."""

    make_search: Callable[[Lane], Steps]
    make_closing: Callable[[Lane, Cause | None], Steps] | None = None
    search_version: int = 1

    def search(self, lane: Lane) -> Steps:
        return self.make_search(lane)

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        if self.make_closing:
            return (yield from self.make_closing(lane, cause))
        yield Step(facts=[fact(f"closing {cause}")])
        return cause

    def adopt(self, adopted: Adopted) -> None:
        raise NotImplementedError


def lanes_of(search: Callable[[Lane], Steps], closing: Callable[[Lane, Cause | None], Steps] | None = None) -> Lanes:
    return Lanes(Scripted(search, closing), rng_seed=5)


def taken(turning: Turning, bodies: Sequence[Any] = ()) -> Outcome:
    return drive(turning, lambda recall: list(bodies))


def answer_of(ask: Ask) -> Answer:
    return Answer(ask.key, 0.5)


def resumed(lanes: Lanes, path: str) -> Outcome:
    return taken(lanes.resume(path, [answer_of(ask) for ask in lanes.open[path].waiting]))


def texts(outcome: Outcome) -> list[str]:
    return [found.message for found in outcome.facts if isinstance(found, EventFact)]


def asking(*seeds: int) -> Callable[[Lane], Steps]:
    """A lane that asks once for each seed, and returns the seeds."""

    def run(lane: Lane) -> Steps:
        for seed in seeds:
            yield Step([rollout(seed)])
        return list(seeds)

    return run


@dataclass
class KeyWorld:
    """Answers that follow from the ask alone."""

    def observe(self, facts: Sequence[Fact]) -> None:
        pass

    def answer(self, ask: Ask) -> Told:
        if isinstance(ask, Completion):
            return Answer(ask.key), CompletionBody(f"improved prompt {ask.key.hex()[:8]}", "stop")
        body = RolloutBody((Message("user", f"input {ask.seed}"),), "out", f"feedback {ask.key.hex()}")
        return Answer(ask.key, round(fraction("score", ask.key), 6)), body


# --- forks and joins -------------------------------------------------------------------------------------------------


def test_a_fork_returns_its_childrens_results_in_order_whoever_ends_first() -> None:
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        found: list[Any] = []

        def search(lane: Lane, found: list[Any] = found) -> Steps:
            found.extend((yield Fork([asking(1), asking(2), asking(3)])))

        lanes = lanes_of(search)
        opened = taken(lanes.start()).opened
        assert [lane.path for lane in opened] == ["0.1.000", "0.1.001", "0.1.002"]
        for index in order:
            assert found == []
            resumed(lanes, f"0.1.{index:03d}")
        assert found == [[1], [2], [3]]
        assert lanes.has_ended


def test_forks_nest_and_a_lane_is_named_by_its_path() -> None:
    seen: list[str] = []

    def leaf(lane: Lane) -> Steps:
        seen.append(lane.path)
        yield Step([rollout(len(seen))])
        return lane.path

    def branch(lane: Lane) -> Steps:
        first = yield Fork([leaf, leaf])
        second = yield Fork([leaf])
        return [*first, *second]

    def search(lane: Lane) -> Steps:
        yield Step(facts=[fact(str((yield Fork([branch, branch]))))])

    run = Pure(lambda: Scripted(search), KeyWorld())
    run.run()
    expected = [[f"0.1.00{n}.1.000", f"0.1.00{n}.1.001", f"0.1.00{n}.2.000"] for n in (0, 1)]
    assert [event.message for event in run.events()] == [str(expected), "closing None"]
    assert sorted(seen) == sorted(path for paths in expected for path in paths)


def test_children_that_end_at_once_and_empty_forks_wake_the_parent_in_the_same_turn() -> None:
    def at_once(lane: Lane) -> Steps:
        yield Step(facts=[fact(lane.path)])
        return lane.path

    def search(lane: Lane) -> Steps:
        none = yield Fork([])
        both = yield Fork([at_once, at_once])
        nothing = yield Step(facts=[fact(f"{none} {both}")])
        assert nothing == []
        yield Step([rollout(1)])

    outcome = taken(lanes_of(search).start())
    # An empty fork opens no lanes, so it is not counted among the forks.
    assert texts(outcome) == ["0.1.000", "0.1.001", "[] ['0.1.000', '0.1.001']"]
    assert [lane.path for lane in outcome.opened] == ["0"]


def test_a_turn_runs_until_all_that_it_woke_is_parked() -> None:
    """The last child's end wakes the parent, which forks again: all of that is one turn."""

    def search(lane: Lane) -> Steps:
        yield Fork([asking(1), asking(2)])
        yield Fork([asking(3), asking(4)])

    lanes = lanes_of(search)
    taken(lanes.start())
    assert resumed(lanes, "0.1.001").opened == []
    assert [lane.path for lane in resumed(lanes, "0.1.000").opened] == ["0.2.000", "0.2.001"]


def test_recall_is_answered_within_the_turn() -> None:
    asks = [rollout(1), rollout(2)]

    def search(lane: Lane) -> Steps:
        answers = yield Step(asks)
        bodies = yield Recall([answer.key for answer in answers])
        yield Step(facts=[fact(str(bodies))])

    lanes = lanes_of(search)
    taken(lanes.start())
    turning = lanes.resume("0", [answer_of(ask) for ask in asks])
    assert next(turning).keys == [ask.key for ask in asks]
    with pytest.raises(StopIteration) as end:
        turning.send(["one", "two"])
    assert texts(end.value.value) == ["['one', 'two']", "closing None"]


def test_what_a_child_raises_comes_out_of_the_turn() -> None:
    def failing(lane: Lane) -> Steps:
        yield Step([rollout(1)])
        raise ZeroDivisionError("a defect")

    def search(lane: Lane) -> Steps:
        yield Fork([failing])

    lanes = lanes_of(search)
    taken(lanes.start())
    with pytest.raises(ZeroDivisionError, match="a defect"):
        resumed(lanes, "0.1.000")


def test_a_search_that_never_asks_again_is_stuck() -> None:
    def search(lane: Lane) -> Steps:
        while True:
            yield Step()

    with pytest.raises(Stuck, match="lane 0 without an ask"):
        taken(lanes_of(search).start())


# --- order -----------------------------------------------------------------------------------------------------------


def test_a_lane_is_charged_for_its_dearest_ask_and_a_parent_goes_on_at_its_latest_childs_time() -> None:
    def thinking(lane: Lane) -> Steps:
        yield Step([rollout(1), THINK, rollout(2)])

    def search(lane: Lane) -> Steps:
        yield Step([rollout(0)])
        yield Fork([asking(1, 2, 3), thinking, asking()])
        yield Step([rollout(9)])

    lanes = lanes_of(search)
    taken(lanes.start())
    taken(lanes.resume("0", [answer_of(rollout(0))]))
    assert {lane.path: lane.virtual_time for lane in lanes.waiting_lanes()} == {"0.1.000": 2, "0.1.001": 21}
    for path in ("0.1.001", "0.1.000", "0.1.000", "0.1.000"):
        resumed(lanes, path)
    assert [(lane.path, lane.virtual_time) for lane in lanes.waiting_lanes()] == [("0", 22)]
    assert (virtual_seconds(rollout(1)), virtual_seconds(THINK)) == (1, 20)


def test_the_fixed_order_takes_the_smallest_virtual_time_and_then_the_path() -> None:
    def search(lane: Lane) -> Steps:
        yield Fork([asking(1, 2), asking(3), asking(4, 5)])

    run = Pure(lambda: Scripted(search), KeyWorld(), order="fixed", arrival_seed=3)
    run.run()
    assert [turn.lane for turn in run.turns[1:]] == ["0.1.000", "0.1.001", "0.1.002", "0.1.000", "0.1.002"]


@pytest.mark.parametrize("search", [Evolving, Nested])
def test_in_fixed_order_the_run_does_not_depend_on_the_order_of_arrival(search: type[Evolving] | type[Nested]) -> None:
    runs = [Pure(lambda: search(lanes=4), KeyWorld(), order="fixed", arrival_seed=seed) for seed in range(4)]
    results = [run.run() for run in runs]
    assert len(runs[0].turns) > 10
    for (one, run), (other, again) in pairwise(zip(results, runs, strict=True)):
        assert one == other
        assert run.turns == again.turns
        assert run.chain == again.chain
        assert sorted(run.answers) == sorted(again.answers)


@pytest.mark.parametrize("search", [Evolving, Nested])
def test_a_run_in_the_order_of_arrival_is_determined_by_answers_and_turns(
    search: type[Evolving] | type[Nested],
) -> None:
    for seed in range(3):
        run = Pure(lambda: search(lanes=4), KeyWorld(), arrival_seed=seed)
        result = run.run()
        run.rebuild()
        assert run.lanes.has_ended
        assert run.lanes.result == result


# --- randomness ------------------------------------------------------------------------------------------------------


def test_randomness_differs_by_lane_call_and_seed_and_can_be_had_again() -> None:
    def draws(path: str, rng_seed: int) -> list[float]:
        lane = Lane(path, rng_seed)
        return [lane.rng().random() for _ in range(3)]

    cases = [(path, seed) for path in ("0", "0.1.000", "0.1.001", "0.11.000", "c1") for seed in (0, 1)]
    drawn = [value for case in cases for value in draws(*case)]
    assert len(set(drawn)) == len(drawn)
    assert drawn == [value for case in cases for value in draws(*case)]


def test_a_lanes_randomness_does_not_depend_on_what_other_lanes_draw() -> None:
    def run(calls: int) -> list[float]:
        found: list[float] = []

        def busy(lane: Lane) -> Steps:
            for _ in range(calls):
                lane.rng().random()
            yield Step([rollout(1)])

        def quiet(lane: Lane) -> Steps:
            yield Step([rollout(2)])
            found.append(lane.rng().random())

        def search(lane: Lane) -> Steps:
            yield Fork([busy, quiet])

        Pure(lambda: Scripted(search), KeyWorld(), rng_seed=3).run()
        return found

    assert run(0) == run(50)
    assert random.Random(0).random() not in run(0)


# --- closing and stops -----------------------------------------------------------------------------------------------


def test_closing_follows_the_search_in_the_same_turn_and_its_result_is_the_runs() -> None:
    def closing(lane: Lane, cause: Cause | None) -> Steps:
        yield Step([rollout(7)], [fact(f"closing {cause} in {lane.path}")])
        return "the result"

    lanes = lanes_of(asking(1), closing)
    taken(lanes.start())
    outcome = resumed(lanes, "0")
    assert texts(outcome) == ["closing None in c1"]
    assert [lane.path for lane in outcome.opened] == ["c1"]
    assert (lanes.is_closing, lanes.has_ended) == (True, False)
    assert resumed(lanes, "c1").opened == []
    assert (lanes.result, lanes.has_ended, lanes.open) == ("the result", True, {})


@dataclass
class Watched:
    """Nested lanes that note when they are closed."""

    closed: list[str] = field(default_factory=list)

    def leaf(self, lane: Lane) -> Steps:
        try:
            yield Step([rollout(1, lane.path)])
        finally:
            self.closed.append(lane.path)

    def branch(self, lane: Lane) -> Steps:
        try:
            yield Fork([self.leaf, self.leaf])
        finally:
            self.closed.append(lane.path)

    def search(self, lane: Lane) -> Steps:
        try:
            yield Fork([self.branch, self.branch])
        finally:
            self.closed.append(lane.path)


def test_a_stop_closes_the_deepest_lanes_first_and_starts_closing() -> None:
    watched = Watched()
    lanes = lanes_of(watched.search)
    taken(lanes.start())
    outcome = taken(lanes.stop(Cause.DEADLINE))
    assert watched.closed == [
        "0.1.001.1.001",
        "0.1.001.1.000",
        "0.1.001",
        "0.1.000.1.001",
        "0.1.000.1.000",
        "0.1.000",
        "0",
    ]
    assert texts(outcome) == ["closing deadline"]
    assert (lanes.has_ended, lanes.result, lanes.open) == (True, Cause.DEADLINE, {})


def test_a_second_stop_closes_closing_and_starts_it_again() -> None:
    closed: list[str] = []

    def closing(lane: Lane, cause: Cause | None) -> Steps:
        try:
            if cause is not Cause.CANCEL:
                yield Step([rollout(1)])
            return lane.path
        finally:
            closed.append(f"{lane.path} {cause}")

    lanes = lanes_of(asking(1), closing)
    taken(lanes.start())
    assert [lane.path for lane in taken(lanes.stop(Cause.MONEY)).opened] == ["c1"]
    taken(lanes.stop(Cause.CANCEL))
    assert closed == ["c1 money", "c2 cancel"]
    assert lanes.result == "c2"


def test_a_stop_of_higher_rank_may_follow_and_no_other() -> None:
    first = [Cause.NO_PROGRESS, Cause.DEADLINE, Cause.MONEY]
    second = [Cause.ERRORS, Cause.BUG, Cause.SPENT]
    ranks = {**dict.fromkeys(first, 1), **dict.fromkeys(second, 2), Cause.CANCEL: 3}
    for cause, rank in ranks.items():
        assert outranks(cause, None)
        assert {other for other in ranks if outranks(cause, other)} == {o for o in ranks if ranks[o] < rank}


# --- the chain -------------------------------------------------------------------------------------------------------


def test_the_chain_depends_on_all_that_determines_a_turn() -> None:
    def waiting(path: str, *seeds: int) -> Lane:
        return Lane(path, 0, waiting=tuple(rollout(seed) for seed in seeds))

    one, two = rollout(1), rollout(2)
    turns: list[tuple[bytes, str, Cause, list[Ask], list[Lane]]] = [
        (b"", "0", Cause.RESUME, [], []),
        (b"before", "0", Cause.RESUME, [], []),
        (b"", "0.1.000", Cause.RESUME, [], []),
        (b"", "0", Cause.START, [], []),
        (b"", "0", Cause.RESUME, [one], []),
        (b"", "0", Cause.RESUME, [two], []),
        (b"", "0", Cause.RESUME, [one, two], []),
        (b"", "0", Cause.RESUME, [two, one], []),
        (b"", "0", Cause.RESUME, [], [waiting("0", 1)]),
        (b"", "0", Cause.RESUME, [], [waiting("0", 1, 2)]),
        (b"", "0", Cause.RESUME, [], [waiting("0", 1), waiting("1", 2)]),
        (b"", "0", Cause.RESUME, [], [waiting("1", 2), waiting("0", 1)]),
        (b"", "0", Cause.RESUME, [], [waiting("0.1.000", 1)]),
        (b"", "0", Cause.RESUME, [one], [waiting("0", 1)]),
    ]
    chains = [chain(*turn) for turn in turns]
    assert len(set(chains)) == len(chains)
    assert chains == [chain(*turn) for turn in turns]


def test_facts_are_no_part_of_the_chain() -> None:
    def search(text: str) -> Callable[[Lane], Steps]:
        def run(lane: Lane) -> Steps:
            yield Step([rollout(1)], [fact(text)])

        return run

    runs = [Pure(lambda text=text: Scripted(search(text)), KeyWorld()) for text in ("one", "two")]  # type: ignore[misc]
    for run in runs:
        run.run()
    assert runs[0].chain == runs[1].chain


def test_the_same_ask_twice_in_a_batch_is_one() -> None:
    asks = [rollout(1), rollout(2), rollout(1)]
    assert list(distinct(asks).values()) == [rollout(1), rollout(2)]
