"""What the API's callers wait while jobs run: create, get, events and metrics at a fixed rate of requests.

The load comes from a process of its own, on a schedule that does not wait for answers: a request's time counts from the
moment when it was due, so that a standstill of the service is seen by all whom it kept waiting. The bound in the same
run is the same load on a route that does nothing (`/healthz`), and on the service without any job.
Run: python benchmarks/api.py [--seconds 30] [--rate 200] [--jobs 16] [--runs 3]
"""

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from common import machine, postgres_server, postgres_version, print_json, print_table, quantile, schema
from promptjobs.db import api_keys
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from scale_jobs import JOBS, job_body
from scale_rollouts import service_settings
from scale_service import Process, Usage, processes
from scale_upstream import Upstream, upstream

ROLLOUT_SECONDS = 1.0
CONCURRENT = 8
SETTLED_SECONDS = 4.0
"""Several rollouts of each job: then they are spread over the second."""

MIX = ("get", "events", "get", "metrics", "get", "create", "get", "events", "get", "metrics")
"""What is asked in turn; a tenth creates a job that waits for its start."""

MOST_MS = {"get": 25.0, "create": 60.0}
COLUMNS = ("", "requests", "p50 ms", "p95 ms", "p99 ms", "max ms", "5xx")

Sample = tuple[str, int, float]
"""What was asked, the status (0: no answer), and the seconds from when it was due."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One kind of request in one run; times in milliseconds."""

    kind: str
    requests: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    server_errors: int
    refused: int

    @staticmethod
    def of(kind: str, samples: Sequence[Sample]) -> "Figure":
        took = [seconds * 1e3 for name, _, seconds in samples if name == kind]
        statuses = [status for name, status, _ in samples if name == kind]
        return Figure(
            kind,
            len(took),
            quantile(took, 0.5),
            quantile(took, 0.95),
            quantile(took, 0.99),
            max(took),
            sum(status >= 500 or status == 0 for status in statuses),
            sum(400 <= status < 500 for status in statuses),
        )

    def row(self) -> tuple[Any, ...]:
        return (self.kind, self.requests, self.p50_ms, self.p95_ms, self.p99_ms, self.max_ms, self.server_errors)


# --- the load, in a process of its own -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """kinds: what is asked in turn. job_ids: of whom."""

    url: str
    key: str
    kinds: tuple[str, ...]
    job_ids: tuple[str, ...]
    body: Mapping[str, Any]
    rate: float
    seconds: float


def _send(load: Load, results: Any) -> None:
    results.put(uvloop.run(_load(load)))


async def _load(load: Load) -> list[Sample]:
    loop = asyncio.get_running_loop()
    samples: list[Sample] = []
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"x-api-key": load.key}
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as http:
        started = loop.time() + 0.1
        async with asyncio.TaskGroup() as asking:
            for n in range(int(load.rate * load.seconds)):
                due = started + n / load.rate
                await asyncio.sleep(due - loop.time())
                asking.create_task(_ask(http, load, n, due, samples))
    return samples


async def _ask(http: aiohttp.ClientSession, load: Load, n: int, due: float, samples: list[Sample]) -> None:
    kind = load.kinds[n % len(load.kinds)]
    job = f"{load.url}{JOBS}/{load.job_ids[n % len(load.job_ids)]}" if load.job_ids else ""
    paths = {
        "get": ("GET", job),
        "events": ("GET", f"{job}/events?limit=200"),
        "metrics": ("GET", f"{job}/metrics?limit=200"),
        "create": ("POST", f"{load.url}{JOBS}"),
        "healthz": ("GET", f"{load.url}/healthz"),
    }
    method, url = paths[kind]
    try:
        async with http.request(method, url, json=load.body if kind == "create" else None) as response:
            await response.read()
            status = response.status
    except (aiohttp.ClientError, TimeoutError):
        status = 0
    samples.append((kind, status, asyncio.get_running_loop().time() - due))


def measured(load: Load) -> list[Figure]:
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    process = spawn.Process(target=_send, args=(load, results))
    process.start()
    samples: list[Sample] = results.get(timeout=load.seconds + 60)
    process.join(10)
    return [Figure.of(kind, samples) for kind in dict.fromkeys(load.kinds)]


# --- the service -----------------------------------------------------------------------------------------------------


