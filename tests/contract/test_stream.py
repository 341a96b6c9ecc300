"""The event stream as the published client takes it, chunk by chunk."""

from collections.abc import AsyncIterator

import httpx
import pytest

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.core.asks import EventFact
from promptjobs.db.session import Database
from tests.contract.sdk_reading import events_of
from tests.fakes.recorded_jobs import RunningJob, job_service, publish, searched_job
from tests.fakes.served import Served, served


@pytest.fixture
async def job(database: Database) -> RunningJob:
    return await searched_job(database)


@pytest.fixture
async def here(database: Database) -> AsyncIterator[Served]:
    async with served(create_app(database=database, service=job_service(database))) as here:
        yield here


async def chunks_of(here: Served, job: RunningJob) -> list[str]:
    """The body in the parts in which it arrives."""
    url = f"{here.base_url}{JOBS_PATH}/{job.job_id}/events/stream"
    headers = {"accept": "text/event-stream", "authorization": "Bearer sk-test"}
    async with httpx.AsyncClient() as client, client.stream("GET", url, headers=headers, timeout=30) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [chunk async for chunk in response.aiter_text()]


@pytest.mark.slow
async def test_all_events_reach_the_handlers_of_a_client_that_loses_what_shares_a_chunk_with_the_end(
    here: Served, job: RunningJob
) -> None:
    await job.write([EventFact("some.event", f"number {n}", {}) for n in range(60)])
    await publish(job)
    parsed, handed_over = events_of(await chunks_of(here, job))
    assert [event["seq"] for event in parsed] == list(range(1, len(parsed) + 1))
    assert handed_over == parsed
    assert parsed[-1]["type"] == "prompt.learning.gepa.complete"


def test_the_reader_of_these_tests_loses_what_shares_a_chunk_with_the_end() -> None:
    blocks = [
        f'data: {{"seq": {seq}, "type": "{kind}"}}\n\n'
        for seq, kind in enumerate(["a", "b", "prompt.learning.gepa.complete"], 1)
    ]
    assert [len(found) for found in events_of(blocks)] == [3, 3]
    assert [len(found) for found in events_of(["".join(blocks)])] == [3, 1]
