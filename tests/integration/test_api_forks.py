"""Forks, warm starts, saved configs and filters over HTTP."""

from typing import Any

import httpx
import pytest
from sqlalchemy import text

from promptjobs.api import configs
from promptjobs.api.app import JOBS_PATH
from promptjobs.api.config_schemas import EXAMPLE_NAME, EXAMPLE_PUT, SavedConfigObject
from promptjobs.api.job_schemas import ForkJob, JobObject
from promptjobs.core.asks import CandidateFact, ProgressFact
from promptjobs.core.config import GepaJobConfig
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from tests.fakes.recorded_jobs import (
    TASK_APP_KEY,
    candidate,
    created_job,
    job_service,
    post_body,
    progress,
    searched_job,
)

pytestmark = pytest.mark.slow

CONFIGS = "/api/prompt-learning/configs"
UNKNOWN = "pl_" + "0" * 32
TEXT = "prompt_learning.gepa.rollout.budget"


async def resolved(client: httpx.AsyncClient, job_id: str) -> GepaJobConfig:
    shown = (await client.get(f"{JOBS_PATH}/{job_id}/config")).json()
    return GepaJobConfig.model_validate(shown["resolved"])


async def key_of(database: Database, job_id: str) -> str | None:
    async with reading(database) as connection:
        query = text("SELECT task_app_key FROM jobs WHERE id = :job_id")
        found: str | None = (await connection.execute(query, {"job_id": job_id})).scalar_one()
    return found


def started_from(config: GepaJobConfig) -> list[tuple[str | None, str]]:
    return [(p.candidate_id, p.prompt.sections[0].content) for p in config.gepa.warm_prompts]


# --- warm starts -----------------------------------------------------------------------------------------------------


def warm_body(job_id: str, **more: Any) -> dict[str, Any]:
    prompt = {
        "messages": [{"role": "system", "pattern": "Classify."}, {"role": "user", "pattern": "Query: {query}"}],
        "wildcards": {"query": "REQUIRED"},
    }
    body = post_body()
    body["config_body"]["prompt_learning"]["initial_prompt"] = prompt
    body["config_body"]["prompt_learning"]["warm_start"] = {"job_id": job_id, **more}
    return body


async def test_the_prompts_of_an_earlier_job_are_stored_with_the_new_one(
    client: httpx.AsyncClient, database: Database
) -> None:
    earlier = await searched_job(database)
    answer = await client.post(JOBS_PATH, json=warm_body(earlier.job_id))
    assert answer.status_code == 200, answer.text
    job_id = answer.json()["job_id"]
    found = started_from(await resolved(client, job_id))
    best = (await client.get(f"{JOBS_PATH}/{earlier.job_id}")).json()["progress"]["best_candidate_id"]
    assert found[0][0] == best
    [created] = (await client.get(f"{JOBS_PATH}/{job_id}/events")).json()["events"]
    assert created["data"]["warm_start"] == [{"job_id": earlier.job_id, "candidate_id": each} for each, _ in found]


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"job_id": UNKNOWN}, "there is no job"),
        ({"candidates": ["nobody"]}, "candidate 'nobody'"),
        ({"candidates": [7]}, "candidates"),
    ],
)
async def test_what_cannot_be_taken_over_is_refused(
    client: httpx.AsyncClient, database: Database, section: dict[str, Any], named: str
) -> None:
    earlier = await searched_job(database)
    answer = await client.post(JOBS_PATH, json=warm_body(**{"job_id": earlier.job_id, **section}))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_config")
    assert named in answer.json()["detail"]


async def test_another_organisations_job_looks_like_an_unknown_one(
    client: httpx.AsyncClient, database: Database
) -> None:
    theirs = await created_job(database, organisation="other")
    answers = [await client.post(JOBS_PATH, json=warm_body(job_id)) for job_id in (theirs, UNKNOWN)]
    answers += [await client.post(f"{JOBS_PATH}/{job_id}/fork") for job_id in (theirs, UNKNOWN)]
    said = [answer.text.replace(theirs, UNKNOWN).replace(answer.headers["x-request-id"], "") for answer in answers]
    assert [answer.status_code for answer in answers] == [422, 422, 404, 404]
    assert said[0] == said[1]
    assert said[2] == said[3]


