"""CPU per call of the interceptor, which rewrites and meters durably, beside a direct call and a FastAPI + httpx proxy.

Each server has a process of its own, so has the provider; the load comes from this one, over keep-alive connections.
The bound is a server that only passes bytes on, with the same HTTP libraries.
CPU is that of the server's process (user and system). Run: python benchmarks/interceptor.py [--seconds 5]
"""

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import orjson
import psutil

CONNECTIONS = 64
WARM_UP_SECONDS = 1.5
BASELINE_TEXT = (
    "You sort the questions of a bank's customers. " + "Answer with one label of the list. " * 30 + "{tools}"
)
CANDIDATE_TEXT = (
    "Think about what the customer wants to do. " + "Compare the labels, then choose one. " * 30 + "{tools}"
)
MESSAGES = [
    {"role": "system", "content": BASELINE_TEXT.replace("{tools}", "card_arrival, card_linking, exchange_rate")},
    {"role": "user", "content": "My new card has not come yet. When will it be here? I ordered it two weeks ago."},
]
REPLY = orjson.dumps(
    {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "card_arrival", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 310,
            "completion_tokens": 4,
            "total_tokens": 314,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        },
        "system_fingerprint": "fp_0",
    }
)
CALL = orjson.dumps({"model": "gpt-4o-mini", "messages": MESSAGES, "temperature": 0.0, "max_tokens": 64})


@dataclass(frozen=True)
class Figure:
    """What was measured. cpu_us: of the server's process per call; postgres_cpu_us: of all the database's processes."""

    name: str
    calls_per_second: float
    cpu_us: float | None
    p50_ms: float
    p99_ms: float
    postgres_cpu_us: float | None = None


# --- processes -------------------------------------------------------------------------------------------------------


def listen() -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    return listening


@contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[tuple[int, int]]:
    """Run `target(connection, *args)` in a process of its own; yields its pid and the port that it reports."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=target, args=(there, *args), daemon=True)
    child.start()
    try:
        if not here.poll(60):
            raise RuntimeError(f"{target.__name__} did not start")
        assert child.pid is not None
        yield child.pid, here.recv()
    finally:
        child.terminate()
        child.join(10)
        if child.is_alive():
            child.kill()
            child.join()


def serve(app: Any, listening: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", lifespan="on", access_log=False, proxy_headers=False, log_level="warning"
    )
    uvicorn.Server(config).run(sockets=[listening])


class ProviderProtocol(asyncio.Protocol):
    """Answers every request with REPLY, as cheaply as possible."""

    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        import httptools

        # uvloop's transports are no subclass of asyncio's.
        self.transport, self.parser = cast(asyncio.Transport, transport), httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(self.head + REPLY)


def provider(report: Connection) -> None:
    import uvloop

    async def main() -> None:
        listening = listen()
        server = await asyncio.get_running_loop().create_server(ProviderProtocol, sock=listening)
        report.send(listening.getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


def interceptor(report: Connection, database_url: str, provider_port: int, profile: str | None) -> None:
    from pydantic import SecretStr

    from promptjobs.clients.http import Outgoing
    from promptjobs.clients.providers import Providers
    from promptjobs.db.ledger import Ledger
    from promptjobs.db.session import Database
    from promptjobs.db.vault import Vault
    from promptjobs.interceptor.app import Interceptor

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal served
        if scope["type"] == "http":
            await served(scope, receive, send)
            return
        await receive()
        outgoing = Outgoing(allow_loopback=True)
        await outgoing.open()
        key = SecretStr("test-key")
        providers = Providers({"openai": (f"http://127.0.0.1:{provider_port}/v1", key)})
        database = Database.open(database_url)
        ledger = Ledger(database.connect)
        keeping = asyncio.create_task(ledger.groups.run())
        served = Interceptor(database, outgoing, providers, ledger, vault=Vault(b"k" * 32))
        await served.start()
        await send({"type": "lifespan.startup.complete"})
        report.send(listening.getsockname()[1])
        await receive()
        await served.stop()
        ledger.groups.stop()
        await keeping
        await outgoing.close()
        await send({"type": "lifespan.shutdown.complete"})

    served: Any = None
    listening = listen()
    if profile is None:
        serve(app, listening)
        return
    import cProfile
    import signal
    import sys

    # uvicorn raises the signal that ended it once more, which would end the process before the profile is written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    profiler = cProfile.Profile()
    try:
        profiler.runcall(serve, app, listening)
    finally:
        profiler.dump_stats(profile)


def bare(report: Connection, provider_port: int) -> None:
    """The bound: the same server and the same client, and nothing in between."""
    from promptjobs.clients.http import Outgoing

    url, headers = f"http://127.0.0.1:{provider_port}/v1/chat/completions", {"content-type": "application/json"}
    outgoing = Outgoing(allow_loopback=True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        if scope["type"] == "lifespan":
            await outgoing.open()
            await send({"type": "lifespan.startup.complete"})
            report.send(listening.getsockname()[1])
            await receive()
            return
        reply = await outgoing.request("POST", url, body=message["body"], headers=headers, timeout_seconds=120)
        length = (b"content-length", str(len(reply.body)).encode())
        await send({"type": "http.response.start", "status": reply.status, "headers": [length]})
        await send({"type": "http.response.body", "body": reply.body})

    listening = listen()
    serve(app, listening)


def fastapi_proxy(report: Connection, provider_port: int) -> None:
    """The usual way to write a proxy: one route, pydantic-free JSON, one shared httpx client. It does not meter."""
    from contextlib import asynccontextmanager

    import httpx
    from fastapi import FastAPI, Request, Response

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=CONNECTIONS)
        async with httpx.AsyncClient(limits=limits, timeout=120) as client:
            app.state.client = client
            report.send(listening.getsockname()[1])
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/interceptor/v1/{token}/chat/completions")
    async def chat(token: str, request: Request) -> Response:
        body = await request.json()
        body["messages"][0]["content"] = CANDIDATE_TEXT
        reply = await app.state.client.post(
            f"http://127.0.0.1:{provider_port}/v1/chat/completions",
            json=body,
            headers={"authorization": "Bearer test-key"},
        )
        usage = reply.json()["usage"]
        assert usage["prompt_tokens"] > 0
        return Response(reply.content, reply.status_code, media_type="application/json")

    listening = listen()
    serve(app, listening)


OTHERS = (("bare", "bound: pass everything on", bare), ("fastapi", "FastAPI + httpx, not metered", fastapi_proxy))
OTHERS_PATH = "/interceptor/v1/token/chat/completions"


# --- load ------------------------------------------------------------------------------------------------------------


class Load(asyncio.Protocol):
    """One keep-alive connection with one call under way at any time; `seconds` collects how long each took."""

    def __init__(self, path: str, seconds: list[float]) -> None:
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        self.request = f"{head}content-length: {len(CALL)}\r\n\r\n".encode() + CALL
        self.seconds, self.stopped, self.failure = seconds, False, ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        import httptools

        # uvloop's transports are no subclass of asyncio's.
        self.transport, self.parser = cast(asyncio.Transport, transport), httptools.HttpResponseParser(self)
        self.send()

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body = body

    def on_message_complete(self) -> None:
        self.seconds.append(time.perf_counter() - self.sent_at)
        if self.parser.get_status_code() != 200:
            self.failure = f"{self.parser.get_status_code()}: {self.body[:300]!r}"
        elif not self.stopped:
            self.send()


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of the processes; those that have ended count nothing."""
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


