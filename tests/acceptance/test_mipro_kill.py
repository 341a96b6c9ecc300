"""A MIPRO job whose service is killed goes on where it was: nothing recorded is asked again, the result is the same."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from promptjobs.db.session import Database
from tests.acceptance.client import Api, Json
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import POLICY, FaultyModel
from tests.acceptance.mipro_jobs import STAGED, TEST, VALIDATION, config, counts_hints_and_examples, submit
from tests.acceptance.runs import Killing, assert_whole, found_by
from tests.acceptance.service import Processes
from tests.acceptance.test_modules import plans_and_solves

pytestmark = pytest.mark.slow

FIXED = {"mipro.turn_order": "fixed"}

Moment = Callable[[Killing], Awaitable[None]]
"""Returns when the service is to be killed."""


@pytest.fixture
def clever(model: FaultyModel) -> FaultyModel:
    model.replies[POLICY] = counts_hints_and_examples
    return model


async def assert_found_again(
    processes: Processes, database: Database, app: FaultyApp, model: FaultyModel, body: Json, *moments: Moment
) -> Killing:
    """A job with this body finds the same whether or not its service is killed at these moments."""
    service = await processes.serve()
    async with Api.at(service.url) as api:
        undisturbed = await submit(api, body)
        await api.ended(undisturbed)
        expected = await found_by(api, undisturbed)
        app.visits.clear()
        model.asked.clear()
        job_id = await submit(api, body)
    run = Killing(processes, database, app, model, job_id, service)
    for moment in moments:
        await moment(run)
        await run.kill()
    async with Api.at(run.service.url) as api:
        await assert_whole(api, database, job_id)
        assert await found_by(api, job_id) == expected
    return run


def after_rollouts(count: int, seeds: range | None = None) -> Moment:
    async def moment(run: Killing) -> None:
        print(f"killed at rollout {count}")
        await run.app.visited(count, seeds=seeds)

    return moment


def after_event(event_type: str) -> Moment:
    async def moment(run: Killing) -> None:
        async with Api.at(run.service.url) as api:
            await api.heard(run.job_id, event_type)

    return moment


async def test_a_killed_service_goes_on_where_it_was_and_finds_the_same(
    processes: Processes, database: Database, task_app: Any, ports: Any, clever: FaultyModel
) -> None:
    body = config(ports.task_app_url, FIXED)
    app = await task_app()
    run = await assert_found_again(processes, database, app, clever, body, after_rollouts(random.randint(1, 60)))
    await run.assert_nothing_recorded_was_asked_again()


@pytest.mark.slow
@pytest.mark.parametrize(
    "moments",
    [
        [after_rollouts(4)],
        [after_event("mipro.iteration.start")],
        [after_event("mipro.instruction.proposed"), after_event("mipro.iteration.complete")],
        [after_event("mipro.trial.started"), after_event("mipro.new_incumbent"), after_event("mipro.tpe.update")],
        [after_rollouts(3, VALIDATION), after_rollouts(3, TEST)],
    ],
    ids=["bootstrap", "proposals", "between iterations", "trials", "the end"],
)
async def test_a_service_that_is_killed_in_any_phase_finds_the_same(
    processes: Processes, database: Database, task_app: Any, ports: Any, clever: FaultyModel, moments: list[Moment]
) -> None:
    body = config(ports.task_app_url, FIXED)
    run = await assert_found_again(processes, database, await task_app(), clever, body, *moments)
    await run.assert_nothing_recorded_was_asked_again()


@pytest.mark.slow
async def test_a_program_of_stages_whose_service_is_killed_finds_the_same(
    processes: Processes, database: Database, task_app: Any, ports: Any, clever: FaultyModel
) -> None:
    app = await task_app(talk=plans_and_solves)
    body = config(ports.task_app_url, {**FIXED, **STAGED})
    run = await assert_found_again(processes, database, app, clever, body, after_rollouts(random.randint(9, 60)))
    # Calls of one stage are alike where two prompts differ in the other stage alone: only rollouts tell.
    await run.assert_no_recorded_rollout_was_asked_again()
