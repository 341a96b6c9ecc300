"""Durable answers a second through the journal, replay and memory, beside plain inserts and the disk in the same run.

The world answers at once and in this process, so what is measured is the service: the core's turns, the runner, the
writer and a real Postgres with synchronous_commit=on. CPU is that of this process unless it says Postgres.
Run: python benchmarks/journal.py [--answers 20000] [--repeats 3]
"""

import argparse
import asyncio
import gc
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from common import (
    PostgresCpu,
    cpu_seconds,
    fdatasyncs_per_second,
    machine,
    postgres_server,
    postgres_version,
    print_json,
    print_table,
    quantile,
    rss_bytes,
    schema,
)
from journal_groups import Figures, one_statement, plain_inserts
from journal_load import (
    BATCH,
    LANES,
    SLOTS,
    Flood,
    InstantWorld,
    answered,
    claimed,
    connections_of,
    rollout,
    run_of,
    writer_of,
)
from promptjobs.core.asks import Ask
from promptjobs.core.lanes import Cause, Lanes, Outcome, Turning, chain
from promptjobs.db import history
from promptjobs.db.journal import Group, rows_of
from promptjobs.db.session import Database

PRODUCERS = 64
SHOWN = (
    "rows_per_second",
    "cpu_us_per_row",
    "postgres_cpu_us_per_row",
    "rows_per_group",
    "acknowledged_p50_ms",
    "acknowledged_p95_ms",
)


# --- live ------------------------------------------------------------------------------------------------------------


async def live(database: Database, data_dir: Path, answers: int, is_bound: bool) -> tuple[str, Figures]:
    """Run a job to its end. Returns its id, and what it took."""
    claim = await claimed(database)
    run = run_of(database, claim, InstantWorld(is_bound), answers)
    gc.collect()
    postgres, cpu, started = PostgresCpu(data_dir), cpu_seconds(), time.perf_counter()
    await run.run()
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    n, groups = len(run.answers), run.writer.groups
    return claim.job_id, {
        "answers_per_second": n / seconds,
        "cpu_us_per_answer": cpu / n * 1e6,
        "postgres_cpu_us_per_answer": await postgres.seconds() / n * 1e6,
        "answers_per_group": n / groups,
        "groups_per_second": groups / seconds,
    }


async def bare_writer(database: Database, data_dir: Path, rows: int, producers: int) -> Figures:
    """Producers that put one answer after the other, without a search."""
    claim = await claimed(database)
    postgres = PostgresCpu(data_dir)
    writer = writer_of(connections_of(database), claim)
    running = asyncio.create_task(writer.run())
    await writer.put_answer(answered(rollout(rows)))
    waits: list[float] = []

    async def produce(first: int) -> None:
        for number in range(first, rows, producers):
            record = answered(rollout(number))
            put = time.perf_counter()
            await writer.put_answer(record)
            waits.append(time.perf_counter() - put)

    groups = writer.groups
    cpu, started = cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(produce(first) for first in range(producers)))
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    groups = writer.groups - groups
    writer.close()
    await running
    return {
        "rows_per_second": rows / seconds,
        "cpu_us_per_row": cpu / rows * 1e6,
        "postgres_cpu_us_per_row": await postgres.seconds() / rows * 1e6,
        "rows_per_group": rows / groups,
        "acknowledged_p50_ms": quantile(waits, 0.5) * 1e3,
        "acknowledged_p95_ms": quantile(waits, 0.95) * 1e3,
    }


# --- parts that need no database -------------------------------------------------------------------------------------


def _driven(turning: Turning) -> Outcome:
    try:
        next(turning)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    raise AssertionError("this search recalls nothing")


def core_alone(answers: int) -> float:
    """CPU microseconds an answer of the search and its turns, without a journal."""
    lanes = Lanes(Flood(answers), 7)
    outcome, state = _driven(lanes.start()), b""
    waiting: list[tuple[str, Sequence[Ask]]] = [(lane.path, lane.waiting) for lane in outcome.opened]
    told = [answered(rollout(n)).answer for n in range(BATCH)]
    cpu, turns = cpu_seconds(), 0
    while waiting:
        path, asks = waiting.pop(0)
        outcome = _driven(lanes.resume(path, told))
        state = chain(state, path, Cause.RESUME, asks, outcome.opened)
        waiting += [(lane.path, lane.waiting) for lane in outcome.opened]
        turns += 1
    return (cpu_seconds() - cpu) / (turns * BATCH) * 1e6


def encoding_alone(answers: int) -> float:
    """CPU microseconds an answer of building the rows of groups, with their turns and tokens; JSON not counted."""
    world = InstantWorld()
    group = Group(tokens=world.tokens([rollout(n) for n in range(SLOTS)]))
    group.answers = [(n, answered(rollout(n), (b"\0" * 32,))) for n in range(SLOTS)]
    repeats = answers // SLOTS
    cpu = cpu_seconds()
    for _ in range(repeats):
        rows_of(group)
    return (cpu_seconds() - cpu) / (repeats * SLOTS) * 1e6


# --- replay and memory -----------------------------------------------------------------------------------------------