async def test_a_job_without_candidates_is_no_start_unless_it_is_not_asked_for(
    client: httpx.AsyncClient, database: Database
) -> None:
    parent = await created_job(database)
    assert "no candidate yet" in (await client.post(JOBS_PATH, json=warm_body(parent))).json()["detail"]
    url = f"{JOBS_PATH}/{parent}/fork"
    assert (await client.post(url, json={"warm_start": True})).status_code == 422
    forked = (await client.post(url)).json()
    assert forked["parent_id"] == parent
    assert started_from(await resolved(client, forked["job_id"])) == []


# --- forks -----------------------------------------------------------------------------------------------------------


async def test_a_fork_is_the_parents_request_with_overrides_of_its_own(
    client: httpx.AsyncClient, database: Database
) -> None:
    parent = await created_job(database)
    asked = {"overrides": {TEXT: 444}, "metadata": {"try": 2}, "auto_start": False, "color": "red"}
    answer = await client.post(f"{JOBS_PATH}/{parent}/fork", json=asked)
    job = JobObject.model_validate_json(answer.content)
    assert (job.parent_id, job.status, job.rollout_budget, job.metadata) == (parent, "pending", 444, {"try": 2})
    assert "unknown field 'color' is ignored" in job.warnings
    [created] = (await client.get(f"{JOBS_PATH}/{job.id}/events")).json()["events"]
    assert created["message"].endswith(f"forked from {parent}")
    ours, theirs = await resolved(client, job.id), await resolved(client, parent)
    assert ours.policy == theirs.policy
    assert ours.gepa.model_copy(update={"rollout_budget": 0}) == theirs.gepa.model_copy(update={"rollout_budget": 0})


async def test_a_fork_begins_with_what_is_best_in_a_running_parent(
    client: httpx.AsyncClient, database: Database
) -> None:
    first = await client.post(JOBS_PATH, json=warm_body(UNKNOWN) | {"config_body": warm_body(UNKNOWN)["config_body"]})
    assert first.status_code == 422
    parent = await searched_job(database)
    overrides = {
        "prompt_learning.initial_prompt": warm_body(UNKNOWN)["config_body"]["prompt_learning"]["initial_prompt"]
    }
    url = f"{JOBS_PATH}/{parent.job_id}/fork"
    warm = (await client.post(url, json={"overrides": overrides})).json()
    found = started_from(await resolved(client, warm["job_id"]))
    assert found
    one = {"overrides": overrides, "warm_start": {"candidates": "best"}}
    best = (await client.post(url, json=one)).json()
    assert started_from(await resolved(client, best["job_id"])) == found[:1]
    cold = (await client.post(url, json={"overrides": overrides, "warm_start": False})).json()
    assert (await resolved(client, cold["job_id"])).gepa.warm_start is None
    again = (await client.post(f"{JOBS_PATH}/{warm['job_id']}/fork", json={})).json()
    assert (await resolved(client, again["job_id"])).gepa.warm_start is None, "the grandparent's prompts were inherited"


async def test_a_fork_takes_fewer_candidates_where_its_budget_is_small(
    client: httpx.AsyncClient, database: Database
) -> None:
    parent = await searched_job(database)
    children = [candidate(n, f"Answer with care {n}.", ["c_0"]) for n in range(2, 8)]
    shown = progress(0.75, "c_1")
    front = ProgressFact({**shown.data, "front": ["c_1", *(child.candidate_id for child in children)]})
    await parent.write([*(CandidateFact(child) for child in children), front])
    prompt = warm_body(UNKNOWN)["config_body"]["prompt_learning"]["initial_prompt"]
    url, overrides = f"{JOBS_PATH}/{parent.job_id}/fork", {"prompt_learning.initial_prompt": prompt}
    refused = await client.post(url, json={"overrides": {**overrides, TEXT: 90}, "warm_start": True})
    assert (refused.status_code, refused.json()["code"]) == (422, "budget_too_small")
    most = [
        len(started_from(await resolved(client, await fork(client, url, {**overrides, TEXT: n})))) for n in (90, 400)
    ]
    assert 0 < most[0] < most[1] == 7


