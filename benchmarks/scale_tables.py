"""The API's reads where the tables are large, and nothing else runs."""

import hashlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from common import quantile
from promptjobs.db.session import Database
from scale_jobs import JOBS, Api, job_body
from scale_service import Process, Usage, processes

EVENTS_OF_A_JOB = 100
CALLS = 300
UNTIMED = 10
TASK_APP = "http://127.0.0.1:1"
"""Of jobs that never run."""

OWN = {
    "id": "'pl_' || md5(n::text)",
    "status": "(ARRAY['succeeded','succeeded','succeeded','succeeded','failed','cancelled'])[1 + n % 6]",
    "created_at": "clock_timestamp() - n * interval '1 minute'",
    "finished_at": "clock_timestamp() - n * interval '1 minute' + interval '30 seconds'",
    "last_seq": f"CASE WHEN n <= $1 THEN {EVENTS_OF_A_JOB} ELSE 1 END",
}
"""What differs from job to job; every other column is that of a job that the service has made."""


@dataclass(frozen=True, slots=True)
class Read:
    """One kind of read, one call after the other. The CPU is that of a call, in the service and in PostgreSQL."""

    name: str
    p50_ms: float
    p95_ms: float
    cpu_ms: float
    postgres_cpu_ms: float


async def large_tables(database_url: str, postgres: Path, jobs: int, events: int) -> list[Read]:
    """The reads over `jobs` jobs, of which the newest have EVENTS_OF_A_JOB events each, `events` in all."""
    settings = {"allowed_targets": TASK_APP.removeprefix("http://"), "provider_toy_base_url": f"{TASK_APP}/v1"}
    database = Database.open(database_url, 2)
    connection = await database.connect()
    try:
        with processes(database_url, **settings) as start:
            service = start.serve("--no-worker")
            async with Api.at(service.url) as api:
                template = await api.create(job_body(TASK_APP, seeds=100, concurrent=1, auto_start=False))
                await fill(connection, template, jobs, events)
                reads = _reads(api, events // EVENTS_OF_A_JOB, jobs)
                return [await _read(name, call, service, postgres) for name, call in reads.items()]
    finally:
        connection.terminate()
        await database.close()


async def fill(connection: asyncpg.Connection, template: str, jobs: int, events: int) -> None:
    """Copies of one job, and their events; afterwards the planner knows how many there are."""
    columns = [
        row["column_name"]
        for row in await connection.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'jobs' AND table_schema = 'public' "
            "AND is_generated = 'NEVER' ORDER BY ordinal_position"
        )
    ]
    values = ", ".join(OWN.get(column, f't."{column}"') for column in columns)
    names = ", ".join(f'"{column}"' for column in columns)
    with_events = events // EVENTS_OF_A_JOB
    await connection.execute(
        f"INSERT INTO jobs({names}) SELECT {values} FROM jobs t, generate_series(1, {int(jobs)}) n WHERE t.id = $2",
        with_events,
        template,
    )
    await connection.execute(
        "INSERT INTO events(job_id, seq, turn, type, message, level, data) "
        "SELECT 'pl_' || md5(n::text), seq, seq, "
        f"CASE seq WHEN {EVENTS_OF_A_JOB} THEN 'prompt.learning.gepa.complete' ELSE 'prompt.learning.progress' END, "
        "'12 of 100 rollouts, best 0.5', 'info', "
        """'{"phase": "optimization", "rollouts_completed": 12, "best_score": 0.5, "detail": "' """
        """|| repeat('x', 200) || '"}' """
        f"FROM generate_series(1, $1::int) n, generate_series(1, {EVENTS_OF_A_JOB}) seq",
        with_events,
    )
    await connection.execute("VACUUM ANALYZE jobs")
    await connection.execute("VACUUM ANALYZE events")


def job_id(number: int) -> str:
    """As `fill` names it."""
    return f"pl_{hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()}"


def _reads(api: Api, with_events: int, jobs: int) -> dict[str, Callable[[], Awaitable[float]]]:
    """The calls, each of which returns the seconds that it took."""
    rng = random.Random(0)

    def any_job() -> str:
        return job_id(rng.randint(1, jobs))

    def storied() -> str:
        return job_id(rng.randint(1, with_events))

    async def get(path: str) -> float:
        return (await api.call("GET", f"{JOBS}{path}"))[1]

    return {
        "list, newest 50": lambda: get("?limit=50"),
        "list, 50 after a random job": lambda: get(f"?limit=50&after={any_job()}"),
        "list by status": lambda: get("?limit=50&status=failed"),
        "get": lambda: get(f"/{any_job()}"),
        "events, a page of 100": lambda: get(f"/{storied()}/events?limit=100"),
        "stream, replay of 99 events": lambda: replayed(api, storied()),
    }


async def _read(name: str, call: Callable[[], Awaitable[float]], service: Process, postgres: Path) -> Read:
    for _ in range(UNTIMED):
        await call()
    usage = Usage({"service": service.pid}, postgres)
    took = [await call() for _ in range(CALLS)]
    cpu = {name: seconds / CALLS * 1e3 for name, seconds in usage.seconds().items()}
    return Read(name, quantile(took, 0.5) * 1e3, quantile(took, 0.95) * 1e3, cpu["service"], cpu["postgres"])


async def replayed(api: Api, job: str) -> float:
    """Seconds until all events but the terminal one are there: that one is held back for half a second."""
    wanted = f"id: {EVENTS_OF_A_JOB - 1}\n".encode()
    url = f"{api.urls[0]}{JOBS}/{job}/events/stream"
    started, received = time.perf_counter(), b""
    async with api.http.get(url) as response:
        async for chunk in response.content.iter_any():
            received += chunk
            if wanted in received:
                return time.perf_counter() - started
    raise RuntimeError(f"the stream of {job} ended after {len(received)} bytes")
