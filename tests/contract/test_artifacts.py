"""The routes that list and show the prompts of all jobs."""

from typing import Any

import httpx
import pytest

from promptjobs.api.contract_schemas import AllArtifacts, PromptDetail
from promptjobs.db.session import Database
from tests.contract.sdk_reading import prompt_of
from tests.fakes.recorded_jobs import PAYLOAD, created_job, publish, running_job, searched_job

pytestmark = pytest.mark.slow

ARTIFACTS = "/api/artifacts"


async def listed(client: httpx.AsyncClient, **query: Any) -> AllArtifacts:
    answer = await client.get(ARTIFACTS, params=query)
    assert answer.status_code == 200, answer.text
    return AllArtifacts.model_validate_json(answer.content)


async def test_every_job_with_a_prompt_is_listed_newest_first(client: httpx.AsyncClient, database: Database) -> None:
    published = await searched_job(database)
    await publish(published)
    going_on = await searched_job(database)
    await running_job(database)
    found = await listed(client)
    assert [each.job_id for each in found.prompts] == [going_on.job_id, published.job_id]
    assert found.summary.total_count == 2
    now, then = found.prompts
    assert (now.status, now.best_score, now.best_snapshot_id, now.best_validation_score) == (
        "running",
        0.75,
        None,
        None,
    )
    assert (then.status, then.best_score, then.best_train_score, then.best_validation_score) == (
        *("succeeded", 0.7, 0.75, 0.7),
    )
    assert then.best_snapshot_id
    assert found.fine_tuned_models == found.rl_models == []


async def test_the_list_is_filtered_and_counted_whole(client: httpx.AsyncClient, database: Database) -> None:
    jobs = [await searched_job(database) for _ in range(3)]
    for job in jobs[:2]:
        await publish(job)
    assert [each.job_id for each in (await listed(client, status="running")).prompts] == [jobs[2].job_id]
    one = await listed(client, status="succeeded", type="prompts", limit=1)
    assert [each.job_id for each in one.prompts] == [jobs[1].job_id]
    assert one.summary.total_count == 2
    assert (await listed(client, type="models")).summary.total_count == 0
    assert (await listed(client, status="failed")).prompts == []
    assert len((await listed(client, limit=99_999)).prompts) == 3


@pytest.mark.parametrize("query", ["type=", "type=peft", "status=", "status=completed", "limit=0", "limit=x"])
async def test_a_wrong_filter_is_refused_by_name(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"{ARTIFACTS}?{query}")
    assert answer.status_code == 422
    assert query.split("=")[0] in answer.json()["detail"]


async def test_a_prompt_is_shown_with_its_messages(client: httpx.AsyncClient, database: Database) -> None:
    job = await searched_job(database)
    snapshot_id = await publish(job)
    answer = await client.get(f"{ARTIFACTS}/prompts/{job.job_id}")
    shown = PromptDetail.model_validate_json(answer.content)
    assert (shown.job_id, shown.algorithm, shown.status) == (job.job_id, "gepa", "succeeded")
    assert (shown.best_score, shown.best_validation_score, shown.best_snapshot_id) == (0.7, 0.7, snapshot_id)
    assert shown.best_snapshot is not None
    assert prompt_of(shown.best_snapshot) == PAYLOAD["messages"]
    assert shown.metadata["algorithm"] == "gepa"
    assert shown.metadata["task_app_url"].startswith("http")
    assert shown.metadata["config_source"] == "config_body"


async def test_a_job_without_a_result_has_no_snapshot_yet(client: httpx.AsyncClient, database: Database) -> None:
    job_id = await created_job(database)
    shown = PromptDetail.model_validate_json((await client.get(f"{ARTIFACTS}/prompts/{job_id}")).content)
    assert (shown.status, shown.best_score, shown.best_snapshot) == ("queued", None, None)


async def test_another_organisations_prompts_are_neither_listed_nor_found(
    client: httpx.AsyncClient, database: Database
) -> None:
    job_id = await created_job(database, "others")
    job = await searched_job(database)
    assert job.job_id == job_id
    await publish(job)
    found = await listed(client)
    assert found.prompts == []
    assert found.summary.total_count == 0
    answer = await client.get(f"{ARTIFACTS}/prompts/{job.job_id}")
    unknown = await client.get(f"{ARTIFACTS}/prompts/pl_{'0' * 32}")
    assert answer.status_code == unknown.status_code == 404
    assert answer.json()["code"] == unknown.json()["code"] == "job_not_found"
