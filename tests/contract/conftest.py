"""Fixtures of the contract's tests: the API on a database, and finished jobs of either algorithm."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from promptjobs.api.app import create_app
from promptjobs.db.session import Database
from tests.acceptance.client import Api, Json
from tests.acceptance.conftest import finished, ports, shared_database, shared_service
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import POLICY, FaultyModel
from tests.acceptance.mipro_jobs import config, counts_hints_and_examples, submit, succeeded
from tests.acceptance.service import Ports, Process, serving_on
from tests.fakes.recorded_jobs import job_service
from tests.fakes.served import in_process

__all__ = ["finished", "ports", "shared_database", "shared_service"]


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(create_app(database=database, service=job_service(database))) as client:
        yield client


@pytest.fixture(scope="session")
def mipro_run(shared_service: Process, ports: Ports) -> tuple[Json, list[Json]]:
    """A MIPRO job that has ended, and all of its events."""
    return asyncio.run(_run_mipro(shared_service.url, ports))


async def _run_mipro(url: str, ports: Ports) -> tuple[Json, list[Json]]:
    model, app = FaultyModel(), FaultyApp()
    model.replies[POLICY] = counts_hints_and_examples
    async with (
        serving_on(app.app(), ports.task_app),
        serving_on(model.app(), ports.model),
        Api.at(url) as api,
    ):
        job_id = await submit(api, config(ports.task_app_url))
        return await succeeded(api, job_id), await api.events(job_id)
