"""The shapes of experiments: requests for them, and what is answered, as the OpenAPI description shows them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from promptjobs.api.job_schemas import EXAMPLE_CREATE, EXAMPLE_TIME, EstimatedCost, EstimatedCount, EstimateObject
from promptjobs.api.parameters import EXAMPLE_EXPERIMENT, EXAMPLE_ID
from promptjobs.api.schemas import Answer, EventObject
from promptjobs.core.experiment_drafts import MAX_LABEL, MAX_VALUES
from promptjobs.db.experiments import MAX_JOBS, ExperimentStatus
from promptjobs.db.jobs import JobStatus
from promptjobs.jobs.experiments import MAX_PARALLELISM

MAX_NAME = 200
MAX_DESCRIPTION = 2_000

EXAMPLE_BODY: dict[str, Any] = {
    "name": "Which model, which minibatch",
    "description": "Three seeds each, to tell luck from what helps.",
    "parallelism": 4,
    "jobs": [
        {"config": EXAMPLE_CREATE["config_body"], "algorithm": "gepa", "label": "as it is"},
        {
            "config": EXAMPLE_CREATE["config_body"],
            "algorithm": "gepa",
            "config_overrides": {"prompt_learning.gepa.rollout.minibatch_size": 4},
            "label": "small minibatches",
            "metadata": {"tried": "for speed"},
        },
    ],
    "matrix": {"model": ["llama-3.1-8b-instant", "llama-3.3-70b-versatile"], "seed": [1, 2, 3]},
    "metadata": {"team": "support"},
}
"""A body that is accepted as it stands, where the providers it names have keys. It makes twelve jobs."""

EXAMPLE_STATUS: dict[str, Any] = {
    "job_id": EXAMPLE_ID,
    "backend_job_id": EXAMPLE_ID,
    "policy": "groq/llama-3.1-8b-instant",
    "environment": "tickets",
    "phase": "optimization",
    "rollouts_completed": 240,
    "total_rollouts": 600,
    "trials_completed": 11,
    "trials_total": 30,
    "current_trial": 27,
    "best_score": 0.85,
    "best_score_seeds": 20,
    "baseline_score": 0.55,
    "total_tokens": 48_210,
    "total_cost_usd": 0.0123,
    "progress_pct": 37.5,
    "eta_seconds": 300.0,
    "last_event": {
        "seq": 61,
        "type": "prompt.learning.progress",
        "message": "240 of 600 rollouts, best 0.850 on 20 seeds",
        "created_at": EXAMPLE_TIME,
    },
    "last_event_seq": 61,
    "time_since_progress_seconds": 1.5,
    "stuck_warning": False,
}

EXAMPLE_OBJECT: dict[str, Any] = {
    "experiment_id": EXAMPLE_EXPERIMENT,
    "id": EXAMPLE_EXPERIMENT,
    "organisation": "default",
    "name": EXAMPLE_BODY["name"],
    "description": EXAMPLE_BODY["description"],
    "status": "running",
    "parallelism": 4,
    "num_jobs": 12,
    "counts": {
        "pending": 0,
        "queued": 6,
        "running": 4,
        "paused": 0,
        "succeeded": 2,
        "failed": 0,
        "cancelled": 0,
    },
    "progress_pct": 29.2,
    "eta_seconds": 1260.0,
    "total_tokens": 310_400,
    "total_cost_usd": 0.0811,
    "created_at": EXAMPLE_TIME,
    "started_at": EXAMPLE_TIME,
    "finished_at": None,
    "updated_at": EXAMPLE_TIME,
    "cancel_requested_at": None,
    "metadata": {"team": "support"},
    "jobs": [
        {
            "job_id": EXAMPLE_ID,
            "position": 3,
            "label": "as it is · model=llama-3.1-8b-instant, seed=3",
            "group": "as it is · model=llama-3.1-8b-instant",
            "settings": {"model": "llama-3.1-8b-instant", "seed": 3},
            "algorithm": "gepa",
            "status": "running",
            "error": None,
            "finish_reason": None,
            "created_at": EXAMPLE_TIME,
            "started_at": EXAMPLE_TIME,
            "finished_at": None,
            "status_json": EXAMPLE_STATUS,
        }
    ],
}


class NewExperimentJob(BaseModel):
    """One job, or, with a matrix, as many as that has combinations."""

    model_config = ConfigDict(strict=True, extra="forbid")

    config: dict[str, Any] | None = Field(
        default=None,
        description="The config; its section is `prompt_learning`. Required, unless `config_name` is given; beside that"
        " it is laid over the saved config.",
    )
    config_name: str | None = Field(default=None, description="Name of a saved config.", max_length=500)
    algorithm: str | None = Field(
        default=None, description="gepa or mipro. Left out, it is that of the config.", max_length=100
    )
    config_overrides: dict[str, Any] | None = Field(
        default=None,
        description="Values that replace those of the config; keys may be dotted paths. One that would have no effect"
        " is refused.",
    )
    label: str | None = Field(
        default=None,
        description="Its name in the experiment, where no other has it.",
        min_length=1,
        max_length=MAX_LABEL,
    )
    metadata: dict[str, Any] | None = Field(default=None, description="As that of a job.")


Values = Annotated[list[Any], Field(min_length=1, max_length=MAX_VALUES)]


class CreateExperiment(BaseModel):
    """Jobs to run beside each other, so that they can be compared."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"examples": [EXAMPLE_BODY]})

    name: str = Field(min_length=1, max_length=MAX_NAME)
    description: str | None = Field(default=None, max_length=MAX_DESCRIPTION)
    parallelism: int = Field(
        default=3, ge=1, le=MAX_PARALLELISM, description="How many of its jobs run at a time, at most."
    )
    jobs: list[NewExperimentJob] = Field(
        min_length=1,
        max_length=MAX_JOBS,
        description=f"With the matrix at most {MAX_JOBS} in all, in this order; the last key of the matrix varies"
        " fastest.",
    )
    matrix: dict[str, Values] | None = Field(
        default=None,
        description="Values that every job is run with, in all combinations, by dotted paths of the config or by"
        " `algorithm`, `model`, `provider`, `seed`. They replace what the job's own overrides say.",
    )
    metadata: dict[str, Any] | None = Field(
        default=None, description="Kept with the experiment; at most 64 KiB of JSON."
    )


