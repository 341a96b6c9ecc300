"""The service as processes of its own, the way an operator starts it: ports picked by the system, ended by their id."""

import asyncio
import base64
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from promptjobs.db import embedded

SERVE = (sys.executable, "-m", "promptjobs", "serve", "--port", "0", "--json")
WORK = (sys.executable, "-m", "promptjobs", "worker", "--json")
SECRET_KEY = base64.b64encode(bytes(range(32))).decode()
START_SECONDS = 40.0
END_SECONDS = 20.0
KEPT_VARIABLES = ("HOME", "LANG", "PATH", "PYTHONPATH", "TMPDIR", "XDG_CACHE_HOME")
"""Of the environment of the tests; settings and keys of whoever runs them must not reach the service."""


@dataclass(frozen=True)
class Ports:
    """Addresses that are known before anything serves on them, so that a service can be told to allow them.

    Nothing ever listens on `closed`: a connection is refused.
    """

    task_app: socket.socket
    model: socket.socket
    closed: socket.socket

    @property
    def task_app_url(self) -> str:
        return _url(self.task_app)

    @property
    def model_url(self) -> str:
        return _url(self.model)

    @property
    def closed_url(self) -> str:
        return _url(self.closed)

    @property
    def allowed(self) -> str:
        """The value of PROMPTJOBS_ALLOWED_TARGETS."""
        return ",".join(url.removeprefix("http://") for url in (self.task_app_url, self.model_url, self.closed_url))


def _url(bound: socket.socket) -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def reserved_ports() -> Iterator[Ports]:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=512) as task_app,
        socket.create_server(("127.0.0.1", 0), backlog=512) as model,
        socket.socket() as closed,
    ):
        closed.bind(("127.0.0.1", 0))
        yield Ports(task_app, model, closed)


@asynccontextmanager
async def serving_on(app: web.Application, listening: socket.socket) -> AsyncIterator[None]:
    """Serve `app` on a socket that outlives it."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, listening.dup()).start()
        yield
    finally:
        await runner.cleanup()


def settings(database_url: str, ports: Ports, **more: object) -> dict[str, str]:
    """Variables of a service on `database_url` whose only provider is `toy`. more: PROMPTJOBS_<NAME>."""
    given = {
        "database_url": database_url,
        "allowed_targets": ports.allowed,
        "provider_toy_base_url": f"{ports.model_url}/v1",
        "outage_seconds": 1,
        "secret_key": SECRET_KEY,
        **more,
    }
    return {f"PROMPTJOBS_{name.upper()}": str(value) for name, value in given.items()}


@dataclass
class Process:
    """A running service or worker. said: its first line. log: what it has written to its standard error."""

    popen: "subprocess.Popen[bytes]"
    said: Mapping[str, str]
    log: Path

    @property
    def url(self) -> str:
        return self.said["url"]

    def kill(self) -> None:
        """SIGKILL: nothing is handed over. Killing what has ended is no error."""
        self.popen.kill()
        self.popen.wait(END_SECONDS)

    async def terminate(self) -> None:
        """SIGTERM, and wait for the end."""
        self.popen.send_signal(signal.SIGTERM)
        await self.ended_well()

    async def ended_well(self) -> None:
        """Wait for a process that was told to end, and demand that it says so."""
        status = await asyncio.to_thread(self.popen.wait, END_SECONDS)
        assert status == 0, f"status {status}:\n{self.log.read_text()[-4000:]}"


def launch(command: tuple[str, ...], variables: Mapping[str, str], log: Path) -> Process:
    """Start a process and wait until it says that it is ready."""
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | dict(variables)
    with log.open("ab") as errors:
        popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, env=environment
        )
    try:
        assert popen.stdout is not None
        readable, _, _ = select.select([popen.stdout], [], [], START_SECONDS)
        line = popen.stdout.readline() if readable else b""
        assert line, f"the process did not start:\n{log.read_text()[-4000:]}"
        return Process(popen, json.loads(line), log)
    except BaseException:
        end(popen)
        raise


@dataclass(frozen=True)
class KillablePostgres:
    """A server of one's own. Its processes die with the postmaster, whatever they are doing."""

    data_dir: Path
    url: str

    def kill(self) -> None:
        pid = (self.data_dir / "cluster" / "postmaster.pid").read_text().split()[0]
        os.kill(int(pid), signal.SIGKILL)

    def start(self) -> None:
        """Return when it answers again. Whoever opened it still uses it, so it lives on."""
        embedded.start(self.data_dir).stop()


@contextmanager
def killable_postgres() -> Iterator[KillablePostgres]:
    """Until the end, in a temporary folder. A service whose data_dir is its parent takes it for its embedded server."""
    with tempfile.TemporaryDirectory(prefix="promptjobs-postgres-") as folder:
        Path(folder).chmod(0o711)  # the server's own user has to pass through when the tests run as root
        with embedded.start(Path(folder) / "postgres") as user:
            yield KillablePostgres(user.server.data_dir, user.url)


def end(popen: "subprocess.Popen[bytes]") -> None:
    popen.kill()
    popen.wait(END_SECONDS)
    if popen.stdout is not None:
        popen.stdout.close()


class Processes:
    """Starts processes that share a database, and ends all of them."""

    def __init__(self, variables: Mapping[str, str], folder: Path) -> None:
        self._variables, self._folder = variables, folder
        self._started: list[Process] = []

    async def serve(self, *options: str, **more: object) -> Process:
        return await self.start((*SERVE, *options), **more)

    async def work(self, **more: object) -> Process:
        return await self.start(WORK, **more)

    async def start(self, command: tuple[str, ...], **more: object) -> Process:
        variables = {**self._variables, **{f"PROMPTJOBS_{name.upper()}": str(value) for name, value in more.items()}}
        log = self._folder / f"process-{len(self._started)}.log"
        process = await asyncio.to_thread(launch, command, variables, log)
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in self._started:
            end(process.popen)
