"""The shapes of what an experiment has found, as the OpenAPI description shows them."""

from typing import Any

from pydantic import ConfigDict, Field

from promptjobs.api.parameters import EXAMPLE_EXPERIMENT, EXAMPLE_ID
from promptjobs.api.schemas import Answer, ChatMessage
from promptjobs.core.comparison import Method
from promptjobs.core.seed_sets import SeedSet
from promptjobs.db.experiments import ExperimentStatus
from promptjobs.db.jobs import JobStatus

EXAMPLE_OTHER = "pl_9d8a4b6f8c2d3e4f5a6b7c8d5b0f7c1e"
EXAMPLE_MESSAGES: list[Any] = [
    {"role": "system", "content": "Classify the ticket as billing, bug or other. Answer with one word."},
    {"role": "user", "content": "Ticket: {ticket}"},
]
EXAMPLE_SETTINGS = {"algorithm": "gepa", "model": "llama-3.1-8b-instant"}


def _estimate(mean: float, low: float, high: float, n: int) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "n": n, "confidence": 0.95}


EXAMPLE_SET: dict[str, Any] = {
    "best": _estimate(0.85, 0.709, 0.929, 40),
    "baseline": _estimate(0.6, 0.446, 0.737, 40),
    "difference": _estimate(0.25, 0.079, 0.397, 40),
}
EXAMPLE_FIGURES: dict[str, Any] = {
    "num_seeds": 40,
    "difference": _estimate(0.125, -0.031, 0.269, 40),
    "wins": 9,
    "losses": 4,
    "ties": 27,
    "p_value": 0.267,
    "p_adjusted": 0.267,
    "test": "mcnemar_exact",
}
EXAMPLE_COMPARISON: dict[str, Any] = {
    "first": EXAMPLE_ID,
    "second": EXAMPLE_OTHER,
    "first_label": "gepa · seed=1",
    "second_label": "mipro · seed=1",
    "seeds": "test",
    **EXAMPLE_FIGURES,
    "winner": None,
    "seeds_needed": 170,
    "note": None,
}
EXAMPLE_GROUP_COMPARISON: dict[str, Any] = {
    "first": "gepa",
    "second": "mipro",
    "first_runs": 3,
    "second_runs": 3,
    "seeds": "test",
    **EXAMPLE_FIGURES,
    "test": "runs_and_seeds_t",
    "winner": None,
    "seeds_needed": None,
    "runs_needed": 9,
    "note": None,
}
EXAMPLE_ROW: dict[str, Any] = {
    "position": 1,
    "label": "gepa · seed=1",
    "job_id": EXAMPLE_ID,
    "algorithm": "gepa",
    "settings": {**EXAMPLE_SETTINGS, "seed": 1},
    "group": "gepa",
    "status": "succeeded",
    "policy": "groq/llama-3.1-8b-instant",
    "seed": 1,
    "baseline_score": 0.6,
    "best_score": 0.85,
    "lift": 0.25,
    "search": EXAMPLE_SET,
    "validation": EXAMPLE_SET,
    "test": EXAMPLE_SET,
    "eval_set": "test",
    "eval_n": 40,
    "trials": 58,
    "trials_tried": 15,
    "rollouts": 641,
    "failed_rollouts": 3,
    "total_tokens": 390_000,
    "total_cost_usd": 0.0123,
    "unpriced_calls": 0,
    "seconds": 61.4,
    "finish_reason": "rollout_budget",
    "error": None,
    "is_baseline_best": False,
    "note": None,
    "num_variants": 6,
    "variants": [
        {
            "rank": 1,
            "candidate_id": "b7e3a1d94c5f4e0f9a6d2c8b1f7e5a03",
            "score": 0.85,
            "num_seeds": 20,
            "is_best": True,
            "is_baseline": False,
            "messages": EXAMPLE_MESSAGES,
        }
    ],
}


def _summary(mean: float, sd: float) -> dict[str, Any]:
    return {"mean": mean, "sd": sd, "n": 3}


EXAMPLE_GROUP: dict[str, Any] = {
    "group": "gepa",
    "settings": EXAMPLE_SETTINGS,
    "num_jobs": 3,
    "num_finished": 3,
    "eval_set": "test",
    "best": _summary(0.84, 0.03),
    "baseline": _summary(0.6, 0.0),
    "lift": _summary(0.24, 0.03),
    "tokens": _summary(391_000.0, 4_200.0),
    "cost_usd": _summary(0.0124, 0.0002),
    "seconds": _summary(62.1, 1.3),
}


class EstimateOfMean(Answer):
    mean: float
    low: float | None = Field(description="Of the interval; null where there is nothing to tell a spread by.")
    high: float | None
    n: int = Field(description="On how many seeds it rests.")
    confidence: float


class SetFiguresObject(Answer):
    best: EstimateOfMean | None
    baseline: EstimateOfMean | None
    difference: EstimateOfMean | None = Field(description="Paired: over the seeds that both have a score on.")


class VariantObject(Answer):
    rank: int
    candidate_id: str
    score: float = Field(description="What it is ranked by in its search: an estimate where it was not fully measured.")
    num_seeds: int
    is_best: bool
    is_baseline: bool
    messages: list[ChatMessage] | None = Field(description="Null for the task app's own messages.")


