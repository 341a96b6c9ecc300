"""What experiments cost the queue: claims behind full experiments, claims for the same experiment, reads and commands.

Plain connections to a PostgreSQL of its own, without a service: a claim is the statement that a worker sends. The bound
is the same claim with nothing ahead of it, in the same run. All of it over a table full of jobs that are over.
Run: python benchmarks/experiments.py [--quick] [--explain]
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from common import PostgresCpu, machine, postgres_server, postgres_version, print_json, print_table, quantile, schema
from experiment_rows import JOBS_OF_AN_EXPERIMENT, ORGANISATION, Rows
from promptjobs.db import experiments, leases
from promptjobs.db.experiments import ExperimentStatus
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing

LEASE_SECONDS = 3600.0
AHEAD = (0, 1, 20, 100)
"""Experiments at the head of the queue, none of which has a free place."""

WORKERS = (1, 4, 16)
PLACES = 64
PAGE = 50


@dataclass(frozen=True, slots=True)
class Timed:
    """One kind of call, one after the other."""

    name: str
    p50_ms: float
    p95_ms: float
    postgres_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Contest:
    """Workers that claim the jobs of one experiment at the same time, until its places are taken.

    empty_handed: claims that found nothing although a place was free, which the worker makes again after a poll.
    """

    workers: int
    claims_per_second: float
    empty_handed: int


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part stands on. calls: of each kind."""

    database: Database
    connection: asyncpg.Connection
    rows: Rows
    data_dir: Path
    calls: int

    async def timed(self, name: str, call: Callable[[], Awaitable[Any]], calls: int | None = None) -> Timed:
        count = calls or self.calls
        postgres, took = PostgresCpu(self.data_dir), []
        for _ in range(count):
            started = time.perf_counter()
            await call()
            took.append(time.perf_counter() - started)
        cpu = await postgres.seconds() / count
        return Timed(name, quantile(took, 0.5) * 1e3, quantile(took, 0.95) * 1e3, cpu * 1e3)


# --- the parts -------------------------------------------------------------------------------------------------------


async def claims(bench: Bench, *, is_explained: bool) -> list[Timed]:
    """A job of its own that is claimed behind full experiments, and the poll that finds none."""
    found = []
    for ahead in AHEAD:
        while bench.rows.experiments < ahead:
            await bench.rows.add_full_experiment(parallelism=3)
        await bench.rows.add_queued(bench.calls)
        await bench.rows.settle()
        if is_explained:
            await explain(bench, ahead)
        found.append(await bench.timed(f"{ahead} ahead, a job of its own", lambda: _claimed(bench.connection)))
        found.append(await bench.timed(f"{ahead} ahead, nothing to claim", lambda: _none(bench.connection)))
    return found


async def _claimed(connection: asyncpg.Connection) -> None:
    if await leases.claim_next(connection, "a worker", LEASE_SECONDS) is None:
        raise RuntimeError("nothing was claimed")


async def _none(connection: asyncpg.Connection) -> None:
    if await leases.claim_next(connection, "a worker", LEASE_SECONDS) is not None:
        raise RuntimeError("a full experiment was claimed from")


async def explain(bench: Bench, ahead: int) -> None:
    """Print the plan of a claim, which is then undone."""
    print(f"\nEXPLAIN ANALYZE of a claim, {ahead} full experiments ahead")
    async with _undone(bench.connection):
        query = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, COSTS OFF) {leases._CLAIM}"
        for (line,) in await bench.connection.fetch(query, "a worker", LEASE_SECONDS):
            print(line)


@asynccontextmanager
async def _undone(connection: asyncpg.Connection) -> Any:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def contest(bench: Bench, workers: int) -> Contest:
    """Nothing else is queued. What was claimed is over afterwards."""
    await bench.rows.clear_queue()
    experiment_id = await bench.rows.add_experiment(PLACES, running=0)
    connections = [await bench.database.connect() for _ in range(workers)]
    claimed = empty = 0

    async def work(connection: asyncpg.Connection) -> None:
        nonlocal claimed, empty
        while claimed < PLACES:
            if await leases.claim_next(connection, "a worker", LEASE_SECONDS) is not None:
                claimed += 1
            elif await _running(connection, experiment_id) < PLACES:
                empty += 1

    started = time.perf_counter()
    await asyncio.gather(*map(work, connections))
    took = time.perf_counter() - started
    for connection in connections:
        connection.terminate()
    if claimed != PLACES or await _running(bench.connection, experiment_id) != PLACES:
        raise RuntimeError(f"{claimed} jobs were claimed for {PLACES} places")
    return Contest(workers, claimed / took, empty)


