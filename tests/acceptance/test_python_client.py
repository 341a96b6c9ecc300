"""Both Python clients against the live service: what they give is what it has, also over connections that break."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from promptjobs import (
    AsyncClient,
    Client,
    ConflictError,
    ConnectionFailed,
    InvalidRequestError,
    NotFoundError,
    WaitTimedOut,
)
from tests.acceptance.client import config
from tests.acceptance.faulty_model import FaultyModel
from tests.acceptance.finished_job import Finished, observe
from tests.acceptance.service import Ports, Process
from tests.fakes.cut_connections import cutting

pytestmark = pytest.mark.slow

JOB_ID = "pl_00000000000000000000000000000000"


@pytest.fixture(scope="module")
def finished(shared_service: Process, shared_database: str, ports: Ports) -> Finished:
    """In this process's own service: what is shared by all processes of a run was seen in one of theirs."""
    return asyncio.run(observe(shared_service.url, shared_database, ports))


@pytest.fixture
async def client(shared_service: Process) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(shared_service.url) as client:
        yield client


async def all_of(items: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in items]


# --- a job that is over ----------------------------------------------------------------------------------------------


def test_what_is_read_is_what_the_service_answers(shared_service: Process, finished: Finished):
    job_id = finished.job["job_id"]
    with Client(shared_service.url) as client:
        assert client.job(job_id) == client.wait(job_id) == finished.job
        assert list(client.trials(job_id)) == finished.trials
        assert list(client.candidates(job_id)) == finished.candidates
        assert client.artifacts(job_id) == finished.artifacts
        assert client.metrics(job_id, limit=200) == finished.metrics
        assert client.learning_curve(job_id) == finished.curve
        assert client.config(job_id) == finished.config
        assert [client.snapshot(job_id, each["id"]) for each in client.snapshots(job_id)] == finished.snapshots
        alone = [client.candidate(job_id, each["candidate_id"]) for each in finished.candidates]
        assert alone == finished.candidates
        assert client.events(job_id, after=3, limit=5)["events"] == finished.events[3:8]
        assert len(list(client.rollouts(job_id))) == len(finished.rows["rollouts"])
        assert job_id in [each["job_id"] for each in client.jobs(status="succeeded", metadata={"owner": "me"})]
        assert client.is_ready()


def test_the_result_holds_the_prompt_and_where_its_scores_come_from(shared_service: Process, finished: Finished):
    with Client(shared_service.url) as client:
        result = client.result(finished.job["job_id"])
    payload = finished.payload
    assert result.is_final
    assert result.messages == payload["messages"] == finished.job["best_prompt_messages"]
    assert (result.score, result.num_seeds) == (payload["best_score"], payload["best_score_seeds"])
    assert (result.baseline_score, result.test_score) == (payload["baseline_score"], payload["best_test_score"])
    assert result.snapshot_id == finished.best_snapshot["id"]
    assert result.stats == finished.stats


async def test_the_async_client_reads_the_same(client: AsyncClient, finished: Finished):
    job_id = finished.job["job_id"]
    assert await client.job(job_id) == await client.wait(job_id) == finished.job
    assert await all_of(client.trials(job_id)) == finished.trials
    assert await all_of(client.candidates(job_id)) == finished.candidates
    assert await client.config(job_id) == finished.config
    assert (await client.result(job_id)).messages == finished.job["best_prompt_messages"]


async def test_the_tree_of_candidates_and_the_report_can_be_read(client: AsyncClient, finished: Finished):
    job_id = finished.job["job_id"]
    archive, lineage = await client.archive(job_id), await client.lineage(job_id)
    assert archive["best_candidate_id"] == finished.payload["best_candidate_id"]
    assert len(lineage["nodes"]) == len(finished.candidates)
    assert job_id in await client.report(job_id)
    assert (await client.report(job_id, "html")).lstrip().lower().startswith("<!doctype html")
    (rollout,) = await all_of(client.rollouts(job_id, limit=1))
    assert (await client.rollout(job_id, rollout["id"]))["id"] == rollout["id"]
    assert await all_of(client.refused_proposals(job_id, limit=3)) is not None
    assert len(await all_of(client.completions(job_id, limit=2))) == 2


# --- following -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_stream_that_is_cut_again_and_again_is_told_whole(shared_service: Process, finished: Finished):
    """Each connection lets twice as much through as the one before it, so that every one of them is cut in between."""
    job_id = finished.job["job_id"]
    seqs = [each["seq"] for each in finished.events]

    async def no_pause(seconds: float) -> None:
        pass

    async with cutting(shared_service.url, iter([2**n for n in range(8, 18)])) as proxy:
        async with AsyncClient(proxy.url, sleep=no_pause) as client:
            assert [each.seq async for each in client.follow(job_id)] == seqs
        assert proxy.cut > 5
    async with cutting(shared_service.url, iter([2**n for n in range(8, 18)])) as proxy:
        with Client(proxy.url, sleep=lambda seconds: None) as blocking:
            found = await asyncio.to_thread(lambda: list(blocking.follow(job_id)))
        assert [each.seq for each in found] == seqs
        assert proxy.cut > 5


