"""The end of a job in one transaction: counters by SQL, snapshots, artifacts, the terminal event, the status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg
import orjson

from promptjobs.core.asks import DESCRIPTION, FailureReason
from promptjobs.core.failures import UNPARSED
from promptjobs.core.stats import Statistics, Tokens
from promptjobs.core.trial import Phase
from promptjobs.core.verifier import PURPOSE as JUDGE
from promptjobs.db.ledger import Spending, read_spending
from promptjobs.db.webhook_messages import enqueue_end
from promptjobs.errors import LeaseLost


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    id: str
    label: str
    score: float | None
    score_seeds: int | None
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NewArtifact:
    id: str
    snapshot_id: str
    label: str
    kind: str
    score: float | None
    score_seeds: int | None


@dataclass(frozen=True, slots=True)
class Ending:
    """What a finished job is left with. metadata is merged into what the client has sent."""

    status: str
    finish_reason: str
    error: str | None
    event_type: str
    event_message: str
    event_data: Mapping[str, Any]
    metadata: Mapping[str, Any]
    best_score: float | None = None
    best_train_score: float | None = None
    best_validation_score: float | None = None
    best_snapshot_id: str | None = None
    snapshots: Sequence[NewSnapshot] = ()
    artifacts: Sequence[NewArtifact] = ()


_TOKENS = (
    "coalesce(sum(prompt_tokens), 0)::bigint, coalesce(sum(completion_tokens), 0)::bigint, "
    "coalesce(sum(unknown_tokens), 0)::bigint, coalesce(sum(cost_usd), 0)::float8, count(cost_usd), "
    "count(*) FILTER (WHERE cost_usd IS NULL AND prompt_tokens + completion_tokens + unknown_tokens > 0)"
)


async def load_statistics(connection: asyncpg.Connection, job_id: str) -> Statistics:
    """The counters of a job, counted from its rows: they cannot differ from what is stored."""
    stats = Statistics()
    for row in await connection.fetch(
        "SELECT phase, reason, count(*) AS n FROM rollouts WHERE job_id = $1 GROUP BY phase, reason", job_id
    ):
        phase = Phase(row["phase"])
        stats.rollouts[phase] += row["n"]
        if row["reason"] is not None:
            stats.failed[phase] += row["n"]
            stats.failed_by_reason[FailureReason(row["reason"])] += row["n"]
    for row in await connection.fetch(
        "SELECT phase, count(*) AS n, sum(reused)::bigint AS reused FROM trials WHERE job_id = $1 GROUP BY phase",
        job_id,
    ):
        stats.trials[Phase(row["phase"])] = row["n"]
        stats.reused += row["reused"]
    stats.rollout_tokens = Tokens(
        *(await connection.fetchrow(f"SELECT {_TOKENS} FROM rollouts WHERE job_id = $1", job_id))
    )
    await _count_completions(connection, job_id, stats)
    await _count_proposals(connection, job_id, stats)
    return stats


async def _count_completions(connection: asyncpg.Connection, job_id: str, stats: Statistics) -> None:
    """Those of the meta-model and of the judge, each with its tokens."""
    for is_judge in (False, True):
        row = await connection.fetchrow(
            f"SELECT count(*), count(reason), {_TOKENS} FROM completions "
            "WHERE job_id = $1 AND (purpose = $2) = $3 AND purpose <> $4",
            job_id,
            JUDGE,
            is_judge,
            DESCRIPTION,
        )
        count, failed, *tokens = row
        if is_judge:
            stats.judgements, stats.failed_judgements, stats.judge_tokens = count, failed, Tokens(*tokens)
        else:
            stats.completions, stats.failed_completions, stats.mutation_tokens = count, failed, Tokens(*tokens)


async def _count_proposals(connection: asyncpg.Connection, job_id: str, stats: Statistics) -> None:
    """Proposals from the candidates that they have become; those that were refused, and judgements, from events."""
    proposed = await connection.fetchval(
        "SELECT count(*) FROM candidates WHERE job_id = $1 AND operator NOT IN ('baseline', 'probe')", job_id
    )
    stats.proposals_refused, stats.proposals_unparsed, stats.unjudged = await connection.fetchrow(
        "SELECT count(*) FILTER (WHERE type = $2), "
        "count(*) FILTER (WHERE type = $2 AND data::json->>'reason' = ANY($4)), count(*) FILTER (WHERE type = $3) "
        "FROM events WHERE job_id = $1 AND type IN ($2, $3)",
        job_id,
        "prompt.learning.proposal.refused",
        "prompt.learning.judgement.refused",
        [refusal.name.lower() for refusal in UNPARSED],
    )
    stats.trials_tried = proposed + stats.proposals_refused


@dataclass(frozen=True, slots=True)
class Spent:
    """What a job has used, by other accounts than its answers: with the calls that a crash repeated, and those that
    were abandoned.

    abandoned: rollouts that were called and never answered. balance_usd: what its organisation has left, None where
    that may spend without a limit. seconds: since it was started, without those for which it was paused. last_failures:
    of each reason the words of the latest rollout that failed by it.
    """

    spending: Spending
    abandoned: int
    balance_usd: Decimal | None
    seconds: float
    last_failures: Mapping[FailureReason, str]

    @property
    def calls(self) -> int:
        """Calls of rollouts that have reached their provider, or may have."""
        return sum(count for category, count in self.spending.calls.items() if category.is_rollout)

    @property
    def call_cost_usd(self) -> float | None:
        """What they have cost; None where the price of one is unknown."""
        spending = self.spending
        if any(count for category, count in spending.unpriced.items() if category.is_rollout):
            return None
        return float(sum(account.settled.usd for category, account in spending.accounts.items() if category.is_rollout))


async def load_spent(connection: asyncpg.Connection, job_id: str) -> Spent:
    abandoned = await connection.fetchval(
        "SELECT count(DISTINCT key) FROM calls WHERE job_id = $1 AND (error LIKE 'budget_exhausted:%') IS NOT TRUE "
        "AND NOT EXISTS (SELECT 1 FROM rollouts r WHERE r.job_id = calls.job_id AND r.key = calls.key)",
        job_id,
    )
    job = await connection.fetchrow(
        "SELECT b.usd AS balance, "
        "coalesce(extract(epoch FROM clock_timestamp() - j.started_at) - j.paused_seconds, 0)::float8 AS seconds "
        "FROM jobs j LEFT JOIN balances b USING (organisation) WHERE j.id = $1",
        job_id,
    )
    failures = await connection.fetch(
        "SELECT DISTINCT ON (reason) reason, coalesce(detail, '') AS detail FROM rollouts "
        "WHERE job_id = $1 AND reason IS NOT NULL ORDER BY reason, n DESC",
        job_id,
    )
    return Spent(
        spending=await read_spending(connection, job_id),
        abandoned=abandoned,
        balance_usd=job["balance"],
        seconds=job["seconds"],
        last_failures={FailureReason(row["reason"]): row["detail"] for row in failures},
    )


async def end_job(connection: asyncpg.Connection, job_id: str, epoch: int, ending: Ending) -> None:
    """Commit the end, all of it or nothing. Ending a job again in the same epoch changes nothing.

    Raises LeaseLost where the job runs elsewhere.
    """
    async with connection.transaction():
        sent = orjson.loads(await connection.fetchval("SELECT metadata FROM jobs WHERE id = $1", job_id) or "{}")
        seq = await connection.fetchval(
            "UPDATE jobs SET status = $3, finish_reason = $4, error = $5, best_score = $6, best_train_score = $7, "
            "best_validation_score = $8, best_snapshot_id = $9, metadata = $10, last_seq = last_seq + 1, "
            "finished_at = clock_timestamp(), updated_at = clock_timestamp(), worker_id = NULL, lease_until = NULL, "
            "pause_requested_at = NULL, task_app_key = NULL WHERE id = $1 AND epoch = $2 AND status = 'running' "
            "RETURNING last_seq",
            job_id,
            epoch,
            ending.status,
            ending.finish_reason,
            ending.error,
            ending.best_score,
            ending.best_train_score,
            ending.best_validation_score,
            ending.best_snapshot_id,
            orjson.dumps({**sent, **ending.metadata}).decode(),
        )
        if seq is None:
            await _require_ended(connection, job_id, epoch)
            return
        await connection.executemany(
            "INSERT INTO snapshots(id, job_id, label, score, score_seeds, payload) VALUES ($1, $2, $3, $4, $5, $6)",
            [
                (s.id, job_id, s.label, s.score, s.score_seeds, orjson.dumps(s.payload).decode())
                for s in ending.snapshots
            ],
        )
        await connection.executemany(
            "INSERT INTO artifacts(id, job_id, snapshot_id, label, kind, score, score_seeds) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7)",
            [(a.id, job_id, a.snapshot_id, a.label, a.kind, a.score, a.score_seeds) for a in ending.artifacts],
        )
        await connection.execute(
            "INSERT INTO events(job_id, seq, type, message, level, data) VALUES ($1, $2, $3, $4, $5, $6)",
            job_id,
            seq,
            ending.event_type,
            ending.event_message,
            "error" if ending.status == "failed" else "info",
            orjson.dumps(ending.event_data).decode(),
        )
        await connection.execute("SELECT pg_notify('promptjobs_events', $1)", job_id)
        told = ending.event_data
        await enqueue_end(
            connection,
            job_id,
            detail=told.get("detail"),
            metadata=sent,
            figures=told,
            stats=told.get("stats", {}),
        )


async def _require_ended(connection: asyncpg.Connection, job_id: str, epoch: int) -> None:
    found = await connection.fetchrow("SELECT epoch, status FROM jobs WHERE id = $1", job_id)
    if found is None or found["epoch"] != epoch or found["status"] not in ("succeeded", "failed", "cancelled"):
        raise LeaseLost(job_id)
