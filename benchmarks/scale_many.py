"""Many jobs in one process: memory a job, the lag of the event loop, and what the API's callers wait meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from common import quantile
from promptjobs.db.session import Database
from scale_jobs import JOBS, Api, job_body
from scale_rollouts import service_settings
from scale_service import Usage, processes
from scale_upstream import Upstream

ROLLOUT_SECONDS = 5.0
ROLLOUTS_OF_A_JOB = 100
SETTLED_SECONDS = 7.0
"""More than a rollout takes: then every job has had one."""

START_SECONDS = 120.0
PROBES_PER_SECOND = 20
CALLS_PER_SECOND = 20
WARM_UP_JOBS = 5


@dataclass(frozen=True, slots=True)
class Many:
    """kib_per_job: of the process's resident memory, beyond what it had before. Times in milliseconds.

    lag: the time of a trivial request, which waits for its turn in the event loop and takes one of its own. started:
    seconds from the first POST until all jobs ran. cores: kept busy by the service's process.
    """

    jobs: int
    kib_per_job: float
    lag_p50_ms: float
    lag_p99_ms: float
    api_p50_ms: float
    api_p95_ms: float
    rollouts_per_second: float
    of_ideal: float
    started_seconds: float
    cores: float
    connections: int


async def many(up: Upstream, database_url: str, postgres: Path, jobs: int, seconds: float) -> Many:
    """`jobs` jobs at once, each with one rollout of five seconds under way at a time."""
    settings = {**service_settings(up), "worker_jobs": jobs + WARM_UP_JOBS}
    database = Database.open(database_url, 2)
    connection = await database.connect()
    try:
        with processes(database_url, **settings) as start:
            service = start.serve()
            async with Api.at(service.url) as api:
                await _warm_up(api, up)
                before, started = service.rss_bytes(), time.perf_counter()
                up.answer_after(ROLLOUT_SECONDS)
                body = job_body(up.task_app_url, seeds=ROLLOUTS_OF_A_JOB, concurrent=1)
                job_ids = [await api.create(body) for _ in range(jobs)]

                async def running() -> int:
                    return int(await connection.fetchval("SELECT count(*) FROM jobs WHERE status = 'running'"))

                await _until(running, jobs, "running jobs")
                started = time.perf_counter() - started
                await asyncio.sleep(SETTLED_SECONDS)
                usage = Usage({"service": service.pid}, postgres)
                first, began = up.rollouts, time.perf_counter()
                lags, waits = await asyncio.gather(_probed(service.url, seconds), _used(api, job_ids, up, seconds))
                rate = (up.rollouts - first) / (time.perf_counter() - began)
                cores, used = usage.cores()["service"], service.rss_bytes() - before
                count = await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'promptjobs%'"
                )
                await api.cancel(job_ids)
                return Many(
                    jobs,
                    used / jobs / 1024,
                    quantile(lags, 0.5) * 1e3,
                    quantile(lags, 0.99) * 1e3,
                    quantile(waits, 0.5) * 1e3,
                    quantile(waits, 0.95) * 1e3,
                    rate,
                    rate * ROLLOUT_SECONDS / jobs,
                    started,
                    cores,
                    count,
                )
    finally:
        connection.terminate()
        await database.close()


async def _warm_up(api: Api, up: Upstream) -> None:
    """What is loaded and opened once must not count for the jobs."""
    up.answer_after(0.0)
    body = job_body(up.task_app_url, seeds=ROLLOUTS_OF_A_JOB, concurrent=10)
    job_ids = [await api.create(body) for _ in range(WARM_UP_JOBS)]
    await api.ended(job_ids)
    for job_id in job_ids:
        await api.call("GET", f"{JOBS}/{job_id}")
        await api.call("GET", f"{JOBS}/{job_id}/events?limit=100")
        await api.call("GET", f"{JOBS}?limit=50")


async def _until(reading: Callable[[], Awaitable[int]], wanted: int, what: str) -> None:
    ends_at = time.perf_counter() + START_SECONDS
    while (found := await reading()) < wanted:
        if time.perf_counter() > ends_at:
            raise RuntimeError(f"{found} of {wanted} {what} after {START_SECONDS:g} s")
        await asyncio.sleep(0.2)


async def _probed(url: str, seconds: float) -> list[float]:
    """How long each of the trivial requests took, over connections of their own."""
    async with Api.at(url) as api:
        return await _at_rate(lambda: api.call("GET", "/healthz"), PROBES_PER_SECOND, seconds)


async def _used(api: Api, job_ids: Sequence[str], up: Upstream, seconds: float) -> list[float]:
    """How long calls of the API took: create, read, events and list in turn. The new jobs are not started."""
    body = job_body(up.task_app_url, seeds=ROLLOUTS_OF_A_JOB, concurrent=1, auto_start=False)
    chosen = cycle(job_ids)
    paths = cycle(("", "/{}", "/{}/events?limit=100", "?limit=50"))

    async def call() -> tuple[object, float]:
        path = next(paths).format(next(chosen))
        return await (api.call("GET", f"{JOBS}{path}") if path else api.call("POST", JOBS, body))

    return await _at_rate(call, CALLS_PER_SECOND, seconds)


async def _at_rate(call: Callable[[], Awaitable[tuple[object, float]]], per_second: int, seconds: float) -> list[float]:
    """The seconds of calls that begin on time, whether or not those before have ended."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    calls = []
    for number in range(int(per_second * seconds)):
        await asyncio.sleep(max(0.0, began + number / per_second - loop.time()))
        calls.append(asyncio.ensure_future(call()))
    return [took for _, took in await asyncio.gather(*calls)]
