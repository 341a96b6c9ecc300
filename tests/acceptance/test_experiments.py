"""Experiments in real processes: places hold over replicas; kills, pauses and cancels leave the other jobs alone."""

import asyncio

import pytest

from promptjobs.db.session import Database
from tests.acceptance.client import Api, config
from tests.acceptance.experiment_runs import (
    Crowd,
    arrived,
    assert_nothing_asked_twice,
    cancel,
    ended,
    job_of,
    most_at_once,
    read,
    running,
    spans,
    submit,
)
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import FaultyModel
from tests.acceptance.runs import FIXED, SLOTS, assert_whole, column, found_by, keys_of, recorded_keys
from tests.acceptance.service import Ports, Processes
from tests.acceptance.test_pause import LONG, command, paused, without_pauses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CANCEL_SECONDS = 5.0
REPLICAS, PLACES = 3, 3


async def test_three_replicas_never_run_more_jobs_of_an_experiment_than_it_has_places(
    processes: Processes, database: Database, task_app, ports: Ports, model: FaultyModel
):
    """With twice as many slots as places. A job that is posted later and stands alone does not wait for the queue.

    Of workers that claim at the same time, one that loses a place to another gives its job back, so that a later job
    may pass it by: the oldest are first but for as many as there are other workers.
    """
    crowd = Crowd()
    app: FaultyApp = await task_app(talk=crowd.watching())
    app.close_gate()
    servers = await asyncio.gather(*(processes.serve(worker_jobs=2) for _ in range(REPLICAS)))
    async with Api.at(servers[0].url) as api, Api.at(servers[1].url) as other:
        configs = [config(ports.task_app_url, {"gepa.rng_seed": seed}) for seed in range(6)]
        experiment = await submit(api, PLACES, configs)
        crowd.jobs = frozenset(experiment.jobs)
        alone = await other.submit(config(ports.task_app_url))
        await app.visited((PLACES + 1) * SLOTS)
        begun = await running(database, experiment.id)
        assert {job_of(visit) for visit in app.visits} == {*begun, alone}
        assert len(begun) == PLACES
        assert set(begun) <= set(experiment.jobs[: PLACES + REPLICAS - 1])
        app.open_gate()
        for job_id in (*experiment.jobs, alone):
            await assert_whole(other, database, job_id)
        whole = await read(other, experiment.id)
        assert (whole["status"], whole["counts"]["succeeded"]) == ("completed", 6)
    assert most_at_once(await spans(database, experiment.id)) == crowd.most == PLACES
    await assert_nothing_asked_twice(database, app.visits)


async def test_a_job_that_fails_gives_its_place_to_the_next_and_stops_no_other(
    processes: Processes, database: Database, task_app, ports: Ports, model: FaultyModel
):
    await task_app()
    service = await processes.serve()
    async with Api.at(service.url) as api:
        urls = (ports.task_app_url, ports.closed_url, ports.task_app_url)
        experiment = await submit(api, 1, [config(url, {"gepa.rng_seed": 1 + n}) for n, url in enumerate(urls)])
        whole = await ended(api, experiment)
        assert [job["status"] for job in whole["jobs"]] == ["succeeded", "failed", "succeeded"]
        assert whole["jobs"][1]["error"]
        assert whole["status"] == "completed"
    ran = await spans(database, experiment.id)
    assert most_at_once(ran) == 1
    assert ran == sorted(ran)


async def test_a_killed_workers_jobs_go_on_in_their_places_and_nothing_recorded_is_asked_again(
    processes: Processes, database: Database, task_app, ports: Ports, model: FaultyModel
):
    """The jobs are the same, so those that a kill has disturbed must find what the one finds that begins after it."""
    crowd = Crowd()
    app: FaultyApp = await task_app(talk=crowd.watching())
    server = await processes.serve("--no-worker")
    async with Api.at(server.url) as api:
        doomed = await processes.work(public_url=server.url)
        experiment = await submit(api, 2, [config(ports.task_app_url, FIXED)] * 3)
        disturbed = experiment.jobs[:2]
        await asyncio.gather(*(arrived(app, job_id, 30) for job_id in disturbed))
        app.close_gate()
        doomed.kill()
        app.open_gate()
        asked = len(app.visits)
        recorded = {job_id: await recorded_keys(database, job_id) for job_id in disturbed}
        await processes.work(public_url=server.url)
        for job_id in experiment.jobs:
            await assert_whole(api, database, job_id)
        found = [await found_by(api, job_id) for job_id in experiment.jobs]
        assert all(each == found[-1] for each in found)
        assert (await read(api, experiment.id))["counts"]["succeeded"] == 3
    assert await column(database, "epoch", experiment.jobs) == [2, 2, 1]
    assert most_at_once(await spans(database, experiment.id)) == crowd.most == 2
    later = app.visits[asked:]
    for visit, key in zip(later, await keys_of(database, later), strict=True):
        assert key not in recorded.get(job_of(visit), ())


