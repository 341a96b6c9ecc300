"""Fixtures of the acceptance tests: one shared service for tests that leave it alone, processes for the others."""

import asyncio
import os
import pickle
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from promptjobs.db.session import Database
from tests.acceptance.client import Api
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import FaultyModel
from tests.acceptance.finished_job import Finished, observe
from tests.acceptance.runs import Found, undisturbed_run
from tests.acceptance.service import SERVE, Ports, Process, Processes, end, launch, reserved_ports, serving_on, settings
from tests.conftest import ROOT_VARIABLE, TEMPLATE, one_at_a_time, url_of

TIMEOUT_SECONDS = 3
"""Of a rollout in the shared service."""

PROVIDER_KEY = "sk-provider-secret-5f1c"


@contextmanager
def cloned(server_url: str) -> Iterator[str]:
    """URL of a new database with the current schema, which is dropped at the end."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    asyncio.run(_execute(server_url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
    try:
        yield url_of(server_url, name)
    finally:
        asyncio.run(_execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(server_url: str, statement: str) -> None:
    database = Database.open(server_url)
    connection = await database.connect()
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
        await database.close()


@pytest.fixture(scope="session")
def ports() -> Iterator[Ports]:
    with reserved_ports() as ports:
        yield ports


@pytest.fixture(scope="session")
def shared_database(postgres: str) -> Iterator[str]:
    with cloned(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def shared_service(shared_database: str, ports: Ports, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A service that many tests use one after the other. Its provider is `toy`, its key PROVIDER_KEY."""
    variables = settings(
        shared_database,
        ports,
        rollout_timeout_seconds=TIMEOUT_SECONDS,
        provider_toy_api_key=PROVIDER_KEY,
        log_level="debug",
    )
    process = launch(SERVE, variables, tmp_path_factory.mktemp("service") / "service.log")
    try:
        yield process
    finally:
        end(process.popen)


@pytest.fixture(scope="session")
def finished(request: pytest.FixtureRequest) -> Finished:
    """A job with the demo's task app and models that has ended, and all that was seen of it.

    One for all processes of a test run: whoever comes first runs it.
    """
    root = Path(os.environ[ROOT_VARIABLE])
    seen = root / "finished.pickle"
    with one_at_a_time(root / "finished.lock"):
        if not seen.exists():
            url: str = request.getfixturevalue("shared_service").url
            found = asyncio.run(
                observe(url, request.getfixturevalue("shared_database"), request.getfixturevalue("ports"))
            )
            seen.write_bytes(pickle.dumps(found))
        whole: Finished = pickle.loads(seen.read_bytes())  # noqa: S301 - it is our own
    return whole


@pytest.fixture(scope="session")
def undisturbed(shared_service: Process, ports: Ports) -> Found:
    """What the small job finds in fixed order when nothing happens to it."""
    return asyncio.run(undisturbed_run(shared_service.url, ports))


@pytest.fixture
async def api(shared_service: Process) -> AsyncIterator[Api]:
    async with Api.at(shared_service.url) as api:
        yield api
        await api.leave_nothing_running()


@pytest.fixture
async def stored(shared_database: str) -> AsyncIterator[Database]:
    """The shared service's database."""
    database = Database.open(shared_database)
    yield database
    await database.close()


@pytest.fixture
async def model(ports: Ports) -> AsyncIterator[FaultyModel]:
    """The provider that every service of these tests calls."""
    model = FaultyModel()
    async with serving_on(model.app(), ports.model):
        yield model


@pytest.fixture
async def task_app(ports: Ports, model: FaultyModel) -> AsyncIterator[Callable[..., object]]:
    """Serves a FaultyApp: `app = await task_app(talk=…)`, at most one in a test."""
    async with AsyncExitStack() as stack:

        async def start(**options: object) -> FaultyApp:
            app = FaultyApp(**options)  # type: ignore[arg-type]
            await stack.enter_async_context(serving_on(app.app(), ports.task_app))
            return app

        yield start


@pytest.fixture
async def processes(database: Database, ports: Ports, tmp_path: Path) -> AsyncIterator[Processes]:
    """Processes on the test's own `database`, with a lease so short that a restart takes over soon."""
    started = Processes(settings(database.url, ports, lease_seconds=2), tmp_path)
    try:
        yield started
    finally:
        started.end()
