"""The shapes of jobs: requests for them, and what is answered, as the OpenAPI description shows them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from promptjobs.api.parameters import EXAMPLE_ID
from promptjobs.api.schemas import Answer, ChatMessage
from promptjobs.core.config_support import MAX_CANDIDATES
from promptjobs.core.ledger import Category
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

EXAMPLE_SPEND: dict[str, Any] = {
    "usd": 0.0123,
    "held_usd": 0.0004,
    "unsettled_usd": 0.0,
    "tokens": 48210,
    "calls": 259,
    "unpriced_calls": 0,
    "categories": {
        name: {"usd": usd, "tokens": tokens, "calls": calls, "held_usd": held_usd, "unsettled_usd": 0.0}
        for name, usd, tokens, calls, held_usd in (
            ("bootstrap", 0.0, 0, 0, 0.0),
            ("policy", 0.0101, 41_300, 240, 0.0004),
            ("validation", 0.0, 0, 0, 0.0),
            ("test", 0.0, 0, 0, 0.0),
            ("proposal", 0.0022, 6_910, 19, 0.0),
            ("judge", 0.0, 0, 0, 0.0),
        )
    },
    "caps": {"total_usd": 2.5, "rollout_usd": None, "proposal_usd": None, "tokens": None},
    "balance_type": "unlimited",
    "balance_usd": None,
}

EXAMPLE_JOB: dict[str, Any] = {
    "job_id": EXAMPLE_ID,
    "id": EXAMPLE_ID,
    "organisation": "default",
    "algorithm": "gepa",
    "status": "running",
    "parent_id": None,
    "config_name": None,
    "experiment_id": None,
    "experiment_label": None,
    "created_at": EXAMPLE_TIME,
    "started_at": EXAMPLE_TIME,
    "finished_at": None,
    "updated_at": EXAMPLE_TIME,
    "cancel_requested_at": None,
    "pause_requested_at": None,
    "paused_at": None,
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
    "spend": EXAMPLE_SPEND,
    "best_score_seeds": 20,
    "baseline_score_seeds": 20,
    "best_train_score_seeds": None,
    "best_validation_score_seeds": None,
    "best_test_score_seeds": None,
    "finish_detail": None,
    "failures": {"provider": 2, "task_app": 1, "parse": 0, "prompt": 0, "judge": 0},
    "failures_by_reason": {"provider_error": 2, "task_app_timeout": 1},
}


class CreateJob(BaseModel):
    """A job to create. Fields that are not listed are ignored with a warning."""

    model_config = ConfigDict(extra="allow", strict=True, json_schema_extra={"examples": [EXAMPLE_CREATE]})

    algorithm: str | None = Field(
        default=None, description="gepa or mipro. Required, unless `config_name` is given.", max_length=100
    )
    config_body: dict[str, Any] | None = Field(
        default=None,
        description="The config; its section is `prompt_learning`. Required, unless `config_name` is given; beside that"
        " it is laid over the saved config: objects merge, everything else replaces.",
    )
    overrides: dict[str, Any] | None = Field(
        default=None, description="Values that replace those of `config_body`; keys may be dotted paths."
    )
    metadata: dict[str, Any] | None = Field(
        default=None,
        description="Kept with the job; at most 64 KiB of JSON. Strings, numbers and booleans at its top are what lists"
        " can be filtered by.",
    )
    auto_start: bool = Field(default=True, description="False: the job is pending until it is started.")
    config_name: str | None = Field(
        default=None, description="Name of a saved config, which the job is made of.", max_length=500
    )


class WarmStart(BaseModel):
    """Which candidates of the parent a fork begins with."""

    model_config = ConfigDict(strict=True, extra="forbid")

    candidates: Literal["best", "front"] | list[str] = Field(
        default="front", description="The best one, those on the front, or these."
    )
    max_candidates: int = Field(default=8, ge=1, le=MAX_CANDIDATES, description="Most of the front.")


def _kind(value: object) -> str | None:
    if isinstance(value, bool):
        return "flag"
    return "object" if isinstance(value, dict | WarmStart) else None


FlagOrWarmStart = Annotated[
    Annotated[bool, Tag("flag")] | Annotated[WarmStart, Tag("object")],
    Discriminator(_kind, custom_error_type="warm_start", custom_error_message="expected true, false or an object"),
]
"""Told apart first, so that an error is about what was meant, and not about the other one."""


class ForkJob(BaseModel):
    """A job to create from the request of an earlier one. Fields that are not listed are ignored with a warning."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "overrides": {"prompt_learning.gepa.rollout.budget": 1200},
                    "metadata": {"team": "support"},
                    "warm_start": {"candidates": "front", "max_candidates": 4},
                }
            ]
        },
    )

    overrides: dict[str, Any] | None = Field(
        default=None, description="Values that replace the parent's; keys may be dotted paths."
    )
    metadata: dict[str, Any] | None = Field(default=None, description="The fork's own; the parent's is not taken over.")
    warm_start: FlagOrWarmStart | None = Field(
        default=None,
        description="Left out: with the parent's front, where it has one, as far as the budget holds it. True or an"
        " object: with these candidates."
        " False: with the baseline alone.",
    )
    auto_start: bool = Field(default=True, description="False: the job is pending until it is started.")
    task_app_api_key: str | None = Field(
        default=None,
        description="The parent's own key is not kept. Without this one, the organisation's or the server's is used.",
        max_length=10_000,
    )


