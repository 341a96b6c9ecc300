"""The job object, metrics, snapshots and artifacts of a finished job, as clients of the contract read them."""

import re
from itertools import pairwise

from promptjobs.db.jobs import JobStatus
from tests.acceptance.finished_job import Finished
from tests.contract.event_table import is_count, is_score
from tests.contract.sdk_reading import prompt_of

STATUSES = {"pending", "queued", "running", "paused", "succeeded", "failed", "cancelled"}
STATS = (
    *("trials_tried", "total_tokens", "total_rollouts", "optimization_rollouts_executed"),
    *("validation_rollouts_executed", "optimization_trials_evaluated", "validation_trials_evaluated"),
    *("eval_seeds_n", "transformations_evaluated"),
)


def test_the_job_has_the_fields_that_clients_need(finished: Finished) -> None:
    for job in (finished.created, finished.job, finished.listed):
        assert re.fullmatch("pl_[a-f0-9]+", job["job_id"])
        assert job["id"] == job["job_id"]
        assert job["algorithm"] == "gepa"
        assert job["status"] in STATUSES
        assert job["error"] is None
        assert job["created_at"] <= job["updated_at"]
    job = finished.job
    assert job["status"] == "succeeded"
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert is_score(job["best_score"])
    assert isinstance(job["best_prompt"], str)
    assert is_count(job["iteration"])


def test_the_job_says_in_its_metadata_what_it_has_come_to(finished: Finished) -> None:
    metadata = finished.job["metadata"]
    assert all(is_count(metadata["stats"][name]) for name in STATS)
    assert is_score(metadata["stats"]["baseline_score"])
    assert is_score(metadata["stats"]["best_score"])
    assert metadata["stats"]["total_time_seconds"] > 0
    assert metadata["prompt_best_score"] == finished.job["best_score"]
    assert metadata["prompt_best_snapshot_id"] == finished.job["best_snapshot_id"]


def test_the_prompt_is_found_where_clients_look_for_it(finished: Finished) -> None:
    messages = finished.job["best_prompt_messages"]
    assert prompt_of(finished.job["best_snapshot"]) == messages
    assert prompt_of(finished.job["best_snapshot"]["payload"]) == messages
    assert prompt_of(finished.best_snapshot["payload"]) == messages
    assert all(each["role"] and each["content"] for each in messages)


def test_artifacts_name_the_snapshots_that_hold_them(finished: Finished) -> None:
    snapshots = {each["id"]: each for each in finished.snapshots}
    for artifact in finished.artifacts:
        assert artifact.keys() >= {"id", "job_id", "snapshot_id", "label", "score", "created_at"}
        assert prompt_of(snapshots[artifact["snapshot_id"]]["payload"])


def test_the_steps_of_a_metric_increase(finished: Finished) -> None:
    """Points of a step that was seen before are skipped by clients."""
    assert finished.metrics
    for point in finished.metrics:
        assert point.keys() >= {"name", "value", "step", "created_at", "phase", "job_id", "data"}
        assert is_score(point["value"])
        assert is_count(point["data"]["n"])
    for before, after in pairwise(finished.metrics):
        assert before["name"] == after["name"] == "gepa.transformation.mean_score"
        assert before["step"] < after["step"]


def test_the_terminal_event_comes_alone_after_a_pause(finished: Finished) -> None:
    *_, before, last = finished.streamed
    assert last.event["type"] == "prompt.learning.gepa.complete"
    assert last.arrived - before.arrived >= 0.45


def test_each_block_of_the_stream_has_one_line_of_data(finished: Finished) -> None:
    for each in finished.streamed:
        lines = each.block.split("\n")
        assert [line.split(":")[0] for line in lines] == ["id", "event", "data"]
        assert each.event["seq"] == int(lines[0].removeprefix("id: "))
        assert each.event["type"] == lines[1].removeprefix("event: ")


def test_there_is_no_status_that_clients_take_for_pending() -> None:
    """`completed` and `canceled` are unknown to clients, who would wait for ever."""
    assert {status.value for status in JobStatus} == STATUSES
