"""What the service answers, as types: its JSON objects as they come, and a job's result read out of one.

A newer service may answer more than is listed here; nothing of it is lost, since objects are passed on as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, Self, TypedDict

Json = dict[str, Any]

TERMINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})


class Message(TypedDict):
    """A chat message. content: with its placeholders, such as `{ticket}`."""

    role: str
    content: str


class Policy(TypedDict):
    provider: str
    model: str


class Job(TypedDict):
    """A job. Scores are from 0 to 1; times are ISO 8601 in UTC."""

    job_id: str
    id: str
    organisation: str
    parent_id: str | None
    config_name: str | None
    experiment_id: str | None
    experiment_label: str | None
    algorithm: str
    status: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    updated_at: str
    cancel_requested_at: str | None
    pause_requested_at: str | None
    paused_at: str | None
    best_score: float | None
    best_train_score: float | None
    best_validation_score: float | None
    best_prompt: str | None
    best_prompt_messages: list[Message] | None
    best_snapshot_id: str | None
    best_snapshot: Json | None
    error: str | None
    finish_reason: str | None
    finish_detail: str | None
    warnings: list[str]
    metadata: Json
    progress: Json | None
    iteration: int | None
    policy: Policy
    task_app_url: str
    rollout_budget: int
    spend: Json
    best_score_seeds: int | None
    baseline_score_seeds: int | None
    best_train_score_seeds: int | None
    best_validation_score_seeds: int | None
    best_test_score_seeds: int | None
    failures: dict[str, int] | None
    failures_by_reason: dict[str, int] | None


class Estimate(TypedDict):
    """What a job would take; each of calls, tokens and cost_usd with `expected`, `at_most` and `by_category`."""

    rollouts: dict[str, int]
    calls: Json
    tokens: Json
    cost_usd: Json
    assumptions: list[str]
    unpriced_models: list[str]
    caps: dict[str, float]
    stopped_by: str | None


class Config(TypedDict):
    """sent: the request without its secrets. resolved: what runs."""

    sent: Json
    resolved: Json
    warnings: list[str]


class EventPage(TypedDict):
    """next_seq: what to ask for next with `after`."""

    events: list[Json]
    has_more: bool
    next_seq: int


class Trial(TypedDict):
    """A candidate on a list of seeds. scores[i] belongs to seeds[i], and is None where the rollout failed."""

    n: int
    candidate_id: str
    phase: str
    is_baseline: bool
    seeds: list[int]
    scores: list[float | None]
    score: float | None
    failed: int
    reused: int
    generation: int
    lane: str
    created_at: str
    metadata: Json
    metadata_json: Json
    rollouts: NotRequired[list[Json]]


class Rollout(TypedDict):
    """A rollout; body holds what its model saw and said. calls: of the model, only where one rollout was read."""

    id: str
    candidate_id: str
    seed: int
    draw: int
    score: float | None
    reason: str | None
    detail: str | None
    tokens: int
    cost_usd: float | None
    seconds: float
    phase: str
    is_baseline: bool
    tier: str
    prompt_tokens: int
    completion_tokens: int
    unknown_tokens: int
    attempts: int
    created_at: str
    body: Json | None
    calls: NotRequired[list[Json]]


class Module(TypedDict):
    """One kind of call of a program, and the messages that it begins with."""

    module_id: str
    messages: list[Message]


class Candidate(TypedDict):
    """A prompt that was tried. scores: by phase, seed by seed. messages: None for the task app's own. modules: of a
    program of several calls.
    """

    candidate_id: str
    n: int
    parents: list[str]
    operator: str
    generation: int
    status: str
    rejection: Json | None
    is_pareto: bool
    is_best: bool
    score: float | None
    num_seeds: int
    scores: dict[str, Json]
    rollouts: int
    tokens: int
    cost_usd: float | None
    messages: list[Message] | None
    modules: list[Module] | None
    sections: list[Json] | None
    stages: Json | None
    created_at: str


class Archive(TypedDict):
    """members: the best prompts, best first. seeds: who is best on which."""

    is_published: bool
    best_candidate_id: str | None
    members: list[Json]
    seeds: list[Json]


class Lineage(TypedDict):
    """Candidates as a graph, without their prompts. truncated: more nodes follow behind the last one's number `n`."""

    nodes: list[Json]
    edges: list[Json]
    truncated: bool


class MetricPoint(TypedDict):
    """A mean score. step: the trial's number."""

    name: str
    value: float
    step: int
    created_at: str
    phase: str
    job_id: str
    data: Json


class Snapshot(TypedDict):
    """A published result; payload holds the prompt as messages, the archive and all counters."""

    id: str
    job_id: str
    label: str
    score: float | None
    num_seeds: int | None
    created_at: str
    payload: Json


class Artifact(TypedDict):
    id: str
    job_id: str
    snapshot_id: str
    label: str
    kind: str
    score: float | None
    num_seeds: int | None
    created_at: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a job has come to; while it is not over, the best so far.

    messages: the best prompt as it was evaluated, with its placeholders; None where nothing was scored yet. modules:
    of a program of several calls the messages of each, by module; empty for any other job. score: the mean over
    num_seeds seeds, from 0 to 1: validation where it was measured, else train. snapshot: the published payload.
    """

    job_id: str
    status: str
    finish_reason: str | None
    error: str | None
    messages: Sequence[Message] | None
    modules: Mapping[str, Sequence[Message]]
    score: float | None
    num_seeds: int | None
    train_score: float | None
    validation_score: float | None
    test_score: float | None
    baseline_score: float | None
    snapshot_id: str | None
    snapshot: Mapping[str, Any] | None
    stats: Mapping[str, Any]

    @property
    def is_final(self) -> bool:
        return self.status in TERMINAL_STATUSES

    @classmethod
    def of(cls, job: Job) -> Self:
        snapshot = job["best_snapshot"]
        stats = job["metadata"].get("stats") or {}
        # The scores on the test seeds are published only; the baseline's stands in the progress until then.
        published = snapshot or {}
        return cls(
            job_id=job["job_id"],
            status=job["status"],
            finish_reason=job["finish_reason"],
            error=job["error"],
            messages=job["best_prompt_messages"],
            modules={each["module_id"]: each["messages"] for each in published.get("modules", ())},
            score=job["best_score"],
            num_seeds=job["best_score_seeds"],
            train_score=job["best_train_score"],
            validation_score=job["best_validation_score"],
            test_score=published.get("best_test_score"),
            baseline_score=(snapshot or job["progress"] or {}).get("baseline_score"),
            snapshot_id=job["best_snapshot_id"],
            snapshot=snapshot,
            stats=stats,
        )