async def replay(database: Database, job_id: str, answers: int) -> Figures:
    """Run a finished job once more: nothing is asked, so it is loading and replaying only."""
    connection = await database.connect()
    gc.collect()
    started = time.perf_counter()
    loaded = await history.load_answers(connection, job_id)
    turns = await history.load_turns(connection, job_id)
    load = time.perf_counter() - started
    await connection.close()
    count = len(loaded)
    del loaded
    run = run_of(database, await claimed(database, job_id), InstantWorld(), answers)
    gc.collect()
    started = time.perf_counter()
    await run.run()
    total = time.perf_counter() - started
    assert run.calls == 0
    return {
        "answers": count,
        "turns": len(turns),
        "load_seconds": load,
        "replay_seconds": total - load,
        "total_seconds": total,
    }


def _grown(url: str, answers: int, report: Connection) -> None:
    async def main() -> list[int]:
        database = Database.open(url)
        await run_of(database, await claimed(database), InstantWorld(), 10 * SLOTS).run()
        claim = await claimed(database)
        gc.collect()
        before = rss_bytes()
        run = run_of(database, claim, InstantWorld(), answers)
        await run.run()
        gc.collect()
        await database.close()
        return [before, rss_bytes()]

    report.send(uvloop.run(main()))


def memory(url: str, answers: int) -> Figures:
    """Growth of a process that runs a job of `answers`, measured in a process of its own, after a small job."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_grown, args=(url, answers, there))
    child.start()
    before, after = here.recv()
    child.join()
    return {"answers": answers, "rss_before_mb": before / 1e6, "rss_growth_mb": (after - before) / 1e6}


# --- all of it -------------------------------------------------------------------------------------------------------


def best(repeats: int, key: str, measured: Callable[[], Any]) -> Any:
    """Of several runs the one with the greatest `key`: on a shared machine the others measure the neighbours."""
    return max((uvloop.run(measured()) for _ in range(repeats)), key=lambda found: found[-1][key])


def measure(options: argparse.Namespace) -> tuple[str, dict[str, Figures]]:
    with postgres_server() as server:
        data_dir = server.server.data_dir

        async def on(work: Callable[[Database], Any]) -> Any:
            async with schema(server.url) as database:
                return await work(database)

        def repeated(key: str, work: Callable[[Database], Any]) -> Any:
            return best(options.repeats, key, lambda: on(work))

        version = uvloop.run(on(postgres_version))
        syncs = fdatasyncs_per_second(data_dir)
        job_id, bound = repeated("answers_per_second", lambda d: live(d, data_dir, options.answers, True))
        _, unbound = repeated("answers_per_second", lambda d: live(d, data_dir, options.answers, False))

        async def wrapped(figures: Any) -> list[Figures]:
            return [await figures]

        rows = options.answers
        [crowd] = repeated("rows_per_second", lambda d: wrapped(bare_writer(d, data_dir, rows, PRODUCERS)))
        count = rows // SLOTS
        [statement] = repeated("answers_per_second", lambda d: wrapped(one_statement(d, data_dir, count)))
        [peer] = repeated("answers_per_second", lambda d: wrapped(plain_inserts(d, data_dir, count)))
        [single] = repeated("rows_per_second", lambda d: wrapped(bare_writer(d, data_dir, 500, 1)))
        replayed = uvloop.run(on(lambda d: replay(d, job_id, options.answers)))
        grown = memory(server.url, options.memory_answers)
    return version, {
        "live": bound,
        "live_without_tokens": unbound,
        "writer_64_producers": crowd,
        "writer_1_producer": single,
        "one_statement": statement,
        "executemany": peer,
        "replay": replayed,
        "memory": grown,
        "disk": {"fdatasyncs_per_second": syncs},
        "parts": {"core_us_per_answer": core_alone(20_000), "rows_us_per_answer": encoding_alone(20_000)},
    }


def show(figures: dict[str, Figures]) -> None:
    lines = {
        "live": "a job: a token for each rollout",
        "live_without_tokens": "a job without tokens",
        "one_statement": "its groups without a search",
        "executemany": "peer: executemany in a transaction",
    }
    print(f"\nDurable answers: {LANES} lanes x {BATCH} asks, {SLOTS} slots")
    print_table(
        ["", "answers/s", "CPU us", "Postgres CPU us", "answers/group", "groups/s"],
        [[name, *figures[key].values()] for key, name in lines.items()],
    )
    parts = figures["parts"]
    print(f"of which the core's turns {parts['core_us_per_answer']:.1f} us, rows {parts['rows_us_per_answer']:.1f} us")
    print("\nAnswers alone, each acknowledged on its own")
    writers = {"writer_64_producers": "writer, 64 producers", "writer_1_producer": "writer, 1 producer"}
    print_table(
        ["", "rows/s", "CPU us", "Postgres CPU us", "rows/group", "p50 ms", "p95 ms"],
        [[name, *map(figures[each].get, SHOWN)] for each, name in writers.items()],
    )
    print(f"bound: the disk makes {figures['disk']['fdatasyncs_per_second']:,.0f} writes durable a second, one by one")
    replayed, grown = figures["replay"], figures["memory"]
    print(f"\nReplay of {replayed['answers']:,} answers and {replayed['turns']:,} turns:", end=" ")
    print(f"{replayed['total_seconds']:.2f} s, of which loading {replayed['load_seconds']:.2f} s")
    print(f"Memory: {grown['answers']:,} answers grow the process by {grown['rss_growth_mb']:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=20_000, help="of a live run")
    parser.add_argument("--memory-answers", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs is shown")
    options = parser.parse_args()
    version, figures = measure(options)
    here = machine(version)
    print(here)
    show(figures)
    print_json("journal", here, figures)


if __name__ == "__main__":
    main()
