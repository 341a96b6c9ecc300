"""Several processes on one Postgres: any of them serves anything, and none acts for a job that is no longer its own."""

import asyncio
import random
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit

import psutil
import pytest

from promptjobs.db.session import Database
from tests.acceptance.client import JOBS, Api, config
from tests.acceptance.faulty_app import FaultyApp, Talk, Visit, ask
from tests.acceptance.faulty_model import POLICY, FaultyModel
from tests.acceptance.runs import FIXED, SLOTS, Found, assert_whole, calls_of, column, found_by
from tests.acceptance.service import Ports, Processes
from tests.acceptance.test_cancel import LONG, assert_late_calls_are_refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LATE_SECONDS = 1.0
"""After the loss of a lease or the end of a job: from then on its tokens must be worth nothing, everywhere."""

TRAVEL_SECONDS = 0.5
"""From the interceptor's last look at a token to the provider's first look at the request, on a busy machine."""

PROCESSES = 4
READERS = 300
MOST_FILES = 40
"""Which a service may have opened meanwhile for good: connections to its database."""

AT_ONCE = 20

JUMPING = """
import random, runpy, sys, time
look = time.time
time.time = lambda: look() + random.choice((-86400.0, 0.0, 86400.0))
sys.argv[0] = "promptjobs"
runpy.run_module("promptjobs", run_name="__main__")
"""


# --- fencing ---------------------------------------------------------------------------------------------------------


async def call_until_refused(app: FaultyApp, visit: Visit) -> int:
    """Call the model with the rollout's token without a pause; how many calls went well before it was refused."""
    went_well = 0
    async with asyncio.timeout(30):
        while True:
            url = f"{visit.url}/chat/completions"
            async with app.http.post(url, json={"model": "any", "messages": visit.baseline}) as response:
                if response.status == 401:
                    return went_well
                assert response.status == 200, await response.text()
                went_well += 1


def last_asked_at(model: FaultyModel) -> float:
    return max(asked.at for asked in model.of(POLICY))


async def test_a_frozen_workers_tokens_end_with_its_lease_at_every_replica(
    processes: Processes, database: Database, task_app, ports: Ports, model: FaultyModel
):
    """Nobody takes the job over: the lease alone ends the tokens. Then somebody does, and the sleeper wakes up."""
    model.latency_seconds = 0.01
    app: FaultyApp = await task_app()
    server = await processes.serve("--no-worker")
    async with Api.at(server.url) as api:
        sleeper = await processes.work(public_url=server.url)
        app.close_gate()
        job_id = await api.submit(config(ports.task_app_url))
        await app.visited(SLOTS)
        sleeper.popen.send_signal(signal.SIGSTOP)
        [lease_until] = await column(database, "lease_until", [job_id])
        assert await call_until_refused(app, app.visits[0]) > 0
        assert last_asked_at(model) <= lease_until.timestamp() + LATE_SECONDS + TRAVEL_SECONDS
        stale, paid = list(app.visits), len(model.asked)
        await processes.work(public_url=server.url)
        await app.visited(2 * SLOTS)
        sleeper.popen.send_signal(signal.SIGCONT)
        assert [await call_until_refused(app, visit) for visit in stale] == [0] * SLOTS
        assert len(model.asked) == paid
        app.open_gate()
        await assert_whole(api, database, job_id)
        await sleeper.terminate()


async def test_a_cancelled_jobs_tokens_end_with_it_at_every_replica(
    processes: Processes, task_app, ports: Ports, model: FaultyModel
):
    model.latency_seconds = 0.01
    app: FaultyApp = await task_app()
    server = await processes.serve("--no-worker")
    await processes.work(public_url=server.url)
    async with Api.at(server.url) as api:
        job_id = await api.submit(config(ports.task_app_url, LONG))
        await api.heard(job_id, "prompt.learning.gepa.new_best")
        app.close_gate()
        await app.visited(len(app.visits) + 1)
        calling = asyncio.create_task(call_until_refused(app, app.visits[-1]))
        await model.was_asked(POLICY, len(model.of(POLICY)) + SLOTS)
        await api.cancel(job_id)
        job = await api.ended(job_id)
        assert await calling > 0
        finished_at = datetime.fromisoformat(job["finished_at"])
        assert last_asked_at(model) <= finished_at.timestamp() + LATE_SECONDS + TRAVEL_SECONDS
        await assert_late_calls_are_refused(app, model)


# --- sharing ---------------------------------------------------------------------------------------------------------


def at_any_of(urls: list[str]) -> Talk:
    """As behind a load balancer: each call reaches another replica."""

    async def talk(app: FaultyApp, visit: Visit) -> str:
        return await ask(app.http, f"{random.choice(urls)}{urlsplit(visit.url).path}", visit.baseline)

    return talk


