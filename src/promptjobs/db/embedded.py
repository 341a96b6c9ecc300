"""Supervise an embedded PostgreSQL: start it, attach to it, stop it with its last user.

The processes that share a data directory agree through three `flock` locks, which the kernel frees on kill -9:

* `start.lock`, exclusive: one process at a time starts or stops the server.
* `users.lock`, shared for as long as a user lives: the last user is the one who can make it exclusive.
* `server.lock`, exclusive, inherited by every process of the server: free exactly when none of them lives.

So no pid file is ever believed. A server whose only user was killed keeps running; the next start attaches to it.
A data directory belongs to one host, because `flock` and unix sockets do.
"""

import asyncio
import fcntl
import hashlib
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self
from urllib.parse import quote

import asyncpg

from promptjobs.db import embedded_cluster as cluster
from promptjobs.errors import EmbeddedPostgresFailed

START_SECONDS = 30.0
STOP_SECONDS = 30.0
_POLL_SECONDS = 0.02
_PROBE_SECONDS = 2.0
_PORT = 5432
# Of macOS, with the final NUL; Linux has 108.
_SOCKET_PATH_BYTES = 104


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """Where a server lives: fixed by the data directory alone, so every process finds the same one."""

    data_dir: Path
    socket_dir: Path
    url: str

    @classmethod
    def of(cls, data_dir: Path) -> Self:
        data_dir = data_dir.resolve()
        socket_dir = _socket_dir(data_dir)
        # The port is spelled out, or a PGPORT in the client's environment would be used.
        query = f"host={quote(str(socket_dir))}&port={_PORT}"
        url = f"postgresql+asyncpg://{cluster.ROLE}@/{cluster.DATABASE}?{query}"
        return cls(data_dir, socket_dir, url)


class EmbeddedPostgres:
    """One user of an embedded server, made by `start`; the server lives at least until its `stop`."""

    def __init__(self, server: EmbeddedServer, users_fd: int) -> None:
        self.server = server
        self._users_fd: int | None = users_fd
        self._stopping = threading.Lock()

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def socket_dir(self) -> Path:
        return self.server.socket_dir

    def stop(self) -> None:
        """Release this user, and stop the server (fast shutdown) if it was the last one. Blocking; idempotent.

        Raises EmbeddedPostgresFailed when the server does not end within 30 s.
        """
        with self._stopping:
            users_fd, self._users_fd = self._users_fd, None
        if users_fd is None:
            return
        try:
            with _critical_section(self.server.data_dir, time.monotonic() + STOP_SECONDS):
                if _try_lock(users_fd, fcntl.LOCK_EX):
                    _stop_server(self.server)
        except OSError as exc:
            raise EmbeddedPostgresFailed(f"cannot stop the database in {self.server.data_dir}: {exc}") from exc
        finally:
            os.close(users_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(data_dir: Path, *, timeout_seconds: float = START_SECONDS) -> EmbeddedPostgres:
    """Become a user of the server in `data_dir`: attach if it runs, start it if not, create it if it is new.

    Blocking, and it runs its own event loop: call it with `asyncio.to_thread` from async code. As root the server runs
    as `postgres` or `nobody`, who must be able to traverse the parents of `data_dir`.
    Raises EmbeddedPostgresFailed, with the tail of the server's log, when no server answers within `timeout_seconds`;
    a server that is still recovering then goes on, and a later start attaches to it.
    """
    deadline = time.monotonic() + timeout_seconds
    try:
        server = EmbeddedServer.of(data_dir)
        cluster.make_data_dir(server.data_dir)
        with _critical_section(server.data_dir, deadline):
            users_fd = _open_lock(server.data_dir / "users.lock")
            try:
                _lock(users_fd, fcntl.LOCK_SH, deadline, "users.lock is held by a process that is stopping the server")
                _ensure_running(server, deadline)
            except BaseException:
                os.close(users_fd)
                raise
    except OSError as exc:
        raise EmbeddedPostgresFailed(f"cannot use {data_dir} for the embedded database: {exc}") from exc
    except asyncpg.PostgresError as exc:
        raise EmbeddedPostgresFailed(f"the database in {data_dir} refuses connections: {exc}") from exc
    return EmbeddedPostgres(server, users_fd)


def _socket_dir(data_dir: Path) -> Path:
    """Inside the data directory, unless that path is too long or has characters with a meaning in a list or URL.

    The other place is /tmp and not the environment's, where two processes could look in different directories.
    """
    inside = data_dir / "run"
    longest = os.fsencode(inside / f".s.PGSQL.{_PORT}")
    if len(longest) < _SOCKET_PATH_BYTES and re.fullmatch(rb"[A-Za-z0-9/._-]+", longest):
        return inside
    return Path("/tmp") / f"promptjobs-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"  # noqa: S108


def _ensure_running(server: EmbeddedServer, deadline: float) -> None:
    """Return once the server answers and has its database; called inside the critical section."""
    identity = cluster.server_identity(server.data_dir)
    cluster.make_socket_dir(server.socket_dir, identity)
    log_start: int | None = None
    while time.monotonic() < deadline:
        match asyncio.run(_probe(server, deadline)):
            case _Answer.READY:
                return
            case _Answer.NO_DATABASE:
                asyncio.run(_create_database(server))
                continue
            case _Answer.BUSY:
                pass
            case _Answer.SILENT:
                lock_fd = _open_lock(server.data_dir / "server.lock")
                try:
                    if _try_lock(lock_fd, fcntl.LOCK_EX):
                        if log_start is not None:
                            log = cluster.log_tail(server.data_dir, log_start)
                            raise EmbeddedPostgresFailed("the embedded database ended while it was starting", log)
                        log_start = cluster.launch(server.data_dir, server.socket_dir, identity, lock_fd, deadline)
                finally:
                    os.close(lock_fd)
        time.sleep(_POLL_SECONDS)
    log = cluster.log_tail(server.data_dir, log_start or 0)
    raise EmbeddedPostgresFailed(f"no database answered at {server.socket_dir} in time", log)


class _Answer(StrEnum):
    READY = "ready"
    NO_DATABASE = "no_database"
    BUSY = "busy"
    SILENT = "silent"


async def _probe(server: EmbeddedServer, deadline: float) -> _Answer:
    """Log in once; only a session that was really opened counts as a sign of life."""
    seconds = max(0.1, min(_PROBE_SECONDS, deadline - time.monotonic()))
    try:
        connection = await _connect(server, cluster.DATABASE, seconds)
        await connection.close(timeout=seconds)
    except asyncpg.InvalidCatalogNameError:
        return _Answer.NO_DATABASE
    except asyncpg.TooManyConnectionsError:
        return _Answer.READY
    except asyncpg.OperatorInterventionError:
        # It is starting, recovering or shutting down.
        return _Answer.BUSY
    except (OSError, asyncpg.PostgresConnectionError):
        return _Answer.SILENT
    return _Answer.READY


async def _connect(server: EmbeddedServer, database: str, seconds: float) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=str(server.socket_dir), port=_PORT, user=cluster.ROLE, database=database, timeout=seconds
    )


