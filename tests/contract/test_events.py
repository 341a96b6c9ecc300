"""The events of finished jobs against the table of what clients read of them."""

from collections.abc import Sequence

import pytest

from tests.acceptance.finished_job import Finished
from tests.contract import event_table
from tests.contract.event_table import GEPA, MIPRO, Json, check_data, check_progress, check_stream
from tests.contract.sdk_reading import Results, results_of


def check_whole(events: Sequence[Json], algorithm: str) -> None:
    check_stream(events)
    check_data(events, GEPA if algorithm == "gepa" else MIPRO)
    check_progress(events)


def check_results(found: Results, job: Json) -> None:
    """What is made of the events alone agrees with the job."""
    assert found.best_score == pytest.approx(job["best_score"])
    assert found.best_prompt is not None
    sections = found.best_prompt["sections"]
    assert [each["content"] for each in sections] == [each["content"] for each in job["best_prompt_messages"]]
    text = "\n\n".join(f"[{each['role']} | {each['name']}]\n{each['content']}" for each in sections)
    assert found.text(1) == text
    assert [each["rank"] for each in found.top_prompts] == list(range(1, len(found.top_prompts) + 1))
    assert found.attempted
    assert found.optimized
    assert sum(each["is_baseline"] for each in found.validation) == 1


def test_a_gepa_job_tells_every_event_with_its_fields(finished: Finished) -> None:
    check_whole(finished.events, "gepa")


def test_the_results_of_a_gepa_job_can_be_read_from_its_events_alone(finished: Finished) -> None:
    check_results(results_of(finished.events), finished.job)


@pytest.mark.slow
def test_a_mipro_job_tells_every_event_with_its_fields(mipro_run: tuple[Json, list[Json]]) -> None:
    _, events = mipro_run
    check_whole(events, "mipro")
    assert [event["type"] for event in events[-3:]].count("mipro.job.completed") == 1


@pytest.mark.slow
def test_the_results_of_a_mipro_job_can_be_read_from_its_events_alone(mipro_run: tuple[Json, list[Json]]) -> None:
    job, events = mipro_run
    check_results(results_of(events), job)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"type": "prompt.learning.progress", "seq": 2, "message": " ", "level": "info", "data": {}, "created_at": "2"},
        {"type": "prompt.learning.progress", "seq": 3, "message": "m", "level": "info", "data": {}, "created_at": "2"},
        {"type": "prompt.learning.progress", "seq": 2, "message": "m", "level": "loud", "data": {}, "created_at": "2"},
    ],
)
def test_the_checker_finds_what_is_wrong(spoilt: Json) -> None:
    first = {
        "type": "prompt.learning.created",
        "seq": 1,
        "message": "m",
        "level": "info",
        "data": {},
        "created_at": "1",
    }
    end = {
        "type": "prompt.learning.gepa.complete",
        "seq": 3,
        "message": "m",
        "level": "info",
        "data": {},
        "created_at": "3",
    }
    with pytest.raises(AssertionError):
        event_table.check_stream([first, spoilt, end])
