"""What benchmarks share: a database of their own, the machine in one line, CPU and memory readings, tables and JSON."""

import asyncio
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from promptjobs.db import embedded
from promptjobs.db.migrate import migrate
from promptjobs.db.session import Database

# --- the machine -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Machine:
    """What figures were measured on. memory_gib: all of it; postgres: the server's version, if one was used."""

    cpu: str
    cores: int
    memory_gib: float
    python: str
    postgres: str | None = None

    def __str__(self) -> str:
        text = f"{self.cpu}, {self.cores} cores, {self.memory_gib:g} GiB, Python {self.python}"
        return f"{text}, PostgreSQL {self.postgres}" if self.postgres else text


def machine(postgres: str | None = None) -> Machine:
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return Machine(_cpu_model(), os.cpu_count() or 1, memory, platform.python_version(), postgres)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


# --- a database ------------------------------------------------------------------------------------------------------


@contextmanager
def postgres_server() -> Iterator[embedded.EmbeddedPostgres]:
    """An embedded server in a temporary directory, with the settings that the service gives it; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="promptjobs-benchmark-") as directory:
        Path(directory).chmod(0o711)  # the server's own user has to pass through when this runs as root
        with embedded.start(Path(directory) / "data") as server:
            yield server


@asynccontextmanager
async def schema(url: str) -> AsyncIterator[Database]:
    """The database at `url`, brought to the current schema."""
    database = Database.open(url)
    try:
        await migrate(database)
        yield database
    finally:
        await database.close()


async def postgres_version(database: Database) -> str:
    connection = await database.connect()
    try:
        return str(await connection.fetchval("SHOW server_version")).split()[0]
    finally:
        await connection.close()


def postgres_pids(data_dir: Path) -> list[int]:
    """The processes of the embedded server in `data_dir`, the server itself first."""
    pid = int((data_dir / "cluster" / "postmaster.pid").read_text().split()[0])
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


# --- readings --------------------------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class PostgresCpu:
    """The CPU time of a server's processes from here on, also of connections that are opened and closed meanwhile."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._pids = set(postgres_pids(data_dir))
        self._before = self._sum()

    async def seconds(self) -> float:
        """User and system time. Waits for new processes to end, at most a second: only then are they all counted."""
        for _ in range(100):
            if set(postgres_pids(self._data_dir)) <= self._pids:
                break
            await asyncio.sleep(0.01)
        return self._sum() - self._before

    def _sum(self) -> float:
        total = 0.0
        for at, pid in enumerate(postgres_pids(self._data_dir)):
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + (0.0 if at else times.children_user + times.children_system)
        return total


def rss_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def fdatasyncs_per_second(directory: Path, seconds: float = 1.0, block_bytes: int = 8192) -> float:
    """How often a small overwrite can be made durable, one after the other, on the file system of `directory`."""
    path = directory / "fdatasync.probe"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(fd, b"\0" * block_bytes * 64, 0)
        os.fsync(fd)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            os.pwrite(fd, count.to_bytes(8) * (block_bytes // 8), block_bytes * (count % 64))
            os.fdatasync(fd)
            count += 1
        return count / (time.perf_counter() - started)
    finally:
        os.close(fd)
        path.unlink()


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share q of `values` lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))]


# --- what is printed -------------------------------------------------------------------------------------------------


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """The first column is text, the others are numbers or None."""
    shown = [[str(row[0]), *("-" if cell is None else _number(cell) for cell in row[1:])] for row in rows]
    widths = [max(len(line[at]) for line in [list(columns), *shown]) for at in range(len(columns))]
    for line in [list(columns), *shown]:
        first, *rest = (
            cell.ljust(w) if at == 0 else cell.rjust(w) for at, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *rest]).rstrip())


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"


def print_json(benchmark: str, on: Machine, figures: Mapping[str, Any]) -> None:
    """One line that another program may keep."""
    print(json.dumps({"benchmark": benchmark, "machine": asdict(on), "figures": figures}))
