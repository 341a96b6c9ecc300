"""Routes of events and results over HTTP, on a job that a worker has written and published."""

import httpx
import pytest
from pydantic import TypeAdapter

from promptjobs.api.app import JOBS_PATH
from promptjobs.api.candidate_schemas import CandidateObject
from promptjobs.api.schemas import (
    ArtifactList,
    EventList,
    LearningCurve,
    MetricList,
    RolloutObject,
    SnapshotObject,
    SnapshotSummary,
    TrialObject,
)
from promptjobs.core.asks import EventFact, TrialFact
from promptjobs.core.trial import Phase, Trial
from promptjobs.db.session import Database
from tests.fakes.recorded_jobs import BUDGET, PAYLOAD, RunningJob, publish, running_job, searched_job


@pytest.fixture
async def job(database: Database) -> RunningJob:
    return await searched_job(database)


def at(job: RunningJob, path: str) -> str:
    return f"{JOBS_PATH}/{job.job_id}{path}"


# --- events ----------------------------------------------------------------------------------------------------------


async def test_events_are_paged_by_their_numbers(client: httpx.AsyncClient, job: RunningJob) -> None:
    seen, seq, has_more = [], 0, True
    while has_more:
        answer = await client.get(at(job, "/events"), params={"since_seq": seq, "limit": 2})
        page = EventList.model_validate_json(answer.content)
        seen += page.events
        seq, has_more = page.next_seq, page.has_more
    assert [event.seq for event in seen] == [1, 2, 3]
    assert [event.type for event in seen] == [
        "prompt.learning.created",
        "prompt.learning.gepa.baseline",
        "prompt.learning.gepa.new_best",
    ]
    assert {event.job_id for event in seen} == {job.job_id}
    assert all(event.timestamp_ms == int(event.created_at.timestamp() * 1000) for event in seen)
    assert seen[2].data["previous_best_score"] == 0.25


async def test_a_cursor_at_or_behind_the_end_finds_nothing_and_stays(
    client: httpx.AsyncClient, job: RunningJob
) -> None:
    for seq in (3, 500, 2**31 - 1):
        answer = await client.get(at(job, "/events"), params={"since_seq": seq})
        assert answer.json() == {"events": [], "has_more": False, "next_seq": seq}


async def test_a_page_of_events_has_a_thousand_and_at_most_ten_thousand(
    client: httpx.AsyncClient, job: RunningJob
) -> None:
    await job.write([EventFact("some.event", f"number {i}", {}) for i in range(10_100)])
    sizes = {}
    for limit in (None, 1, 1000, 1001, 10_000, 99_999):
        page = (await client.get(at(job, "/events"), params={} if limit is None else {"limit": limit})).json()
        assert [event["seq"] for event in page["events"]] == list(range(1, page["next_seq"] + 1))
        assert page["has_more"]
        sizes[limit] = len(page["events"])
    assert sizes == {None: 1000, 1: 1, 1000: 1000, 1001: 1001, 10_000: 10_000, 99_999: 10_000}


@pytest.mark.parametrize("query", ["since_seq=-1", "since_seq=x", "since_seq=99999999999", "limit=0"])
async def test_a_wrong_cursor_is_refused(client: httpx.AsyncClient, job: RunningJob, query: str) -> None:
    answer = await client.get(at(job, f"/events?{query}"))
    assert answer.status_code == 422
    assert query.split("=")[0] in answer.json()["detail"]


# --- trials, rollouts, candidates ------------------------------------------------------------------------------------


async def test_trials_carry_phase_scores_and_rollouts(client: httpx.AsyncClient, job: RunningJob) -> None:
    answer = await client.get(at(job, "/trials"))
    first, second = TypeAdapter(list[TrialObject]).validate_json(answer.content)
    assert (first.n, first.candidate_id, first.phase, first.is_baseline) == (1, "c_0", "optimization", True)
    assert (first.seeds, first.scores, first.score, first.failed) == ([1, 2, 3], [0.0, 0.5, None], 0.25, 1)
    assert first.metadata["phase"] == first.metadata_json["phase"] == "optimization"
    assert first.metadata["tokens"] == 330
    assert first.rollouts is not None
    assert [(each.seed, each.score, each.reason, each.draw) for each in first.rollouts] == [
        (1, 0.0, None, 0),
        (2, 0.5, None, 1),
        (3, None, "task_app_timeout", 0),
    ]
    assert (second.score, second.reused, second.generation, second.lane) == (0.75, 1, 1, "0")


async def test_trials_without_rollouts_are_light(client: httpx.AsyncClient, job: RunningJob) -> None:
    trials = (await client.get(at(job, "/trials?include=none&candidate_id=c_1&phase=optimization"))).json()
    assert [trial["n"] for trial in trials] == [2]
    assert "rollouts" not in trials[0]
    assert trials[0]["metadata"].keys() == {"phase", "is_baseline", "generation", "lane"}


async def test_trials_are_followed_by_their_links_while_some_are_added(
    client: httpx.AsyncClient, job: RunningJob
) -> None:
    seen: list[int] = []
    url: str | None = at(job, "/trials?limit=1&phase=optimization")
    while url is not None:
        answer = await client.get(url)
        seen += [trial["n"] for trial in answer.json()]
        url = answer.links.get("next", {}).get("url")
        if len(seen) < 3:
            added = Trial(len(seen) + 2, "c_1", Phase.OPTIMIZATION, False, (9,), (1.0,))
            await job.write([TrialFact(added)])
    assert seen == [1, 2, 3, 4]


