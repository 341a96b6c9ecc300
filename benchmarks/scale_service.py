"""The service's processes as an operator starts them, ended by their id, and what each of them uses."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from common import postgres_pids

SERVE = ("serve", "--port", "0", "--json")
WORK = ("worker", "--json")
START_SECONDS = 60.0
END_SECONDS = 20.0
KEPT_VARIABLES = ("HOME", "LANG", "PATH", "PYTHONPATH", "TMPDIR", "XDG_CACHE_HOME")
"""Settings and keys of whoever runs this must not reach the service."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running service or worker. said: its first line."""

    pid: int
    said: Mapping[str, str]

    @property
    def url(self) -> str:
        return self.said["url"]

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)


class Processes:
    """Starts processes that share settings. variables: PROMPTJOBS_<NAME>."""

    def __init__(self, stack: ExitStack, folder: Path, variables: Mapping[str, object]) -> None:
        self._stack, self._folder, self._variables = stack, folder, variables
        self._count = 0

    def serve(self, *options: str, **more: object) -> Process:
        return self._start((*SERVE, *options), more)

    def work(self, **more: object) -> Process:
        return self._start(WORK, more)

    def _start(self, command: tuple[str, ...], more: Mapping[str, object]) -> Process:
        self._count += 1
        log = self._folder / f"process-{self._count}.log"
        return self._stack.enter_context(_running(command, {**self._variables, **more}, log))


@contextmanager
def processes(database_url: str, **variables: object) -> Iterator[Processes]:
    with tempfile.TemporaryDirectory(prefix="promptjobs-benchmark-") as folder, ExitStack() as stack:
        given = {"database_url": database_url, "log_level": "warning", **variables}
        yield Processes(stack, Path(folder), given)


@contextmanager
def _running(command: tuple[str, ...], variables: Mapping[str, object], log: Path) -> Iterator[Process]:
    """A process that has said that it is ready; ended by SIGTERM, else by SIGKILL. Raises RuntimeError."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    given = {f"PROMPTJOBS_{name.upper()}": str(value) for name, value in variables.items()}
    with log.open("wb") as errors:
        popen = subprocess.Popen(
            (sys.executable, "-m", "promptjobs", *command),
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env=kept | given,
        )
    try:
        assert popen.stdout is not None
        readable, _, _ = select.select([popen.stdout], [], [], START_SECONDS)
        line = popen.stdout.readline() if readable else b""
        if not line:
            raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-3000:]}")
        yield Process(popen.pid, json.loads(line))
    except BaseException:
        print(f"{command[0]} (pid {popen.pid}) said:\n{log.read_text()[-2000:]}", file=sys.stderr)
        raise
    finally:
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait(END_SECONDS)
        if popen.stdout is not None:
            popen.stdout.close()


# --- what they use ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Usage:
    """CPU seconds from here on: of named processes, and of all of a PostgreSQL server's.

    A server's process that ended meanwhile counts as long as it was seen: call `look` now and then.
    """

    named: Mapping[str, int]
    postgres: Path
    _before: dict[int, float] = field(default_factory=dict)
    _latest: dict[int, float] = field(default_factory=dict)
    _started: float = 0.0

    def __post_init__(self) -> None:
        self.look()
        self._before = dict(self._latest)
        self._started = time.perf_counter()

    def look(self) -> None:
        for pid in (*self.named.values(), *postgres_pids(self.postgres)):
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            self._latest[pid] = times.user + times.system

    def seconds(self) -> dict[str, float]:
        """By name; `postgres` is the sum over its processes."""
        self.look()
        spent = {pid: seconds - self._before.get(pid, 0.0) for pid, seconds in self._latest.items()}
        found = {name: spent.pop(pid) for name, pid in self.named.items()}
        return {**found, "postgres": sum(spent.values())}

    def cores(self) -> dict[str, float]:
        """Cores that each kept busy on average; 1 is a whole one."""
        lasted = time.perf_counter() - self._started
        return {name: seconds / lasted for name, seconds in self.seconds().items()}
