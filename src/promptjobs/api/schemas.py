"""The shapes of requests, and of answers as the OpenAPI description shows them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from promptjobs.api.parameters import EXAMPLE_ID
from promptjobs.core.asks import Tier
from promptjobs.core.trial import Phase
from promptjobs.db.jobs import JobStatus

EXAMPLE_CREATE: dict[str, Any] = {
    "algorithm": "gepa",
    "config_body": {
        "prompt_learning": {
            "algorithm": "gepa",
            "task_app_url": "http://127.0.0.1:8101",
            "task_app_api_key": "${ENVIRONMENT_API_KEY}",
            "initial_prompt": {
                "messages": [
                    {"role": "system", "pattern": "Classify the ticket. Answer with one word.", "order": 0},
                    {"role": "user", "pattern": "Ticket: {ticket}", "order": 1},
                ],
                "wildcards": {"ticket": "REQUIRED"},
            },
            "policy": {"provider": "groq", "model": "llama-3.1-8b-instant", "temperature": 0.0},
            "gepa": {
                "env_name": "tickets",
                "rng_seed": 7,
                "rollout": {"budget": 600, "max_concurrent": 20, "minibatch_size": 8},
                "evaluation": {
                    "train_seeds": list(range(30)),
                    "validation_seeds": list(range(100, 120)),
                    "test_pool": list(range(200, 220)),
                    "validation_top_k": 3,
                },
                "mutation": {"llm_provider": "groq", "llm_model": "llama-3.3-70b-versatile"},
                "archive": {"pareto_set_size": 20},
            },
        }
    },
    "overrides": {"prompt_learning.policy.temperature": 0.2},
    "metadata": {"team": "support"},
    "auto_start": True,
}
"""A body that is accepted as it stands, where the providers it names have keys."""

EXAMPLE_MESSAGES = [
    {"role": "system", "content": "Classify the ticket as billing, bug or other. Answer with one word."},
    {"role": "user", "content": "Ticket: {ticket}"},
]
EXAMPLE_TEXT = "\n\n".join(f"[{each['role']}]\n{each['content']}" for each in EXAMPLE_MESSAGES)
EXAMPLE_TIME = "2026-05-04T09:30:00.123456+00:00"

EXAMPLE_JOB: dict[str, Any] = {
    "job_id": EXAMPLE_ID,
    "id": EXAMPLE_ID,
    "algorithm": "gepa",
    "status": "running",
    "created_at": EXAMPLE_TIME,
    "started_at": EXAMPLE_TIME,
    "finished_at": None,
    "updated_at": EXAMPLE_TIME,
    "cancel_requested_at": None,
    "best_score": 0.85,
    "best_train_score": None,
    "best_validation_score": None,
    "best_prompt": EXAMPLE_TEXT,
    "best_prompt_messages": EXAMPLE_MESSAGES,
    "best_snapshot_id": None,
    "best_snapshot": None,
    "error": None,
    "finish_reason": None,
    "warnings": [],
    "metadata": {"team": "support"},
    "progress": {
        "phase": "optimization",
        "rollouts_completed": 240,
        "rollouts_total": 600,
        "percent_rollouts": 0.4,
        "best_score": 0.85,
        "baseline_score": 0.55,
        "best_candidate_id": "c_3f2a",
        "generation": 3,
        "total_tokens": 48210,
        "total_cost_usd": 0.0123,
    },
    "iteration": 3,
    "policy": {"provider": "groq", "model": "llama-3.1-8b-instant"},
    "task_app_url": "http://127.0.0.1:8101",
    "rollout_budget": 600,
}


class CreateJob(BaseModel):
    """A job to create. Fields that are not listed are ignored with a warning."""

    model_config = ConfigDict(extra="allow", strict=True, json_schema_extra={"examples": [EXAMPLE_CREATE]})

    algorithm: str = Field(description="gepa or mipro", max_length=100)
    config_body: dict[str, Any] = Field(description="The config; its section is `prompt_learning`.")
    overrides: dict[str, Any] | None = Field(
        default=None, description="Values that replace those of `config_body`; keys may be dotted paths."
    )
    metadata: dict[str, Any] | None = Field(default=None, description="Kept with the job; at most 64 KiB of JSON.")
    auto_start: bool = Field(default=True, description="False: the job is pending until it is started.")
    config_name: str | None = Field(default=None, description="Not supported yet.", max_length=500)


class CancelJob(BaseModel):
    """Why a job is cancelled."""

    model_config = ConfigDict(strict=True, json_schema_extra={"examples": [{"reason": "wrong dataset"}]})

    reason: str | None = Field(default=None, max_length=1000)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ChatMessage(_Answer):
    role: str
    content: str


class Policy(_Answer):
    """The model that really runs, overrides included."""

    provider: str
    model: str


class JobObject(_Answer):
    """A job. What is best comes from the progress while it runs, from the published snapshot once it is over."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_JOB]})

    job_id: str
    id: str
    algorithm: str
    status: JobStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    cancel_requested_at: datetime | None
    best_score: float | None = Field(description="The winner's validation mean where measured, else its front mean.")
    best_train_score: float | None
    best_validation_score: float | None
    best_prompt: str | None = Field(description="The messages as one text: `[role]`, a line feed, the content.")
    best_prompt_messages: list[ChatMessage] | None
    best_snapshot_id: str | None
    best_snapshot: dict[str, Any] | None = Field(
        description="The snapshot's payload, and the same once more under `payload`; null in lists."
    )
    error: str | None
    finish_reason: str | None
    warnings: list[str]
    metadata: dict[str, Any] = Field(description="The client's; once the job is over, with `stats` and the outcome.")
    progress: dict[str, Any] | None
    iteration: int | None
    policy: Policy
    task_app_url: str
    rollout_budget: int


