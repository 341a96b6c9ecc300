"""Queries of what candidates have scored, seed by seed, and what that has cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
from sqlalchemy import Numeric, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.asks import FailureReason, Tier
from promptjobs.core.trial import Phase
from promptjobs.db.models import RolloutRow, TrialRow


@dataclass(slots=True)
class PhaseScores:
    """What a candidate is known by in one phase. scores: those that count, by seed. failed: seeds without a score."""

    scores: dict[int, float] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    def add(self, seed: int, score: float | None) -> None:
        """A seed that failed first may have been answered later; what was answered stays."""
        if score is not None:
            self.scores[seed] = score
            self.failed.discard(seed)
        elif seed not in self.scores:
            self.failed.add(seed)

    @property
    def mean(self) -> float | None:
        return sum(self.scores.values()) / len(self.scores) if self.scores else None


ByPhase = dict[Phase, PhaseScores]


async def read_scores(connection: AsyncConnection, job_id: str, candidate_ids: Sequence[str]) -> dict[str, ByPhase]:
    """The scores that the search counts, as its trials have them; every candidate has an entry."""
    found: dict[str, ByPhase] = {candidate_id: {} for candidate_id in candidate_ids}
    query = (
        select(TrialRow.candidate_id, TrialRow.phase, TrialRow.seeds, TrialRow.scores)
        .where(TrialRow.job_id == job_id, TrialRow.candidate_id.in_(candidate_ids))
        .order_by(TrialRow.n)
    )
    for candidate_id, phase, seeds, scores in await connection.execute(query):
        known = found[candidate_id].setdefault(Phase(phase), PhaseScores())
        for seed, score in zip(seeds, orjson.loads(scores), strict=True):
            known.add(seed, score)
    return found


def search_scores(by_phase: ByPhase) -> PhaseScores:
    """Those that steer the search: of its own seeds, or of the bootstrap's where there are no others."""
    none = PhaseScores()
    found = by_phase.get(Phase.OPTIMIZATION, none)
    return found if found.scores else by_phase.get(Phase.BOOTSTRAP, found)


def all_scores(by_phase: ByPhase) -> dict[int, float]:
    """By seed, whatever they were measured for: the seeds of a job's sets are apart."""
    return {seed: score for phase in by_phase.values() for seed, score in phase.scores.items()}


async def read_failures(
    connection: AsyncConnection, job_id: str, candidate_ids: Sequence[str]
) -> dict[tuple[str, int], FailureReason]:
    """By candidate and seed, why the last try failed; a judge that gave no score has failed none."""
    query = (
        select(RolloutRow.candidate_id, RolloutRow.seed, RolloutRow.reason)
        .where(RolloutRow.job_id == job_id, RolloutRow.candidate_id.in_(candidate_ids))
        .where(RolloutRow.reason.is_not(None), RolloutRow.tier == Tier.HI)
        .order_by(RolloutRow.draw)
    )
    rows = await connection.execute(query)
    return {(row.candidate_id, row.seed): FailureReason(str(row.reason)) for row in rows}


@dataclass(frozen=True, slots=True)
class Cost:
    """What all rollouts of a candidate have taken, those that failed or were not counted among them.

    cost_usd: None where the price of one is unknown.
    """

    rollouts: int = 0
    tokens: int = 0
    cost_usd: float | None = 0.0


NO_COST = Cost()


async def read_costs(connection: AsyncConnection, job_id: str, candidate_ids: Sequence[str]) -> dict[str, Cost]:
    """By candidate; those without a rollout are left out."""
    # As decimals, whose sum is the same whatever their order: it is part of answers that have an ETag.
    usd = func.sum(RolloutRow.cost_usd.cast(Numeric))
    tokens = RolloutRow.prompt_tokens + RolloutRow.completion_tokens + RolloutRow.unknown_tokens
    unpriced = func.count().filter(RolloutRow.cost_usd.is_(None), tokens > 0)
    query = (
        select(RolloutRow.candidate_id, func.count(), func.sum(tokens), usd, unpriced)
        .where(RolloutRow.job_id == job_id, RolloutRow.candidate_id.in_(candidate_ids))
        .group_by(RolloutRow.candidate_id)
    )
    return {
        candidate_id: Cost(count, int(used), None if without_price else float(cost or 0))
        for candidate_id, count, used, cost, without_price in await connection.execute(query)
    }
