"""A real Postgres for every test that asks for `database`: one server a session, one cloned database a test."""

import asyncio
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from hypothesis import settings

from promptjobs.db import embedded
from promptjobs.db.migrate import migrate
from promptjobs.db.models import Base
from promptjobs.db.session import Database

ROOT_VARIABLE = "PROMPTJOBS_TEST_ROOT"
TEMPLATE = "promptjobs_template"

settings.register_profile("suite", max_examples=50)
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    if ROOT_VARIABLE not in os.environ:
        root = tempfile.mkdtemp(prefix="promptjobs-test-")
        Path(root).chmod(0o711)  # the server's own user has to pass through when the tests run as root
        os.environ[ROOT_VARIABLE] = root
        config.stash[OWNED] = root


def pytest_unconfigure(config: pytest.Config) -> None:
    root = config.stash.get(OWNED, None)
    if root is not None:
        os.environ.pop(ROOT_VARIABLE, None)
        shutil.rmtree(root, ignore_errors=True)


OWNED = pytest.StashKey[str]()


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def url_of(server_url: str, name: str) -> str:
    return server_url.replace("/promptjobs?", f"/{name}?")


async def make_template(server_url: str) -> None:
    database = Database.open(server_url)
    connection = await database.connect()
    try:
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", TEMPLATE):
            return
        # The tests kill processes, never the machine: what the kernel holds is safe, and a test's database costs less.
        await connection.execute("ALTER SYSTEM SET fsync = off")
        await connection.execute("SELECT pg_reload_conf()")
        building = TEMPLATE + "_building"
        await connection.execute(f"DROP DATABASE IF EXISTS {building} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {building}")
        built = Database.open(url_of(server_url, building))
        await migrate(built)
        await built.close()
        await connection.execute(f"ALTER DATABASE {building} RENAME TO {TEMPLATE}")
    finally:
        await connection.close()
        await database.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of the session's embedded server, on which the template database exists."""
    root = Path(os.environ[ROOT_VARIABLE])
    with embedded.start(root / "postgres") as server:
        with one_at_a_time(root / "template.lock"):
            asyncio.run(make_template(server.url))
        yield server.url


async def clone(server_url: str) -> str:
    """URL of a new database with the current schema."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    home = Database.open(server_url)
    connection: asyncpg.Connection = await home.connect()
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    await connection.close()
    await home.close()
    return url_of(server_url, name)


async def emptied(url: str) -> None:
    """End what an earlier test has left connected, and delete its rows."""
    database = Database.open(url)
    connection: asyncpg.Connection = await database.connect()
    await connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for table in reversed(Base.metadata.sorted_tables):
        await connection.execute(f"DELETE FROM {table.name}")
    await connection.close()
    await database.close()


@pytest.fixture(scope="session")
def cloned_url(postgres: str) -> str:
    """One database for all tests of this process: a new one for each would take longer than most tests."""
    return asyncio.run(clone(postgres))


@pytest.fixture
async def database(cloned_url: str) -> AsyncIterator[Database]:
    """A database of one's own, empty and with the current schema."""
    await emptied(cloned_url)
    database = Database.open(cloned_url)
    yield database
    await database.close()
