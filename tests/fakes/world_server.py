"""A world that outlives its runners: line JSON over a unix socket, and a log of every call from before its answer."""

import asyncio
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

SHORTEST_SECONDS, LONGEST_SECONDS = 0.001, 0.02


@dataclass(frozen=True, slots=True)
class Call:
    """checked_at: when the caller last looked at its lease, by the clock of leases."""

    job_id: str
    epoch: int
    pid: int
    key: bytes
    checked_at: float


def reply_to(key: bytes, kind: str) -> dict[str, Any]:
    """A pure function of the ask, so that runs can be compared."""
    number = int.from_bytes(hashlib.blake2b(key, digest_size=6).digest())
    if kind == "completion":
        return {"text": f"improved prompt {number:x}"}
    return {"score": round(number / 2**48, 6), "feedback": f"feedback {number:x}"}


@dataclass
class WorldServer:
    """on_call is told of each call when it is logged, and may end the caller."""

    path: Path
    calls: list[Call] = field(default_factory=list)
    on_call: Callable[[Call], None] | None = None
    latency: random.Random = field(default_factory=lambda: random.Random(0))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Session(self), str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def calls_by(self, pid: int) -> list[Call]:
        return [call for call in self.calls if call.pid == pid]

    def called(self, call: Call) -> None:
        self.calls.append(call)
        if self.on_call is not None:
            self.on_call(call)


class _Session(asyncio.Protocol):
    def __init__(self, server: WorldServer) -> None:
        self.server, self.rest = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            asked = json.loads(line)
            key = bytes.fromhex(asked["key"])
            self.server.called(Call(asked["job_id"], asked["epoch"], asked["pid"], key, asked["checked_at"]))
            reply = {"id": asked["id"], **reply_to(key, asked["kind"])}
            seconds = self.server.latency.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)
            asyncio.get_running_loop().call_later(seconds, self._send, json.dumps(reply).encode() + b"\n")

    def _send(self, reply: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(reply)