async def test_what_is_behind_the_last_event_is_nothing(client: AsyncClient, finished: Finished):
    assert await all_of(client.follow(finished.job["job_id"], after=len(finished.events))) == []


# --- a job from its creation to its end ------------------------------------------------------------------------------

Start = Callable[..., Awaitable[object]]


async def test_a_job_is_created_once_followed_and_deleted(
    client: AsyncClient, ports: Ports, model: FaultyModel, task_app: Start
):
    await task_app()
    body = config(ports.task_app_url)
    key = "test-once"
    job = await client.create(body, metadata={"team": "client-test"}, idempotency_key=key)
    assert (await client.create(body, metadata={"team": "client-test"}, idempotency_key=key))["job_id"] == job["job_id"]
    assert [each["job_id"] async for each in client.jobs(metadata={"team": "client-test"})] == [job["job_id"]]
    with pytest.raises(ConflictError):
        await client.delete(job["job_id"])
    events = await all_of(client.follow(job["job_id"]))
    assert events[-1].is_terminal
    assert (await client.wait(job["job_id"]))["status"] == "succeeded"
    fork = await client.fork(job["job_id"], auto_start=False)
    assert (fork["status"], fork["parent_id"]) == ("pending", job["job_id"])
    with pytest.raises(InvalidRequestError, match="since_seq"):
        await all_of(client.follow(fork["job_id"], after=1000))
    with pytest.raises(WaitTimedOut):
        await client.wait(fork["job_id"], timeout_seconds=0)
    assert (await client.cancel(fork["job_id"], "not needed"))["status"] == "cancelled"
    for job_id in (fork["job_id"], job["job_id"]):
        await client.delete(job_id)
        with pytest.raises(NotFoundError):
            await client.job(job_id)


async def test_estimates_and_commands_answer_without_a_task_app(client: AsyncClient, ports: Ports):
    body = config(ports.closed_url)
    assert (await client.estimate(body))["rollouts"]["total"] > 0
    job = await client.create(body, auto_start=False)
    assert (await client.start(job["job_id"]))["status"] in ("queued", "running", "failed")
    assert (await client.wait(job["job_id"]))["status"] == "failed"


# --- what an organisation keeps --------------------------------------------------------------------------------------


async def test_a_saved_config_makes_jobs(client: AsyncClient, ports: Ports):
    body = config(ports.closed_url)
    saved = await client.save_config("client-test", body, description="of a test")
    assert (saved["name"], saved["algorithm"]) == ("client-test", "gepa")
    with pytest.raises(ConflictError):
        await client.save_config("client-test", body)
    await client.save_config("client-test", body, replace=True)
    assert "client-test" in [each["name"] async for each in client.saved_configs()]
    job = await client.create(config_name="client-test", auto_start=False)
    assert job["config_name"] == "client-test"
    assert [each["job_id"] async for each in client.jobs(config_name="client-test")] == [job["job_id"]]
    await client.cancel(job["job_id"])
    await client.delete_saved_config("client-test")
    with pytest.raises(NotFoundError):
        await client.saved_config("client-test")


async def test_keys_and_webhooks_are_kept_and_let_go(client: AsyncClient, ports: Ports):
    assert (await client.set_provider_key("openai", "test-key"))["provider"] == "openai"
    assert "openai" in [each["provider"] for each in await client.provider_keys()]
    await client.delete_provider_key("openai")
    assert "openai" not in [each["provider"] for each in await client.provider_keys()]
    webhook = await client.create_webhook(ports.closed_url, event_types=["job.failed"], description="of a test")
    assert webhook["secret"].startswith("whsec_")
    changed = await client.change_webhook(webhook["id"], is_disabled=True)
    assert (changed["is_disabled"], changed["event_types"]) == (True, ["job.failed"])
    tested = await client.test_webhook(webhook["id"])
    assert [each["id"] async for each in client.deliveries(webhook["id"])] == [tested["id"]]
    assert (await client.delivery(webhook["id"], tested["id"]))["id"] == tested["id"]
    with pytest.raises(ConflictError):
        await client.redeliver(webhook["id"], tested["id"])
    await client.change_webhook(webhook["id"], is_disabled=False)
    assert (await client.redeliver(webhook["id"], tested["id"]))["id"] == tested["id"]
    rotated = await client.rotate_webhook_secret(webhook["id"])
    assert rotated["secret"] != webhook["secret"]
    await client.delete_webhook(webhook["id"])
    with pytest.raises(NotFoundError):
        await client.webhook(webhook["id"])


# --- failures --------------------------------------------------------------------------------------------------------


async def test_refusals_say_what_is_wrong_and_where_to_look(client: AsyncClient, ports: Ports):
    with pytest.raises(InvalidRequestError) as raised:
        await client.create(config(ports.closed_url, {"gepa.rollout": {"budget": -1}}))
    assert raised.value.status == 422
    assert raised.value.param == "prompt_learning.gepa.rollout.budget"
    assert raised.value.request_id
    with pytest.raises(NotFoundError) as missing:
        await client.job(JOB_ID)
    assert missing.value.code == "job_not_found"


def test_no_service_is_a_failed_connection(ports: Ports):
    with Client(ports.closed_url, max_retries=0) as client, pytest.raises(ConnectionFailed, match="refused"):
        client.job(JOB_ID)
