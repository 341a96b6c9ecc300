"""The answers that have an ETag once a job is over are those of which the OpenAPI document says so."""

from typing import Any

import httpx

from promptjobs.api.app import create_app
from promptjobs.api.openapi_texts import CONDITIONAL
from promptjobs.db.session import Database
from tests.fakes.recorded_jobs import job_service
from tests.fakes.recorded_searches import recorded_search


async def test_answers_about_a_finished_job_have_an_etag_where_one_is_documented(database: Database) -> None:
    job = await recorded_search(database, "one_lane_train")
    await job.publish()
    service = create_app(database=database, service=job_service(database))
    document: dict[str, Any] = service.api.openapi()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1") as client:
        jobs = "/api/prompt-learning/online/jobs"
        values = {"job_id": job.job_id, "n": "1"}
        for path, name, source in (
            ("candidates", "candidate_id", "candidate_id"),
            ("rollouts", "rollout_id", "id"),
            ("snapshots", "snapshot_id", "id"),
        ):
            values[name] = (await client.get(f"{jobs}/{job.job_id}/{path}")).json()[0][source]
        found = set()
        for path, item in document["paths"].items():
            if "get" in item and path.startswith(f"{jobs}/{{job_id}}") and not path.endswith("stream"):
                answer = await client.get(path.format(**values))
                assert answer.status_code == 200, path
                if "etag" in answer.headers:
                    found.add(item["get"]["operationId"])
                    again = await client.get(path.format(**values), headers={"If-None-Match": answer.headers["etag"]})
                    assert (again.status_code, again.content) == (304, b"")
    assert found == CONDITIONAL
