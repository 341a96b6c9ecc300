"""Jobs with the keys that their organisation has left: who is called with which, and what happens without them."""

import asyncio
import base64

import pytest
from nacl.public import PublicKey, SealedBox

from promptjobs.db.session import Database
from tests.acceptance import faulty_model
from tests.acceptance.client import JOBS, Api, Json, config
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import POLICY, REFLECTOR, FaultyModel
from tests.acceptance.service import Processes
from tests.acceptance.test_secrets import all_text, everything_the_api_says

pytestmark = pytest.mark.slow

SERVERS, OWN, CHANGED = "sk-servers-key-0001", "sk-canary-own-7c215e", "sk-canary-changed-9d"
APPS, JOBS_OWN = "ek-canary-organisation-5b", "ek-canary-job-3f1"
KEY = "/api/provider-keys/toy"
KEY_A, KEY_B = (base64.b64encode(letter * 32).decode() for letter in (b"a", b"b"))


async def leave(api: Api, key: str) -> None:
    response = await api.http.put(KEY, json={"api_key": key})
    assert response.status_code == 200, response.text


async def leave_for_task_apps(api: Api, key: str) -> None:
    """As the existing client does it."""
    offered = (await api.http.get("/api/v1/crypto/public-key")).json()
    box = SealedBox(PublicKey(base64.b64decode(offered["public_key"]))).encrypt(key.encode())
    body = {"name": "ENVIRONMENT_API_KEY", "ciphertext_b64": base64.b64encode(box).decode()}
    response = await api.http.post("/api/v1/env-keys", json=body)
    assert response.status_code == 200, response.text


def keys_of(model: FaultyModel, name: str) -> set[str]:
    """The keys with which a model was asked."""
    return {
        asked.request.headers.get("Authorization", "").removeprefix("Bearer ")
        for asked in model.asked
        if asked.body["model"] == name
    }


async def test_every_call_of_a_job_is_made_with_the_organisations_keys_and_none_is_shown(
    processes: Processes, model: FaultyModel, task_app, ports, database: Database
):
    app: FaultyApp = await task_app(key=APPS)
    model.fail(POLICY, [faulty_model.repeats_its_key] * 2)
    model.fail(REFLECTOR, [faulty_model.repeats_its_key])
    service = await processes.serve(provider_toy_api_key=SERVERS, log_level="debug")
    async with Api.at(service.url) as api:
        await leave(api, OWN)
        await leave_for_task_apps(api, APPS)
        job_id = await api.submit(config(ports.task_app_url, {"use_byok": True}))
        job = await api.ended(job_id)
        assert job["status"] == "succeeded", job["error"]
        assert (keys_of(model, POLICY), keys_of(model, REFLECTOR)) == ({OWN}, {OWN})
        assert {visit.request.headers["X-API-Key"] for visit in app.visits} == {APPS}
        said = await everything_the_api_says(api, job_id)
    for text in (said, await all_text(database), service.log.read_text()):
        for secret in (OWN, APPS):
            assert secret not in text
            assert secret.encode().hex() not in text
            assert secret[:10] not in text


@pytest.mark.parametrize(
    ("use_byok", "left", "expected"),
    [(None, None, SERVERS), (None, OWN, OWN), (False, OWN, SERVERS)],
    ids=["without one the server's", "with one its own", "excluded"],
)
async def test_a_job_is_run_with_the_key_that_it_may_use(
    processes: Processes, model: FaultyModel, task_app, ports, use_byok: bool | None, left: str | None, expected: str
):
    await task_app()
    service = await processes.serve(provider_toy_api_key=SERVERS)
    async with Api.at(service.url) as api:
        if left is not None:
            await leave(api, left)
        job = await api.ended(await api.submit(config(ports.task_app_url, {"use_byok": use_byok})))
    assert job["status"] == "succeeded", job["error"]
    assert keys_of(model, POLICY) | keys_of(model, REFLECTOR) == {expected}


async def was_asked_with(model: FaultyModel, key: str) -> None:
    """Return as soon as the policy's model was asked with the key; it has to be asked again and again."""
    async with asyncio.timeout(30):
        while key not in keys_of(model, POLICY):
            await model.was_asked(POLICY, len(model.of(POLICY)) + 1)


async def test_a_changed_key_reaches_a_job_that_runs_and_without_one_it_ends_with_the_reason(
    processes: Processes, model: FaultyModel, task_app, ports
):
    await task_app()
    model.latency_seconds = 0.2
    service = await processes.serve(provider_toy_api_key=SERVERS)
    async with Api.at(service.url) as api:
        await leave(api, OWN)
        slow = {"gepa.rollout": {"budget": 90, "max_concurrent": 1, "minibatch_size": 4}, "use_byok": True}
        job_id = await api.submit(config(ports.task_app_url, slow))
        await was_asked_with(model, OWN)
        await leave(api, CHANGED)
        await was_asked_with(model, CHANGED)
        assert (await api.http.delete(KEY)).status_code == 204
        job = await api.ended(job_id)
    assert job["status"] == "failed"
    assert "use_byok is true" in job["error"]
    assert KEY in job["error"]
    assert SERVERS not in keys_of(model, POLICY) | keys_of(model, REFLECTOR)


@pytest.mark.parametrize("brings_key", [True, False], ids=["key of its task app", "provider's key"])
async def test_what_was_sealed_with_another_secret_key_fails_the_job_at_once_and_says_so(
    processes: Processes, model: FaultyModel, task_app, ports, database: Database, brings_key: bool
):
    app: FaultyApp = await task_app()
    before = await processes.serve(secret_key=KEY_A)
    own = {"task_app_api_key": JOBS_OWN, "use_byok": False} if brings_key else {}
    async with Api.at(before.url) as api:
        await leave(api, OWN)
        job_id = await api.submit(config(ports.task_app_url, own), auto_start=False)
    await before.terminate()
    service = await processes.serve(secret_key=KEY_B, provider_toy_api_key=SERVERS)
    async with Api.at(service.url) as api:
        await api.http.post(f"{JOBS}/{job_id}/start")
        job = await api.ended(job_id)
        assert (job["status"], model.asked, app.visits) == ("failed", [], [])
        assert "PROMPTJOBS_SECRET_KEY" in job["error"]
        refused = await api.create(config(ports.task_app_url))
        assert (refused.status_code, refused.json()["code"]) == (500, "secret_unreadable")
        await leave(api, CHANGED)
        assert (await api.create(config(ports.task_app_url), auto_start=False)).status_code == 200
    connection = await database.connect()
    try:
        assert await connection.fetchval("SELECT attempts FROM jobs WHERE id = $1", job_id) == 1
    finally:
        await connection.close()


async def test_the_key_of_a_task_app_is_the_jobs_else_the_organisations_one(
    processes: Processes, model: FaultyModel, task_app, ports
):
    app: FaultyApp = await task_app()
    service = await processes.serve()
    async with Api.at(service.url) as api:

        async def sent(changes: Json) -> set[str | None]:
            app.visits.clear()
            job_id = await api.submit(config(ports.task_app_url, changes))
            await app.visited(4)
            await api.cancel(job_id)
            await api.ended(job_id)
            return {visit.request.headers.get("X-API-Key") for visit in app.visits}

        assert await sent({}) == {None}
        await leave_for_task_apps(api, APPS)
        assert await sent({}) == {APPS}
        assert await sent({"task_app_api_key": "${ENVIRONMENT_API_KEY}"}) == {APPS}
        assert await sent({"task_app_api_key": JOBS_OWN}) == {JOBS_OWN}
