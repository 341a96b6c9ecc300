"""The processes of a soak: replicas and workers on one Postgres, each ended, frozen and started again by its id."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.service import KEPT_VARIABLES, KillablePostgres

START_SECONDS = 60.0
END_SECONDS = 20.0
STARTS = 20
"""How often a process is started that gives up because there is no database yet."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Member:
    """A replica or a worker, dead or alive. is_busy: somebody is about to kill, freeze or start it."""

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str]
    log: Path
    process: Process | None = None
    is_busy: bool = False
    starts: int = 0

    async def start(self) -> None:
        """Return when it is ready. Without a database it ends at once, so it is started again."""
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | dict(self.variables)
        for _ in range(STARTS):
            with self.log.open("ab") as errors:
                self.process = await asyncio.create_subprocess_exec(
                    *self.command, stdout=PIPE, stderr=errors, stdin=DEVNULL, env=environment, start_new_session=True
                )
            assert self.process.stdout is not None
            async with asyncio.timeout(START_SECONDS):
                line = await self.process.stdout.readline()
            if line:
                json.loads(line)
                self.starts += 1
                return
            await self.process.wait()
            await asyncio.sleep(0.5)
        raise RuntimeError(f"{self.name} does not start:\n{self.log.read_text()[-3000:]}")

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.process is not None:
            await self.process.wait()

    async def terminate(self) -> int | None:
        """Its exit status after SIGTERM; None where it did not end, and was killed."""
        self.signal(signal.SIGTERM)
        assert self.process is not None
        try:
            async with asyncio.timeout(END_SECONDS):
                return await self.process.wait()
        except TimeoutError:
            await self.kill()
            return None

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Fleet:
    """Replicas listen on ports that stay theirs; each worker names one of them to task apps."""

    def __init__(
        self, postgres: KillablePostgres, variables: Mapping[str, str], folder: Path, replicas: int, workers: int
    ) -> None:
        self.postgres = postgres
        self._postgres_lock = asyncio.Lock()
        ports = [free_port() for _ in range(replicas)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        promptjobs = (sys.executable, "-m", "promptjobs")
        self.replicas = [
            Member(
                f"replica {n}",
                (*promptjobs, "serve", "--no-worker", "--json", "--port", str(port)),
                variables,
                folder / f"replica-{n}.log",
            )
            for n, port in enumerate(ports)
        ]
        self.workers = [
            Member(
                f"worker {n}",
                (*promptjobs, "worker", "--json"),
                {**variables, "PROMPTJOBS_PUBLIC_URL": self.urls[n % replicas]},
                folder / f"worker-{n}.log",
            )
            for n in range(workers)
        ]

    @property
    def members(self) -> list[Member]:
        return [*self.replicas, *self.workers]

    async def start(self) -> None:
        await asyncio.gather(*(member.start() for member in self.members))

    async def kill_postgres(self, down_seconds: float) -> None:
        async with self._postgres_lock:
            self.postgres.kill()
            await asyncio.sleep(down_seconds)
            await asyncio.to_thread(self.postgres.start)

    async def heal(self) -> None:
        """Everything runs again."""
        await asyncio.to_thread(self.postgres.start)
        for member in self.members:
            member.signal(signal.SIGCONT)
        await asyncio.gather(*(member.start() for member in self.members if not member.is_alive))

    async def end(self) -> None:
        """Kill what is left, frozen or not."""
        for member in self.members:
            await member.kill()
