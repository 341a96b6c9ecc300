"""/metrics over HTTP: what it says of the database, in which form, and that an outage does not silence it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import asyncpg
import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.api.prometheus import ENDED_SECONDS, LIVE_SECONDS, FleetReadings
from promptjobs.db import api_keys
from promptjobs.db.api_keys import Purpose
from promptjobs.db.jobs import JobStatus
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.telemetry.metrics import CALLS
from tests.fakes.interceptor_world import Clock
from tests.fakes.recorded_jobs import job_service
from tests.fakes.served import in_process

pytestmark = pytest.mark.slow

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(families: Iterator[Metric]) -> Samples:
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


async def scraped(client: httpx.AsyncClient) -> Samples:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    return samples_of(text_string_to_metric_families(answer.text))


def jobs_of(samples: Samples) -> dict[str, float]:
    return {dict(labels)["status"]: value for (name, labels), value in samples.items() if name == "promptjobs_jobs"}


def single(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


async def put_jobs(database: Database, **counts: int) -> None:
    """By status; those that are queued have been since ten minutes ago, the others since an hour ago."""
    async with writing(database) as connection:
        for status, count in counts.items():
            await connection.execute(
                text(
                    "INSERT INTO jobs(id, organisation, algorithm, status, config_sent, config, updated_at) "
                    "SELECT 'pl_' || md5(:status || n), 'org' || n % 3, 'gepa', :status, '{}', '{}', "
                    "clock_timestamp() - make_interval(mins => CASE :status WHEN 'queued' THEN 10 ELSE 60 END) "
                    "FROM generate_series(1, :count) n"
                ),
                {"status": status, "count": count},
            )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(database: Database, clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(database=database, service=job_service(database))
    app.api.state.fleet_readings = FleetReadings(database, clock)
    async with in_process(app, raises=False) as client:
        yield client


@asynccontextmanager
async def away(database: Database) -> AsyncIterator[None]:
    """No connection to the database survives, and none can be made, until the end of the block."""
    name = str(database.engine.url.database)
    dsn = database.engine.url.set(database="promptjobs", drivername="postgresql").render_as_string(False)
    home = await asyncpg.connect(dsn)
    try:
        await home.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await home.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await home.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await home.close()


async def test_jobs_of_all_organisations_are_counted_by_every_status(database: Database, client: httpx.AsyncClient):
    await put_jobs(database, queued=4, running=3, paused=1, succeeded=7, cancelled=2)
    found = await scraped(client)
    counts = {"queued": 4, "running": 3, "paused": 1, "succeeded": 7, "cancelled": 2, "pending": 0, "failed": 0}
    assert jobs_of(found) == counts
    assert set(counts) == {str(status) for status in JobStatus}
    assert 600 <= (single(found, "promptjobs_queue_age_seconds") or 0) < 660
    assert single(found, "promptjobs_database_up") == 1
    assert single(found, "promptjobs_build_info", version=version("promptjobs")) == 1


async def test_without_a_queue_its_age_is_zero(client: httpx.AsyncClient):
    assert single(await scraped(client), "promptjobs_queue_age_seconds") == 0


@pytest.mark.slow
async def test_database_is_asked_once_however_many_ask(database: Database, client: httpx.AsyncClient, clock: Clock):
    await put_jobs(database, queued=1, succeeded=1)
    await scraped(client)  # opens connections, and finds out that no key is needed
    statements: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        if "FROM jobs" in statement:
            statements.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        clock.seconds += LIVE_SECONDS
        await asyncio.gather(*(scraped(client) for _ in range(10)))
        assert len(statements) == 1  # the jobs that are over are counted less often
        clock.seconds += ENDED_SECONDS
        await asyncio.gather(*(scraped(client) for _ in range(10)))
        assert len(statements) == 3
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


async def test_outage_of_the_database_is_told_and_leaves_out_what_is_not_known(
    database: Database, client: httpx.AsyncClient, clock: Clock
):
    await put_jobs(database, succeeded=1)
    before = await scraped(client)
    async with away(database):
        clock.seconds += LIVE_SECONDS
        found = await scraped(client)
        assert single(found, "promptjobs_database_up") == 0
        assert jobs_of(found) == {}
        assert single(found, "promptjobs_queue_age_seconds") is None
        assert single(found, "promptjobs_sse_clients") == 0
    clock.seconds += LIVE_SECONDS
    assert jobs_of(await scraped(client)) == jobs_of(before)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
        "application/openmetrics-text; version=nonsense",
    ],
)
async def test_openmetrics_is_answered_where_it_is_asked_for(client: httpx.AsyncClient, accept: str):
    answer = await client.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.text.endswith("# EOF\n")
    found = samples_of(openmetrics.text_string_to_metric_families(answer.text))
    assert single(found, "promptjobs_database_up") == 1


@pytest.mark.slow
async def test_text_is_answered_to_everybody_else(client: httpx.AsyncClient):
    for accept in ("*/*", "text/plain;version=1.0.0;escaping=allow-utf-8", "\x00", "application/json"):
        answer = await client.get("/metrics", headers={"accept": accept})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.slow
async def test_only_a_key_that_was_made_for_them_opens_the_metrics(database: Database, client: httpx.AsyncClient):
    async with writing(database) as connection:
        _, api_key = await api_keys.create(connection, "acme", "")
        _, metrics_key = await api_keys.create(connection, "acme", "", Purpose.METRICS)
    statuses = {}
    for name, key in (("none", None), ("unknown", "pj_" + "x" * 43), ("api", api_key), ("metrics", metrics_key)):
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        statuses[name] = (await client.get("/metrics", headers=headers)).status_code
    assert statuses == {"none": 401, "unknown": 401, "api": 403, "metrics": 200}


async def test_requests_and_calls_are_there_without_ids(client: httpx.AsyncClient):
    job_id = "pl_" + "ab" * 16
    await client.get(f"{JOBS_PATH}/{job_id}")
    await client.get(f"{JOBS_PATH}/{job_id}")
    CALLS.count("policy", "openai", "a-model", "ok", 10, 2, 0, 0.5, 0.2)
    text = (await client.get("/metrics")).text
    found = samples_of(text_string_to_metric_families(text))
    labels = {"method": "GET", "route": f"{JOBS_PATH}/{{job_id}}", "status": "404"}
    assert (single(found, "promptjobs_http_requests_total", **labels) or 0) >= 2
    assert (single(found, "promptjobs_http_request_seconds_count", route=labels["route"]) or 0) >= 2
    model = {"category": "policy", "provider": "openai", "model": "a-model"}
    assert (single(found, "promptjobs_calls_total", **model, outcome="ok") or 0) >= 1
    assert job_id not in text
    for name in ("process_resident_memory_bytes", "python_gc_collections_total", "python_info"):
        assert any(series == name for series, _ in found)
    assert not any(series.endswith("_created") for series, _ in found)
