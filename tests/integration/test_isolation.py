"""Every route that the API describes: nobody finds what is another organisation's, and strangers find nothing."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from promptjobs.api.app import EXPERIMENTS_PATH, JOBS_PATH, ROOT_PATH, create_app
from promptjobs.api.auth import Access
from promptjobs.api.rate_limits import RateLimits
from promptjobs.db import api_keys
from promptjobs.db.api_keys import Purpose
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from tests.fakes.recorded_jobs import job_service, post_body, publish, searched_job

OPEN = {"/healthz", "/readyz"}
FOR_METRICS = {"/metrics"}
WITHOUT_OWNER = {"/api/v1/crypto/public-key"}
"""The same for everybody."""

OWN_NAMES = {"name", "provider"}
"""Everybody has names of their own: what another one has called so plays no part."""

NAMES = re.compile(r"\{(\w+)\}")
NOBODYS = {
    "job_id": "pl_" + "0" * 32,
    "snapshot_id": "snap_nobody",
    "candidate_id": "c_nobody",
    "rollout_id": "0" * 32,
    "n": "999",
    "name": "nobody",
    "webhook_id": "wh_" + "0" * 32,
    "delivery_id": "msg_" + "0" * 32,
    "experiment_id": "exp_" + "0" * 32,
    "plot": "nobody",
}

Json = dict[str, Any]


@dataclass(frozen=True)
class Peers:
    """Two organisations and their keys. ids: what belongs to the first, by the names of path parameters."""

    http: httpx.AsyncClient
    ours: Mapping[str, str]
    theirs: Mapping[str, str]
    ids: Mapping[str, str]
    operations: tuple[tuple[str, str, Json], ...]

    async def ask(self, method: str, path: str, operation: Json, ids: Mapping[str, str], key: Mapping[str, str]) -> Any:
        filled = NAMES.sub(lambda found: ids.get(found[1], NOBODYS.get(found[1], "x")), path)
        body = _example(operation) if operation.get("requestBody", {}).get("required") else None
        return await self.http.request(method.upper(), filled, headers=dict(key), json=body)


def _example(operation: Json) -> Any:
    content = operation["requestBody"]["content"]["application/json"]
    schema = content["schema"]
    if "example" in content:
        return content["example"]
    if "examples" in content:
        return next(iter(content["examples"].values()))["value"]
    return schema["examples"][0] if "examples" in schema else {}


@pytest.fixture
async def peers(database: Database) -> AsyncIterator[Peers]:
    access = Access(database, RateLimits(1000.0, 10), is_open_without_keys=False)
    app = create_app(database=database, service=job_service(database), access=access)
    async with writing(database) as connection:
        _, ours = await api_keys.create(connection, "default", "")
        _, theirs = await api_keys.create(connection, "theirs", "")
    job = await searched_job(database)
    snapshot_id = await publish(job)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        key = {"x-api-key": ours}
        described = (await http.get("/openapi.json")).json()
        rollouts = (await http.get(f"{JOBS_PATH}/{job.job_id}/rollouts", headers=key)).json()
        config = {"name": "ours", "algorithm": "gepa", "config_body": post_body()["config_body"]}
        assert (await http.post(f"{ROOT_PATH}/configs", json=config, headers=key)).is_success
        hook = await http.post("/api/webhooks", json={"url": "https://hooks.example.com/jobs"}, headers=key)
        assert hook.is_success
        jobs = [{"algorithm": "gepa", "config": config["config_body"]}]
        made = await http.post(EXPERIMENTS_PATH, json={"name": "ours", "jobs": jobs}, headers=key)
        assert made.is_success
        secret = await http.put("/api/provider-keys/groq", json={"api_key": "gsk-test"}, headers=key)
        assert secret.is_success
        ids = {
            "job_id": job.job_id,
            "snapshot_id": snapshot_id,
            "candidate_id": "c_1",
            "rollout_id": rollouts[0]["id"],
            "n": "1",
            "name": "ours",
            "provider": "groq",
            "webhook_id": hook.json()["id"],
            "experiment_id": made.json()["id"],
            "plot": "learning-curve",
        }
        operations = tuple(
            (path, method, operation)
            for path, methods in described["paths"].items()
            for method, operation in methods.items()
        )
        yield Peers(http, key, {"x-api-key": theirs}, ids, operations)


def shape(answer: httpx.Response, ids: Mapping[str, str]) -> tuple[int, str]:
    """What an answer says, without the ids that were asked for and its own."""
    text = re.sub(r"req_[0-9a-f]{32}", "…", answer.text)
    for value in sorted({*ids.values(), *NOBODYS.values()}, key=len, reverse=True):
        text = text.replace(value, "…")
    return answer.status_code, text


async def test_what_is_anothers_looks_like_what_does_not_exist(peers: Peers) -> None:
    walked = 0
    for path, method, operation in peers.operations:
        if not NAMES.search(path) or method == "put":  # which makes one of their own, under the same name
            continue
        walked += 1
        foreign = await peers.ask(method, path, operation, peers.ids, peers.theirs)
        unknown = await peers.ask(method, path, operation, {**NOBODYS, "provider": "groq"}, peers.theirs)
        assert shape(foreign, peers.ids) == shape(unknown, peers.ids), (method, path)
        if not OWN_NAMES.issuperset(NAMES.findall(path)):
            assert foreign.status_code == 404, (method, path, foreign.text)
    assert walked >= 25


@pytest.mark.slow
async def test_what_is_ours_is_still_there_afterwards(peers: Peers) -> None:
    for path, method, operation in peers.operations:
        if NAMES.search(path):
            await peers.ask(method, path, operation, peers.ids, peers.theirs)
    for path in (
        f"{JOBS_PATH}/{peers.ids['job_id']}",
        f"{ROOT_PATH}/configs/ours",
        f"/api/webhooks/{peers.ids['webhook_id']}",
        f"{EXPERIMENTS_PATH}/{peers.ids['experiment_id']}",
    ):
        assert (await peers.http.get(path, headers=dict(peers.ours))).status_code == 200
    kept = (await peers.http.get("/api/provider-keys", headers=dict(peers.ours))).json()
    assert [each["provider"] for each in kept] == ["groq"]


@pytest.mark.slow
async def test_no_list_holds_what_is_anothers(peers: Peers) -> None:
    own = {name: value for name, value in peers.ids.items() if len(value) > 4}
    for path, method, _ in peers.operations:
        if method != "get" or NAMES.search(path) or path in OPEN | FOR_METRICS | WITHOUT_OWNER:
            continue
        answer = await peers.http.get(path, headers=dict(peers.theirs))
        assert answer.status_code == 200, (path, answer.text)
        assert not [name for name, value in own.items() if value in answer.text], path


@pytest.mark.slow
async def test_a_stranger_is_told_only_that_a_key_is_missing(peers: Peers) -> None:
    for path, method, operation in peers.operations:
        answer = await peers.ask(method, path, operation, peers.ids, {})
        if path in OPEN:
            assert answer.status_code in (200, 503), path
        else:
            assert (answer.status_code, answer.json()["code"]) == (401, "missing_api_key"), (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.slow
async def test_the_paths_that_are_not_described_are_closed_too(peers: Peers) -> None:
    for path in ("/api/policy-optimization/online/jobs", f"/api/policy-optimization/online/jobs/{peers.ids['job_id']}"):
        assert (await peers.http.get(path)).status_code == 401
        assert (await peers.http.get(path, headers=dict(peers.ours))).status_code == 200
    foreign = f"/api/policy-optimization/online/jobs/{peers.ids['job_id']}"
    assert (await peers.http.get(foreign, headers=dict(peers.theirs))).status_code == 404


@pytest.mark.slow
async def test_metrics_are_for_their_own_keys_only(peers: Peers, database: Database) -> None:
    async with writing(database) as connection:
        _, key = await api_keys.create(connection, "default", "", Purpose.METRICS)
    refused = await peers.http.get("/metrics", headers=dict(peers.ours))
    assert (refused.status_code, refused.json()["code"]) == (403, "key_not_allowed")
    assert (await peers.http.get("/metrics", headers={"authorization": f"Bearer {key}"})).status_code == 200
