"""The shapes of webhooks: requests for them, what is answered, and the messages that receivers get."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from promptjobs.api.parameters import EXAMPLE_ID
from promptjobs.api.schemas import Answer
from promptjobs.db.jobs import JobStatus
from promptjobs.db.webhook_messages import DeliveryStatus, JobEndType

EXAMPLE_URL = "https://hooks.example.com/promptjobs"
EXAMPLE_WEBHOOK_ID = "wh_1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f"
EXAMPLE_MESSAGE_ID = "msg_9e0f1a2b3c4d5e6f1c2d3e4f5a6b7c8d"
EXAMPLE_TIME = "2026-05-04T09:30:00.123456+00:00"

EXAMPLE_WEBHOOK: dict[str, Any] = {
    "id": EXAMPLE_WEBHOOK_ID,
    "url": EXAMPLE_URL,
    "description": "Tells the team's channel",
    "event_types": ["job.succeeded", "job.failed"],
    "is_disabled": False,
    "created_at": EXAMPLE_TIME,
    "updated_at": EXAMPLE_TIME,
    "disabled_at": None,
}

EXAMPLE_MESSAGE: dict[str, Any] = {
    "type": "job.succeeded",
    "timestamp": EXAMPLE_TIME,
    "data": {
        "job_id": EXAMPLE_ID,
        "algorithm": "gepa",
        "status": "succeeded",
        "error": None,
        "finish_reason": "rollout_budget",
        "best_snapshot_id": "snap_3e4f5a6b7c8d9e0f1a2b3c4d5e6f1c2d",
        "created_at": "2026-05-04T09:00:00.000000+00:00",
        "started_at": "2026-05-04T09:00:01.000000+00:00",
        "finished_at": EXAMPLE_TIME,
        "finish_detail": None,
        "best_score": 0.85,
        "best_score_seeds": 20,
        "baseline_score": 0.55,
        "metadata": {"team": "support"},
        "stats": {
            "total_rollouts": 600,
            "failed_rollouts": 2,
            "trials_tried": 31,
            "total_tokens": 121_440,
            "total_cost_usd": 0.0311,
            "total_time_seconds": 1799.123,
        },
    },
}

EXAMPLE_DELIVERY: dict[str, Any] = {
    "id": EXAMPLE_MESSAGE_ID,
    "webhook_id": EXAMPLE_WEBHOOK_ID,
    "job_id": EXAMPLE_ID,
    "event_type": "job.succeeded",
    "status": "pending",
    "attempts": 1,
    "next_attempt_at": "2026-05-04T09:30:05.400000+00:00",
    "response_status": 500,
    "error": "HTTP 500",
    "created_at": EXAMPLE_TIME,
    "delivered_at": None,
}


class WebhookRequest(BaseModel):
    """What is sent has the right types, and no field that is not known: it would seem to be obeyed."""

    model_config = ConfigDict(extra="forbid", strict=True)


Url = Annotated[str, Field(description="https; http only on this machine or where the operator allows the target.")]
Description = Annotated[str | None, Field(max_length=500)]
EventTypes = Annotated[
    list[Literal["job.succeeded", "job.failed", "job.cancelled"]],
    Field(max_length=10, description="Empty for all of them."),
]
Secret = Annotated[
    SecretStr | None,
    Field(strict=False, description="`whsec_` and 24 to 64 bytes in base64; made where it is missing."),
]


class CreateWebhook(WebhookRequest):
    """An address that is to be told when jobs end."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": EXAMPLE_URL, "event_types": ["job.succeeded", "job.failed"]}]}
    )

    url: Url
    description: Description = None
    event_types: EventTypes = []
    secret: Secret = None


def _without_defaults(schema: dict[str, Any]) -> None:
    """What is missing has no default value: it is not changed."""
    schema["examples"] = [{"is_disabled": True}]
    for described in schema["properties"].values():
        described.pop("default", None)


class ChangeWebhook(WebhookRequest):
    """What is missing stays as it is."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    url: Url = ""
    description: Description = None
    event_types: EventTypes = []
    is_disabled: bool = False


class RotateSecret(WebhookRequest):
    """The new secret, or nothing for one that is made here."""

    secret: Secret = None


class WebhookObject(Answer):
    """A webhook, without its secret."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_WEBHOOK]})

    id: str
    url: str
    description: str | None
    event_types: list[JobEndType] = Field(description="Empty for all of them.")
    is_disabled: bool = Field(description="Disabled by its owner, or by its receiver's HTTP 410.")
    created_at: datetime
    updated_at: datetime
    disabled_at: datetime | None


class WebhookWithSecret(WebhookObject):
    """A webhook with its secret, which is shown this once."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [EXAMPLE_WEBHOOK | {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}]}
    )

    secret: str


class DeliveryObject(Answer):
    """A message, and what has come of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_DELIVERY]})

    id: str = Field(description="The message's `webhook-id`, the same in every attempt.")
    webhook_id: str
    job_id: str | None = Field(description="Null for a test. The job may have been deleted since.")
    event_type: JobEndType | Literal["webhook.test"]
    status: DeliveryStatus
    attempts: int = Field(description="Attempts that were begun.")
    next_attempt_at: datetime | None = Field(
        description="When a pending one is tried again; while it is being sent, when its sender is taken for dead."
    )
    response_status: int | None = Field(description="HTTP status of the last attempt, where there was one.")
    error: str | None = Field(description="Why the last attempt has failed.")
    created_at: datetime
    delivered_at: datetime | None = Field(description="When it was delivered last.")


class DeliveryWithPayload(DeliveryObject):
    """A message with its body."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_DELIVERY | {"payload": EXAMPLE_MESSAGE}]})

    payload: dict[str, Any]


# --- messages --------------------------------------------------------------------------------------------------------


class EndedStats(Answer):
    """Counters of the whole job; the job's `metadata.stats` holds the others."""

    total_rollouts: int | None
    failed_rollouts: int | None
    trials_tried: int | None
    total_tokens: int | None
    total_cost_usd: float | None = Field(description="Null where the price of a call is unknown.")
    total_time_seconds: float | None


class EndedJob(Answer):
    """A job that is over. Its prompts and the whole result are read from the API."""

    job_id: str
    algorithm: str
    status: Literal[JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED]
    error: str | None
    finish_reason: str | None
    finish_detail: str | None
    best_score: float | None
    best_score_seeds: int | None
    baseline_score: float | None
    best_snapshot_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime
    metadata: dict[str, Any] = Field(description="The client's own, as it was sent with the job.")
    stats: EndedStats


class JobEndedMessage(Answer):
    """What a webhook is sent when a job ends."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_MESSAGE]})

    type: JobEndType
    timestamp: datetime = Field(description="When the job ended, whenever this is sent.")
    data: EndedJob


class WebhookUnderTest(Answer):
    webhook_id: str


class WebhookTestMessage(Answer):
    """What a webhook is sent to test it."""

    type: Literal["webhook.test"]
    timestamp: datetime
    data: WebhookUnderTest
