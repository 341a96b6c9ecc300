"""A task app and a provider that cost next to nothing, each in a process of its own, and the rate that they can reach.

Both speak HTTP over bare sockets. A rollout is one call of the model under the URL that the request names; the
provider's latency is the rollout's.
"""

import asyncio
import multiprocessing
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop

SYSTEM = "You answer questions.\n" + "Think about what is asked, and answer with one word. " * 10
USER = "Question: {question}"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
START_SECONDS = 30.0
REPLY = orjson.dumps(
    {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "policy",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "level 3"}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 120, "completion_tokens": 4, "total_tokens": 124},
    }
)


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where both listen and who they are. The values are shared with the processes and may be read at any time."""

    task_app_url: str
    provider_url: str
    task_app_pid: int
    provider_pid: int
    _latency: Any
    _rollouts: Any

    @property
    def rollouts(self) -> int:
        """How many were answered so far."""
        return int(self._rollouts.value)

    def answer_after(self, seconds: float) -> None:
        """The provider's latency from now on."""
        self._latency.value = seconds

    @property
    def targets(self) -> str:
        return ",".join(url.removeprefix("http://") for url in (self.task_app_url, self.provider_url))


@contextmanager
def upstream() -> Iterator[Upstream]:
    spawn = multiprocessing.get_context("spawn")
    latency, rollouts = spawn.RawValue("d", 0.0), spawn.RawValue("Q", 0)
    with (
        _process(_serve_provider, latency) as (provider, model_port),
        _process(_serve_task_app, rollouts) as (app, port),
    ):
        yield Upstream(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{model_port}", app, provider, latency, rollouts)


@contextmanager
def _process(target: Callable[..., None], value: Any) -> Iterator[tuple[int, int]]:
    """Run `target(report, value)` in a process of its own; yields its pid and the port that it reports."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    child = spawn.Process(target=target, args=(there, value), daemon=True)
    child.start()
    try:
        if not here.poll(START_SECONDS) or child.pid is None:
            raise RuntimeError(f"{target.__name__} did not start")
        yield child.pid, here.recv()
    finally:
        child.terminate()
        child.join(10)
        if child.is_alive():
            child.kill()
            child.join()


def _serve(report: Any, protocol: Callable[[], asyncio.Protocol]) -> None:
    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
        server = await asyncio.get_running_loop().create_server(protocol, sock=listening)
        report.send(listening.getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


def _serve_provider(report: Any, latency: Any) -> None:
    _serve(report, lambda: Provider(latency))


def _serve_task_app(report: Any, rollouts: Any) -> None:
    models = Models()
    _serve(report, lambda: TaskApp(models, rollouts))


class Server(asyncio.Protocol):
    """One keep-alive connection without pipelining."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self.transport, self.parser = cast(asyncio.Transport, transport), httptools.HttpRequestParser(self)
        self.url, self.chunks = b"", list[bytes]()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url = url
        self.chunks.clear()

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)

    def answer(self, body: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(JSON_HEAD % len(body) + body)


class Provider(Server):
    """Gives every call the same completion, after the latency."""

    def __init__(self, latency: Any) -> None:
        self.latency = latency

    def on_message_complete(self) -> None:
        seconds = self.latency.value
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self.answer, REPLY)
        else:
            self.answer(REPLY)


class TaskApp(Server):
    """The SDK's dialect: asks its model once, and scores by the seed."""

    def __init__(self, models: "Models", rollouts: Any) -> None:
        self.models, self.rollouts = models, rollouts

    def on_message_complete(self) -> None:
        if self.url != b"/rollout":
            self.answer(b'{"healthy": true, "taskset": {"id": "benchmark"}}')
            return
        request = orjson.loads(b"".join(self.chunks))
        self.models.call(request["policy"]["config"]["inference_url"], request["env"]["seed"], self)

    def scored(self, seed: int, status: int) -> None:
        """The model has answered."""
        self.rollouts.value += 1
        if status == 200:
            details = {"output": "level 3", "feedback": "say more", "expected": f"level {seed % 10}"}
            self.answer(orjson.dumps({"reward_info": {"outcome_reward": seed * 37 % 101 / 100, "details": details}}))
        elif not self.transport.is_closing():
            self.transport.write(FAILED)


class Models:
    """Keep-alive connections to whatever model is called."""

    def __init__(self) -> None:
        self.idle: dict[str, deque[Connection]] = {}
        self._opening: set[asyncio.Task[None]] = set()

    def call(self, url: str, seed: int, asker: TaskApp) -> None:
        parts = urlsplit(url)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER.format(question=seed)}]
        body = orjson.dumps({"model": "policy", "messages": messages})
        head = f"POST {parts.path}/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        request = f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        idle = self.idle.setdefault(parts.netloc, deque())
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                connection.send(request, seed, asker)
                return
        task = asyncio.get_running_loop().create_task(self._open(parts.netloc, request, seed, asker))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, netloc: str, request: bytes, seed: int, asker: TaskApp) -> None:
        host, _, port = netloc.partition(":")
        idle = self.idle[netloc]
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(idle), host, int(port)
            )
        except OSError:
            asker.scored(seed, 503)
            return
        connection.send(request, seed, asker)


class Connection(asyncio.Protocol):
    """A connection to a model, in use or idle."""

    transport: asyncio.Transport

    def __init__(self, idle: "deque[Connection]") -> None:
        self.idle = idle
        self.asker: TaskApp | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.parser = cast(asyncio.Transport, transport), httptools.HttpResponseParser(self)

    def send(self, request: bytes, seed: int, asker: TaskApp) -> None:
        self.seed, self.asker = seed, asker
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        asker, self.asker = self.asker, None
        self.idle.append(self)
        if asker is not None:
            asker.scored(self.seed, self.parser.get_status_code())

    def connection_lost(self, _: Exception | None) -> None:
        asker, self.asker = self.asker, None
        if asker is not None:
            asker.scored(self.seed, 503)


# --- the bound -------------------------------------------------------------------------------------------------------


class Loop(asyncio.Protocol):
    """Asks for one rollout after the other, with the provider as the model."""

    transport: asyncio.Transport

    def __init__(self, up: Upstream, seed: int) -> None:
        config = {"inference_url": f"{up.provider_url}/v1"}
        body = orjson.dumps({"env": {"seed": seed}, "policy": {"config": config}})
        head = f"POST /rollout HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
        self.request = head.encode() + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.parser = cast(asyncio.Transport, transport), httptools.HttpResponseParser(self)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self.request)


async def bound(up: Upstream, concurrent: int, seconds: float) -> float:
    """Rollouts a second of task app and provider alone, asked from this process."""
    loop = asyncio.get_running_loop()
    host, _, port = urlsplit(up.task_app_url).netloc.partition(":")
    opened = []
    for seed in range(concurrent):
        transport, _ = await loop.create_connection(partial(Loop, up, seed), host, int(port))
        opened.append(transport)
    await asyncio.sleep(min(1.0, seconds / 2))
    before, started = up.rollouts, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (up.rollouts - before) / (time.perf_counter() - started)
    for transport in opened:
        transport.close()
    return rate
