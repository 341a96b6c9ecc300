"""A cancelled job stops within seconds, publishes the best it has, and stays cancelled; so does one out of time."""

import asyncio

import pytest

from promptjobs.db.session import Database
from tests.acceptance import faulty_app
from tests.acceptance.client import JOBS, SYSTEM, Api, Json, config
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import FaultyModel
from tests.acceptance.service import Processes

CANCELLED = "prompt.learning.gepa.cancelled"
MOST_SECONDS = 5.0
LONG = {"gepa.rollout.budget": 20_000, "gepa.population": {"num_generations": 10_000, "patience_generations": 10_000}}


async def assert_stays_cancelled(api: Api, job_id: str) -> Json:
    """The job has ended with one terminal event, and neither a second cancel nor a start changes anything."""
    before = await api.ended(job_id)
    assert before["status"] == "cancelled"
    assert before["finish_reason"] == "cancelled"
    events = await api.events(job_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["seq"] for event in events if event["type"] == CANCELLED] == [len(events)]
    assert await api.cancel(job_id) == before
    started = await api.http.post(f"{JOBS}/{job_id}/start")
    assert started.status_code == 409
    assert await api.read(job_id) == before
    assert await api.events(job_id) == events
    return before


@pytest.mark.slow
async def test_a_queued_job_is_cancelled_at_once(processes: Processes, ports):
    service = await processes.serve("--no-worker")
    async with Api.at(service.url) as api:
        job_id = await api.submit(config(ports.task_app_url))
        answered = await api.cancel(job_id, "changed my mind")
        assert answered["status"] == "cancelled"
        job = await assert_stays_cancelled(api, job_id)
        assert job["started_at"] is None
        assert (await api.events(job_id))[-1]["data"]["reason"] == "changed my mind"


async def test_a_pending_job_is_cancelled_at_once(api: Api, ports):
    job_id = await api.submit(config(ports.task_app_url), auto_start=False)
    assert (await api.cancel(job_id))["status"] == "cancelled"
    await assert_stays_cancelled(api, job_id)


async def test_a_running_job_is_cancelled_in_mid_rollout_and_publishes_the_best_so_far(
    api: Api, task_app, ports, model: FaultyModel, stored: Database
):
    app: FaultyApp = await task_app()
    job_id = await api.submit(config(ports.task_app_url, LONG))
    await api.heard(job_id, "prompt.learning.gepa.new_best")
    app.close_gate()
    seen = len(app.visits)
    await app.visited(seen + 1)
    async with asyncio.timeout(MOST_SECONDS):
        answered = await api.cancel(job_id)
        assert answered["status"] == "running"
        assert answered["cancel_requested_at"] is not None
        await api.ended(job_id)
    job = await assert_stays_cancelled(api, job_id)
    snapshot = job["best_snapshot"]
    assert snapshot["messages"][0]["content"].startswith(f"{SYSTEM}\n- hint")
    assert job["best_score"] == snapshot["best_score"] > snapshot["baseline_score"]
    artifacts = (await api.read(job_id, "/artifacts"))["artifacts"]
    assert job["best_snapshot_id"] in {item["snapshot_id"] for item in artifacts}
    assert snapshot["test"] is None
    await assert_late_calls_are_refused(app, model)
    assert job["metadata"]["stats"]["total_rollouts"] == await count_rollouts(stored, job_id) < len(app.visits)


async def assert_late_calls_are_refused(app: FaultyApp, model: FaultyModel) -> None:
    """What still hangs in the task app comes too late: its tokens are worth nothing."""
    paid = len(model.asked)
    for visit in app.visits[-3:]:
        url = f"{visit.url}/chat/completions"
        async with app.http.post(url, json={"model": "any", "messages": visit.baseline}) as response:
            assert response.status == 401, await response.text()
    assert len(model.asked) == paid


async def count_rollouts(database: Database, job_id: str) -> int:
    connection = await database.connect()
    try:
        return int(await connection.fetchval("SELECT count(*) FROM rollouts WHERE job_id = $1", job_id))
    finally:
        await connection.close()


