"""Fixtures of several modules: the API on a database, a connection to it, and a receiver of webhooks."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from promptjobs.api.app import create_app
from promptjobs.db.session import Database
from tests.fakes.receiver import Receiver, receiving
from tests.fakes.recorded_jobs import job_service
from tests.fakes.served import in_process


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(create_app(database=database, service=job_service(database))) as client:
        yield client


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    opened = await database.connect()
    yield opened
    opened.terminate()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as here:
        yield here
