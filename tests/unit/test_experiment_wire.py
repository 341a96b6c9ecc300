"""How far experiments and their jobs have come, as far as that follows from rows alone."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.api.experiment_schemas import EXAMPLE_STATUS, ExperimentObject, StatusObject
from promptjobs.api.experiment_wire import Standing, experiment_object, status_json
from promptjobs.core.job_progress import Course, eta_of_all, fraction_done
from promptjobs.core.ledger import Account, Amount
from promptjobs.db.events import LastEvent
from promptjobs.db.experiment_standing import OpenJob, OverJobs, Totals
from promptjobs.db.experiments import ExperimentRow, ExperimentStatus
from promptjobs.db.jobs import JobRow, JobStatus, Spent

START = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
CONFIG = {
    "algorithm": "gepa",
    "policy": {"provider": "groq", "model": "llama-3.1-8b-instant"},
    "task_app": {"env_name": "tickets"},
    "gepa": {"rollout_budget": 600, "test_seeds": list(range(20))},
}
PROGRESS = {
    "phase": "optimization",
    "rollouts_completed": 240,
    "rollouts_total": 600,
    "trials_completed": 27,
    "transformations_tried": 11,
    "transformations_planned": 30,
    "best_score": 0.85,
    "best_score_seeds": 20,
    "baseline_score": 0.55,
    "test_rollouts_executed": 0,
}
FRESH = dict.fromkeys(JobRow.__dataclass_fields__)


def job_row(status: JobStatus, progress: dict[str, Any] | None = PROGRESS, **changes: Any) -> JobRow:
    spent = Spent(Account(Amount(Decimal("0.0123"), 48_210), Amount(), Amount()), 259, 0)
    known = {
        "id": "pl_1",
        "status": status,
        "config": orjson.dumps(CONFIG).decode(),
        "metadata": "{}",
        "progress": None if progress is None else orjson.dumps(progress).decode(),
        "started_at": None if progress is None else START,
        "spent": spent,
    }
    return JobRow(**{**FRESH, **known, **changes})


def open_job(row: JobRow, running_seconds: float | None, silent_seconds: float = 1.5) -> OpenJob | None:
    """None for one that is over."""
    if row.status.is_terminal:
        return None
    config = None if row.started_at is None else row.config
    return OpenJob(row.id, "exp_1", row.status, running_seconds, silent_seconds, row.progress, config)


def shown(row: JobRow, running_seconds: float | None = 180.0, silent_seconds: float = 1.5) -> dict[str, Any]:
    """Its status, which has the documented shape."""
    told = LastEvent(61, "prompt.learning.progress", "240 of 600 rollouts", START)
    found = status_json(row, open_job(row, running_seconds, silent_seconds), told)
    StatusObject.model_validate(orjson.loads(orjson.dumps(found)))
    return found


# --- a job -----------------------------------------------------------------------------------------------------------


def test_a_running_job_tells_how_far_it_is_and_how_long_it_still_takes() -> None:
    found = shown(job_row(JobStatus.RUNNING))
    told = {"seq": 61, "type": "prompt.learning.progress", "message": "240 of 600 rollouts", "created_at": START}
    known = {name: value for name, value in EXAMPLE_STATUS.items() if name not in ("job_id", "backend_job_id")}
    expected = {"job_id": "pl_1", "backend_job_id": "pl_1", **known, "last_event": told}
    assert {**found, "last_event": {name: getattr(found["last_event"], name) for name in told}} == expected


def test_rollouts_of_the_test_count_for_the_progress_and_not_against_the_budget() -> None:
    search = CONFIG["gepa"]
    assert isinstance(search, dict)
    tested = {**PROGRESS, "phase": "test", "rollouts_completed": 600, "test_rollouts_executed": 20}
    assert fraction_done(tested, search) == 620 / 640
    assert fraction_done({**tested, "test_rollouts_executed": 41}, search) == 1.0, "a repeated one is none more"
    found = shown(job_row(JobStatus.RUNNING, tested))
    assert (found["rollouts_completed"], found["total_rollouts"], found["progress_pct"]) == (600, 600, 96.875)


def test_a_job_that_nobody_has_run_has_a_budget_and_no_scores() -> None:
    found = shown(job_row(JobStatus.QUEUED, None), None)
    unknown = ("phase", "trials_total", "best_score", "baseline_score", "eta_seconds", "time_since_progress_seconds")
    assert [found[name] for name in unknown] == [None] * len(unknown)
    assert (found["rollouts_completed"], found["total_rollouts"], found["progress_pct"]) == (0, 600, 0.0)
    assert found["policy"] == "groq/llama-3.1-8b-instant"


def test_a_job_that_is_over_shows_what_it_has_published() -> None:
    stats = {
        "total_rollouts": 540,
        "test_rollouts_executed": 40,
        "total_trials_evaluated": 51,
        "best_score_seeds": 12,
        "baseline_score": 0.5,
    }
    row = job_row(JobStatus.SUCCEEDED, best_score=0.9, metadata=orjson.dumps({"stats": stats}).decode())
    found = shown(row, 300.0, 4000.0)
    assert (found["rollouts_completed"], found["current_trial"]) == (500, 51)
    assert (found["best_score"], found["best_score_seeds"], found["baseline_score"]) == (0.9, 12, 0.5)
    assert (found["progress_pct"], found["eta_seconds"]) == (100.0, 0.0)
    assert (found["time_since_progress_seconds"], found["stuck_warning"]) == (None, False)


@pytest.mark.parametrize(
    ("status", "silent_seconds", "is_stuck"),
    [
        (JobStatus.RUNNING, 599.9, False),
        (JobStatus.RUNNING, 600.0, True),
        (JobStatus.QUEUED, 9000.0, False),
        (JobStatus.PAUSED, 9000.0, False),
    ],
)
def test_a_job_is_stuck_that_runs_and_records_nothing_for_ten_minutes(
    status: JobStatus, silent_seconds: float, is_stuck: bool
) -> None:
    assert shown(job_row(status), 10_000.0, silent_seconds)["stuck_warning"] is is_stuck


def test_a_paused_job_has_no_end_in_sight_and_keeps_its_progress() -> None:
    found = shown(job_row(JobStatus.PAUSED))
    assert (found["eta_seconds"], found["progress_pct"]) == (None, 37.5)


def test_a_cost_is_not_told_where_a_price_is_unknown() -> None:
    row = job_row(JobStatus.RUNNING)
    assert shown(replace(row, spent=replace(row.spent, unpriced_calls=1)))["total_cost_usd"] is None


def test_a_client_s_own_stats_are_not_those_of_the_job() -> None:
    row = job_row(JobStatus.CANCELLED, None, metadata='{"stats": "mine"}')
    assert shown(row, None)["rollouts_completed"] == 0


# --- the whole -------------------------------------------------------------------------------------------------------


def experiment_row(status: ExperimentStatus, jobs: int, parallelism: int = 2) -> ExperimentRow:
    return ExperimentRow(
        id="exp_1",
        organisation="default",
        name="a test",
        description=None,
        parallelism=parallelism,
        sent="{}",
        metadata='{"team": "support"}',
        created_at=START,
        cancel_requested_at=None,
        status=status,
        num_jobs=jobs,
        started_at=START,
        finished_at=None,
        updated_at=START + timedelta(minutes=1),
        counts={},
    )


def opened(status: JobStatus, rollouts: int | None, running_seconds: float | None) -> OpenJob:
    """A job that has answered so many of its 640 rollouts; None for one that nobody has had."""
    progress = None if rollouts is None else {**PROGRESS, "rollouts_completed": rollouts}
    found = open_job(job_row(status, progress), running_seconds)
    assert found is not None
    return found


def test_an_experiment_shows_the_mean_of_its_jobs_and_when_the_last_of_them_ends() -> None:
    jobs = [
        opened(JobStatus.RUNNING, 320, 50.0),
        opened(JobStatus.RUNNING, 0, 0.0),
        opened(JobStatus.QUEUED, None, None),
    ]
    standing = Standing(jobs, OverJobs(1, 100.0), Totals(5, 0.25, 0))
    found = experiment_object(experiment_row(ExperimentStatus.RUNNING, 4), standing)
    ExperimentObject.model_validate(orjson.loads(orjson.dumps(found)))
    assert found["progress_pct"] == 37.5
    assert found["eta_seconds"] == 150.0, "the fourth waits for the second, and takes as long as the first"
    assert (found["total_tokens"], found["total_cost_usd"]) == (5, 0.25)
    assert set(found["counts"]) == set(JobStatus)


@pytest.mark.parametrize(
    ("status", "jobs", "eta_seconds"),
    [
        (ExperimentStatus.QUEUED, [opened(JobStatus.QUEUED, None, None)], None),
        (ExperimentStatus.PAUSED, [opened(JobStatus.PAUSED, 320, 50.0)], None),
        (ExperimentStatus.RUNNING, [opened(JobStatus.RUNNING, 0, 3.0)], None),
        (ExperimentStatus.CANCELLED, [], 0.0),
        (ExperimentStatus.QUEUED, [], None),
    ],
)
def test_an_end_that_cannot_be_known_is_not_told(
    status: ExperimentStatus, jobs: list[OpenJob], eta_seconds: float | None
) -> None:
    standing = Standing(jobs, OverJobs(0, 0.0), Totals(0, 0.0, 3))
    found = experiment_object(experiment_row(status, len(jobs)), standing)
    assert (found["eta_seconds"], found["total_cost_usd"]) == (eta_seconds, None)


COURSES = st.builds(Course, st.floats(0.01, 1.0), st.floats(0.01, 1e5))


@given(st.integers(1, 5), st.lists(COURSES, max_size=5), st.lists(COURSES, max_size=12))
def test_an_experiment_ends_not_before_its_work_can_be_done_and_not_after_it_is_done_one_by_one(
    places: int, running: list[Course], waiting: list[Course]
) -> None:
    running = running[:places]
    lefts = [each.eta_seconds or 0.0 for each in itertools.chain(running, waiting)]
    found = eta_of_all(places, [], running, waiting)
    assert found is not None
    assert max(max(lefts, default=0.0), sum(lefts) / places) - 1e-6 <= found <= sum(lefts) + 1e-6


@given(st.lists(COURSES, min_size=1, max_size=4), st.integers(0, 8))
def test_jobs_of_which_nothing_is_known_take_as_long_as_the_others_on_average(begun: list[Course], jobs: int) -> None:
    usual = sum(each.whole_seconds or 0.0 for each in begun) / len(begun)
    over = [Course(1.0, each.whole_seconds) for each in begun]
    turns = -(-jobs // 3)
    assert eta_of_all(3, over, [], [Course(0.0, None)] * jobs) == pytest.approx(turns * usual)
    assert eta_of_all(3, over, [Course(0.0, usual / 4)], []) == pytest.approx(usual * 3 / 4)
    assert eta_of_all(3, [], [Course(0.0, usual)], []) is None
