"""The shapes of the routes that list and show the prompts of all jobs."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from promptjobs.api.job_schemas import EXAMPLE_MESSAGES, EXAMPLE_TIME
from promptjobs.api.parameters import EXAMPLE_ID
from promptjobs.api.schemas import Answer
from promptjobs.db.jobs import JobStatus

EXAMPLE_SNAPSHOT_ID = "snap_0c9f6b1f2d3e4a5b8c7d6e5f4a3b2c1d"

EXAMPLE_PROMPT: dict[str, Any] = {
    "id": EXAMPLE_ID,
    "job_id": EXAMPLE_ID,
    "type": "prompt",
    "algorithm": "gepa",
    "status": "succeeded",
    "best_score": 0.85,
    "best_train_score": 0.9,
    "best_validation_score": 0.85,
    "best_snapshot_id": EXAMPLE_SNAPSHOT_ID,
    "created_at": EXAMPLE_TIME,
    "finished_at": EXAMPLE_TIME,
}

EXAMPLE_DETAIL: dict[str, Any] = {
    **EXAMPLE_PROMPT,
    "best_snapshot": {"messages": EXAMPLE_MESSAGES, "best_prompt_messages": EXAMPLE_MESSAGES, "best_score": 0.85},
    "metadata": {
        "team": "support",
        "algorithm": "gepa",
        "prompt_best_score": 0.85,
        "prompt_best_validation_score": 0.85,
        "prompt_best_snapshot_id": EXAMPLE_SNAPSHOT_ID,
        "task_app_url": "http://127.0.0.1:8101",
        "config_source": "config_body",
    },
}

EXAMPLE_LIST: dict[str, Any] = {
    "fine_tuned_models": [],
    "rl_models": [],
    "prompts": [EXAMPLE_PROMPT],
    "summary": {"total_count": 1},
}


class PromptSummary(Answer):
    """The best prompt of a job: what it has published, or the best so far."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_PROMPT]})

    id: str = Field(description="The same as `job_id`: a job has one best prompt.")
    job_id: str
    type: Literal["prompt"]
    algorithm: str
    status: JobStatus = Field(description="Of the job.")
    best_score: float | None
    best_train_score: float | None
    best_validation_score: float | None
    best_snapshot_id: str | None = Field(description="Null while the job goes on.")
    created_at: datetime
    finished_at: datetime | None


class PromptDetail(PromptSummary):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_DETAIL]})

    best_snapshot: dict[str, Any] | None = Field(
        description="The snapshot's payload, whose `messages` are the prompt; the same once more under `payload`."
    )
    metadata: dict[str, Any] = Field(
        description="As the job has it, and `config_source`: `config_body`, or `config_name` of a saved config."
    )


class ArtifactCount(Answer):
    total_count: int = Field(description="Of all that match, also beyond `limit`.")


class AllArtifacts(Answer):
    """There are only prompts here: the lists of models are there for clients that read them, and are empty."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_LIST]})

    fine_tuned_models: list[dict[str, Any]]
    rl_models: list[dict[str, Any]]
    prompts: list[PromptSummary]
    summary: ArtifactCount