class CancelExperiment(BaseModel):
    """Why an experiment is cancelled."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"reason": "wrong dataset"}]}
    )

    reason: str | None = Field(default=None, max_length=1000)


class LastEventObject(Answer):
    """What a job has told last; its data is left out."""

    seq: int
    type: str
    message: str
    created_at: datetime


class StatusObject(Answer):
    """How far a job has come, by the names that the SDK's queue of experiments has for it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_STATUS]})

    job_id: str
    backend_job_id: str = Field(description="The same.")
    policy: str = Field(description="provider/model that really runs, overrides included.")
    environment: str = Field(description="What the task app is asked for.")
    phase: str | None = Field(description="What rollouts are for now, or were last; null before the first.")
    rollouts_completed: int = Field(description="Without those of the held-out test.", ge=0)
    total_rollouts: int = Field(description="The budget that these come out of.", ge=1)
    trials_completed: int = Field(description="New prompts that were tried.", ge=0)
    trials_total: int | None = Field(
        description="How many are planned; the budget may end before. Null before it runs."
    )
    current_trial: int = Field(description="Number `n` of its newest trial: one evaluation of one prompt.", ge=0)
    best_score: float | None = Field(ge=0, le=1)
    best_score_seeds: int | None = Field(description="On how many seeds the score rests.")
    baseline_score: float | None = Field(ge=0, le=1)
    total_tokens: int
    total_cost_usd: float | None = Field(description="Null where the price of a call is not known.")
    progress_pct: float = Field(
        description="Rollouts that were answered, those of the held-out test among them; 100 once it is over.",
        ge=0,
        le=100,
    )
    eta_seconds: float | None = Field(
        description="How long it still has to run at the pace it has had, pauses aside; null where that is not known"
        " yet, or the job is paused.",
        ge=0,
    )
    last_event: LastEventObject | None
    last_event_seq: int
    time_since_progress_seconds: float | None = Field(
        description="Since it has recorded anything; null where it does not run."
    )
    stuck_warning: bool = Field(description="It runs, and has recorded nothing for 600 seconds or more.")


class ExperimentJob(Answer):
    """A job in its experiment. Everything else about it is at the job's own address."""

    job_id: str
    position: int = Field(description="1, 2, 3 …: the order in which they start.", ge=1)
    label: str = Field(description="Its name in the experiment.")
    group: str = Field(description="The same for jobs whose configs differ in their random seed alone.")
    settings: dict[str, Any] = Field(description="What tells it from the others, by short names or paths.")
    algorithm: str
    status: JobStatus
    error: str | None
    finish_reason: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    status_json: StatusObject


class ExperimentObject(Answer):
    """An experiment. Where it stands follows from its jobs: it is over when all of them are."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_OBJECT]})

    experiment_id: str
    id: str
    organisation: str
    name: str
    description: str | None
    status: ExperimentStatus = Field(
        description="Over: cancelled where that was asked for and has ended a job, or is all that has happened to its"
        " jobs; else completed where a job has succeeded, else failed."
    )
    parallelism: int
    num_jobs: int
    counts: dict[JobStatus, int] = Field(description="Its jobs by status.")
    progress_pct: float = Field(description="The mean over its jobs.", ge=0, le=100)
    eta_seconds: float | None = Field(
        description="Until all jobs are over that are not paused, if those that wait take as long as the others; null"
        " where that cannot be told yet.",
        ge=0,
    )
    total_tokens: int
    total_cost_usd: float | None = Field(description="Null where the price of a call is not known.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    cancel_requested_at: datetime | None
    metadata: dict[str, Any]
    jobs: list[ExperimentJob] | None = Field(default=None, description="Left out in lists.")


class ExperimentEventObject(EventObject):
    """An event of one of its jobs, as the stream of the experiment has it."""

    experiment_id: str
    position: int = Field(description="The job's, in the experiment.", ge=1)
    label: str = Field(description="The job's.")


class ExperimentEndedObject(Answer):
    """The last event of the stream: all jobs are over."""

    experiment_id: str
    type: Literal["experiment.completed", "experiment.failed", "experiment.cancelled"]
    message: str
    status: ExperimentStatus
    counts: dict[JobStatus, int]


class JobEstimate(Answer):
    """What one of the jobs would take."""

    position: int = Field(ge=1)
    label: str
    group: str
    settings: dict[str, Any]
    algorithm: str
    estimate: EstimateObject


class ExperimentEstimate(Answer):
    """What all jobs would take together, and each of them; said without regard to their caps."""

    num_jobs: int
    parallelism: int
    rollouts: int
    calls: EstimatedCount
    tokens: EstimatedCount
    cost_usd: EstimatedCost = Field(description="Null where a model without a known price takes part in any job.")
    assumptions: list[str] = Field(description="What was taken for granted, in words.")
    unpriced_models: list[str]
    jobs: list[JobEstimate]
