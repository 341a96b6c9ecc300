"""Routes of experiments over HTTP: what is accepted, what is shown of it, and what its commands do."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from promptjobs.api.app import EXPERIMENTS_PATH, JOBS_PATH, create_app
from promptjobs.api.auth import Access
from promptjobs.api.experiment_schemas import ExperimentEstimate, ExperimentObject
from promptjobs.api.rate_limits import RateLimits
from promptjobs.api.schemas import Problem
from promptjobs.db import api_keys
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from tests.fakes.config_bodies import PROMPT, body, mipro_body
from tests.fakes.recorded_jobs import BUDGET, PROVIDER_KEY, TASK_APP_KEY, job_service, searched_job
from tests.fakes.recorded_searches import recorded_search

Json = dict[str, Any]

UNKNOWN = "exp_" + "0" * 32


def gepa_config() -> Json:
    return {**body({"initial_prompt": PROMPT, "gepa.rollout.budget": BUDGET}), "task_app_api_key": TASK_APP_KEY}


def experiment_body(**changes: Any) -> Json:
    """Two seeds of one config, unless it says otherwise."""
    matrix = {"seed": [1, 2]}
    return {"name": "seeds", "jobs": [{"algorithm": "gepa", "config": gepa_config()}], "matrix": matrix} | changes


async def created(client: httpx.AsyncClient, **changes: Any) -> ExperimentObject:
    answer = await client.post(EXPERIMENTS_PATH, json=experiment_body(**changes))
    assert answer.status_code == 200, answer.text
    return ExperimentObject.model_validate_json(answer.content)


async def read(client: httpx.AsyncClient, experiment_id: str) -> ExperimentObject:
    answer = await client.get(f"{EXPERIMENTS_PATH}/{experiment_id}")
    assert answer.status_code == 200, answer.text
    return ExperimentObject.model_validate_json(answer.content)


def refused(answer: httpx.Response, status: int, code: str) -> Json:
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.code) == (status, code), answer.text
    found: Json = answer.json()
    return found


def count_of(experiment: ExperimentObject) -> Json:
    """Its jobs by status, as far as there are any."""
    return {status.value: count for status, count in experiment.counts.items() if count}


# --- create ----------------------------------------------------------------------------------------------------------


async def test_a_created_experiment_shows_its_jobs_as_they_will_run(client: httpx.AsyncClient) -> None:
    matrix = {"model": ["llama-3.1-8b-instant", "llama-3.3-70b-versatile"], "seed": [1, 2]}
    answer = await client.post(
        EXPERIMENTS_PATH, json=experiment_body(matrix=matrix, parallelism=2, description="why", metadata={"team": "a"})
    )
    shown = ExperimentObject.model_validate_json(answer.content)
    assert shown.experiment_id == shown.id
    assert (shown.name, shown.description, shown.parallelism, shown.status) == ("seeds", "why", 2, "queued")
    assert (shown.num_jobs, count_of(shown), shown.metadata) == (4, {"queued": 4}, {"team": "a"})
    assert (shown.progress_pct, shown.eta_seconds, shown.total_tokens, shown.total_cost_usd) == (0, None, 0, 0)
    assert shown.jobs is not None
    combinations = list(itertools.product(*matrix.values()))
    assert [job.settings for job in shown.jobs] == [dict(zip(matrix, each, strict=True)) for each in combinations]
    assert [job.position for job in shown.jobs] == [1, 2, 3, 4]
    assert len({job.label for job in shown.jobs}) == 4
    assert [job.status_json.policy for job in shown.jobs] == [f"groq/{model}" for model, _ in combinations]
    assert {job.status_json.total_rollouts for job in shown.jobs} == {BUDGET}
    assert shown.jobs[0].group == shown.jobs[1].group != shown.jobs[2].group == shown.jobs[3].group
    assert (await client.get(f"{EXPERIMENTS_PATH}/{shown.id}")).json() == answer.json()


@pytest.mark.slow
async def test_its_jobs_are_jobs_like_all_others(client: httpx.AsyncClient) -> None:
    shown = await created(client)
    assert shown.jobs is not None
    listed = (await client.get(JOBS_PATH, params={"experiment_id": shown.id})).json()
    assert {job["id"] for job in listed} == {job.job_id for job in shown.jobs}
    for job in shown.jobs:
        alone = (await client.get(f"{JOBS_PATH}/{job.job_id}")).json()
        assert (alone["experiment_id"], alone["experiment_label"]) == (shown.id, job.label)
        resolved = (await client.get(f"{JOBS_PATH}/{job.job_id}/config")).json()["resolved"]
        assert resolved["gepa"]["rng_seed"] == job.settings["seed"]


@pytest.mark.slow
async def test_jobs_come_from_saved_configs_and_of_both_algorithms(client: httpx.AsyncClient) -> None:
    config = {"name": "nightly", "algorithm": "mipro", "config_body": mipro_body({"initial_prompt": PROMPT})}
    assert (await client.post("/api/prompt-learning/configs", json=config)).is_success
    jobs = [{"config_name": "nightly", "label": "searched"}, {"config": gepa_config(), "label": "evolved"}]
    shown = await created(client, jobs=jobs, matrix={})
    assert shown.jobs is not None
    assert [(job.algorithm, job.label) for job in shown.jobs] == [("mipro", "searched"), ("gepa", "evolved")]


REFUSED: list[tuple[Json, str, str]] = [
    ({"name": None}, "invalid_request", "name"),
    ({"name": ""}, "invalid_request", "name"),
    ({"name": "x" * 201}, "invalid_request", "name"),
    ({"parallelism": 0}, "invalid_request", "parallelism"),
    ({"parallelism": 65}, "invalid_request", "parallelism"),
    ({"parallelism": "3"}, "invalid_request", "parallelism"),
    ({"parallelism": True}, "invalid_request", "parallelism"),
    ({"jobs": []}, "invalid_request", "jobs"),
    ({"jobs": {}}, "invalid_request", "jobs"),
    ({"jobs": [{"algorithm": "gepa"}]}, "invalid_request", "jobs"),
    ({"jobs": [{"algorithm": "gepa", "config": gepa_config(), "budget": 5}]}, "invalid_request", "jobs"),
    ({"jobs": [{"algorithm": "gepa", "config": gepa_config(), "label": ""}]}, "invalid_request", "jobs"),
    ({"matrix": {"seed": []}}, "invalid_request", "matrix"),
    ({"matrix": {"seed": 5}}, "invalid_request", "matrix"),
    ({"matrix": {"seed": list(range(51))}}, "invalid_request", "matrix"),
    ({"matrix": {"seed": list(range(50)), "model": [f"m-{n}" for n in range(5)]}}, "invalid_request", "200"),
    ({"metadata": {"note": "x" * 70_000}}, "invalid_request", "metadata"),
    ({"colour": "red"}, "invalid_request", "colour"),
    ({"auto_start": True}, "invalid_request", "auto_start"),
    ({"matrix": {"prompt_learning.gepa.no_such_setting": [1, 2]}}, "override_ineffective", "no_such_setting"),
    ({"matrix": {"provider": ["nobody"]}}, "provider_not_configured", "nobody"),
]  # fmt: skip
"""What is changed in a good request, by what code it is refused, and what the problem names."""


async def test_what_cannot_be_carried_out_is_refused_and_nothing_is_stored(client: httpx.AsyncClient) -> None:
    for changes, code, named in REFUSED:
        sent = {name: value for name, value in experiment_body(**changes).items() if value is not None}
        problem = refused(await client.post(EXPERIMENTS_PATH, json=sent), 422, code)
        assert named in f"{problem.get('param')} {problem['detail']}", changes
    assert (await client.get(EXPERIMENTS_PATH)).json() == (await client.get(JOBS_PATH)).json() == []


@pytest.mark.slow
async def test_one_job_that_is_refused_keeps_all_of_them_from_being_stored(client: httpx.AsyncClient) -> None:
    bad = {"algorithm": "gepa", "config": gepa_config(), "config_overrides": {"prompt_learning.gepa.rollout.budget": 3}}
    sent = experiment_body(jobs=[{"algorithm": "gepa", "config": gepa_config()}, bad])
    problem = refused(await client.post(EXPERIMENTS_PATH, json=sent), 422, "budget_too_small")
    assert problem["budget"] == 3
    assert "jobs[1]" in problem["param"]
    assert (await client.get(JOBS_PATH)).json() == []


@pytest.mark.slow
async def test_no_answer_holds_a_secret(client: httpx.AsyncClient) -> None:
    answers = [await client.post(EXPERIMENTS_PATH, json=experiment_body(metadata={"api_key": TASK_APP_KEY}))]
    url = f"{EXPERIMENTS_PATH}/{answers[0].json()['id']}"
    answers += [await client.get(EXPERIMENTS_PATH), await client.get(url), await client.post(f"{url}/cancel")]
    answers.append(await client.post(EXPERIMENTS_PATH, json=experiment_body(name=5)))
    answers.append(await client.post(EXPERIMENTS_PATH, json=experiment_body(matrix={"task_app_api_key": [1, 2]})))
    assert all(TASK_APP_KEY not in answer.text and PROVIDER_KEY not in answer.text for answer in answers)


async def test_the_same_request_with_a_key_makes_one_experiment(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "once"}
    answers = await asyncio.gather(
        *(client.post(EXPERIMENTS_PATH, json=experiment_body(), headers=key) for _ in range(4))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert len((await client.get(EXPERIMENTS_PATH)).json()) == 1
    assert len((await client.get(JOBS_PATH)).json()) == 2
    other = await client.post(EXPERIMENTS_PATH, json=experiment_body(name="other"), headers=key)
    refused(other, 422, "idempotency_key_reused")


@pytest.mark.slow
async def test_a_refusal_with_a_key_is_answered_again(client: httpx.AsyncClient) -> None:
    sent = experiment_body(matrix={"provider": ["nobody"]})
    first, again = [
        await client.post(EXPERIMENTS_PATH, json=sent, headers={"Idempotency-Key": "refused"}) for _ in range(2)
    ]
    refused(first, 422, "provider_not_configured")
    assert (again.text, again.headers["idempotency-replayed"]) == (first.text, "true")


@pytest.mark.slow
async def test_an_estimate_stores_nothing_and_is_refused_as_the_experiment_would_be(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{EXPERIMENTS_PATH}/estimate", json=experiment_body())
    assert answer.status_code == 200, answer.text
    ExperimentEstimate.model_validate_json(answer.content)
    assert (await client.get(EXPERIMENTS_PATH)).json() == (await client.get(JOBS_PATH)).json() == []
    wrong = experiment_body(matrix={"provider": ["nobody"]})
    refused(await client.post(f"{EXPERIMENTS_PATH}/estimate", json=wrong), 422, "provider_not_configured")
    refused(await client.post(f"{EXPERIMENTS_PATH}/estimate", json={}), 422, "invalid_request")


# --- read ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_pages_of_experiments_follow_on_each_other_whatever_is_added(client: httpx.AsyncClient) -> None:
    ids = [(await created(client, name=f"number {n}")).id for n in range(5)]
    page = await client.get(EXPERIMENTS_PATH, params={"limit": 2})
    found = page.json()
    await created(client, name="meanwhile")
    while "next" in page.links:
        page = await client.get(page.links["next"]["url"])
        found += page.json()
    assert [each["id"] for each in found] == ids[::-1]
    assert all("jobs" not in each and ExperimentObject.model_validate(each) for each in found)
    refused(await client.get(EXPERIMENTS_PATH, params={"after": UNKNOWN}), 422, "invalid_request")
    refused(await client.get(EXPERIMENTS_PATH, params={"after": "x"}), 422, "invalid_request")
    refused(await client.get(EXPERIMENTS_PATH, params={"status": "done"}), 422, "invalid_request")
    refused(await client.get(EXPERIMENTS_PATH, params={"limit": 0}), 422, "invalid_request")


@pytest.mark.slow
async def test_experiments_are_listed_by_their_status_and_as_they_are_read(
    client: httpx.AsyncClient, database: Database
) -> None:
    running = await created(client, name="runs")
    await searched_job(database)
    cancelled = await created(client, name="is cancelled")
    await client.post(f"{EXPERIMENTS_PATH}/{cancelled.id}/cancel")
    for status, experiment_id in (("running", running.id), ("cancelled", cancelled.id)):
        [listed] = (await client.get(EXPERIMENTS_PATH, params={"status": status})).json()
        alone = (await client.get(f"{EXPERIMENTS_PATH}/{experiment_id}")).json()
        eta_seconds = alone.pop("eta_seconds")
        assert listed.pop("eta_seconds") == pytest.approx(eta_seconds, rel=0.5)
        assert {**listed, "jobs": alone["jobs"]} == alone
    assert (await client.get(EXPERIMENTS_PATH, params={"status": "failed"})).json() == []


async def test_a_job_that_runs_shows_how_far_it_has_come(client: httpx.AsyncClient, database: Database) -> None:
    made = await created(client)
    job = await searched_job(database)
    shown = await read(client, made.id)
    assert shown.jobs is not None
    first, second = shown.jobs
    assert (first.job_id, first.status, second.status) == (job.job_id, "running", "queued")
    found = first.status_json
    assert (found.rollouts_completed, found.total_rollouts, found.phase) == (8, BUDGET, "optimization")
    assert (found.best_score, found.progress_pct) == (0.75, 2.0)
    events = (await client.get(f"{JOBS_PATH}/{job.job_id}/events")).json()["events"]
    assert found.last_event is not None
    last = {name: events[-1][name] for name in ("seq", "type", "message", "created_at")}
    assert found.last_event.model_dump(mode="json") == {**last, "created_at": last["created_at"].replace("+00:00", "Z")}
    assert found.last_event_seq == events[-1]["seq"]
    assert found.eta_seconds is not None
    assert found.time_since_progress_seconds is not None
    assert 0 <= found.time_since_progress_seconds < 60
    assert found.stuck_warning is False
    assert (shown.status, shown.progress_pct, shown.finished_at) == ("running", 1.0, None)
    assert shown.eta_seconds is not None
    assert shown.eta_seconds >= found.eta_seconds


@pytest.mark.slow
async def test_a_job_that_records_nothing_for_ten_minutes_is_said_to_be_stuck(
    client: httpx.AsyncClient, database: Database
) -> None:
    made = await created(client)
    job = await searched_job(database)
    connection = await database.connect()
    try:
        earlier = "UPDATE jobs SET updated_at = updated_at - interval '10 min' WHERE id = $1"
        await connection.execute(earlier, job.job_id)
    finally:
        await connection.close()
    shown = await read(client, made.id)
    assert shown.jobs is not None
    assert [job.status_json.stuck_warning for job in shown.jobs] == [True, False]


async def test_an_experiment_that_is_over_has_all_its_figures_and_an_etag(
    client: httpx.AsyncClient, database: Database
) -> None:
    made = await created(client, matrix={})
    url = f"{EXPERIMENTS_PATH}/{made.id}"
    assert "etag" not in (await client.get(url)).headers
    search = await recorded_search(database, "one_lane_train")
    await search.publish()
    answer = await client.get(url)
    shown = ExperimentObject.model_validate_json(answer.content)
    assert (shown.status, count_of(shown), shown.progress_pct, shown.eta_seconds) == (
        "completed", {"succeeded": 1}, 100.0, 0.0,
    )  # fmt: skip
    assert None not in (shown.started_at, shown.finished_at)
    assert shown.jobs is not None
    [job] = shown.jobs
    alone = (await client.get(f"{JOBS_PATH}/{search.job_id}")).json()
    stats, status = alone["metadata"]["stats"], job.status_json
    assert (status.best_score, status.baseline_score) == (alone["best_score"], stats["baseline_score"])
    assert status.rollouts_completed == stats["total_rollouts"] - stats["test_rollouts_executed"]
    assert status.current_trial == stats["total_trials_evaluated"]
    assert None not in status.model_dump(exclude={"time_since_progress_seconds"}).values()
    again = await client.get(url, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_cancelled_experiment_lets_what_runs_publish_and_starts_nothing_more(
    client: httpx.AsyncClient, database: Database
) -> None:
    made = await created(client)
    job = await searched_job(database)
    url = f"{EXPERIMENTS_PATH}/{made.id}"
    first = await client.post(f"{url}/cancel", json={"reason": "wrong dataset"})
    shown = ExperimentObject.model_validate_json(first.content)
    assert (shown.status, count_of(shown)) == ("running", {"running": 1, "cancelled": 1})
    assert shown.cancel_requested_at is not None
    again = ExperimentObject.model_validate_json((await client.post(f"{url}/cancel")).content)
    assert again.cancel_requested_at == shown.cancel_requested_at
    events = (await client.get(f"{JOBS_PATH}/{job.job_id}/events")).json()["events"]
    assert events[-1]["data"]["reason"] == "wrong dataset"
    refused(await client.post(f"{url}/cancel", json={"why": "x"}), 422, "invalid_request")


async def test_an_experiment_is_deleted_with_its_jobs_once_it_is_over(client: httpx.AsyncClient) -> None:
    made = await created(client)
    url = f"{EXPERIMENTS_PATH}/{made.id}"
    problem = refused(await client.delete(url), 409, "experiment_conflict")
    assert (problem["experiment_id"], problem["experiment_status"]) == (made.id, "queued")
    await client.post(f"{url}/cancel")
    assert made.jobs is not None
    job = f"{JOBS_PATH}/{made.jobs[0].job_id}"
    refused(await client.delete(job), 409, "job_in_experiment")
    answer = await client.delete(url)
    assert (answer.status_code, answer.content) == (204, b"")
    refused(await client.delete(url), 404, "experiment_not_found")
    refused(await client.get(url), 404, "experiment_not_found")
    refused(await client.get(job), 404, "job_not_found")
    assert (await client.get(EXPERIMENTS_PATH)).json() == (await client.get(JOBS_PATH)).json() == []


@pytest.mark.slow
async def test_what_is_no_experiment_is_not_found(client: httpx.AsyncClient) -> None:
    for experiment_id in (UNKNOWN, "exp_1", "estimate", "pl_" + "0" * 32):
        url = f"{EXPERIMENTS_PATH}/{experiment_id}"
        for answer in (await client.get(url), await client.post(f"{url}/cancel"), await client.delete(url)):
            refused(answer, 404, "experiment_not_found")


@pytest.fixture
async def peers(database: Database) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of two organisations."""
    access = Access(database, RateLimits(1000.0, 10), is_open_without_keys=False)
    app = create_app(database=database, service=job_service(database), access=access)
    async with writing(database) as connection:
        keys = [(await api_keys.create(connection, name, ""))[1] for name in ("default", "theirs")]
    transport = httpx.ASGITransport(app)
    ours, theirs = (
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"x-api-key": key}) for key in keys
    )
    async with ours, theirs:
        yield ours, theirs


@pytest.mark.slow
async def test_an_experiment_belongs_to_its_organisation(
    peers: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    ours, theirs = peers
    made = await created(ours)
    assert made.organisation == "default"
    url = f"{EXPERIMENTS_PATH}/{made.id}"
    for answer in (await theirs.get(url), await theirs.post(f"{url}/cancel"), await theirs.delete(url)):
        assert refused(answer, 404, "experiment_not_found")["detail"] == f"there is no experiment '{made.id}'"
    assert (await theirs.get(EXPERIMENTS_PATH)).json() == []
    refused(await theirs.get(EXPERIMENTS_PATH, params={"after": made.id}), 422, "invalid_request")
    assert (await theirs.get(JOBS_PATH, params={"experiment_id": made.id})).json() == []
    assert (await read(ours, made.id)).cancel_requested_at is None
