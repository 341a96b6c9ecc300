"""A paused job finishes what is under way, keeps it, waits without costing anything, and goes on where it was."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from promptjobs.db.session import Database
from tests.acceptance.client import JOBS, Api, Json, config
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import FaultyModel
from tests.acceptance.runs import (
    FIXED,
    SLOTS,
    Found,
    assert_whole,
    calls_of,
    column,
    connected,
    found_by,
    keys_of,
    recorded_keys,
)
from tests.acceptance.service import Process, Processes

LONG = {"gepa.rollout.budget": 20_000, "gepa.population": {"num_generations": 10_000, "patience_generations": 10_000}}
PAUSE_REQUESTED, PAUSED, RESUMED = (f"prompt.learning.{name}" for name in ("pause.requested", "paused", "resumed"))

pytestmark = pytest.mark.slow


async def command(api: Api, job_id: str, name: str) -> Json:
    response = await api.http.post(f"{JOBS}/{job_id}/{name}")
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


async def paused(api: Api, app: FaultyApp, job_id: str) -> Json:
    """Ask for a pause while rollouts wait at the task app's gate, and let them go; the job once it is paused."""
    app.close_gate()
    await app.visited(len(app.visits) + 1)
    before = (await api.events(job_id))[-1]["seq"]
    asked = await command(api, job_id, "pause")
    assert (asked["status"], asked["paused_at"]) == ("running", None)
    assert asked["pause_requested_at"] is not None
    app.open_gate()
    await api.heard(job_id, PAUSED, seconds=10, since_seq=before)
    job: Json = await api.read(job_id)
    assert (job["status"], job["pause_requested_at"]) == ("paused", None)
    assert job["paused_at"] is not None
    return job


async def assert_nothing_is_open(database: Database, app: FaultyApp, model: FaultyModel, job_id: str) -> None:
    """Every rollout that the task app was asked for is recorded, and so is every call of a model."""
    keys = await keys_of(database, app.visits)
    assert set(keys) == await recorded_keys(database, job_id)
    assert len(set(keys)) == len(keys)
    async with connected(database) as connection:
        calls = await connection.fetchval("SELECT sum(calls)::int FROM ledger WHERE job_id = $1", job_id)
    assert calls == len(model.asked)


def without_pauses(found: Found) -> Found:
    """As if nobody had paused: without the events of pauses, and so without the numbers of events."""
    events: Sequence[Any] = [rest for _, *rest in found.events if rest[0] not in (PAUSE_REQUESTED, PAUSED, RESUMED)]
    return replace(found, events=events)


async def test_a_paused_job_keeps_what_was_under_way_and_finds_the_same_in_the_end(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel, undisturbed: Found
):
    app: FaultyApp = await task_app()
    service = await processes.serve()
    async with Api.at(service.url) as api:
        job_id = await api.submit(config(ports.task_app_url, FIXED))
        for awaited in (15, 70):
            await app.visited(awaited)
            await paused(api, app, job_id)
            await assert_nothing_is_open(database, app, model, job_id)
            assert (await command(api, job_id, "resume"))["status"] == "queued"
        await assert_whole(api, database, job_id)
        assert without_pauses(await found_by(api, job_id)) == without_pauses(undisturbed)
        await assert_nothing_is_open(database, app, model, job_id)
        told = [
            event["type"] for event in await api.events(job_id) if event["type"].split(".")[-1] in ("paused", "resumed")
        ]
    assert told == [PAUSED, RESUMED] * 2
    assert model.repeated() == 0


async def test_a_job_stays_paused_while_other_jobs_run_and_services_come_and_go(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel
):
    app: FaultyApp = await task_app()
    service = await processes.serve()
    async with Api.at(service.url) as api:
        job_id = await api.submit(config(ports.task_app_url, LONG))
        await app.visited(20)
        before, paid = await paused(api, app, job_id), len(await calls_of(database, job_id))
        service.kill()
    async with Api.at((await processes.serve()).url) as api:
        other = await api.submit(config(ports.task_app_url, {"gepa.rng_seed": 2}))
        await assert_whole(api, database, other)
        assert len(await calls_of(database, job_id)) == paid
        assert await api.read(job_id) == before