async def _running(connection: asyncpg.Connection, experiment_id: str) -> int:
    query = "SELECT count(*) FROM jobs WHERE experiment_id = $1 AND status = 'running'"
    return int(await connection.fetchval(query, experiment_id))


async def reads_and_commands(bench: Bench) -> list[Timed]:
    """With all the jobs of the table in experiments that are over; the largest that there may be is read and ended."""
    await bench.rows.clear_queue()
    await bench.rows.gather_into_experiments()
    large = await bench.rows.add_experiment(3, running=3)

    async def read() -> None:
        async with reading(bench.database) as connection:
            row = await experiments.read(connection, large)
            await experiments.read_jobs(connection, row)

    async def page(status: ExperimentStatus | None = None) -> None:
        async with reading(bench.database) as connection:
            await experiments.read_page(connection, ORGANISATION, PAGE, status=status)

    async def cancel() -> None:
        async with writing(bench.database) as connection:
            await experiments.cancel(connection, large, "enough")

    async def remove() -> None:
        async with writing(bench.database) as connection:
            await experiments.remove(connection, large)

    calls = max(5, bench.calls // 20)
    found = [
        await bench.timed(f"read, with {JOBS_OF_AN_EXPERIMENT} jobs", read),
        await bench.timed(f"list, newest {PAGE}", page, calls),
        await bench.timed("list by a status that all have", lambda: page(ExperimentStatus.COMPLETED), calls),
        await bench.timed("list by a status that none has", lambda: page(ExperimentStatus.FAILED), calls),
        await bench.timed(f"cancel, with {JOBS_OF_AN_EXPERIMENT} jobs", cancel, 1),
    ]
    await bench.rows.clear_queue()
    return [*found, await bench.timed(f"delete, with {JOBS_OF_AN_EXPERIMENT} jobs", remove, 1)]


# --- all of it -------------------------------------------------------------------------------------------------------


async def measure(options: argparse.Namespace, url: str, data_dir: Path) -> tuple[str, dict[str, Any]]:
    jobs, calls = (10_000, 50) if options.quick else (100_000, 300)
    async with schema(url) as database:
        connection = await database.connect()
        try:
            rows = await Rows.on(database, connection, jobs)
            bench = Bench(database, connection, rows, data_dir, calls)
            queue = await claims(bench, is_explained=options.explain)
            contests = [await contest(bench, workers) for workers in WORKERS]
            others = await reads_and_commands(bench)
            version = await postgres_version(database)
        finally:
            connection.terminate()
    show(jobs, queue, contests, others)
    return version, {
        "jobs": jobs,
        "claims": [asdict(each) for each in queue],
        "contests": [asdict(each) for each in contests],
        "reads_and_commands": [asdict(each) for each in others],
    }


def show(jobs: int, queue: Sequence[Timed], contests: Sequence[Contest], others: Sequence[Timed]) -> None:
    columns = ("", "p50 ms", "p95 ms", "Postgres CPU ms")
    print(f"\nA claim, {jobs:,} jobs in the table, full experiments of {JOBS_OF_AN_EXPERIMENT} jobs ahead in the queue")
    print_table(columns, [list(asdict(each).values()) for each in queue])
    print(f"\nWorkers that claim from one experiment of {PLACES} places at the same time")
    print_table(("workers", "claims/s", "empty-handed"), [list(asdict(each).values()) for each in contests])
    print(f"\nReads and commands, {jobs // JOBS_OF_AN_EXPERIMENT:,} experiments in the table")
    print_table(columns, [list(asdict(each).values()) for each in others])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 jobs, and fewer calls")
    parser.add_argument("--explain", action="store_true", help="print the plan of a claim behind each queue")
    options = parser.parse_args()
    with postgres_server() as server:
        version, figures = asyncio.run(measure(options, server.url, server.server.data_dir))
    here = machine(version)
    print(f"\n{here}")
    print_json("experiments", here, figures)


if __name__ == "__main__":
    main()
