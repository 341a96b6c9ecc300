"""The metrics of a process without an API, over its own port; and those of event streams."""

import asyncio
import urllib.request

import httpx
import pytest

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.db.session import Database
from promptjobs.telemetry.metrics import REGISTRY
from promptjobs.telemetry.metrics_port import MetricsPort
from tests.fakes.recorded_jobs import job_service, post_body
from tests.fakes.served import receive, served

pytestmark = pytest.mark.slow


async def test_metrics_of_a_worker_are_answered_until_its_end() -> None:
    port = MetricsPort("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port.port}/metrics"
    with pytest.raises(OSError, match="in use"):
        MetricsPort("127.0.0.1", port.port)
    async with httpx.AsyncClient() as client:
        answer = await client.get(url)
        assert answer.status_code == 200
        assert "promptjobs_leases_lost_total" in answer.text
        assert "promptjobs_build_info" in answer.text
    await asyncio.to_thread(port.close)
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(urllib.request.urlopen, url)


async def test_event_streams_count_while_they_are_open(database: Database) -> None:
    def open_streams() -> float | None:
        return REGISTRY.get_sample_value("promptjobs_sse_clients")

    app = create_app(database=database, service=job_service(database))
    async with served(app) as here, httpx.AsyncClient(base_url=here.base_url, timeout=10) as client:
        job_id = (await client.post(JOBS_PATH, json=post_body())).json()["id"]
        async with client.stream("GET", f"{JOBS_PATH}/{job_id}/events/stream") as stream:
            await anext(receive(stream))
            assert open_streams() == 1
    assert open_streams() == 0
