"""The shapes of candidates, refused proposals, the archive and the lineage, as the OpenAPI description shows them."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from promptjobs.api.schemas import Answer, ChatMessage, SectionObject
from promptjobs.core.asks import FailureReason
from promptjobs.core.rejections import CandidateStatus, RejectionCode
from promptjobs.core.trial import Phase

EXAMPLE_PARENT, EXAMPLE_CHILD = "3f0c6ad1f3b54ffcbd1d7f6c0a9b1e22", "b7e3a1d94c5f4e0f9a6d2c8b1f7e5a03"
EXAMPLE_TIME = "2026-05-04T09:30:00.123456+00:00"
EXAMPLE_MESSAGES: list[Any] = [
    {"role": "system", "content": "Classify the ticket as billing, bug or other. Answer with one word."},
    {"role": "user", "content": "Ticket: {ticket}"},
]
EXAMPLE_CANDIDATE: dict[str, Any] = {
    "candidate_id": EXAMPLE_CHILD,
    "n": 4,
    "parents": [EXAMPLE_PARENT],
    "operator": "reflection",
    "generation": 1,
    "status": "rejected",
    "rejection": {
        "code": "not_improved",
        "reason": "it did not score better than what it was compared with, on the same seeds",
    },
    "is_pareto": False,
    "is_best": False,
    "score": 0.5,
    "num_seeds": 2,
    "scores": {
        "optimization": {
            "mean": 0.5,
            "num_seeds": 2,
            "num_failed": 1,
            "seed_scores": [{"seed": 3, "score": 0.0}, {"seed": 8, "score": 1.0}],
            "failures": [{"seed": 9, "reason": "provider_timeout"}],
        }
    },
    "rollouts": 4,
    "tokens": 1210,
    "cost_usd": 0.000121,
    "messages": EXAMPLE_MESSAGES,
    "modules": None,
    "sections": [
        {"name": "system_0", "role": "system", "content": EXAMPLE_MESSAGES[0]["content"], "order": 0},
        {"name": "user_1", "role": "user", "content": EXAMPLE_MESSAGES[1]["content"], "order": 1},
    ],
    "stages": None,
    "created_at": EXAMPLE_TIME,
}


class ModuleMessages(Answer):
    module_id: str
    messages: list[ChatMessage]


class SeedScore(Answer):
    seed: int
    score: float


class SeedFailure(Answer):
    seed: int
    reason: FailureReason


class PhaseScoresObject(Answer):
    mean: float | None = Field(description="Of `seed_scores`.")
    num_seeds: int = Field(description="On how many seeds the mean rests.")
    num_failed: int
    seed_scores: list[SeedScore] = Field(description="What the search counts: one score for each seed.")
    failures: list[SeedFailure] = Field(description="Seeds that were tried and have no score. None counts as a 0.")


class RejectionObject(Answer):
    code: RejectionCode
    reason: str = Field(description="In words.")


class CandidateObject(Answer):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_CANDIDATE]})

    candidate_id: str
    n: int
    parents: list[str]
    operator: str = Field(description="How it came to be: baseline, probe, reflection, merge, demonstrations, mipro …")
    generation: int
    status: CandidateStatus
    rejection: RejectionObject | None = Field(description="Why it was rejected.")
    is_pareto: bool = Field(description="Whether it is on the Pareto front; a MIPRO search has none.")
    is_best: bool = Field(description="Whether it is what was published, or is best so far.")
    score: float | None = Field(
        description="Mean on the seeds of the search, or of the bootstrap where it has no others."
    )
    num_seeds: int = Field(description="On how many seeds `score` rests.")
    scores: dict[Phase, PhaseScoresObject] = Field(description="By phase, those that it was measured in.")
    rollouts: int
    tokens: int = Field(description="Of all its rollouts, failed ones among them.")
    cost_usd: float | None = Field(description="Null where the price of a rollout is unknown.")
    messages: list[ChatMessage] | None = Field(description="Null for the task app's own messages.")
    modules: list[ModuleMessages] | None = Field(description="The messages of each module of a program.")
    sections: list[SectionObject] | None
    stages: dict[str, Any] | None = Field(description="MIPRO: what was chosen for each stage.")
    created_at: datetime


class RefusedProposal(Answer):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "n": 57,
                    "code": "placeholders",
                    "reason": "a new candidate is refused: placeholders were lost or gained",
                    "detail": "user_1: expected ['ticket'], got []",
                    "parent_id": EXAMPLE_PARENT,
                    "duplicate_of": None,
                    "section": None,
                    "stage_id": None,
                    "module_id": None,
                    "iteration": None,
                    "config": None,
                    "created_at": EXAMPLE_TIME,
                }
            ]
        },
    )

    n: int = Field(description="Number of the event that told of it.")
    code: str = Field(description="`duplicate`, a guard that it breaks, or why the reply could not be used.")
    reason: str = Field(description="In words.")
    detail: str
    parent_id: str | None = Field(description="GEPA: the candidate that it was to improve.")
    duplicate_of: str | None = Field(description="The candidate that has this prompt already.")
    section: str | None
    stage_id: str | None
    module_id: str | None
    iteration: int | None
    config: dict[str, int] | None = Field(description="MIPRO: the option of each slot.")
    created_at: datetime


class ArchiveMemberObject(Answer):
    candidate_id: str
    n: int
    parents: list[str]
    operator: str
    generation: int
    score: float = Field(description="What it is ranked by: an estimate where it was not measured on all seeds.")
    num_seeds: int
    is_pareto: bool
    is_best: bool
    seed_scores: list[SeedScore]
    messages: list[ChatMessage] | None
    modules: list[ModuleMessages] | None


class SeedWinners(Answer):
    seed: int
    score: float = Field(description="The best on this seed.")
    candidate_ids: list[str] = Field(description="The members that reach it.")


class ArchiveObject(Answer):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "is_published": True,
                    "best_candidate_id": EXAMPLE_CHILD,
                    "members": [
                        {
                            **{k: EXAMPLE_CANDIDATE[k] for k in ("candidate_id", "n", "parents", "operator")},
                            "generation": 1,
                            "score": 0.75,
                            "num_seeds": 2,
                            "is_pareto": True,
                            "is_best": True,
                            "seed_scores": [{"seed": 3, "score": 0.5}, {"seed": 8, "score": 1.0}],
                            "messages": EXAMPLE_MESSAGES,
                            "modules": None,
                        }
                    ],
                    "seeds": [
                        {"seed": 3, "score": 0.5, "candidate_ids": [EXAMPLE_CHILD]},
                        {"seed": 8, "score": 1.0, "candidate_ids": [EXAMPLE_CHILD]},
                    ],
                }
            ]
        },
    )

    is_published: bool = Field(description="Whether this is the job's result; else it is how the search stands.")
    best_candidate_id: str | None
    members: list[ArchiveMemberObject] = Field(description="Best first.")
    seeds: list[SeedWinners] = Field(description="Who is best on which seed.")


class LineageNode(Answer):
    candidate_id: str
    n: int
    operator: str
    generation: int
    score: float | None
    num_seeds: int
    status: CandidateStatus
    is_pareto: bool
    is_best: bool


class LineageEdge(Answer):
    parent: str
    child: str


class LineageObject(Answer):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "nodes": [
                        {
                            "candidate_id": EXAMPLE_CHILD,
                            "n": 4,
                            "operator": "reflection",
                            "generation": 1,
                            "score": 0.75,
                            "num_seeds": 12,
                            "status": "accepted",
                            "is_pareto": True,
                            "is_best": True,
                        }
                    ],
                    "edges": [{"parent": EXAMPLE_PARENT, "child": EXAMPLE_CHILD}],
                    "truncated": False,
                }
            ]
        },
    )

    nodes: list[LineageNode]
    edges: list[LineageEdge] = Field(description="Of each node to its parents, which may stand on earlier pages.")
    truncated: bool = Field(description="Whether there are more nodes; `Link` names the next page.")