async def fork(client: httpx.AsyncClient, url: str, overrides: dict[str, Any]) -> str:
    answer = await client.post(url, json={"overrides": overrides})
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json()["job_id"]
    return job_id


async def test_a_fork_never_sends_a_redacted_key(client: httpx.AsyncClient, database: Database) -> None:
    parent = await created_job(database)
    url = f"{JOBS_PATH}/{parent}/fork"
    assert await key_of(database, parent) is not None
    without = (await client.post(url)).json()
    assert await key_of(database, without["job_id"]) is None
    given = await client.post(url, json={"task_app_api_key": TASK_APP_KEY})
    sealed = await key_of(database, given.json()["job_id"])
    assert sealed is not None
    assert TASK_APP_KEY not in sealed
    assert TASK_APP_KEY not in given.text
    shown = await client.get(f"{JOBS_PATH}/{given.json()['job_id']}/config")
    assert TASK_APP_KEY not in shown.text
    assert (await client.post(url, json={"task_app_api_key": "[redacted]"})).status_code == 422


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"warm_start": "yes"}, "warm_start"),
        ({"warm_start": {"candidates": "worst"}}, "warm_start.object.candidates"),
        ({"warm_start": {"max_candidates": 51}}, "warm_start.object.max_candidates"),
        ({"overrides": []}, "overrides"),
        ({"overrides": {TEXT: -1}}, TEXT),
    ],
)
async def test_a_fork_that_cannot_be_is_refused(
    client: httpx.AsyncClient, database: Database, body: dict[str, Any], param: str
) -> None:
    parent = await searched_job(database)
    answer = await client.post(f"{JOBS_PATH}/{parent.job_id}/fork", json=body)
    assert answer.status_code == 422
    assert answer.json()["param"].startswith(param)


async def test_a_fork_with_an_idempotency_key_is_made_once(client: httpx.AsyncClient, database: Database) -> None:
    url, headers = f"{JOBS_PATH}/{await created_job(database)}/fork", {"idempotency-key": "k-1"}
    first, second = [await client.post(url, json={}, headers=headers) for _ in range(2)]
    assert first.content == second.content
    assert len((await client.get(JOBS_PATH)).json()) == 2


def test_the_example_of_a_fork_is_one() -> None:
    [example] = ForkJob.model_json_schema()["examples"]
    ForkJob.model_validate(example)


# --- saved configs ---------------------------------------------------------------------------------------------------


def saved_body(**changes: Any) -> dict[str, Any]:
    body = post_body()
    return {"name": "mine", "algorithm": "gepa", "config_body": body["config_body"], "description": "ours"} | changes


async def test_a_config_is_saved_without_its_secrets_and_read_back(client: httpx.AsyncClient) -> None:
    answer = await client.post(CONFIGS, json=saved_body())
    saved = SavedConfigObject.model_validate_json(answer.content)
    assert (saved.name, saved.algorithm, saved.description) == ("mine", "gepa", "ours")
    assert TASK_APP_KEY not in answer.text
    assert "task_app_api_key" not in answer.text
    assert (await client.get(f"{CONFIGS}/mine")).json() == answer.json()
    assert (await client.get(CONFIGS)).json() == [answer.json()]


