"""How far one service goes: many jobs, rollouts a second, closeness to the ideal, several workers, large tables.

The service runs as processes of its own, on a Postgres of its own; task app and provider are next to free, and what
they reach alone is measured in the same run. CPU is user and system time. Every cell is measured several times; the
table shows the run with the median rate, the JSON line all.
Run: python benchmarks/scale.py [--only many,path,ideal,workers,tables] [--quick]
"""

import argparse
import asyncio
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import machine, postgres_server, postgres_version, print_json, print_table, schema
from scale_many import Many, many
from scale_rollouts import CELLS, SPREAD, ZERO, Cell, Figure, in_one_process, in_several, middle, upstream_alone
from scale_tables import Read, large_tables
from scale_upstream import Upstream, upstream

PARTS = ("many", "path", "ideal", "workers", "tables")
COLUMNS = ("", "rollouts/s", "% of ideal", "CPU us", "Postgres us", "of a core")
MOST_LAG_MS, MOST_WAIT_MS, MOST_READ_MS = 50.0, 100.0, 20.0


@dataclass(frozen=True, slots=True)
class Extent:
    """How long and how much."""

    seconds: float
    repeats: int
    jobs: int
    table_jobs: int
    table_events: int

    @staticmethod
    def of(is_quick: bool, jobs: int) -> "Extent":
        return Extent(2.0, 1, min(jobs, 100), 10_000, 100_000) if is_quick else Extent(4.0, 2, jobs, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Ground:
    """What every part stands on."""

    up: Upstream
    url: str
    postgres: Path
    extent: Extent


@dataclass(frozen=True, slots=True)
class Target:
    """One figure that is promised."""

    name: str
    found: float
    limit: float
    is_least: bool
    unit: str

    @property
    def is_met(self) -> bool:
        return self.found >= self.limit if self.is_least else self.found <= self.limit

    def __str__(self) -> str:
        wanted = f"{'at least' if self.is_least else 'at most'} {self.limit:g} {self.unit}"
        return f"{'met   ' if self.is_met else 'MISSED'} {self.name}: {self.found:,.1f} {self.unit} ({wanted})"


# --- the parts -------------------------------------------------------------------------------------------------------


async def run_many(ground: Ground) -> tuple[Any, list[Target]]:
    runs = [
        await many(ground.up, ground.url, ground.postgres, ground.extent.jobs, 5 * ground.extent.seconds)
        for _ in range(ground.extent.repeats)
    ]
    print(f"\n{ground.extent.jobs} jobs in one process, each with one rollout of 5 s at a time")
    print_table(("", *(f"run {n}" for n in range(1, len(runs) + 1))), _turned(runs))
    worst = max(runs, key=lambda run: run.lag_p99_ms)
    return [asdict(run) for run in runs], [
        Target(f"lag p99 with {worst.jobs} jobs", worst.lag_p99_ms, MOST_LAG_MS, False, "ms"),
        Target("API p95 meanwhile", max(run.api_p95_ms for run in runs), MOST_WAIT_MS, False, "ms"),
    ]


def _turned(runs: Sequence[Many]) -> list[list[Any]]:
    return [[name, *(asdict(run)[name] for run in runs)] for name in asdict(runs[0])]


async def run_path(ground: Ground) -> tuple[Any, list[Target]]:
    alone, upstream_us = await upstream_alone(ground.up, ZERO.concurrent, ground.extent.seconds)
    figures = await _in_one_process([ZERO], ground)
    print("\nthe whole path of a rollout, one job")
    _print(figures, [("bound: task app and provider alone", alone, None, None, None, _spent(upstream_us))])
    return {"upstream_alone_per_second": alone, "upstream_cpu_us": upstream_us, "runs": _json(figures)}, []


async def run_ideal(ground: Ground) -> tuple[Any, list[Target]]:
    figures = await _in_one_process(CELLS, ground)
    print("\nhow close to slots / latency, one job")
    _print(figures)
    found = {figure.name: figure for figure in middle(figures)}
    return _json(figures), [target for cell in CELLS for target in _targets(cell, found[cell.name])]


def _targets(cell: Cell, figure: Figure) -> list[Target]:
    targets = []
    if cell.target_of_ideal is not None and figure.of_ideal is not None:
        targets.append(Target(cell.name, 100 * figure.of_ideal, 100 * cell.target_of_ideal, True, "% of the ideal"))
    if cell.target_cpu_us is not None:
        targets.append(Target(cell.name, figure.service_cpu_us, cell.target_cpu_us, False, "us CPU a rollout"))
    return targets


async def run_workers(ground: Ground) -> tuple[Any, list[Target]]:
    extent = ground.extent
    figures = [
        figure
        for cell, workers in zip(SPREAD, (2, 4), strict=True)
        for figure in await in_several(
            cell, workers, ground.up, ground.url, ground.postgres, extent.seconds, extent.repeats
        )
    ]
    print(f"\nseveral processes on one Postgres, {SPREAD[0].jobs} jobs, {os.cpu_count()} cores for all of them")
    _print(figures)
    return _json(figures), []


async def run_tables(ground: Ground) -> tuple[Any, list[Target]]:
    jobs, events = ground.extent.table_jobs, ground.extent.table_events
    reads = await large_tables(ground.url, ground.postgres, jobs, events)
    print(f"\nreads with {jobs:,} jobs and {events:,} events in the tables, in ms")
    print_table(("", "p50", "p95", "CPU", "Postgres CPU"), [list(asdict(read).values()) for read in reads])
    return [asdict(read) for read in reads], [_target(read) for read in reads]


def _target(read: Read) -> Target:
    return Target(f"{read.name}, p95", read.p95_ms, MOST_READ_MS, False, "ms")


# --- shared ----------------------------------------------------------------------------------------------------------


async def _in_one_process(cells: Sequence[Cell], ground: Ground) -> list[Figure]:
    extent = ground.extent
    return await in_one_process(cells, ground.up, ground.url, ground.postgres, extent.seconds, extent.repeats)


def _print(figures: Sequence[Figure], more: Sequence[Sequence[Any]] = ()) -> None:
    rows = [
        (
            figure.name,
            figure.rollouts_per_second,
            None if figure.of_ideal is None else 100 * figure.of_ideal,
            figure.service_cpu_us,
            figure.postgres_cpu_us,
            _spent(figure.cores, 100, "%"),
        )
        for figure in middle(figures)
    ]
    print_table(COLUMNS, [*rows, *more])


def _spent(by_name: dict[str, float], factor: float = 1.0, unit: str = " us") -> str:
    return ", ".join(f"{name} {factor * value:.0f}{unit}" for name, value in by_name.items())


def _json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    return [asdict(figure) for figure in figures]


RUNS: dict[str, Callable[[Ground], Any]] = {
    "many": run_many,
    "path": run_path,
    "ideal": run_ideal,
    "workers": run_workers,
    "tables": run_tables,
}


async def _prepared(url: str) -> str:
    async with schema(url) as database:
        return await postgres_version(database)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}, with commas")
    parser.add_argument("--quick", action="store_true", help="two minutes: each cell once and shorter, 100 jobs")
    parser.add_argument("--jobs", type=int, default=500, help="how many at once in one process")
    options = parser.parse_args()
    parts = [name for name in PARTS if name in options.only.split(",")]
    unknown = set(options.only.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures: dict[str, Any] = {}
    targets: list[Target] = []
    before = os.getloadavg()[0]
    with upstream() as up:
        for name in parts:
            with postgres_server() as server:
                version = asyncio.run(_prepared(server.url))
                ground = Ground(up, server.url, server.server.data_dir, Extent.of(options.quick, options.jobs))
                figures[name], more = asyncio.run(RUNS[name](ground))
                targets += more
    here = machine(version)
    print(f"\n{here}; load average before this run {before:.2f}")
    for target in targets:
        print(target)
    figures["targets"] = [{**asdict(target), "is_met": target.is_met} for target in targets]
    print_json("scale", here, {"load_average_before": before, **figures})


if __name__ == "__main__":
    main()
