"""A hostile world costs a job single answers at most: its provider and its task app send whatever they like."""

import asyncio
import re
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import faulty_app, faulty_model
from tests.acceptance.client import Api, Json, config
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import POLICY, REFLECTOR, Asked, FaultyModel
from tests.acceptance.hostile import UNREADABLE, breaks_off, drips
from tests.acceptance.runs import FIXED, Found, found_by
from tests.acceptance.service import Ports, Process, serving_on
from tests.acceptance.test_bad_input import rollouts_on, started_with_faults
from tests.acceptance.test_cancel import MOST_SECONDS, assert_stays_cancelled

pytestmark = pytest.mark.slow

MOST_MEMORY_KIB = 150 * 1024
"""Which a flood of 300 MB, or several that unpack to 64 MB each, may cost a service at most."""

RETRY_AFTER_SECONDS = 1


def most_memory_kib(process: Process) -> int:
    """The most memory that the process has ever had."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, status
    return int(found[1])


async def assert_succeeded(api: Api, job_id: str) -> Json:
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    events = await api.events(job_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    return job


async def test_replies_that_are_traps_cost_a_task_app_its_rollout_and_the_service_nothing(
    api: Api, shared_service: Process, task_app, ports
):
    cases: dict[str, tuple[list[Any], list[tuple[str | None, int]]]] = {
        name: ([faulty_app.is_hostile(trap)], [("invalid_reply", 1), (None, 1)]) for name, trap in UNREADABLE.items()
    }
    cases["drips"] = ([faulty_app.is_hostile(drips)] * 2, [("task_app_timeout", 2), (None, 1)])
    cases["breaks off, then well"] = ([faulty_app.is_hostile(breaks_off)], [(None, 2)])
    app: FaultyApp = await task_app()
    before = most_memory_kib(shared_service)
    job_id, seeds = await started_with_faults(api, app, ports.task_app_url, [faults for faults, _ in cases.values()])
    await assert_succeeded(api, job_id)
    base = (await api.read(job_id, "/candidates"))[0]["candidate_id"]
    outcomes = {}
    for name, seed in zip(cases, seeds, strict=True):
        found = await rollouts_on(api, job_id, seed, base)
        outcomes[name] = [(rollout["reason"], rollout["attempts"]) for rollout in found]
    assert outcomes == {name: expected for name, (_, expected) in cases.items()}
    assert most_memory_kib(shared_service) - before < MOST_MEMORY_KIB


async def test_replies_that_are_traps_cost_a_provider_a_call_and_the_job_no_rollout(
    api: Api, shared_service: Process, task_app, ports, model: FaultyModel
):
    await task_app()
    traps = [faulty_model.is_hostile(trap) for trap in (*UNREADABLE.values(), breaks_off)]
    # Between two traps there are well-behaved replies: too many failures in a row would end the job.
    model.fail(POLICY, chain.from_iterable(zip(traps, repeat(None), repeat(None), strict=False)))
    model.fail(REFLECTOR, chain.from_iterable(zip(traps, repeat(None), strict=False)))
    before = most_memory_kib(shared_service)
    job_id = await api.submit(config(ports.task_app_url, {"gepa.rollout.budget": 400}))
    job = await assert_succeeded(api, job_id)
    rollouts = await api.rollouts(job_id)
    assert {rollout["reason"] for rollout in rollouts} == {None}
    assert sum(rollout["attempts"] for rollout in rollouts) == len(rollouts) + len(traps)
    assert job["best_score"] > job["metadata"]["stats"]["baseline_score"]
    assert next(model.faults[REFLECTOR], "none left") == "none left", "every trap was sprung"
    assert most_memory_kib(shared_service) - before < MOST_MEMORY_KIB


async def test_a_task_app_that_is_restarted_costs_no_rollout(api: Api, ports: Ports, model, undisturbed: Found):
    app = FaultyApp()
    job_id = ""
    for visits in (20, 60):
        async with serving_on(app.app(), ports.task_app):
            job_id = job_id or await api.submit(config(ports.task_app_url, FIXED))
            await app.visited(visits)
    async with serving_on(app.app(), ports.task_app):
        await assert_succeeded(api, job_id)
        assert await found_by(api, job_id) == undisturbed


async def test_a_provider_that_drips_holds_up_no_cancel(api: Api, task_app, ports, model: FaultyModel):
    await task_app()
    model.fail(REFLECTOR, repeat(faulty_model.is_hostile(drips)))
    job_id = await api.submit(config(ports.task_app_url))
    await model.was_asked(REFLECTOR)
    async with asyncio.timeout(MOST_SECONDS):
        await api.cancel(job_id)
        await api.ended(job_id)
    assert (await assert_stays_cancelled(api, job_id))["best_score"] is not None


async def test_a_provider_that_asks_for_a_pause_is_given_it(api: Api, task_app, ports, model: FaultyModel):
    await task_app()
    busy = faulty_model.refuses(429, **{"Retry-After": str(RETRY_AFTER_SECONDS)})
    model.fail(REFLECTOR, [busy] * 3)
    await assert_succeeded(api, await api.submit(config(ports.task_app_url)))
    again: dict[str, list[Asked]] = {}
    for asked in model.of(REFLECTOR):
        again.setdefault(f"{asked.messages} {asked.body.get('seed')}", []).append(asked)
    repeated = [each for each in again.values() if len(each) > 1]
    assert sum(len(each) - 1 for each in repeated) == 3
    for each in repeated:
        for earlier, later in pairwise(each):
            assert later.at - earlier.at >= RETRY_AFTER_SECONDS