async def test_a_name_is_taken_once_and_replaced_by_put(client: httpx.AsyncClient) -> None:
    first = (await client.post(CONFIGS, json=saved_body())).json()
    again = await client.post(CONFIGS, json=saved_body())
    assert (again.status_code, again.json()["code"]) == (409, "config_name_taken")
    body = saved_body(description=None)
    del body["name"]
    replaced = (await client.put(f"{CONFIGS}/mine", json=body)).json()
    assert (replaced["description"], replaced["created_at"]) == (None, first["created_at"])
    assert replaced["updated_at"] > first["updated_at"]
    assert (await client.delete(f"{CONFIGS}/mine")).status_code == 204
    for answer in (await client.get(f"{CONFIGS}/mine"), await client.delete(f"{CONFIGS}/mine")):
        assert (answer.status_code, answer.json()["code"]) == (404, "config_not_found")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": "-x"}, "invalid_request"),
        ({"name": "x" * 101}, "invalid_request"),
        ({"name": None}, "invalid_request"),
        ({"secret": 1}, "invalid_request"),
        ({"algorithm": "annealing"}, "invalid_config"),
        ({"config_body": {"prompt_learning": {}}}, "invalid_config"),
    ],
)
async def test_a_config_that_no_job_could_have_is_not_saved(
    client: httpx.AsyncClient, changes: dict[str, Any], code: str
) -> None:
    answer = await client.post(CONFIGS, json=saved_body(**changes))
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert (await client.get(CONFIGS)).json() == []


async def test_pages_of_configs_follow_their_names(client: httpx.AsyncClient) -> None:
    names = ["A", "a", "a.b", "b-1", "b_1", "z"]
    for name in reversed(names):
        await client.post(CONFIGS, json=saved_body(name=name))
    seen: list[str] = []
    url = f"{CONFIGS}?limit=2"
    while url:
        page = await client.get(url)
        seen += [each["name"] for each in page.json()]
        url = page.links.get("next", {}).get("url", "")
    assert sorted(seen) == sorted(names)
    assert len(seen) == len(names)


async def test_the_example_of_a_saved_config_is_accepted(client: httpx.AsyncClient) -> None:
    assert (await client.put(f"{CONFIGS}/{EXAMPLE_NAME}", json=EXAMPLE_PUT)).status_code == 200


async def test_a_job_is_made_of_a_saved_config_and_what_is_sent_on_top_of_it(client: httpx.AsyncClient) -> None:
    await client.post(CONFIGS, json=saved_body())
    plain = JobObject.model_validate_json((await client.post(JOBS_PATH, json={"config_name": "mine"})).content)
    assert (plain.config_name, plain.algorithm) == ("mine", "gepa")
    more = {
        "config_name": "mine",
        "config_body": {"prompt_learning": {"gepa": {"rollout": {"budget": 390}, "rng_seed": 3}}},
        "overrides": {TEXT: 391},
    }
    job = (await client.post(JOBS_PATH, json=more)).json()
    config = await resolved(client, job["job_id"])
    assert (config.gepa.rollout_budget, config.gepa.rng_seed) == (391, 3)
    assert config.gepa.train_seeds == (await resolved(client, plain.id)).gepa.train_seeds
    assert (await client.post(f"{JOBS_PATH}/estimate", json={"config_name": "mine"})).status_code == 200
    await client.delete(f"{CONFIGS}/mine")
    assert (await client.post(f"{JOBS_PATH}/{plain.id}/fork")).status_code == 200


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"config_name": "nobody"}, "config_name"),
        ({"config_body": None}, "config_body"),
        ({"algorithm": None}, "algorithm"),
        ({"config_name": "mine", "algorithm": "mipro"}, "prompt_learning.algorithm"),
    ],
)
async def test_a_job_of_no_config_is_refused(client: httpx.AsyncClient, changes: dict[str, Any], param: str) -> None:
    await client.post(CONFIGS, json=saved_body())
    answer = await client.post(JOBS_PATH, json=post_body(**changes))
    assert (answer.status_code, answer.json()["param"]) == (422, param)


async def test_organisations_do_not_see_each_others_configs(client: httpx.AsyncClient, database: Database) -> None:
    new = saved_body()
    service = job_service(database).configs
    theirs = configs._new("other", "mine", configs.read_as(configs.CreateConfig, new))
    await service.create(theirs)
    assert (await client.get(CONFIGS)).json() == []
    assert (await client.get(f"{CONFIGS}/mine")).status_code == 404
    assert (await client.post(JOBS_PATH, json={"config_name": "mine"})).json()["param"] == "config_name"
    assert (await client.post(CONFIGS, json=new)).status_code == 200
    assert (await client.delete(f"{CONFIGS}/mine")).status_code == 204
    assert (await service.get("other", "mine")).name == "mine"


