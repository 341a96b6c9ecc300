"""What the service answers about experiments, as types: its JSON objects as they come."""

from typing import NotRequired, TypedDict

from promptjobs.sdk.shapes import Estimate, Json

EXPERIMENT_TERMINAL_STATUSES = frozenset({"completed", "failed", "cancelled"})


class ExperimentJob(TypedDict):
    """A job of an experiment. settings: what varies over the jobs. group: the same for jobs that differ in their seed
    alone. status_json: how far it is.
    """

    job_id: str
    position: int
    label: str
    group: str
    settings: Json
    algorithm: str
    status: str
    error: str | None
    finish_reason: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    status_json: Json


class Experiment(TypedDict):
    """An experiment; lists leave its jobs out. counts: its jobs by status. Times are ISO 8601 in UTC."""

    experiment_id: str
    id: str
    organisation: str
    name: str
    description: str | None
    status: str
    parallelism: int
    num_jobs: int
    counts: dict[str, int]
    progress_pct: float
    eta_seconds: float | None
    total_tokens: int
    total_cost_usd: float | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    updated_at: str
    cancel_requested_at: str | None
    metadata: Json
    jobs: NotRequired[list[ExperimentJob]]


class JobEstimate(TypedDict):
    position: int
    label: str
    group: str
    settings: Json
    algorithm: str
    estimate: Estimate


class ExperimentEstimate(TypedDict):
    """What all jobs would take together, and each of them. calls, tokens, cost_usd: `expected` and `at_most`."""

    num_jobs: int
    parallelism: int
    rollouts: int
    calls: Json
    tokens: Json
    cost_usd: Json
    assumptions: list[str]
    unpriced_models: list[str]
    jobs: list[JobEstimate]


class ResultRow(TypedDict):
    """What a job has found so far.

    search, validation, test: `best`, `baseline` and their paired `difference`, each with its interval; None where it
    was not measured. eval_set: the last of them that was; from it are baseline_score, best_score and lift. note: why
    figures are missing, or are not what they seem.
    """

    position: int
    label: str
    job_id: str
    algorithm: str
    settings: Json
    group: str
    status: str
    policy: str
    seed: int
    baseline_score: float | None
    best_score: float | None
    lift: float | None
    search: Json | None
    validation: Json | None
    test: Json | None
    eval_set: str | None
    eval_n: int
    trials: int
    trials_tried: int
    rollouts: int
    failed_rollouts: int
    total_tokens: int
    total_cost_usd: float | None
    unpriced_calls: int
    seconds: float | None
    finish_reason: str | None
    error: str | None
    is_baseline_best: bool | None
    note: str | None
    num_variants: int
    variants: list[Json]


class Summary(TypedDict):
    """Over n jobs. sd: None for fewer than two."""

    mean: float | None
    sd: float | None
    n: int


class GroupRow(TypedDict):
    """Jobs that differ in their seed alone."""

    group: str
    settings: Json
    num_jobs: int
    num_finished: int
    eval_set: str | None
    best: Summary
    baseline: Summary
    lift: Summary
    tokens: Summary
    cost_usd: Summary
    seconds: Summary


class Comparison(TypedDict):
    """Two of a kind, over the seeds on which both have a score. difference: first - second, with its interval.

    wins, losses: seeds on which the first is better, or worse. p_adjusted: by Holm. note: why nothing could be tested.
    """

    seeds: str | None
    num_seeds: int
    difference: Json | None
    wins: int
    losses: int
    ties: int
    p_value: float | None
    p_adjusted: float | None
    test: str | None
    note: str | None


class JobComparison(Comparison):
    """Two jobs, by their ids. winner: the better one's id; None where p_adjusted is 0.05 or more. seeds_needed: to find
    the difference that was seen with a power of 80 %.
    """

    first: str
    second: str
    first_label: str
    second_label: str
    winner: str | None
    seeds_needed: int | None


class GroupComparison(Comparison):
    """Two groups, by all their runs. seeds_needed, runs_needed: either, for a power of 80 %."""

    first: str
    second: str
    first_runs: int
    second_runs: int
    winner: str | None
    seeds_needed: int | None
    runs_needed: int | None


class ExperimentResults(TypedDict):
    """What an experiment has found so far: a row for each job, one for each group, and who is better than whom."""

    experiment: Json
    jobs: list[ResultRow]
    groups: list[GroupRow]
    comparisons: list[JobComparison]
    group_comparisons: list[GroupComparison]