async def test_jobs_of_four_processes_are_served_by_either_of_two_replicas(
    processes: Processes, database: Database, task_app, ports: Ports, model: FaultyModel, undisturbed: Found
):
    urls: list[str] = []
    app: FaultyApp = await task_app(talk=at_any_of(urls))
    app.close_gate()
    servers = [await processes.serve(worker_jobs=1) for _ in range(2)]
    urls += [server.url for server in servers]
    for url in urls:
        await processes.work(public_url=url, worker_jobs=1)
    async with Api.at(urls[0]) as api, Api.at(urls[1]) as other:
        body = config(ports.task_app_url, FIXED)
        jobs = [await each.submit(body) for each in (api, other, api, other)]
        await app.visited(PROCESSES * SLOTS)
        assert len(set(await column(database, "worker_id", jobs))) == PROCESSES
        app.open_gate()
        for job_id in jobs:
            await assert_whole(other, database, job_id)
            assert await found_by(api, job_id) == undisturbed
            assert await api.events(job_id) == await other.events(job_id)
            assert len(await calls_of(database, job_id)) == len(await api.rollouts(job_id))
    assert len(model.of(POLICY)) == len(app.visits)


async def test_the_same_request_twenty_times_at_once_is_carried_out_as_often_as_it_was_meant(
    processes: Processes, database: Database, task_app, ports: Ports
):
    """A post makes a job each time; a start or a cancel that is repeated changes nothing."""
    app: FaultyApp = await task_app()
    servers = [await processes.serve(), await processes.serve()]
    async with Api.at(servers[0].url) as api, Api.at(servers[1].url) as other:
        body = config(ports.task_app_url)
        apis: Sequence[Api] = [api, other] * (AT_ONCE // 2)
        jobs = await asyncio.gather(*(each.submit(body, auto_start=False) for each in apis))
        assert len(set(jobs)) == AT_ONCE
        listed = await api.read_list(limit=200)
        assert sorted(job["job_id"] for job in listed) == sorted(jobs)
        starts = [each.http.post(f"{JOBS}/{jobs[0]}/start") for each in apis]
        assert {answer.status_code for answer in await asyncio.gather(*starts)} == {200}
        await assert_whole(api, database, jobs[0])
        assert await column(database, "epoch", jobs[:2]) == [1, 0]
        assert {visit.body["run_id"] for visit in app.visits} == {jobs[0]}
        app.close_gate()
        await api.http.post(f"{JOBS}/{jobs[1]}/start")
        await app.visited(len(app.visits) + 1)
        await asyncio.gather(*(each.cancel(jobs[1]) for each in apis))
        assert (await api.ended(jobs[1]))["status"] == "cancelled"
        types = [event["type"] for event in await api.events(jobs[1])]
        assert types.count("prompt.learning.cancel.requested") == 1
        assert types.count("prompt.learning.gepa.cancelled") == 1
        assert types[-1] == "prompt.learning.gepa.cancelled"


async def test_a_service_whose_clock_jumps_by_a_day_at_every_look_finds_the_same(
    processes: Processes, database: Database, task_app, ports: Ports, undisturbed: Found
):
    """Leases go by the database's clock and by the time since the machine was started."""
    await task_app()
    command = (sys.executable, "-c", JUMPING, "serve", "--port", "0", "--json")
    service = await processes.start(command)
    async with Api.at(service.url) as api:
        job_id = await api.submit(config(ports.task_app_url, FIXED))
        await assert_whole(api, database, job_id)
        assert await found_by(api, job_id) == undisturbed
        assert await column(database, "epoch", [job_id]) == [1]


# --- readers ---------------------------------------------------------------------------------------------------------


async def reads_a_little_and_vanishes(url: str, job_id: str, *, at_once: bool) -> None:
    """Without a word: the connection is reset while events are on their way, or before the first."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET {JOBS}/{job_id}/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    if not at_once:
        await reader.readuntil(b"data: ")
    writer.transport.abort()


async def test_readers_that_vanish_by_the_hundreds_leave_nothing_behind_and_hold_up_nobody(
    processes: Processes, database: Database, task_app, ports: Ports
):
    app: FaultyApp = await task_app()
    service = await processes.serve()
    files = psutil.Process(service.popen.pid).num_fds
    async with Api.at(service.url) as api:
        app.close_gate()
        job_id = await api.submit(config(ports.task_app_url))
        await app.visited(SLOTS)
        before = files()
        ended = asyncio.create_task(api.ended(job_id))
        vanishing = [reads_a_little_and_vanishes(service.url, job_id, at_once=n % 2 == 0) for n in range(READERS)]
        await asyncio.gather(*vanishing)
        app.open_gate()
        await ended
        await assert_whole(api, database, job_id)
        async with asyncio.timeout(20):
            while files() > before + MOST_FILES:
                await api.read(job_id)
