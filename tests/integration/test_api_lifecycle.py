"""Pausing, deleting and estimating over HTTP, and what a job says of its spending."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.api.job_schemas import EstimateObject, JobObject
from promptjobs.api.schemas import Problem
from promptjobs.core.ledger import Category
from promptjobs.db import balances
from promptjobs.db.balances import DEFAULT_ORGANISATION
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from tests.fakes.config_bodies import PROMPT, body, mipro_body
from tests.fakes.recorded_jobs import (
    created_job,
    job_service,
    post_body,
    publish,
    running_job,
    searched_job,
)
from tests.fakes.served import in_process

UNKNOWN = "pl_" + "0" * 32
UNPRICED = {
    "policy": {"provider": "groq", "model": "nobody-knows"},
    "initial_prompt": PROMPT,
    "gepa.rollout.budget": 400,
}
LIMITED = {"termination_config": {"max_cost_usd": 0.5}}


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(database=database, service=job_service(database))
    async with in_process(app, raises=False) as client:
        yield client


async def set_balance(database: Database, usd: str) -> None:
    async with writing(database) as connection:
        await balances.put(connection, DEFAULT_ORGANISATION, Decimal(usd))


def shown(answer: httpx.Response) -> JobObject:
    assert answer.status_code == 200, answer.text
    return JobObject.model_validate_json(answer.content)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.status, problem.code) == (status, status, code), answer.text
    found: dict[str, Any] = answer.json()
    return found


# --- pause, resume, delete -------------------------------------------------------------------------------------------


async def test_a_queued_job_is_paused_and_resumed(client: httpx.AsyncClient) -> None:
    url = f"{JOBS_PATH}/{(await client.post(JOBS_PATH, json=post_body())).json()['id']}"
    paused = shown(await client.post(f"{url}/pause"))
    assert (paused.status, paused.pause_requested_at) == ("paused", None)
    assert paused.paused_at is not None
    assert [job["id"] for job in (await client.get(JOBS_PATH, params={"status": "paused"})).json()] == [paused.id]
    resumed = shown(await client.post(f"{url}/resume"))
    assert (resumed.status, resumed.paused_at) == ("queued", None)
    told = [event["type"] for event in (await client.get(f"{url}/events")).json()["events"]]
    assert told == [f"prompt.learning.{name}" for name in ("created", "paused", "resumed")]


async def test_a_running_job_says_that_it_is_to_be_paused(client: httpx.AsyncClient, database: Database) -> None:
    job = await running_job(database)
    for _ in range(2):
        asked = shown(await client.post(f"{JOBS_PATH}/{job.job_id}/pause"))
        assert (asked.status, asked.paused_at) == ("running", None)
        assert asked.pause_requested_at is not None


async def test_what_the_status_does_not_allow_is_a_conflict_with_its_facts(
    client: httpx.AsyncClient, database: Database
) -> None:
    pending = await created_job(database, auto_start=False)
    problem = refused(await client.post(f"{JOBS_PATH}/{pending}/resume"), 409, "job_conflict")
    assert (problem["job_id"], problem["job_status"], problem["wanted"]) == (pending, "pending", "be resumed")
    problem = refused(await client.delete(f"{JOBS_PATH}/{pending}"), 409, "job_conflict")
    assert (problem["job_status"], problem["wanted"]) == ("pending", "be deleted")


async def test_a_deleted_job_is_gone_from_every_route(client: httpx.AsyncClient, database: Database) -> None:
    job = await searched_job(database)
    snapshot = await publish(job)
    url = f"{JOBS_PATH}/{job.job_id}"
    answer = await client.delete(url)
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/config", "/events", "/events/stream", "/trials", "/candidates", f"/snapshots/{snapshot}"):
        refused(await client.get(f"{url}{path}"), 404, "job_not_found")
    refused(await client.delete(url), 404, "job_not_found")
    assert (await client.get(JOBS_PATH)).json() == []


async def test_commands_know_an_unknown_job(client: httpx.AsyncClient) -> None:
    for job_id in (UNKNOWN, "estimate", "pl_1"):
        for name in ("pause", "resume", "start"):
            refused(await client.post(f"{JOBS_PATH}/{job_id}/{name}"), 404, "job_not_found")
        refused(await client.delete(f"{JOBS_PATH}/{job_id}"), 404, "job_not_found")


# --- spending --------------------------------------------------------------------------------------------------------


async def spend(database: Database, job_id: str, category: Category, **values: object) -> None:
    connection = await database.connect()
    try:
        changes = ", ".join(f"{name} = {value}" for name, value in values.items())
        await connection.execute(
            f"UPDATE ledger SET {changes} WHERE job_id = $1 AND category = $2", job_id, category.value
        )
    finally:
        await connection.close()


NOTHING = {"usd": 0.0, "held_usd": 0.0, "unsettled_usd": 0.0, "tokens": 0, "calls": 0}


async def test_a_job_says_what_it_has_spent_on_what(client: httpx.AsyncClient, database: Database) -> None:
    job_id = (await client.post(JOBS_PATH, json=post_body(**_limited()))).json()["id"]
    await created_job(database)
    await spend(database, job_id, Category.POLICY, usd="0.01", held_usd="0.002", tokens=500, calls=7)
    await spend(database, job_id, Category.JUDGE, unsettled_usd="0.0005", calls=2, unpriced_calls=1, tokens=9)
    await set_balance(database, "1.25")
    job = (await client.get(f"{JOBS_PATH}/{job_id}")).json()
    policy = {"usd": 0.01, "held_usd": 0.002, "unsettled_usd": 0.0, "tokens": 500, "calls": 7}
    judge = {"usd": 0.0, "held_usd": 0.0, "unsettled_usd": 0.0005, "tokens": 9, "calls": 2}
    assert job["spend"] == {
        "usd": 0.01,
        "held_usd": 0.002,
        "unsettled_usd": 0.0005,
        "tokens": 509,
        "calls": 9,
        "unpriced_calls": 1,
        "categories": {each.value: NOTHING for each in Category} | {"policy": policy, "judge": judge},
        "caps": {"total_usd": 0.5, "rollout_usd": None, "proposal_usd": None, "tokens": None},
        "balance_type": "prepaid",
        "balance_usd": 1.25,
    }
    other, listed = (await client.get(JOBS_PATH)).json()
    del job["spend"]["categories"]
    assert listed["spend"] == job["spend"]
    assert {name: other["spend"][name] for name in NOTHING} == NOTHING


def _limited() -> dict[str, Any]:
    return {"overrides": {"prompt_learning.termination_config.max_cost_usd": 0.5}}


async def test_an_organisation_without_a_balance_spends_without_a_limit(client: httpx.AsyncClient) -> None:
    spending = (await client.post(JOBS_PATH, json=post_body())).json()["spend"]
    assert (spending["balance_type"], spending["balance_usd"]) == ("unlimited", None)


@pytest.mark.parametrize("left", ["0", "-0.5"])
async def test_nothing_is_created_started_or_resumed_with_an_empty_balance(
    client: httpx.AsyncClient, database: Database, left: str
) -> None:
    pending = await created_job(database, auto_start=False)
    paused = await created_job(database)
    await client.post(f"{JOBS_PATH}/{paused}/pause")
    await set_balance(database, left)
    for answer in (
        await client.post(JOBS_PATH, json=post_body()),
        await client.post(f"{JOBS_PATH}/{pending}/start"),
        await client.post(f"{JOBS_PATH}/{paused}/resume"),
    ):
        problem = refused(answer, 402, "balance_empty")
        assert (problem["organisation"], problem["usd"]) == (DEFAULT_ORGANISATION, float(left))
    assert sorted(job["status"] for job in (await client.get(JOBS_PATH)).json()) == ["paused", "pending"]
    assert (await client.post(f"{JOBS_PATH}/{paused}/cancel")).json()["status"] == "cancelled"


async def test_a_limit_on_money_needs_the_price_of_every_model(client: httpx.AsyncClient, database: Database) -> None:
    limited = {"algorithm": "gepa", "config_body": body({**UNPRICED, **LIMITED})}
    unlimited = {"algorithm": "gepa", "config_body": body(UNPRICED)}
    for path in ("", "/estimate"):
        problem = refused(await client.post(f"{JOBS_PATH}{path}", json=limited), 422, "unpriced_model")
        assert "policy.model" in problem["detail"]
        assert (await client.post(f"{JOBS_PATH}{path}", json=unlimited)).status_code == 200
    await set_balance(database, "5")
    for path in ("", "/estimate"):
        refused(await client.post(f"{JOBS_PATH}{path}", json=unlimited), 422, "unpriced_model")


# --- estimates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [post_body(), {"algorithm": "mipro", "config_body": mipro_body({})}])
async def test_an_estimate_stores_nothing_and_says_what_the_job_would_take(
    client: httpx.AsyncClient, sent: dict[str, Any]
) -> None:
    answer = await client.post(f"{JOBS_PATH}/estimate", json=sent)
    assert answer.status_code == 200, answer.text
    found = EstimateObject.model_validate_json(answer.content)
    assert (await client.get(JOBS_PATH)).json() == []
    job = shown(await client.post(JOBS_PATH, json=sent))
    assert found.rollouts["total"] >= job.rollout_budget
    assert set(found.cost_usd.by_category) == set(Category)
    for figures in (found.calls, found.tokens, found.cost_usd):
        assert figures.expected is not None
        assert figures.at_most is not None
        assert 0 < figures.expected <= figures.at_most
        assert figures.expected == pytest.approx(sum(part.expected or 0 for part in figures.by_category.values()))


async def test_an_estimate_is_given_with_an_empty_balance(client: httpx.AsyncClient, database: Database) -> None:
    """It tells how much has to be added."""
    await set_balance(database, "0")
    assert (await client.post(f"{JOBS_PATH}/estimate", json=post_body())).status_code == 200


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (post_body(algorithm="annealing"), "invalid_config"),
        (post_body(algorithm=None), "invalid_request"),
        (post_body(config_name="mine"), "invalid_request"),
        (post_body(metadata={"note": "x" * 70_000}), "invalid_request"),
        (post_body(overrides={"prompt_learning.gepa.rollout.budget": 3}), "budget_too_small"),
        (post_body(overrides={"prompt_learning.policy.provider": "nobody"}), "provider_not_configured"),
    ],
)
async def test_an_estimate_is_refused_as_its_job_would_be(
    client: httpx.AsyncClient, sent: dict[str, Any], code: str
) -> None:
    estimated, created = [
        {**refused(await client.post(path, json=sent), 422, code), "request_id": ""}
        for path in (f"{JOBS_PATH}/estimate", JOBS_PATH)
    ]
    assert estimated == created


# --- figures ---------------------------------------------------------------------------------------------------------


async def test_a_job_says_on_how_many_seeds_its_scores_rest_and_what_has_failed(
    client: httpx.AsyncClient, database: Database
) -> None:
    job = await searched_job(database)
    url, figures = f"{JOBS_PATH}/{job.job_id}", {"best_score_seeds": 2, "failures": {"task_app": 1}}
    await merge(database, "progress", job.job_id, figures)
    running = shown(await client.get(url))
    assert (running.best_score_seeds, running.failures, running.finish_detail) == (2, {"task_app": 1}, None)
    await publish(job)
    stats = {"stats": {**figures, "best_score_seeds": 8, "finish_detail": "the budget is spent"}}
    await merge(database, "metadata", job.job_id, stats)
    over = shown(await client.get(url))
    assert (over.best_score_seeds, over.failures, over.finish_detail) == (8, {"task_app": 1}, "the budget is spent")


async def merge(database: Database, column: str, job_id: str, values: dict[str, Any]) -> None:
    connection = await database.connect()
    try:
        await connection.execute(
            f"UPDATE jobs SET {column} = ({column}::jsonb || $2::text::jsonb)::text WHERE id = $1",
            job_id,
            httpx.Request("POST", "http://any", json=values).content.decode(),
        )
    finally:
        await connection.close()


async def test_a_client_cannot_pass_off_its_metadata_as_figures(client: httpx.AsyncClient) -> None:
    sent = post_body(metadata={"stats": {"best_score_seeds": 99}})
    url = f"{JOBS_PATH}/{(await client.post(JOBS_PATH, json=sent)).json()['id']}"
    assert shown(await client.post(f"{url}/cancel")).best_score_seeds is None