class ConfigObject(_Answer):
    sent: dict[str, Any] = Field(description="The request, without its secrets.")
    resolved: dict[str, Any] = Field(description="What runs: overrides applied, defaults filled in.")
    warnings: list[str]


class EventObject(_Answer):
    seq: int = Field(description="1, 2, 3 … without a gap.")
    type: str
    message: str
    level: Literal["info", "warning", "error"]
    data: dict[str, Any]
    created_at: datetime
    job_id: str
    timestamp_ms: int


class EventList(_Answer):
    events: list[EventObject]
    has_more: bool
    next_seq: int = Field(description="The `since_seq` of the next page.")


class RolloutOutcome(_Answer):
    seed: int
    score: float | None
    reason: str | None = Field(description="Why there is no score.")
    detail: str | None
    tokens: int
    cost_usd: float | None = Field(description="Null where the model's price is unknown.")
    seconds: float
    draw: int = Field(description="0, or the number of a repetition.")


class RolloutObject(RolloutOutcome):
    id: str
    candidate_id: str
    phase: Phase
    is_baseline: bool
    tier: Tier = Field(description="`hi`: by the model under optimization; `lo`: by its stand-in (`proxy_models`).")
    prompt_tokens: int
    completion_tokens: int
    unknown_tokens: int
    attempts: int
    created_at: datetime
    body: dict[str, Any] | None = Field(description="messages, output, feedback, expected.")


class TrialObject(_Answer):
    n: int
    candidate_id: str
    phase: Phase
    is_baseline: bool
    seeds: list[int]
    scores: list[float | None] = Field(description="One for each seed; null where the rollout failed.")
    score: float | None = Field(description="Mean of the scores.")
    failed: int
    reused: int = Field(description="How many of the scores were known before.")
    generation: int
    lane: str
    created_at: datetime
    metadata: dict[str, Any] = Field(description="phase, is_baseline, generation, lane; tokens with the rollouts.")
    metadata_json: dict[str, Any] = Field(description="The same as `metadata`.")
    rollouts: list[RolloutOutcome] | None = Field(default=None, description="One for each seed that was answered.")


class SectionObject(_Answer):
    name: str
    role: str
    content: str
    order: int
    module: str | None = Field(default=None, description="Of a program of several modules: whose section it is.")
    is_example: bool | None = Field(default=None, description="True for the messages of worked examples.")


class CandidateObject(_Answer):
    candidate_id: str
    n: int
    parents: list[str]
    operator: str
    generation: int
    sections: list[SectionObject] | None
    messages: list[ChatMessage] | None
    created_at: datetime


class MetricPoint(_Answer):
    name: str
    value: float
    step: int = Field(description="The trial's number.")
    created_at: datetime
    phase: Phase
    job_id: str
    data: dict[str, Any]


class MetricList(_Answer):
    points: list[MetricPoint]


class CurvePoint(_Answer):
    rollout_count: int
    performance: float
    checkpoint_pct: float = Field(description="Part of the rollout budget, 0 to 1.")
    candidate_id: str
    messages: list[ChatMessage] | None
    metadata: dict[str, Any]


class LearningCurve(_Answer):
    points: list[CurvePoint]


class SnapshotSummary(_Answer):
    id: str
    job_id: str
    label: str
    score: float | None
    created_at: datetime


class SnapshotObject(SnapshotSummary):
    payload: dict[str, Any]


class ArtifactObject(_Answer):
    id: str
    job_id: str
    snapshot_id: str
    label: str
    kind: str
    score: float | None
    created_at: datetime


class ArtifactList(_Answer):
    artifacts: list[ArtifactObject]


class Problem(BaseModel):
    """RFC 9457, with the error's facts beside it. Errors are `application/problem+json` where Accept names that."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:promptjobs:problem:job_not_found",
                    "title": "Job not found",
                    "status": 404,
                    "detail": f"there is no job '{EXAMPLE_ID}'",
                    "code": "job_not_found",
                    "job_id": EXAMPLE_ID,
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    detail: str
    code: str