async def test_rollouts_show_what_was_said(client: httpx.AsyncClient, job: RunningJob) -> None:
    answer = await client.get(at(job, "/rollouts?limit=4"))
    page = TypeAdapter(list[RolloutObject]).validate_json(answer.content)
    rest = (await client.get(answer.links["next"]["url"])).json()
    assert [(each.candidate_id, each.seed, each.draw) for each in page] == [
        ("c_0", 1, 0),
        ("c_0", 2, 0),
        ("c_0", 2, 1),
        ("c_0", 3, 0),
    ]
    assert [each["candidate_id"] for each in rest] == ["c_1", "c_1"]
    assert page[0].body is not None
    assert page[0].body["messages"] == [{"role": "user", "content": "Query: why?"}]
    assert page[0].body["feedback"] == "good"
    assert len((await client.get(at(job, "/rollouts?candidate_id=c_0&seed=2&phase=optimization"))).json()) == 2


async def test_candidates_carry_their_lineage_and_messages(client: httpx.AsyncClient, job: RunningJob) -> None:
    answer = await client.get(at(job, "/candidates?limit=1"))
    [base] = TypeAdapter(list[CandidateObject]).validate_json(answer.content)
    [child] = TypeAdapter(list[CandidateObject]).validate_json((await client.get(answer.links["next"]["url"])).content)
    assert (base.n, base.parents, base.operator) == (0, [], "baseline")
    assert (child.n, child.parents, child.operator, child.generation) == (1, ["c_0"], "reflection", 1)
    assert child.sections is not None
    assert child.messages is not None
    assert [each.content for each in child.sections] == [each.content for each in child.messages]


@pytest.mark.parametrize(
    "query",
    ["trials?after=x", "trials?after=-1", "trials?phase=later", "trials?include=all", "trials?offset=99999",
     "trials?candidate_id=%00", "candidates?limit=0", "candidates?since=soon", "rollouts?after=xyz",
     "rollouts?seed=-1", "rollouts?seed=99999999999999999999", f"rollouts?after={'0' * 32}", "metrics?limit=0"],
)  # fmt: skip
async def test_a_wrong_query_is_refused_by_name(client: httpx.AsyncClient, job: RunningJob, query: str) -> None:
    answer = await client.get(at(job, f"/{query}"))
    assert answer.status_code == 422
    assert query.split("?")[1].split("=")[0] in answer.json()["detail"]


# --- metrics and the learning curve ----------------------------------------------------------------------------------


async def test_metrics_are_the_newest_trials_in_order(client: httpx.AsyncClient, job: RunningJob) -> None:
    await job.write([TrialFact(Trial(3, "c_1", Phase.OPTIMIZATION, False, (1,), (None,)))])
    points = MetricList.model_validate_json((await client.get(at(job, "/metrics?limit=200"))).content).points
    assert [(point.name, point.step, point.value, point.data["n"]) for point in points] == [
        ("gepa.transformation.mean_score", 1, 0.25, 2),
        ("gepa.transformation.mean_score", 2, 0.75, 2),
    ]
    newest = (await client.get(at(job, "/metrics?limit=1"))).json()["points"]
    assert [point["step"] for point in newest] == [2]


async def test_the_learning_curve_holds_the_prompts(client: httpx.AsyncClient, job: RunningJob) -> None:
    points = LearningCurve.model_validate_json((await client.get(at(job, "/learning-curve"))).content).points
    assert [(point.rollout_count, point.performance, point.checkpoint_pct) for point in points] == [
        (4, 0.25, 4 / BUDGET),
        (8, 0.75, 8 / BUDGET),
    ]
    assert points[1].messages is not None
    assert points[1].messages[0].content == "Answer with care."
    assert points[1].metadata["template"]["sections"][0]["content"] == "Answer with care."


async def test_a_job_that_has_found_nothing_yet_has_empty_results(
    client: httpx.AsyncClient, database: Database
) -> None:
    job = await running_job(database)
    for path in ("/trials", "/rollouts", "/candidates", "/snapshots"):
        assert (await client.get(at(job, path))).json() == []
    assert (await client.get(at(job, "/metrics"))).json() == {"points": []}
    assert (await client.get(at(job, "/learning-curve"))).json() == {"points": []}
    assert (await client.get(at(job, "/artifacts"))).json() == {"artifacts": []}


# --- snapshots and artifacts -----------------------------------------------------------------------------------------


async def test_what_was_published_is_found_by_its_artifact(client: httpx.AsyncClient, job: RunningJob) -> None:
    snapshot_id = await publish(job)
    [artifact] = ArtifactList.model_validate_json((await client.get(at(job, "/artifacts"))).content).artifacts
    answer = await client.get(at(job, f"/snapshots/{artifact.snapshot_id}"))
    snapshot = SnapshotObject.model_validate_json(answer.content)
    assert (snapshot.id, snapshot.job_id, snapshot.payload) == (snapshot_id, job.job_id, PAYLOAD)
    [listed] = TypeAdapter(list[SnapshotSummary]).validate_json((await client.get(at(job, "/snapshots"))).content)
    assert listed.id == snapshot_id


@pytest.mark.parametrize("snapshot_id", ["snap_0", "%00", "x" * 300, "..%2f.."])
async def test_an_unknown_snapshot_is_not_found(client: httpx.AsyncClient, job: RunningJob, snapshot_id: str) -> None:
    assert (await client.get(at(job, f"/snapshots/{snapshot_id}"))).status_code == 404


async def test_another_jobs_snapshot_is_not_found(client: httpx.AsyncClient, database: Database) -> None:
    one, other = await searched_job(database), await searched_job(database)
    snapshot_id = await publish(one)
    answer = await client.get(at(other, f"/snapshots/{snapshot_id}"))
    assert (answer.status_code, answer.json()["code"]) == (404, "snapshot_not_found")
