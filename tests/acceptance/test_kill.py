"""Whatever process is killed, its job goes on: nothing recorded is asked again, and the result is the same."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable

import asyncpg
import httpx
import pytest

from promptjobs.db.session import Database
from promptjobs.demo.model_server import POLICY_MODEL, create_model_app
from promptjobs.demo.task_app import create_task_app
from tests.acceptance.client import Api, config
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import REFLECTOR, FaultyModel
from tests.acceptance.finished_job import CHANGES
from tests.acceptance.runs import (
    FIXED,
    SLOTS,
    Found,
    Killing,
    assert_whole,
    column,
    connected,
    found_by,
    keys_of,
    recorded_keys,
)
from tests.acceptance.service import Ports, Processes, serving_on

VALIDATION, TEST = range(100, 105), range(200, 208)
DEMO = {**CHANGES, "policy.model": POLICY_MODEL}


async def a_running_job(
    processes: Processes, database: Database, app: FaultyApp, model: FaultyModel, ports: Ports
) -> Killing:
    service = await processes.serve()
    async with Api.at(service.url) as api:
        job_id = await api.submit(config(ports.task_app_url, FIXED))
    return Killing(processes, database, app, model, job_id, service)


# --- kill -9 ---------------------------------------------------------------------------------------------------------


async def test_a_killed_service_goes_on_where_it_was_and_finds_the_same(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel, undisturbed: Found
):
    run = await a_running_job(processes, database, await task_app(), model, ports)
    moment = random.randint(1, 100)
    print(f"killed at rollout {moment}")
    await run.app.visited(moment)
    await run.kill()
    async with Api.at(run.service.url) as api:
        await assert_whole(api, database, run.job_id)
        assert await found_by(api, run.job_id) == undisturbed
    await run.assert_nothing_recorded_was_asked_again()


async def right_after_its_post(_: Killing) -> None:
    """Nothing is awaited: the job was accepted a moment ago."""


async def in_its_first_rollout(run: Killing) -> None:
    await run.app.visited(1)


async def in_a_proposal(run: Killing) -> None:
    await run.model.was_asked(REFLECTOR)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [right_after_its_post, in_its_first_rollout, in_a_proposal])
async def test_a_service_that_is_killed_while_the_world_keeps_it_waiting_finds_the_same(
    processes: Processes,
    database: Database,
    task_app,
    ports,
    model: FaultyModel,
    undisturbed: Found,
    moment: Callable[[Killing], Awaitable[None]],
):
    app: FaultyApp = await task_app()
    if moment is in_a_proposal:
        model.close_gate(REFLECTOR)
    else:
        app.close_gate()
    run = await a_running_job(processes, database, app, model, ports)
    await moment(run)
    run.service.kill()
    if moment is in_a_proposal:
        model.open_gate(REFLECTOR)
    else:
        app.open_gate()
    await run.kill()
    async with Api.at(run.service.url) as api:
        await assert_whole(api, database, run.job_id)
        assert await found_by(api, run.job_id) == undisturbed
    await run.assert_nothing_recorded_was_asked_again()


@pytest.mark.slow
async def test_a_reader_whose_stream_a_kill_has_broken_resumes_without_a_gap(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel
):
    run = await a_running_job(processes, database, await task_app(), model, ports)
    heard: list[int] = []

    async def listen() -> None:
        async with Api.at(run.service.url) as api:
            async for received in api.stream(run.job_id, heard[-1] if heard else 0):
                seq = received.event["seq"]
                heard.append(seq)

    listening = asyncio.create_task(listen())
    await run.app.visited(50)
    await run.kill()
    with pytest.raises(httpx.HTTPError):
        await listening
    assert heard
    await listen()
    assert heard == list(range(1, (await column(database, "last_seq", [run.job_id]))[0] + 1))


@pytest.mark.slow
async def test_a_killed_demo_finds_the_same(processes: Processes, database: Database, ports):
    """With the models that read the prompt, whose answers decide where the search goes."""
    async with serving_on(create_task_app(), ports.task_app), serving_on(create_model_app(0.01), ports.model):
        body = config(ports.task_app_url, DEMO)
        service = await processes.serve()
        async with Api.at(service.url) as api:
            undisturbed, job_id = await api.submit(body), ""
            await api.ended(undisturbed)
            expected = await found_by(api, undisturbed)
            job_id = await api.submit(body)
            await api.heard(job_id, "prompt.learning.gepa.frontier_updated")
        for awaited in ("prompt.learning.gepa.new_best", "prompt.learning.phase.changed"):
            service.kill()
            service = await processes.serve()
            async with Api.at(service.url) as api:
                await api.heard(job_id, awaited)
        async with Api.at(service.url) as api:
            await assert_whole(api, database, job_id)
            assert await found_by(api, job_id) == expected


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_job_that_ends_its_worker_every_time_is_given_up_after_five_attempts(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel
):
    app: FaultyApp = await task_app()
    app.close_gate()
    server = await processes.serve("--no-worker")
    async with Api.at(server.url) as api:
        job_id = await api.submit(config(ports.task_app_url))
        # The first claim is followed by a turn, which is progress; after that there is none.
        for kill in range(6):
            worker = await processes.work(public_url=server.url)
            await app.visited((kill + 1) * SLOTS)
            worker.kill()
            assert await column(database, "attempts", [job_id]) == [max(1, kill)]
        await processes.work(public_url=server.url)
        job = await api.ended(job_id)
        assert job["status"] == "failed"
        assert "ended its worker" in job["error"]
        assert len(app.visits) == 6 * SLOTS


@pytest.mark.slow
async def test_a_service_that_is_killed_while_it_publishes_has_published_nothing_and_the_next_one_does_it_once(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel, undisturbed: Found
):
    async with connected(database) as blocker, blocker.transaction():
        await blocker.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await blocker.execute("LOCK TABLE snapshots IN SHARE MODE")
        run = await a_running_job(processes, database, await task_app(), model, ports)
        await somebody_waits_for(blocker, "snapshots")
        async with Api.at(run.service.url) as api:
            assert (await api.read(run.job_id))["status"] == "running"
            assert (await api.events(run.job_id))[-1]["type"] == "prompt.learning.progress"
            assert await api.read(run.job_id, "/snapshots") == []
        run.service.kill()
    visits = len(run.app.visits)
    await run.kill()
    async with Api.at(run.service.url) as api:
        await assert_whole(api, database, run.job_id)
        assert await found_by(api, run.job_id) == undisturbed
    assert len(run.app.visits) == visits
    assert model.repeated() == 0


async def somebody_waits_for(connection: asyncpg.Connection, table: str) -> None:
    """Return when another connection waits for a lock on the table; the server looks every 10 ms, for 30 s."""
    await connection.execute(
        f"DO $$ BEGIN FOR i IN 1..3000 LOOP "
        f"IF EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass) THEN RETURN; END IF; "
        f"PERFORM pg_sleep(0.01); END LOOP; RAISE 'nobody waits for {table}'; END $$"
    )


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [VALIDATION, TEST], ids=["validation", "test"])
async def test_a_service_that_is_killed_at_the_end_of_the_search_finds_the_same(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel, undisturbed: Found, seeds: range
):
    run = await a_running_job(processes, database, await task_app(), model, ports)
    await run.app.visited(3, seeds=seeds)
    await run.kill()
    async with Api.at(run.service.url) as api:
        await assert_whole(api, database, run.job_id)
        assert await found_by(api, run.job_id) == undisturbed
    await run.assert_nothing_recorded_was_asked_again()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("lanes", "order", "kills"), [(1, "arrival", 4), (4, "fixed", 6), (8, "arrival", 6)])
async def test_a_service_that_is_killed_again_and_again_repeats_nothing_that_was_recorded(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel, lanes: int, order: str, kills: int
):
    app: FaultyApp = await task_app()
    changes = {"gepa.lanes": lanes, "gepa.turn_order": order, "gepa.rollout.budget": 200}
    body = config(ports.task_app_url, changes)
    service = await processes.serve()
    async with Api.at(service.url) as api:
        undisturbed = await api.submit(body)
        await api.ended(undisturbed)
        expected = await found_by(api, undisturbed)
        app.visits.clear()
        model.asked.clear()
        job_id = await api.submit(body)
    run = Killing(processes, database, app, model, job_id, service)
    for _ in range(kills):
        await app.visited(len(app.visits) + random.randint(1, 25))
        await run.kill()
    async with Api.at(run.service.url) as api:
        await assert_whole(api, database, job_id)
        if order == "fixed" or lanes == 1:
            assert await found_by(api, job_id) == expected
    await run.assert_nothing_recorded_was_asked_again()


# --- hand-over -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_sigterm_hands_the_job_over_at_once_and_no_rollout_fails(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel, undisturbed: Found
):
    run = await a_running_job(processes, database, await task_app(), model, ports)
    await run.app.visited(20)
    run.app.close_gate()
    await run.app.visited(len(run.app.visits) + 1)
    async with connected(database) as connection:
        told = asyncio.get_running_loop().create_future()
        await connection.add_listener("promptjobs_jobs", lambda *heard: told.done() or told.set_result(heard[-1]))
        run.service.popen.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await told == run.job_id
        assert await column(database, "status", [run.job_id]) == ["queued"]
    recorded, asked = await recorded_keys(database, run.job_id), len(run.app.visits)
    await run.service.ended_well()
    run.app.open_gate()
    service = await processes.serve()
    async with Api.at(service.url) as api:
        await assert_whole(api, database, run.job_id)
        assert await found_by(api, run.job_id) == undisturbed
    assert not recorded.intersection((await keys_of(database, run.app.visits))[asked:])


@pytest.mark.slow
async def test_two_workers_share_the_jobs_and_the_one_that_is_left_takes_over_from_a_killed_one(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel
):
    app: FaultyApp = await task_app()
    server = await processes.serve("--no-worker")
    async with Api.at(server.url) as api:
        cancelled = await api.submit(config(ports.task_app_url))
        await api.cancel(cancelled)
        app.close_gate()
        jobs = [await api.submit(config(ports.task_app_url, {"gepa.rng_seed": n})) for n in (1, 2)]
        doomed = await processes.work(public_url=server.url, worker_jobs=1)
        await app.visited(SLOTS)
        other = await processes.work(public_url=server.url, worker_jobs=2)
        await app.visited(2 * SLOTS)
        assert await column(database, "worker_id", jobs) == [doomed.said["worker_id"], other.said["worker_id"]]
        app.open_gate()
        await app.visited(3 * SLOTS)
        doomed.kill()
        for job_id in jobs:
            await assert_whole(api, database, job_id)
        assert await column(database, "epoch", jobs) == [2, 1]
        assert (await api.read(cancelled))["status"] == "cancelled"
        assert cancelled not in {visit.body["run_id"] for visit in app.visits}


@pytest.mark.slow
async def test_a_worker_that_sleeps_through_its_lease_writes_nothing_when_it_wakes_up(
    processes: Processes, database: Database, task_app, ports, model: FaultyModel
):
    app: FaultyApp = await task_app()
    server = await processes.serve("--no-worker")
    async with Api.at(server.url) as api:
        sleeper = await processes.work(public_url=server.url)
        app.close_gate()
        job_id = await api.submit(config(ports.task_app_url))
        await app.visited(SLOTS)
        sleeper.popen.send_signal(signal.SIGSTOP)
        await processes.work(public_url=server.url)
        await app.visited(2 * SLOTS)
        app.open_gate()
        sleeper.popen.send_signal(signal.SIGCONT)
        await assert_whole(api, database, job_id)
        assert await column(database, "epoch", [job_id]) == [2]
        keys = await keys_of(database, app.visits)
        assert len(keys) - len(set(keys)) == SLOTS
        await sleeper.terminate()
        assert "a job's lease was lost" in sleeper.log.read_text()