@pytest.mark.slow
async def test_a_job_that_is_cancelled_while_nobody_runs_it_is_ended_by_the_next_worker(
    processes: Processes, task_app, ports, model: FaultyModel
):
    app: FaultyApp = await task_app()
    server = await processes.serve("--no-worker")
    worker = await processes.work(public_url=server.url)
    async with Api.at(server.url) as api:
        job_id = await api.submit(config(ports.task_app_url, LONG))
        await api.heard(job_id, "prompt.learning.gepa.new_best")
        worker.kill()
        assert (await api.cancel(job_id))["status"] == "running"
        asked = len(app.visits)
        await processes.work(public_url=server.url)
        job = await assert_stays_cancelled(api, job_id)
        assert job["best_score"] > job["best_snapshot"]["baseline_score"]
        assert len(app.visits) == asked


async def test_a_job_that_is_cancelled_before_its_baseline_is_measured_publishes_no_score(api: Api, task_app, ports):
    app: FaultyApp = await task_app()
    for seed in range(20):
        app.fail(seed, [faulty_app.hangs] * 9)
    job_id = await api.submit(config(ports.task_app_url))
    await app.visited(8)
    async with asyncio.timeout(MOST_SECONDS):
        await api.cancel(job_id)
        await api.ended(job_id)
    job = await assert_stays_cancelled(api, job_id)
    assert job["best_score"] is None
    assert job["metadata"]["stats"]["total_rollouts"] == 0


@pytest.mark.slow
async def test_cancelling_a_finished_job_changes_nothing(api: Api, task_app, ports):
    await task_app()
    job_id = await api.submit(config(ports.task_app_url, {"gepa.rollout.budget": 50}))
    job = await api.ended(job_id)
    assert job["status"] == "succeeded"
    events = await api.events(job_id)
    assert await api.cancel(job_id) == job
    assert await api.events(job_id) == events


async def test_cancelling_an_unknown_job_is_not_found(api: Api):
    response = await api.http.post(f"{JOBS}/pl_{'0' * 32}/cancel")
    assert (response.status_code, response.json()["code"]) == (404, "job_not_found")


@pytest.mark.slow
async def test_a_job_out_of_time_validates_and_publishes_the_best_it_has(api: Api, task_app, ports, model):
    await task_app()
    model.latency_seconds = 0.01
    changes = {**LONG, "termination_config": {"max_time_seconds": 2}}
    job = await api.ended(await api.submit(config(ports.task_app_url, changes)), seconds=20)
    assert job["status"] == "succeeded"
    assert job["finish_reason"] == "deadline"
    assert job["metadata"]["stats"]["validation_rollouts_executed"] > 0
    assert job["best_score"] > job["metadata"]["stats"]["baseline_score"]
    assert job["best_snapshot"]["test"]["best"]["mean"] is not None
    [end] = [event for event in await api.events(job["job_id"]) if event["type"] == "prompt.learning.gepa.complete"]
    assert end["data"]["finish_reason"] == "deadline"


@pytest.mark.slow
async def test_a_job_out_of_time_before_its_baseline_is_measured_has_failed(api: Api, task_app, ports):
    app: FaultyApp = await task_app()
    for seed in range(20):
        app.fail(seed, [faulty_app.hangs] * 9)
    changes = {"termination_config": {"max_time_seconds": 1}, "gepa.evaluation.test_pool": None}
    job = await api.ended(await api.submit(config(ports.task_app_url, changes)))
    assert (job["status"], job["finish_reason"], job["best_score"]) == ("failed", "deadline", None)
    assert "before its baseline was measured" in job["error"]
    assert "1 s" in job["error"]


@pytest.mark.slow
async def test_a_job_out_of_time_before_its_baseline_is_measured_opens_no_test_seed(api: Api, task_app, ports):
    app: FaultyApp = await task_app()
    for seed in range(20):
        app.fail(seed, [faulty_app.hangs] * 9)
    changes = {"termination_config": {"max_time_seconds": 1}, "gepa.rollout.max_concurrent": 16}
    job = await api.ended(await api.submit(config(ports.task_app_url, changes)))
    assert job["metadata"]["stats"]["test_rollouts_executed"] == 0
