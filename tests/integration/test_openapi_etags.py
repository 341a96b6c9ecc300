"""The answers that have an ETag once a job is over are those of which the OpenAPI document says so."""

from typing import Any

import httpx
import pytest

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.api.openapi_texts import CONDITIONAL
from promptjobs.db.session import Database
from tests.fakes.gathered_experiments import gathered
from tests.fakes.recorded_jobs import job_service
from tests.fakes.recorded_searches import recorded_search


@pytest.mark.slow
async def test_answers_about_what_is_over_have_an_etag_where_one_is_documented(database: Database) -> None:
    job, other = [await recorded_search(database, "one_lane_train") for _ in range(2)]
    await job.publish()
    await other.publish()
    experiment_id = await gathered(database, "default", [job.job_id, other.job_id])
    service = create_app(database=database, service=job_service(database))
    document: dict[str, Any] = service.api.openapi()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1") as client:
        values = {"job_id": job.job_id, "n": "1", "experiment_id": experiment_id}
        pair = {"first": job.job_id, "second": other.job_id}
        for path, name, source in (
            (f"{JOBS_PATH}/{job.job_id}/candidates", "candidate_id", "candidate_id"),
            (f"{JOBS_PATH}/{job.job_id}/rollouts", "rollout_id", "id"),
            (f"{JOBS_PATH}/{job.job_id}/snapshots", "snapshot_id", "id"),
        ):
            values[name] = (await client.get(path)).json()[0][source]
        found = set()
        for path, item in document["paths"].items():
            of_job = path.startswith(f"{JOBS_PATH}/{{job_id}}")
            if "get" in item and (of_job or "{experiment_id}" in path) and not path.endswith("stream"):
                url = path.format(**values, plot="cost-vs-score")
                asked = pair if path.endswith("/comparison") else None
                answer = await client.get(url, params=asked)
                assert answer.status_code == 200, (path, answer.text)
                if "etag" in answer.headers:
                    found.add(item["get"]["operationId"])
                    again = await client.get(url, params=asked, headers={"If-None-Match": answer.headers["etag"]})
                    assert (again.status_code, again.content) == (304, b"")
    assert found == CONDITIONAL