async def test_a_cancelled_pause_publishes_the_best_so_far_and_asks_nothing_more(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel
):
    app: FaultyApp = await task_app()
    service = await processes.serve()
    async with Api.at(service.url) as api:
        job_id = await api.submit(config(ports.task_app_url, LONG))
        await api.heard(job_id, "prompt.learning.gepa.new_best")
        await paused(api, app, job_id)
        visits, paid = len(app.visits), len(model.asked)
        answered = await api.cancel(job_id)
        assert answered["status"] in ("queued", "running", "cancelled")
        job = await api.ended(job_id, seconds=10)
        assert (job["status"], job["finish_reason"], job["paused_at"]) == ("cancelled", "cancelled", None)
        assert job["best_score"] == job["best_snapshot"]["best_score"] > job["best_snapshot"]["baseline_score"]
        assert (len(app.visits), len(model.asked)) == (visits, paid)
        events = [event["type"] for event in await api.events(job_id)]
        assert events[-1] == "prompt.learning.gepa.cancelled"


async def test_a_pause_is_no_running_time(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel
):
    app: FaultyApp = await task_app()
    service = await processes.serve()
    async with Api.at(service.url) as api:
        changes = {"termination_config": {"max_time_seconds": 600}}
        job_id = await api.submit(config(ports.task_app_url, changes))
        await app.visited(20)
        await paused(api, app, job_id)
        async with connected(database) as connection:
            hours = "started_at = started_at - interval '5 h', paused_at = paused_at - interval '5 h'"
            await connection.execute(f"UPDATE jobs SET {hours} WHERE id = $1", job_id)
        await command(api, job_id, "resume")
        job = await assert_whole(api, database, job_id)
    assert job["finish_reason"] != "deadline"
    assert 0 < job["metadata"]["stats"]["total_time_seconds"] < 600


async def test_a_pause_outlives_the_worker_that_was_asked_for_it(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel, undisturbed: Found
):
    app: FaultyApp = await task_app()
    service = await processes.serve()
    async with Api.at(service.url) as api:
        job_id = await api.submit(config(ports.task_app_url, FIXED))
        await app.visited(30)
        app.close_gate()
        await app.visited(len(app.visits) + 1)
        await command(api, job_id, "pause")
        service.kill()
    asked, recorded = len(app.visits), await recorded_keys(database, job_id)
    app.open_gate()
    next_service: Process = await processes.serve()
    async with Api.at(next_service.url) as api:
        await api.heard(job_id, PAUSED, seconds=20)
        assert len(app.visits) == asked
        await command(api, job_id, "resume")
        await assert_whole(api, database, job_id)
        assert without_pauses(await found_by(api, job_id)) == without_pauses(undisturbed)
    repeated = (await keys_of(database, app.visits))[asked:]
    assert not recorded.intersection(repeated)
    assert model.repeated() <= SLOTS


async def test_a_pause_that_is_called_off_in_time_does_not_stop_the_job(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel, undisturbed: Found
):
    """Whether its worker has already let go of the job or not."""
    app: FaultyApp = await task_app()
    service = await processes.serve()
    async with Api.at(service.url) as api:
        job_id = await api.submit(config(ports.task_app_url, FIXED))
        for awaited in range(10, 80, 10):
            await app.visited(awaited)
            app.close_gate()
            await app.visited(len(app.visits) + 1)
            await command(api, job_id, "pause")
            await command(api, job_id, "resume")
            app.open_gate()
        await assert_whole(api, database, job_id)
        assert without_pauses(await found_by(api, job_id)) == without_pauses(undisturbed)
        await assert_nothing_is_open(database, app, model, job_id)


async def test_twenty_pauses_and_resumes_at_once_leave_one_job_that_goes_on(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel
):
    app: FaultyApp = await task_app()
    service = await processes.serve()
    async with Api.at(service.url) as api:
        job_id = await api.submit(config(ports.task_app_url, FIXED))
        await app.visited(20)
        await asyncio.gather(*(command(api, job_id, name) for name in ["pause", "resume"] * 10))
        await command(api, job_id, "resume")
        await assert_whole(api, database, job_id)
        assert await column(database, "pause_requested_at", [job_id]) == [None]
    assert model.repeated() == 0
