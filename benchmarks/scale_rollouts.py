"""Rollouts a second through the whole path, how close that is to the ideal, and what each process uses for it."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from common import quantile
from scale_jobs import MOST_SEEDS, Api, job_body
from scale_service import Process, Processes, Usage, processes
from scale_upstream import Upstream, bound

FIRST_SECONDS = 60.0
"""Within which the first rollouts of a cell must have come back."""

GUESSED_RATE = 2_000.0
"""Rollouts a second that no cell passes; jobs are made long enough for it."""

GETTING_THERE_SECONDS = 1.0
LEAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured together. concurrent: slots of all jobs; latency_seconds: of the provider."""

    name: str
    latency_seconds: float
    concurrent: int
    jobs: int = 1
    target_of_ideal: float | None = None
    target_cpu_us: float | None = None

    @property
    def ideal(self) -> float | None:
        """Rollouts a second with every slot busy all the time and nothing but the latency; None without one."""
        return self.concurrent / self.latency_seconds if self.latency_seconds else None


ZERO = Cell("no latency, 64 at a time", 0.0, 64)
CELLS = (
    Cell("50 ms, 64 at a time", 0.05, 64, target_of_ideal=0.85),
    Cell("50 ms, 200 at a time", 0.05, 200, target_cpu_us=700),
    Cell("50 ms, 500 at a time", 0.05, 500),
    Cell("1 s, 200 at a time", 1.0, 200, target_of_ideal=0.95),
    Cell("1 s, 500 at a time", 1.0, 500, target_of_ideal=0.95),
)
SPREAD = (Cell("2 workers, 2 replicas", 0.0, 256, jobs=8), Cell("4 workers, 2 replicas", 0.0, 256, jobs=8))


@dataclass(frozen=True, slots=True)
class Figure:
    """One run of a cell. The CPU is user and system time a rollout; cores: kept busy on average, by process."""

    name: str
    rollouts_per_second: float
    of_ideal: float | None
    service_cpu_us: float
    postgres_cpu_us: float
    cores: dict[str, float]


async def measured(
    cell: Cell, api: Api, up: Upstream, served: Sequence[Process], postgres: Path, seconds: float
) -> Figure:
    """Run the cell's jobs, look at a part in the middle, and cancel them. Raises RuntimeError where jobs run dry."""
    up.answer_after(cell.latency_seconds)
    warm = max(GETTING_THERE_SECONDS, 2 * cell.latency_seconds)
    rate = min(cell.ideal or GUESSED_RATE, GUESSED_RATE)
    seeds = min(MOST_SEEDS, math.ceil(1.5 * rate * (warm + seconds) / cell.jobs) + 100)
    before = up.rollouts
    body = job_body(up.task_app_url, seeds=seeds, concurrent=cell.concurrent // cell.jobs)
    job_ids = [await api.create(body) for _ in range(cell.jobs)]
    until = time.perf_counter() + FIRST_SECONDS
    while up.rollouts - before < cell.concurrent:
        if time.perf_counter() > until:
            raise RuntimeError(f"{cell.name}: {up.rollouts - before} rollouts in {FIRST_SECONDS:g} s")
        await asyncio.sleep(0.02)
    await asyncio.sleep(warm)
    names = {f"service {n}" if len(served) > 1 else "service": process.pid for n, process in enumerate(served, 1)}
    usage = Usage({**names, "task app": up.task_app_pid, "provider": up.provider_pid}, postgres)
    first, started, last = up.rollouts, time.perf_counter(), cell.jobs * seeds - 2 * cell.concurrent
    # A machine that is faster than was guessed has less time to be looked at: all slots have to be busy until then.
    while up.rollouts - before < last and time.perf_counter() - started < seconds:  # noqa: ASYNC110 - another process counts
        await asyncio.sleep(0.02)
    done, lasted, cpu = up.rollouts - first, time.perf_counter() - started, usage.seconds()
    if lasted < LEAST_SECONDS:
        raise RuntimeError(f"{cell.name}: its {cell.jobs * seeds} rollouts were over within {lasted:.1f} s")
    await api.cancel(job_ids)
    ours = sum(cpu[name] for name in names)
    return Figure(
        cell.name,
        done / lasted,
        None if cell.ideal is None else done / lasted / cell.ideal,
        ours / done * 1e6,
        cpu["postgres"] / done * 1e6,
        {name: used / lasted for name, used in cpu.items()},
    )


async def in_one_process(
    cells: Sequence[Cell], up: Upstream, database_url: str, postgres: Path, seconds: float, repeats: int
) -> list[Figure]:
    """API, interceptor and worker in one process."""
    with processes(database_url, **service_settings(up)) as start:
        service = start.serve()
        async with Api.at(service.url) as api:
            await measured(Cell("warm-up", 0.0, 64), api, up, [service], postgres, 1.0)
            return [
                await measured(cell, api, up, [service], postgres, seconds) for cell in cells for _ in range(repeats)
            ]


async def in_several(
    cell: Cell, workers: int, up: Upstream, database_url: str, postgres: Path, seconds: float, repeats: int
) -> list[Figure]:
    """Two replicas of API and interceptor, and workers that share them."""
    with processes(database_url, **service_settings(up), worker_jobs=-(-cell.jobs // workers)) as start:
        replicas = [start.serve("--no-worker") for _ in range(2)]
        served = [*replicas, *(work(start, replicas[n % 2]) for n in range(workers))]
        async with Api.at(*(replica.url for replica in replicas)) as api:
            return [await measured(cell, api, up, served, postgres, seconds) for _ in range(repeats)]


def work(start: Processes, replica: Process) -> Process:
    return start.work(public_url=replica.url)


def service_settings(up: Upstream) -> dict[str, object]:
    return {"allowed_targets": up.targets, "provider_toy_base_url": f"{up.provider_url}/v1", "outage_seconds": 30}


async def upstream_alone(up: Upstream, concurrent: int, seconds: float) -> tuple[float, dict[str, float]]:
    """The bound: rollouts a second that task app and provider reach without the service, and their CPU a rollout."""
    up.answer_after(0.0)
    pids = {"task app": up.task_app_pid, "provider": up.provider_pid}
    before, first = {name: _cpu(pid) for name, pid in pids.items()}, up.rollouts
    rate = await bound(up, concurrent, seconds)
    done = up.rollouts - first
    return rate, {name: (_cpu(pid) - before[name]) / done * 1e6 for name, pid in pids.items()}


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def middle(figures: Sequence[Figure]) -> list[Figure]:
    """Of the runs of each cell, the one with the median rate."""
    names = dict.fromkeys(figure.name for figure in figures)
    return [_middle([figure for figure in figures if figure.name == name]) for name in names]


def _middle(runs: Sequence[Figure]) -> Figure:
    rate = quantile([run.rollouts_per_second for run in runs], 0.5)
    return next(run for run in runs if run.rollouts_per_second == rate)
