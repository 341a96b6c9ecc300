"""The shapes of what is answered about events, results and errors, as the OpenAPI description shows them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from promptjobs.api.parameters import EXAMPLE_ID
from promptjobs.core.asks import Tier
from promptjobs.core.trial import Phase


class Answer(BaseModel):
    """What is answered has these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class ChatMessage(Answer):
    role: str
    content: str


class EventObject(Answer):
    seq: int = Field(description="1, 2, 3 … without a gap.")
    type: str
    message: str
    level: Literal["info", "warning", "error"]
    data: dict[str, Any]
    created_at: datetime
    job_id: str
    timestamp_ms: int


class EventList(Answer):
    events: list[EventObject]
    has_more: bool
    next_seq: int = Field(description="The `since_seq` of the next page.")


class RolloutOutcome(Answer):
    id: str = Field(description="Of the rollout: its route shows what was said.")
    seed: int
    score: float | None
    reason: str | None = Field(description="Why there is no score.")
    detail: str | None
    tokens: int
    cost_usd: float | None = Field(description="Null where the model's price is unknown.")
    seconds: float
    draw: int = Field(description="0, or the number of a repetition.")


class CallObject(Answer):
    """One call of a rollout's LLM through the interceptor."""

    n: int = Field(description="1, 2, 3 … in the order in which the rollout's calls ended.")
    attempt: int = Field(description="Of the rollout: more than 1 where it was tried again.")
    provider: str
    model: str
    streamed: bool
    messages: list[dict[str, Any]] = Field(
        description="As they were sent to the provider, with the candidate's prompt in them; as the task app sent them "
        "where nothing was sent."
    )
    reply: dict[str, Any] | None = Field(description="The message of the first choice.")
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    unknown_tokens: int = Field(description="Reported without a split.")
    tokens: int
    cost_usd: float | None = Field(description="Null where the model's price is unknown.")
    seconds: float
    status: int = Field(description="What the task app was answered; 499 where it had gone.")
    error: str | None = Field(description="`code: detail`.")
    created_at: datetime


class RolloutObject(RolloutOutcome):
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
    calls: list[CallObject] | None = Field(default=None, description="Those of its LLM; with `include=calls`.")


class TrialObject(Answer):
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


class SectionObject(Answer):
    name: str
    role: str
    content: str
    order: int
    module: str | None = Field(default=None, description="Of a program of several modules: whose section it is.")
    is_example: bool | None = Field(default=None, description="True for the messages of worked examples.")


class MetricPoint(Answer):
    name: str
    value: float
    step: int = Field(description="The trial's number.")
    created_at: datetime
    phase: Phase
    job_id: str
    data: dict[str, Any]


class MetricList(Answer):
    points: list[MetricPoint]


class CurvePoint(Answer):
    rollout_count: int
    performance: float
    checkpoint_pct: float = Field(description="Part of the rollout budget, 0 to 1.")
    candidate_id: str
    messages: list[ChatMessage] | None
    metadata: dict[str, Any]


class LearningCurve(Answer):
    points: list[CurvePoint]


class SnapshotSummary(Answer):
    id: str
    job_id: str
    label: str
    score: float | None
    num_seeds: int | None = Field(description="On how many seeds the score rests.")
    created_at: datetime


class SnapshotObject(SnapshotSummary):
    payload: dict[str, Any]


class ArtifactObject(Answer):
    id: str
    job_id: str
    snapshot_id: str
    label: str
    kind: str
    score: float | None
    num_seeds: int | None = Field(description="On how many seeds the score rests.")
    created_at: datetime


class ArtifactList(Answer):
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
                    "request_id": "req_0f5a9c1d2e3b4a5f8c7d6e5f4a3b2c1d",
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
    request_id: str = Field(description="Of the request, as in the header `x-request-id` and in the service's log.")
