"""What answers must not do, whoever asks: send a client elsewhere."""

import httpx
import pytest

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.db.session import Database
from tests.fakes.recorded_jobs import job_service

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", ["/docs/", "/openapi.json/", "/api/webhooks/", f"{JOBS_PATH}/"])
async def test_nobody_is_sent_to_the_host_that_a_request_names_nor_from_https_to_http(
    database: Database, path: str
) -> None:
    transport = httpx.ASGITransport(create_app(database=database, service=job_service(database)))
    async with httpx.AsyncClient(transport=transport, base_url="https://localhost") as client:
        for method in ("GET", "POST"):
            answer = await client.request(method, path, headers={"host": "evil.example"})
            assert (answer.status_code, "location" in answer.headers) == (404, False)