class CancelJob(BaseModel):
    """Why a job is cancelled."""

    model_config = ConfigDict(strict=True, json_schema_extra={"examples": [{"reason": "wrong dataset"}]})

    reason: str | None = Field(default=None, max_length=1000)


class Policy(Answer):
    """The model that really runs, overrides included."""

    provider: str
    model: str


class CategorySpend(Answer):
    usd: float = Field(description="Paid, as far as it is known.")
    tokens: int
    calls: int = Field(description="That have reached the provider.")
    held_usd: float = Field(description="Reserved for calls under way.")
    unsettled_usd: float = Field(description="The most that calls can have cost whose cost will never be known.")


class SpendCategories(Answer):
    """policy: rollouts that steer the search. proposal: calls of the meta-model."""

    bootstrap: CategorySpend
    policy: CategorySpend
    validation: CategorySpend
    test: CategorySpend
    proposal: CategorySpend
    judge: CategorySpend


class SpendCaps(Answer):
    """The limits of the config; null where there is none."""

    total_usd: float | None
    rollout_usd: float | None
    proposal_usd: float | None
    tokens: int | None


class Spend(CategorySpend):
    """What all calls of the job have come to, those included that were repeated or came to nothing."""

    unpriced_calls: int = Field(description="Those of `calls` at a price that is not known; `usd` is without them.")
    categories: SpendCategories | None = Field(default=None, description="Left out in lists.")
    caps: SpendCaps
    balance_type: Literal["unlimited", "prepaid"]
    balance_usd: float | None = Field(description="What the organisation has left, all of its jobs together.")


class JobObject(Answer):
    """A job. What is best comes from the progress while it runs, from the published snapshot once it is over."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_JOB]})

    job_id: str
    id: str
    organisation: str
    algorithm: str
    status: JobStatus
    parent_id: str | None = Field(description="The job that this one was forked from; it may have been deleted.")
    config_name: str | None = Field(description="The saved config that it was made of.")
    experiment_id: str | None = Field(description="The experiment that it belongs to.")
    experiment_label: str | None = Field(description="Its name there.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    cancel_requested_at: datetime | None
    pause_requested_at: datetime | None = Field(description="Since when it is to be paused; null once it is.")
    paused_at: datetime | None = Field(description="Null unless the job is paused.")
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
    spend: Spend
    best_score_seeds: int | None = Field(description="On how many seeds the score rests; so of the others.")
    baseline_score_seeds: int | None
    best_train_score_seeds: int | None
    best_validation_score_seeds: int | None
    best_test_score_seeds: int | None
    finish_detail: str | None = Field(description="`finish_reason` in words.")
    failures: dict[str, int] | None = Field(description="Rollouts without a score, by whose fault it was.")
    failures_by_reason: dict[str, int] | None


class EstimatedCount(Answer):
    expected: int
    at_most: int


class EstimatedCounts(EstimatedCount):
    by_category: dict[Category, EstimatedCount]


class EstimatedCost(Answer):
    """Null where a model without a known price takes part."""

    expected: float | None
    at_most: float | None


class EstimatedCosts(EstimatedCost):
    by_category: dict[Category, EstimatedCost]


class EstimateObject(Answer):
    """Everything but `stopped_by` is said without regard to the caps."""

    rollouts: dict[str, int] = Field(description="By phase, and their `total`.")
    calls: EstimatedCounts
    tokens: EstimatedCounts
    cost_usd: EstimatedCosts
    assumptions: list[str] = Field(description="What was taken for granted, in words.")
    unpriced_models: list[str]
    caps: dict[str, float] = Field(description="The job's limits, by the finish reasons they end it with.")
    stopped_by: str | None = Field(description="The cap that is expected to end the job early.")


class ConfigObject(Answer):
    sent: dict[str, Any] = Field(description="The request, without its secrets.")
    resolved: dict[str, Any] = Field(description="What runs: overrides applied, defaults filled in.")
    warnings: list[str]