class ResultRow(Answer):
    """A job; of one that goes on, its figures so far."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_ROW]})

    position: int
    label: str
    job_id: str
    algorithm: str
    settings: dict[str, Any] = Field(description="What tells the job from the others.")
    group: str = Field(description="The same for jobs that differ in their random seed alone.")
    status: JobStatus
    policy: str = Field(description="provider/model of the config that runs, overrides included.")
    seed: int = Field(description="Of its random numbers.")
    baseline_score: float | None = Field(description="On the eval set, as `best_score` and `lift`.")
    best_score: float | None
    lift: float | None = Field(description="The mean paired difference of best prompt and baseline.")
    search: SetFiguresObject | None = Field(description="On the seeds that steer the search.")
    validation: SetFiguresObject | None
    test: SetFiguresObject | None
    eval_set: SeedSet | None = Field(description="The last set that was measured, by which the job is told.")
    eval_n: int = Field(description="On how many seeds of the eval set the best prompt has a score.")
    trials: int = Field(description="Evaluations of a prompt, of every phase.")
    trials_tried: int = Field(description="Prompts that were proposed.")
    rollouts: int
    failed_rollouts: int
    total_tokens: int = Field(description="Of all calls, those included that came to nothing.")
    total_cost_usd: float | None = Field(description="Null where the price of a call is unknown.")
    unpriced_calls: int
    seconds: float | None = Field(description="Since its start, without pauses; null before it.")
    finish_reason: str | None
    error: str | None
    is_baseline_best: bool | None
    note: str | None = Field(description="Why figures are missing, or are not what they seem.")
    num_variants: int = Field(description="How many prompts its archive has.")
    variants: list[VariantObject] = Field(description="The best of them.")


class SummaryObject(Answer):
    mean: float | None
    sd: float | None = Field(description="Standard deviation over the jobs; null for fewer than two.")
    n: int = Field(description="Jobs.")


class GroupRow(Answer):
    """Jobs that differ in their random seed alone."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_GROUP]})

    group: str
    settings: dict[str, Any]
    num_jobs: int
    num_finished: int
    eval_set: SeedSet | None = Field(
        description="The last set that any of its jobs was measured on; the scores are of those that were."
    )
    best: SummaryObject
    baseline: SummaryObject
    lift: SummaryObject
    tokens: SummaryObject = Field(description="Like `cost_usd` and `seconds` of jobs that ran and are over.")
    cost_usd: SummaryObject
    seconds: SummaryObject


class Compared(Answer):
    seeds: SeedSet | None = Field(description="The set that both were compared on.")
    num_seeds: int = Field(description="Seeds that both have a score on.")
    difference: EstimateOfMean | None = Field(description="first − second, paired over these seeds.")
    wins: int = Field(description="Seeds on which the first is better.")
    losses: int
    ties: int
    p_value: float | None = Field(description="Two-sided; null where nothing can be tested.")
    p_adjusted: float | None = Field(description="By Holm, for all pairs that could have been picked.")
    test: Method | None


class JobComparisonObject(Compared):
    """The best prompts of two jobs."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_COMPARISON]})

    first: str = Field(description="A job's id.")
    second: str
    first_label: str
    second_label: str
    winner: str | None = Field(description="Whose `p_adjusted` is below 0.05: the better one's id, else null.")
    seeds_needed: int | None = Field(
        description="To find the observed difference with 80 % power; null where there is none, or over a million."
    )
    note: str | None = Field(description="Why nothing could be tested.")


class GroupComparisonObject(Compared):
    """Two groups, by all runs of each."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_GROUP_COMPARISON]})

    first: str = Field(description="A group.")
    second: str
    first_runs: int = Field(description="Jobs of the first group that have scores.")
    second_runs: int
    winner: str | None = Field(description="The better group, where `p_adjusted` is below 0.05.")
    seeds_needed: int | None = Field(description="For 80 % power with as many runs; null where no number would do.")
    runs_needed: int | None = Field(description="Of each group, for 80 % power on as many seeds.")
    note: str | None = Field(description="Why nothing could be tested.")


class ExperimentHead(Answer):
    experiment_id: str
    name: str
    status: ExperimentStatus
    num_jobs: int
    counts: dict[JobStatus, int]


class ExperimentResultsObject(Answer):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "experiment": {
                        "experiment_id": EXAMPLE_EXPERIMENT,
                        "name": "GEPA against MIPRO",
                        "status": "completed",
                        "num_jobs": 6,
                        "counts": {status.value: 6 * (status is JobStatus.SUCCEEDED) for status in JobStatus},
                    },
                    "jobs": [EXAMPLE_ROW],
                    "groups": [EXAMPLE_GROUP],
                    "comparisons": [EXAMPLE_COMPARISON],
                    "group_comparisons": [EXAMPLE_GROUP_COMPARISON],
                }
            ]
        },
    )

    experiment: ExperimentHead
    jobs: list[ResultRow] = Field(description="In the order of their positions.")
    groups: list[GroupRow] = Field(description="In the order of their first jobs.")
    comparisons: list[JobComparisonObject]
    group_comparisons: list[GroupComparisonObject]