async def key_of(database_url: str) -> str:
    database = Database.open(database_url, 1)
    try:
        async with writing(database) as connection:
            return (await api_keys.create(connection, "default", "benchmark"))[1]
    finally:
        await database.close()


def lasting(up: Upstream, seconds: float) -> dict[str, Any]:
    """A job that has rollouts for `seconds` and more."""
    seeds = int((seconds + 60) * CONCURRENT / ROLLOUT_SECONDS)
    return job_body(up.task_app_url, seeds=seeds, concurrent=CONCURRENT)


async def created(service: Process, key: str, body: Mapping[str, Any], jobs: int) -> tuple[str, ...]:
    """Their ids."""
    ids = []
    async with aiohttp.ClientSession(headers={"x-api-key": key}) as http:
        for _ in range(jobs):
            async with http.post(f"{service.url}{JOBS}", json=body) as response:
                response.raise_for_status()
                ids.append(str((await response.json())["job_id"]))
    return tuple(ids)


def one_run(
    start: Any, up: Upstream, postgres: Path, key: str, jobs: int, rate: float, seconds: float
) -> tuple[list[Figure], list[Figure], list[Figure], dict[str, float], float]:
    """The bound, the service without jobs, the service with them; cores that were busy meanwhile, rollouts a second."""
    service = start.serve(worker_jobs=jobs)
    waiting = dict(job_body(up.task_app_url, seeds=100, concurrent=CONCURRENT, auto_start=False))
    load = Load(service.url, key, ("healthz",), (), waiting, rate, min(seconds, 5.0))
    bound = measured(load)
    idle_ids = asyncio.run(created(service, key, waiting, 1))
    idle = measured(Load(service.url, key, MIX, idle_ids, waiting, rate, min(seconds, 10.0)))
    ids = asyncio.run(created(service, key, lasting(up, seconds), jobs))
    time.sleep(SETTLED_SECONDS)
    usage, before = Usage({"service": service.pid}, postgres), up.rollouts
    busy = measured(Load(service.url, key, MIX, ids, waiting, rate, seconds))
    return bound, idle, busy, usage.cores(), (up.rollouts - before) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    runs = []
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server())
        on = machine(asyncio.run(_prepared(server.url)))
        up = stack.enter_context(upstream())
        up.answer_after(ROLLOUT_SECONDS)
        key = asyncio.run(key_of(server.url))
        print(f"{on}\n{given.rate:g} requests/s; {given.jobs} jobs of {CONCURRENT} x {ROLLOUT_SECONDS:g} s")
        for n in range(given.runs):
            with processes(server.url, **service_settings(up)) as start:
                found = one_run(start, up, server.server.data_dir, key, given.jobs, given.rate, given.seconds)
            bound, idle, busy, cores, rollouts = found
            runs.append(found)
            said = ", ".join(f"{name} {value:.2f}" for name, value in cores.items())
            print(f"\nrun {n + 1}: {rollouts:.0f} rollouts/s of {given.jobs * CONCURRENT}; cores: {said}")
            rows = [("bound: /healthz", *bound[0].row()[1:])]
            rows += [(f"{each.kind}, no job", *each.row()[1:]) for each in idle]
            print_table(COLUMNS, [*rows, *(each.row() for each in busy)])
    _judge([busy for _, _, busy, _, _ in runs])
    shown = [
        {"bound": asdict(b[0]), "idle": [asdict(f) for f in i], "busy": [asdict(f) for f in w], "cores": c, "rate": r}
        for b, i, w, c, r in runs
    ]
    print_json("api", on, {"rate": given.rate, "jobs": given.jobs, "runs": shown})


async def _prepared(url: str) -> str:
    async with schema(url) as database:
        return await postgres_version(database)


def _judge(runs: Sequence[Sequence[Figure]]) -> None:
    print()
    for kind, limit in MOST_MS.items():
        found = max(figure.p95_ms for run in runs for figure in run if figure.kind == kind)
        print(f"{'met   ' if found <= limit else 'MISSED'} p95 of {kind}: {found:.1f} ms (at most {limit:g} ms)")
    errors = sum(figure.server_errors for run in runs for figure in run)
    refused = sum(figure.refused for run in runs for figure in run)
    print(f"{'met   ' if not errors else 'MISSED'} 5xx and lost answers: {errors} (0); refused: {refused}")


if __name__ == "__main__":
    main()
