"""Child processes that say on their first line of output where they can be reached."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from promptjobs.errors import ProcessFailed

START_SECONDS = 60.0
STOP_SECONDS = 40.0
"""The service stops its database last, which may take 30 seconds."""

LOG_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Child:
    """A running process, its output as a pipe, and what it writes to stderr."""

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    log: IO[bytes]

    def read_url(self, patience_seconds: float = START_SECONDS) -> str:
        """Wait for its first line, `{"url": …}`; it can be read once.

        Raises ProcessFailed when the process ends before, or says nothing in time.
        """
        line = self._first_line(patience_seconds)
        try:
            return str(json.loads(line)["url"])
        except (ValueError, KeyError, TypeError) as error:
            raise ProcessFailed(self.name, "did not say where it is", self.last_words()) from error

    def _first_line(self, patience_seconds: float) -> bytes:
        deadline = time.monotonic() + patience_seconds
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.output, selectors.EVENT_READ)
            while b"\n" not in said:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ProcessFailed(self.name, f"did not start within {patience_seconds:g} s", self.last_words())
                chunk = os.read(self.output.fileno(), 65536)
                if not chunk:
                    raise self.failure()
                said += chunk
        return said.partition(b"\n")[0]

    def failure(self) -> ProcessFailed:
        """The error for a process that is ending by itself: waits for its end."""
        code = self.process.wait()
        return ProcessFailed(self.name, f"ended with code {code}", self.last_words())

    def last_words(self) -> str:
        """The last line that it has written to stderr."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - LOG_BYTES))
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def stop(self, patience_seconds: float = STOP_SECONDS) -> None:
        """SIGTERM, and SIGKILL for a process that does not obey in time; returns when it is gone."""
        self.process.terminate()
        try:
            self.process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()


@contextmanager
def child(name: str, arguments: Sequence[str], environment: Mapping[str, str | None] | None = None) -> Iterator[Child]:
    """`python -m arguments…` for as long as the block lasts, however that ends.

    It leads a process group of its own: Ctrl-C on the terminal reaches only us, and we end our processes in order.
    environment: changes to our own, which the child inherits; None removes a variable.
    """
    changed = {**os.environ, **(environment or {})}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603 - only our own modules are run
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={key: value for key, value in changed.items() if value is not None},
            process_group=0,
        )
        if process.stdout is None:  # pragma: no cover - it was asked for above
            raise ProcessFailed(name, "has no output")
        started = Child(name, process, process.stdout, log)
        try:
            yield started
        finally:
            started.stop()