async def _create_database(server: EmbeddedServer) -> None:
    connection = await _connect(server, "postgres", _PROBE_SECONDS)
    try:
        await connection.execute(f'CREATE DATABASE "{cluster.DATABASE}"')
    finally:
        await connection.close()


def _stop_server(server: EmbeddedServer) -> None:
    """Ask for a fast shutdown, then for an immediate one, and wait until the last process of the server is gone."""
    pid = _postmaster_pid(server)
    if pid is None:
        return
    lock_fd = _open_lock(server.data_dir / "server.lock")
    try:
        for request, share in ((signal.SIGINT, 0.8), (signal.SIGQUIT, 0.2)):
            with suppress(ProcessLookupError):
                os.kill(pid, request)
            deadline = time.monotonic() + share * STOP_SECONDS
            while time.monotonic() < deadline:
                if _try_lock(lock_fd, fcntl.LOCK_EX):
                    return
                time.sleep(_POLL_SECONDS)
        raise EmbeddedPostgresFailed(f"the embedded database (pid {pid}) did not end within {STOP_SECONDS:g} s")
    finally:
        os.close(lock_fd)


def _postmaster_pid(server: EmbeddedServer) -> int | None:
    """The process that listens on the socket, None if nobody does."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_PROBE_SECONDS)
        try:
            client.connect(str(server.socket_dir / f".s.PGSQL.{_PORT}"))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        if sys.platform == "linux":
            # The kernel's word on who called listen().
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid = struct.unpack("3i", credentials)[0]
        else:
            pid = cluster.recorded_pid(server.data_dir)
    if not pid:
        # 0 is a process of another pid namespace; signalling 0 would reach our own process group.
        raise EmbeddedPostgresFailed(f"the server on {server.socket_dir} cannot be signalled from here")
    return int(pid)


@contextmanager
def _critical_section(data_dir: Path, deadline: float) -> Iterator[None]:
    fd = _open_lock(data_dir / "start.lock")
    try:
        _lock(fd, fcntl.LOCK_EX, deadline, f"another process is starting or stopping the database in {data_dir}")
        yield
    finally:
        os.close(fd)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(fd: int, operation: int, deadline: float, holder: str) -> None:
    while not _try_lock(fd, operation):
        if time.monotonic() >= deadline:
            raise EmbeddedPostgresFailed(f"timed out: {holder}")
        time.sleep(_POLL_SECONDS)


def _try_lock(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