# --- filters ---------------------------------------------------------------------------------------------------------


async def ids(client: httpx.AsyncClient, query: str) -> list[str]:
    answer = await client.get(f"{JOBS_PATH}?{query}")
    assert answer.status_code == 200, answer.text
    return [job["job_id"] for job in answer.json()]


async def test_jobs_are_filtered_by_what_their_metadata_holds(client: httpx.AsyncClient) -> None:
    held = [
        {"team": "support", "round": 1, "final": True, "share": 0.5},
        {"team": "support", "round": 2, "nested": {"a": "b"}, "odd key": "ü=&"},
        {"team": "sales", "api_key": "hidden", "long": "x" * 501},
    ]
    made = [(await client.post(JOBS_PATH, json=post_body(metadata=each))).json()["job_id"] for each in held]
    assert await ids(client, "metadata.team=support") == [made[1], made[0]]
    assert await ids(client, "metadata.team=support&metadata.round=1") == [made[0]]
    assert await ids(client, "metadata.final=true&metadata.share=0.5") == [made[0]]
    assert await ids(client, "metadata.odd%20key=%C3%BC%3D%26") == [made[1]]
    for nothing in ("metadata.team=supp", "metadata.nested=b", "metadata.api_key=%5Bredacted%5D", "metadata.x="):
        assert await ids(client, nothing) == []
    assert len((await client.get(f"{JOBS_PATH}/{made[2]}")).json()["metadata"]["long"]) == 501


async def test_the_next_page_keeps_every_filter(client: httpx.AsyncClient) -> None:
    made = [
        (await client.post(JOBS_PATH, json=post_body(metadata={"team": team}))).json()["job_id"]
        for team in ("a b", "c", "a b", "a b")
    ]
    first = await client.get(f"{JOBS_PATH}?limit=2&metadata.team=a%20b&status=queued")
    second = await client.get(first.links["next"]["url"])
    assert [job["job_id"] for job in [*first.json(), *second.json()]] == [made[3], made[2], made[0]]


async def test_jobs_are_filtered_by_parent_and_saved_config(client: httpx.AsyncClient) -> None:
    await client.post(CONFIGS, json=saved_body())
    parent = (await client.post(JOBS_PATH, json={"config_name": "mine"})).json()["job_id"]
    forks = [(await client.post(f"{JOBS_PATH}/{parent}/fork")).json()["job_id"] for _ in range(2)]
    assert await ids(client, f"parent_id={parent}") == forks[::-1]
    assert await ids(client, "config_name=mine") == [parent]


@pytest.mark.parametrize(
    "query",
    [
        "metadata=support",
        "metadata.=support",
        "metadata[team]=support",
        f"metadata.{'k' * 101}=1",
        f"metadata.team={'x' * 501}",
        "metadata.team=a&metadata.team=b",
        "metadata.team=%00",
        "&".join(f"metadata.k{n}=1" for n in range(51)),
        "parent_id=nobody",
        "config_name=-x",
        "algorithm=annealing",
    ],
)
async def test_other_forms_of_filters_are_refused(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"{JOBS_PATH}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_labels_are_bounded_and_the_rest_of_the_metadata_is_kept(client: httpx.AsyncClient) -> None:
    many = {f"k{n}": n for n in range(60)}
    job = (await client.post(JOBS_PATH, json=post_body(metadata=many))).json()
    assert job["metadata"] == many
    assert await ids(client, "metadata.k49=49") == [job["job_id"]]
    assert await ids(client, "metadata.k50=50") == []


async def test_a_job_that_is_over_has_an_etag(client: httpx.AsyncClient) -> None:
    job = (await client.post(JOBS_PATH, json=post_body())).json()
    url = f"{JOBS_PATH}/{job['job_id']}"
    assert "etag" not in (await client.get(url)).headers
    await client.post(f"{url}/cancel")
    tag = (await client.get(url)).headers["etag"]
    again = await client.get(url, headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
