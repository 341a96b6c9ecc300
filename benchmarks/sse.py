"""How fast an event reaches every reader: 1,000 streams of one job, beside bare sockets that send the same bytes.

The server runs in this process, the readers in another one. Times are from the commit of an event to its arrival.
"""

import argparse
import asyncio
import json
import resource
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
import uvloop
from sqlalchemy import text

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.clients.providers import Providers
from promptjobs.db import embedded, events, job_commands
from promptjobs.db.job_commands import NewJob
from promptjobs.db.jobs import JobStatus
from promptjobs.db.migrate import migrate
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.db.vault import Vault
from promptjobs.jobs.service import JobService

PADDING = "x" * 800
PAUSE_SECONDS = 0.3
MARK = b"\nid: "


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- the readers' process --------------------------------------------------------------------------------------------


async def read(port: int, path: str, expected: int, arrivals: list[float], ready: Callable[[], None]) -> None:
    """Appends the time at which each event arrives; the first one is history."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    tail = b""
    while len(arrivals) < expected:
        part = await reader.read(1 << 20)
        if not part:
            raise ConnectionError("the stream ended early")
        seen = (tail + part).count(MARK)
        tail = (tail + part)[-(len(MARK) - 1) :]
        if seen and not arrivals:
            ready()
        arrivals.extend([time.monotonic()] * seen)
    writer.close()


async def readers(port: int, path: str, count: int, expected: int) -> None:
    """Prints a line when all have the first event, and one with all arrivals at the end."""
    arrivals: list[list[float]] = [[] for _ in range(count)]
    waiting = count

    def one_ready() -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:
            print("ready", flush=True)

    async with asyncio.TaskGroup() as tasks:
        for each in arrivals:
            tasks.create_task(read(port, path, expected, each, one_ready))
    print(json.dumps(arrivals), flush=True)


@asynccontextmanager
async def reading(port: int, path: str, count: int, expected: int) -> AsyncIterator["asyncio.subprocess.Process"]:
    """The readers, each with the first event."""
    arguments = ["--readers-of", str(port), path, str(count), str(expected)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *arguments, stdout=asyncio.subprocess.PIPE, limit=1 << 28
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    yield process
    await process.wait()


# --- the two servers -------------------------------------------------------------------------------------------------


async def measure(
    port: int, path: str, count: int, steady: int, burst: int, send: Callable[[int], Awaitable[float]]
) -> dict[str, Any]:
    """`steady` single events with pauses, then `burst` at once. send returns the time from which arrivals count."""
    expected = 1 + steady + burst
    before = cpu_seconds()
    sent = []
    async with reading(port, path, count, expected) as process:
        opening_cpu = cpu_seconds() - before
        before = cpu_seconds()
        for _ in range(steady):
            sent.append(await send(1))
            await asyncio.sleep(PAUSE_SECONDS)
        steady_cpu = cpu_seconds() - before
        burst_sent = await send(burst)
        assert process.stdout is not None
        arrivals = np.array(json.loads(await process.stdout.readline()))
    delays = arrivals[:, 1 : 1 + steady] - np.array(sent)
    last = arrivals.max(axis=0)
    return {
        "cpu_us_per_open": 1e6 * opening_cpu / count,
        "median_ms": 1000 * float(np.median(delays)),
        "last_reader_ms": 1000 * float(np.median(delays.max(axis=0))),
        "worst_ms": 1000 * float(delays.max()),
        "cpu_us_per_delivery": 1e6 * steady_cpu / (steady * count),
        "burst_deliveries_per_s": burst * count / float(last[-1] - burst_sent),
    }


async def with_the_service(url: str, count: int, steady: int, burst: int) -> dict[str, Any]:
    database = Database.open(url)
    await migrate(database)
    job_id = f"pl_{uuid.uuid4().hex}"
    async with writing(database) as connection:
        await job_commands.create(
            connection, NewJob(job_id, "gepa", JobStatus.QUEUED, "{}", "{}", "[]", "{}", None, "Created", "{}")
        )

    async def send(number: int) -> float:
        async with writing(database) as connection:
            if number > 1:
                await connection.execute(
                    text(
                        "WITH j AS (UPDATE jobs SET last_seq = last_seq + :n WHERE id = :job RETURNING last_seq) "
                        "INSERT INTO events(job_id, seq, type, message, level, data) "
                        "SELECT :job, last_seq - :n + i, 'burst', 'one of many', 'info', :data "
                        "FROM j, generate_series(1, :n) i"
                    ),
                    {"n": number, "job": job_id, "data": json.dumps({"padding": PADDING})},
                )
                await events.notify(connection, events.EVENTS_CHANNEL, job_id)
            else:
                await events.append(connection, job_id, "steady", "one of many", {"padding": PADDING})
        return time.monotonic()

    app = create_app(database=database, service=JobService(database, Providers({}), lambda _: None, Vault(b"k" * 32)))
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=10))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        path = f"{JOBS_PATH}/{job_id}/events/stream"
        try:
            return await measure(listening.getsockname()[1], path, count, steady, burst, send)
        finally:
            server.should_exit = True
            await running
            await database.close()


async def with_bare_sockets(count: int, steady: int, burst: int) -> dict[str, Any]:
    """The bound: no HTTP, no database, one write to each socket."""
    frame = b"\nid: 1\nevent: steady\ndata: " + b"x" * (len(PADDING) + 250) + b"\n"
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writers.append(writer)
        writer.write(frame)

    async def send(number: int) -> float:
        started = time.monotonic()
        for writer in writers:
            writer.write(frame * number)
        return started

    server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=2048)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await measure(port, "/", count, steady, burst, send)
        for writer in writers:
            writer.close()
        return result


def show(results: dict[str, dict[str, Any]]) -> None:
    names = list(results["service"])
    print(f"{'':24}{'service':>14}{'bare sockets':>14}")
    for name in names:
        print(f"{name:24}" + "".join(f"{result[name]:14,.1f}" for result in results.values()))
    print(json.dumps(results))


def main(count: int, steady: int, burst: int) -> None:
    with tempfile.TemporaryDirectory(prefix="promptjobs-bench-") as root:
        Path(root).chmod(0o711)  # the server's own user has to pass through when this runs as root
        with embedded.start(Path(root) / "postgres") as server:
            service = uvloop.run(with_the_service(server.url, count, steady, burst))
    show({"service": service, "bare sockets": uvloop.run(with_bare_sockets(count, steady, burst))})


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.argv[1:2] == ["--readers-of"]:
        port, path, count, expected = sys.argv[2:]
        uvloop.run(readers(int(port), path, int(count), int(expected)))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--readers", type=int, default=1000)
        parser.add_argument("--steady", type=int, default=20, help="events that are sent one by one")
        parser.add_argument("--burst", type=int, default=200, help="events that are committed at once")
        chosen = parser.parse_args()
        main(chosen.readers, chosen.steady, chosen.burst)