async def measure(
    name: str, pid: int | None, port: int, paths: list[str], seconds: float, postgres: Path | None = None
) -> Figure:
    loop = asyncio.get_running_loop()
    took: list[float] = []
    loads = []
    for n in range(CONNECTIONS):
        _, load = await loop.create_connection(lambda n=n: Load(paths[n % len(paths)], took), "127.0.0.1", port)
        loads.append(load)
    await asyncio.sleep(WARM_UP_SECONDS)
    took.clear()
    database = postgres_pids(postgres) if postgres else []
    servers = [] if pid is None else [pid]
    before, database_before, started = cpu_seconds(servers), cpu_seconds(database), time.perf_counter()
    await asyncio.sleep(seconds)
    calls, lasted = sorted(took), time.perf_counter() - started
    spent, database_spent = cpu_seconds(servers) - before, cpu_seconds(database) - database_before
    for load in loads:
        load.stopped = True
        if load.failure:
            raise RuntimeError(f"{name}: {load.failure}")
    await asyncio.sleep(0.2)
    for load in loads:
        load.transport.close()
    count = len(calls)
    return Figure(
        name,
        round(count / lasted),
        None if pid is None else round(spent / count * 1e6, 1),
        round(calls[count // 2] * 1e3, 2),
        round(calls[int(count * 0.99)] * 1e3, 2),
        round(database_spent / count * 1e6, 1) if postgres else None,
    )


# --- the database ----------------------------------------------------------------------------------------------------


def postgres_pids(data_dir: Path) -> list[int]:
    """The server and all its children."""
    pid = int((data_dir / "cluster" / "postmaster.pid").read_text().split()[0])
    server = psutil.Process(pid)
    return [pid, *(child.pid for child in server.children(recursive=True))]


async def prepare(database_url: str, limited: bool) -> list[str]:
    """The schema, a running job with a candidate, and a token for each connection; returns the tokens' paths."""
    from promptjobs.core.ledger import Category
    from promptjobs.core.prompt import PromptTemplate, Section
    from promptjobs.db.migrate import migrate
    from promptjobs.db.session import Database

    database = Database.open(database_url)
    await migrate(database)
    connection = await database.connect()
    caps = {"max_spend_usd": 1e9} if limited else {}
    config = {"algorithm": "gepa", "policy": {"provider": "openai", "model": "gpt-4o-mini"}, "gepa": caps}
    await connection.execute(
        "INSERT INTO jobs(id, algorithm, status, config_sent, config, epoch, lease_until) "
        "VALUES ('pl_1', 'gepa', 'running', '{}', $1, 1, clock_timestamp() + interval '1 hour')",
        json.dumps(config),
    )
    await connection.execute(
        "INSERT INTO ledger(job_id, category) SELECT 'pl_1', unnest($1::text[])", [*map(str, Category)]
    )
    for n, (name, text) in enumerate((("baseline", BASELINE_TEXT), ("candidate", CANDIDATE_TEXT))):
        template = PromptTemplate((Section("system", "system", text, 0),), {"tools": True})
        await connection.execute(
            "INSERT INTO candidates(job_id, candidate_id, n, baseline_id, prompt, parents, operator, generation, turn) "
            "VALUES ('pl_1', $1, $2, 'baseline', $3, '[]', 'x', 0, 0)",
            name, n, json.dumps(template.to_json()),
        )  # fmt: skip
    paths = []
    for seed in range(CONNECTIONS):
        secret = secrets.token_urlsafe(24)
        paths.append(f"/interceptor/v1/{secret}/chat/completions")
        await connection.execute(
            "INSERT INTO tokens(digest, job_id, key, candidate_id, seed, phase, attempt, epoch, expires_at) VALUES "
            "($1, 'pl_1', '\\x00', 'candidate', $2, 'optimization', 1, 1, clock_timestamp() + interval '1 hour')",
            hashlib.sha256(secret.encode()).digest(), seed,
        )  # fmt: skip
    await connection.close()
    await database.close()
    return paths


def print_table(figures: list[Figure]) -> None:
    print(f"{'':34}{'calls/s':>9}{'CPU us/call':>13}{'p50 ms':>9}{'p99 ms':>9}{'Postgres CPU us':>17}")
    for figure in figures:
        cells = [figure.cpu_us, figure.p50_ms, figure.p99_ms, figure.postgres_cpu_us]
        shown = ["-" if cell is None else f"{cell:g}" for cell in cells]
        widths = (13, 9, 9, 17)
        row = "".join(f"{cell:>{width}}" for cell, width in zip(shown, widths, strict=True))
        print(f"{figure.name:34}{figure.calls_per_second:>9g}{row}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each server is measured")
    parser.add_argument("--limited", action="store_true", help="the job has a cap: every call is reserved first")
    parser.add_argument("--profile", help="write a cProfile of the interceptor's process to this file")
    parser.add_argument("--only", choices=("direct", "interceptor", "bare", "fastapi"), help="measure one server alone")
    options = parser.parse_args()
    figures = []

    def wanted(name: str) -> bool:
        return options.only in (None, name)

    with process(provider) as (provider_pid, provider_port):
        if wanted("direct"):
            figure = measure("direct (the provider's process)", provider_pid, provider_port, ["/v1/x"], options.seconds)
            figures.append(asyncio.run(figure))
        if wanted("interceptor"):
            figures.append(measure_interceptor(provider_port, options.seconds, options.profile, options.limited))
        for name, title, target in OTHERS:
            if wanted(name):
                with process(target, provider_port) as (pid, port):
                    figures.append(asyncio.run(measure(title, pid, port, [OTHERS_PATH], options.seconds)))
    print_table(figures)
    print(json.dumps({"benchmark": "interceptor", "connections": CONNECTIONS, "figures": [asdict(f) for f in figures]}))


def measure_interceptor(provider_port: int, seconds: float, profile: str | None, limited: bool) -> Figure:
    from promptjobs.db import embedded

    with tempfile.TemporaryDirectory(prefix="promptjobs-benchmark-") as directory:
        Path(directory).chmod(0o711)
        with embedded.start(Path(directory) / "data") as server:
            paths = asyncio.run(prepare(server.url, limited))
            with process(interceptor, server.url, provider_port, profile) as (pid, port):
                name = "interceptor, reserved, durable" if limited else "interceptor, metered durably"
                return asyncio.run(measure(name, pid, port, paths, seconds, Path(directory) / "data"))


if __name__ == "__main__":
    main()
