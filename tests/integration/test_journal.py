"""A run can be killed anywhere: what is recorded stands, and nothing recorded is asked again."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from promptjobs.core.optimizer import Optimizer
from promptjobs.db.session import Database
from tests.fakes.journaled import Journaled, new_job
from tests.fakes.searches import Evolving, Nested, result_of
from tests.fakes.worlds import HashWorld

Make = Callable[[], Optimizer]


def small(search: type[Evolving] | type[Nested], lanes: int) -> Make:
    return lambda: search(lanes=lanes, budget=30 if search is Evolving else 40)


@pytest.fixture
async def started(database: Database) -> Callable[..., Awaitable[Journaled]]:
    async def start(make: Make, **more: object) -> Journaled:
        return Journaled(database, await new_job(database), make, **more)  # type: ignore[arg-type]

    return start


async def rows_of(
    job: Journaled,
) -> tuple[list[int], dict[bytes, int], list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Event numbers, answers by key with their epoch, turns, trials."""
    seqs = [r["seq"] for r in await job.fetch("SELECT seq FROM events WHERE job_id = $1 ORDER BY seq")]
    answers = {
        r["key"]: r["epoch"]
        for r in await job.fetch(
            "SELECT key, epoch FROM rollouts WHERE job_id = $1 "
            "UNION ALL SELECT key, epoch FROM completions WHERE job_id = $1"
        )
    }
    turns = [tuple(r) for r in await job.fetch("SELECT n, lane, cause, chain FROM turns WHERE job_id = $1 ORDER BY n")]
    trials = [
        tuple(r)
        for r in await job.fetch("SELECT n, candidate_id, seeds, scores FROM trials WHERE job_id = $1 ORDER BY n")
    ]
    return seqs, answers, turns, trials


async def check_replay(job: Journaled, result: object) -> None:
    """The finished run replays without a call and without a row, to the same result."""
    before = await rows_of(job)
    world = HashWorld()
    again = await job.run(world)
    assert again == result
    assert not world.calls
    assert await rows_of(job) == before


async def kill_and_check(job: Journaled, moment: tuple[str, int], reference: object | None) -> bool:
    first = HashWorld(kill_at=moment, jitter=random.Random(1))
    was_killed = await job.run_until_killed(first)
    assert was_killed or job.turn_order == "arrival", "only the arrival order may need fewer moments"
    _, recorded, turns, _ = await rows_of(job)
    second = HashWorld(jitter=random.Random(2))
    result = await job.run(second)
    seqs, answers, all_turns, trials = await rows_of(job)
    assert not set(second.calls) & set(recorded), "a recorded ask was repeated"
    assert max(second.calls.values(), default=0) <= 1
    assert all_turns[: len(turns)] == turns, "a recorded turn was changed"
    assert seqs == list(range(1, len(seqs) + 1))
    assert [t[0] for t in all_turns] == list(range(len(all_turns)))
    assert [t[0] for t in trials] == list(range(1, len(trials) + 1))
    repeated = sum((Counter(first.calls) + Counter(second.calls)).values()) - len(answers)
    assert repeated <= job.slots + 8
    if reference is not None:
        assert result_of(result) == reference
    await check_replay(job, result)
    return was_killed


async def moments_of(
    start: Callable[..., Awaitable[Journaled]], make: Make, **more: object
) -> tuple[Counter[str], dict[str, object]]:
    job = await start(make, **more)
    world = HashWorld()
    return_value = await job.run(world)
    return world.moments, result_of(return_value)


@pytest.mark.parametrize(
    ("search", "lanes", "turn_order"),
    [
        pytest.param(Evolving, 1, "arrival", marks=pytest.mark.slow),
        (Evolving, 8, "arrival"),
        pytest.param(Evolving, 4, "fixed", marks=pytest.mark.slow),
        (Nested, 8, "fixed"),
    ],
)
async def test_killed_run_keeps_what_is_recorded_and_repeats_none_of_it(started, search, lanes, turn_order) -> None:
    make = small(search, lanes)
    moments, reference = await moments_of(started, make, turn_order=turn_order)
    is_same = turn_order == "fixed" or (lanes == 1 and search is Evolving)
    killed = []
    for kind in ("turn", "call", "answer"):
        for n in (1, moments[kind] // 2):
            job = await started(make, turn_order=turn_order)
            killed.append(await kill_and_check(job, (kind, n), reference if is_same else None))
    assert killed.count(True) >= 5


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("turn_order", "lanes", "search"),
    [
        ("arrival", 1, Evolving),
        ("arrival", 4, Nested),
        ("arrival", 8, Evolving),
        ("fixed", 1, Nested),
        ("fixed", 4, Evolving),
        ("fixed", 8, Nested),
    ],
)
async def test_killed_at_every_possible_answer_and_turn(started, search, lanes, turn_order) -> None:
    make = small(search, lanes)
    moments, reference = await moments_of(started, make, turn_order=turn_order)
    is_same = turn_order == "fixed" or (lanes == 1 and search is Evolving)
    killed = []
    for kind in ("turn", "call", "answer"):
        for n in range(1, moments[kind]):
            job = await started(make, turn_order=turn_order)
            killed.append(await kill_and_check(job, (kind, n), reference if is_same else None))
    assert killed.count(True) >= 0.8 * len(killed)


async def test_fixed_order_gives_the_same_run_at_any_latency(started) -> None:
    results = []
    for seed in range(4):
        job = await started(small(Evolving, 4), turn_order="fixed")
        results.append(await job.run(HashWorld(jitter=random.Random(seed))))
        _, _, turns, trials = await rows_of(job)
        results[-1] = (result_of(results[-1]), turns, trials)
    assert results.count(results[0]) == len(results)


async def test_a_run_killed_again_and_again_ends_all_the_same(started) -> None:
    _, reference = await moments_of(started, small(Evolving, 4), turn_order="fixed")
    # Fewer slots than answers: each life has to commit some of them before it gets as far as its death.
    job = await started(small(Evolving, 4), turn_order="fixed", slots=3)
    kills = 0
    while await job.run_until_killed(HashWorld(kill_at=("answer", 5), jitter=random.Random(kills))):
        kills += 1
        assert kills < 60
    assert kills > 3
    assert result_of(await job.run(HashWorld())) == reference