async def test_a_cancelled_experiment_ends_within_seconds_and_leaves_the_jobs_beside_it_alone(
    processes: Processes, database: Database, task_app, ports: Ports, model: FaultyModel
):
    """Those that have run publish what they have; those that have not are over at once. Ten cancels are one."""
    app: FaultyApp = await task_app()
    services = await asyncio.gather(processes.serve(worker_jobs=2), processes.serve(worker_jobs=2))
    async with Api.at(services[0].url) as api, Api.at(services[1].url) as other:
        experiment = await submit(api, 2, [config(ports.task_app_url, LONG)] * 5)
        alone = await api.submit(config(ports.task_app_url))
        await asyncio.gather(*(api.heard(job_id, "prompt.learning.gepa.new_best") for job_id in experiment.jobs[:2]))
        app.close_gate()
        await app.visited(len(app.visits) + 1)
        answers = await asyncio.gather(*(cancel(each, experiment.id) for each in [api, other] * 5))
        whole = await ended(other, experiment)
        took = "extract(epoch FROM finished_at - cancel_requested_at)"
        assert max(await column(database, took, experiment.jobs)) < CANCEL_SECONDS
        assert all(answer["cancel_requested_at"] == whole["cancel_requested_at"] for answer in answers)
        assert (whole["status"], whole["counts"]["cancelled"]) == ("cancelled", 5)
        scores = [job["best_score"] for job in [await api.read(job_id) for job_id in experiment.jobs]]
        assert all(score is not None for score in scores[:2])
        assert scores[2:] == [None] * 3
        assert await column(database, "started_at", experiment.jobs[2:]) == [None] * 3
        for job_id in experiment.jobs:
            types = [event["type"] for event in await api.events(job_id)]
            assert types.count("prompt.learning.gepa.cancelled") == 1
            assert types.count("prompt.learning.cancel.requested") == (job_id in experiment.jobs[:2])
        app.open_gate()
        await assert_whole(api, database, alone)
        assert await cancel(api, experiment.id) == whole


async def test_a_paused_job_lends_its_place_and_waits_for_one_when_it_is_resumed(
    processes: Processes, database: Database, task_app, ports: Ports, model: FaultyModel
):
    """Whatever was interrupted, both jobs are the same and find the same."""
    crowd = Crowd()
    app: FaultyApp = await task_app(talk=crowd.watching())
    service = await processes.serve(worker_jobs=3)
    async with Api.at(service.url) as api:
        experiment = await submit(api, 1, [config(ports.task_app_url, FIXED)] * 2)
        crowd.jobs = frozenset(experiment.jobs)
        first, second = experiment.jobs
        await arrived(app, first, 20)
        await paused(api, app, first)
        await arrived(app, second)
        app.close_gate()
        await app.visited(len(app.visits) + 1)
        assert await running(database, experiment.id) == [second]
        assert (await command(api, first, "resume"))["status"] == "queued"
        # The worker has slots left and takes the oldest that may run: a later job alone passes the resumed one by.
        alone = await api.submit(config(ports.task_app_url))
        await arrived(app, alone)
        assert await column(database, "status", experiment.jobs) == ["queued", "running"]
        app.open_gate()
        for job_id in (*experiment.jobs, alone):
            await assert_whole(api, database, job_id)
        found = [without_pauses(await found_by(api, job_id)) for job_id in experiment.jobs]
        assert found[0] == found[1]
    assert crowd.most == 1
    assert await column(database, "epoch", experiment.jobs) == [2, 1]
    await assert_nothing_asked_twice(database, app.visits)


async def test_a_replica_that_joins_later_takes_the_places_that_are_free(
    processes: Processes, database: Database, task_app, ports: Ports, model: FaultyModel
):
    """And one that leaves hands its job over, which keeps its turn before the jobs that have not begun."""
    app: FaultyApp = await task_app()
    app.close_gate()
    server = await processes.serve("--no-worker")
    async with Api.at(server.url) as api:
        early = await processes.work(public_url=server.url, worker_jobs=1)
        experiment = await submit(api, 2, [config(ports.task_app_url, FIXED)] * 3)
        first, second, _ = experiment.jobs
        await arrived(app, first, SLOTS)
        assert await running(database, experiment.id) == [first]
        late = await processes.work(public_url=server.url, worker_jobs=1)
        await arrived(app, second, SLOTS)
        workers = [early.said["worker_id"], late.said["worker_id"]]
        assert await column(database, "worker_id", [first, second]) == workers
        third = await processes.work(public_url=server.url, worker_jobs=1)
        await early.terminate()
        await arrived(app, first, 2 * SLOTS)
        assert await column(database, "worker_id", [first]) == [third.said["worker_id"]]
        assert await running(database, experiment.id) == [first, second]
        app.open_gate()
        for job_id in experiment.jobs:
            await assert_whole(api, database, job_id)
        found = [await found_by(api, job_id) for job_id in experiment.jobs]
        assert all(each == found[-1] for each in found)
    assert most_at_once(await spans(database, experiment.id)) == 2
