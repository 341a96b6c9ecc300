"""Jobs as either era of the client posts them: bodies as they were recorded, and configs as TOML."""

import json
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest

from promptjobs.api.app import JOBS_PATH
from promptjobs.api.contract import ALIAS_PATH
from tests.contract.event_table import Json

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
BODIES = sorted((HERE / "bodies").glob("*.json"))
CONFIGS = sorted((HERE / "configs").glob("*.toml"))
KEY = "test-task-app-key"
HEADERS = ({"x-api-key": "sk-test"}, {"authorization": "Bearer sk-test"})
"""As the client of later versions sends its key with a POST, and as that of earlier ones does."""


def recorded(path: Path) -> Json:
    found: Json = json.loads(path.read_text())
    return found


def toml(path: Path) -> Json:
    return tomllib.loads(path.read_text())


async def accepted(client: httpx.AsyncClient, body: Json, path: str = JOBS_PATH, **more: Any) -> tuple[Json, Json]:
    """The job that was created, and its config."""
    answer = await client.post(path, json=body, **more)
    assert answer.status_code == 200, answer.text
    job: Json = answer.json()
    config: Json = (await client.get(f"{path}/{job['job_id']}/config")).json()
    return job, config


@pytest.mark.parametrize("headers", HEADERS, ids=["x-api-key", "bearer"])
@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
async def test_the_body_of_either_era_is_accepted(client: httpx.AsyncClient, path: Path, headers: Json) -> None:
    body = recorded(path)
    job, config = await accepted(client, body, headers=headers)
    sent = body["config_body"]["prompt_learning"]
    assert job["algorithm"] == body["algorithm"]
    assert job["status"] == "queued"
    assert job["task_app_url"] == sent["task_app_url"]
    assert job["policy"] == {"provider": sent["policy"]["provider"], "model": sent["policy"]["model"]}
    assert job["metadata"]["backend_base_url"] == body["metadata"]["backend_base_url"]
    assert KEY not in json.dumps(config)
    assert KEY not in json.dumps(job)


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
async def test_overrides_that_were_merged_before_change_nothing(client: httpx.AsyncClient, path: Path) -> None:
    """The client merges them into the config itself, and sends them as well."""
    body = recorded(path)
    _, merged = await accepted(client, body)
    _, alone = await accepted(client, {**body, "overrides": {"task_app_api_key": KEY}})
    assert merged["resolved"] == alone["resolved"]


async def test_overrides_are_dotted_paths_or_nested_and_may_be_applied_twice(client: httpx.AsyncClient) -> None:
    body = recorded(HERE / "bodies" / "gepa_0_4_11.json")
    dotted = {"prompt_learning.policy.temperature": 0.7, "prompt_learning.gepa.rng_seed": 9}
    nested = {"prompt_learning": {"policy": {"temperature": 0.7}, "gepa": {"rng_seed": 9}}}
    merged = deepcopy(body)
    section = merged["config_body"]["prompt_learning"]
    section["policy"]["temperature"], section["gepa"]["rng_seed"] = 0.7, 9
    found = [
        (await accepted(client, sent))[1]["resolved"]
        for sent in (
            {**body, "overrides": dotted},
            {**body, "overrides": nested},
            {**merged, "overrides": dotted},
            merged,
        )
    ]
    assert all(each == found[0] for each in found)
    assert found[0]["policy"]["temperature"] == 0.7
    assert found[0]["gepa"]["rng_seed"] == 9


async def test_a_job_that_does_not_start_itself_waits(client: httpx.AsyncClient) -> None:
    job, _ = await accepted(client, {**recorded(BODIES[0]), "auto_start": False})
    assert job["status"] == "pending"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
async def test_the_toml_of_earlier_versions_is_accepted(client: httpx.AsyncClient, path: Path) -> None:
    config_body = toml(path)
    body = {"algorithm": config_body["prompt_learning"]["algorithm"], "config_body": config_body}
    _, config = await accepted(client, body)
    search = config["resolved"][body["algorithm"]]
    assert search["meta_model"]["model"] == "llama-3.3-70b-versatile"
    assert search["meta_model"]["provider"] == "groq"
    if body["algorithm"] == "gepa":
        assert search["train_seeds"] == list(range(24))
        assert search["validation_seeds"] == list(range(100, 120, 2))
        assert search["rollout_budget"] == 200
    else:
        assert search["bootstrap_seeds"] == list(range(10))
        assert search["online_seeds"] == list(range(20, 44, 2))


async def test_what_is_refused_says_why_within_the_first_characters(client: httpx.AsyncClient) -> None:
    """The client shows the first 500 characters of what it is answered."""
    body = recorded(HERE / "bodies" / "gepa_0_4_11.json")
    body["config_body"]["prompt_learning"]["gepa"]["rollout"]["budget"] = 3
    answer = await client.post(JOBS_PATH, json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    assert isinstance(answer.json()["detail"], str)
    assert "the rollout budget is 3" in answer.text[:500]


async def test_jobs_are_at_the_path_of_later_versions_too(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        job, _ = await accepted(client, recorded(BODIES[0]), ALIAS_PATH)
    page = await client.get(ALIAS_PATH, params={"limit": 1})
    assert [each["job_id"] for each in page.json()] == [job["job_id"]]
    assert page.links["next"]["url"].startswith(f"{ALIAS_PATH}?")
    assert len((await client.get(page.links["next"]["url"])).json()) == 1
    for part in ("", "/events", "/metrics"):
        assert (await client.get(f"{ALIAS_PATH}/{job['job_id']}{part}")).status_code == 200
    cancelled = await client.post(f"{ALIAS_PATH}/{job['job_id']}/cancel", json={"reason": "no longer needed"})
    assert cancelled.json()["status"] == "cancelled"


@pytest.mark.parametrize("path", ["/api/learning/jobs/pl_0", "/api/orchestration/jobs/pl_0/events"])
async def test_where_the_client_falls_back_there_is_nothing_and_it_is_said_as_json(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["code"] == "not_found"


async def test_a_status_may_be_asked_past_caches(client: httpx.AsyncClient) -> None:
    job, _ = await accepted(client, recorded(BODIES[0]))
    answer = await client.get(f"{JOBS_PATH}/{job['job_id']}", params={"_t": 1777887000123})
    assert answer.json()["job_id"] == job["job_id"]
