"""No key and no token is shown, stored or logged."""

from typing import Any

import pytest

from promptjobs.db.models import Base
from promptjobs.db.session import Database
from tests.acceptance import faulty_app, faulty_model
from tests.acceptance.client import JOBS, ROOMY, Api, config
from tests.acceptance.conftest import PROVIDER_KEY
from tests.acceptance.faulty_app import FaultyApp, Visit
from tests.acceptance.faulty_model import POLICY, FaultyModel
from tests.acceptance.service import Process

KEY = "ek-task-app-secret-7c21"


async def all_text(database: Database) -> str:
    """Every row of every table as text."""
    connection = await database.connect()
    try:
        dumps = [
            await connection.fetchval(f"SELECT string_agg(t::text, chr(10)) FROM {table} t")
            for table in Base.metadata.tables
        ]
    finally:
        await connection.close()
    return "\n".join(dump for dump in dumps if dump)


async def everything_the_api_says(api: Api, job_id: str) -> str:
    one = f"{JOBS}/{job_id}"
    names = ("/config", "/events", "/events/stream", "/trials", "/rollouts", "/candidates", "/metrics")
    more = ("/learning-curve", "/snapshots", "/artifacts")
    said = [(await api.http.get(path)).text for path in (JOBS, one, *(one + name for name in (*names, *more)))]
    listed = await api.read(job_id, "/snapshots")
    said += [(await api.http.get(f"{one}/snapshots/{each['id']}")).text for each in listed]
    return "\n".join(said)


async def repeats_all_it_was_sent(app: FaultyApp, visit: Visit) -> Any:
    """As a debug page does: headers and body, keys and URL included."""
    page = f"headers {dict(visit.request.headers)} body {visit.body}"
    return faulty_app.web.Response(status=500, text=page)


@pytest.mark.slow
async def test_no_secret_is_shown_stored_or_logged(
    api: Api, task_app, ports, model: FaultyModel, stored: Database, shared_service: Process
):
    app: FaultyApp = await task_app(key=KEY)
    model.fail(POLICY, [faulty_model.repeats_its_key] * 2)
    body = config(ports.task_app_url, {**ROOMY, "task_app_api_key": KEY})
    job_id = await api.submit(
        {**body, "task_app_api_key": KEY},
        overrides={"task_app_api_key": KEY},
        metadata={"api_key": KEY, "note": "hello"},
        auto_start=False,
    )
    seed = (await api.read(job_id, "/config"))["resolved"]["gepa"]["front_seeds"][0]
    app.fail(seed, [repeats_all_it_was_sent] * 2)
    created = (await api.http.post(f"{JOBS}/{job_id}/start")).text
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert {visit.request.headers["X-API-Key"] for visit in app.visits} == {KEY}
    assert {asked.request.headers["Authorization"] for asked in model.asked} == {f"Bearer {PROVIDER_KEY}"}
    tokens = [visit.url.split("/v1/")[1].split("/")[0] for visit in app.visits]
    assert min(map(len, tokens)) >= 32
    dump = await all_text(stored)
    assert job_id in dump
    log = shared_service.log.read_text()
    for text in (created, await everything_the_api_says(api, job_id), dump, log):
        for secret in (KEY, PROVIDER_KEY, *tokens):
            assert secret not in text
            assert secret.encode().hex() not in text
        assert KEY[:9] not in text


async def test_the_task_app_key_is_sealed_and_forgotten_when_the_job_is_over(api: Api, ports, stored: Database):
    job_id = await api.submit(config(ports.closed_url, {"task_app_api_key": KEY}), auto_start=False)
    connection = await stored.connect()
    try:
        query = "SELECT task_app_key FROM jobs WHERE id = $1"
        stored_key = await connection.fetchval(query, job_id)
        assert stored_key.startswith("v1.")
        assert KEY not in stored_key
        await api.http.post(f"{JOBS}/{job_id}/start")
        await api.ended(job_id)
        assert await connection.fetchval(query, job_id) is None
    finally:
        await connection.close()
