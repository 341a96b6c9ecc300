"""The end of a job in one transaction: counters by SQL, snapshots, artifacts, the terminal event, the status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from promptjobs.core.asks import DESCRIPTION
from promptjobs.core.stats import Statistics, Tokens
from promptjobs.core.trial import Phase
from promptjobs.core.verifier import PURPOSE as JUDGE
from promptjobs.errors import LeaseLost


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    id: str
    label: str
    score: float | None
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NewArtifact:
    id: str
    snapshot_id: str
    label: str
    kind: str
    score: float | None


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
        "SELECT phase, count(*) AS n, count(reason) AS failed FROM rollouts WHERE job_id = $1 GROUP BY phase", job_id
    ):
        stats.rollouts[Phase(row["phase"])] = row["n"]
        stats.failed[Phase(row["phase"])] = row["failed"]
    for row in await connection.fetch(
        "SELECT phase, count(*) AS n, sum(reused)::bigint AS reused FROM trials WHERE job_id = $1 GROUP BY phase",
        job_id,
    ):
        stats.trials[Phase(row["phase"])] = row["n"]
        stats.reused += row["reused"]
    stats.rollout_tokens = Tokens(
        *(await connection.fetchrow(f"SELECT {_TOKENS} FROM rollouts WHERE job_id = $1", job_id))
    )
    for is_judge in (False, True):
        row = await connection.fetchrow(
            f"SELECT count(*), {_TOKENS} FROM completions WHERE job_id = $1 AND (purpose = $2) = $3 AND purpose <> $4",
            job_id,
            JUDGE,
            is_judge,
            DESCRIPTION,
        )
        count, *tokens = row
        if is_judge:
            stats.judgements, stats.judge_tokens = count, Tokens(*tokens)
        else:
            stats.completions, stats.mutation_tokens = count, Tokens(*tokens)
    proposed = await connection.fetchval(
        "SELECT count(*) FROM candidates WHERE job_id = $1 AND operator NOT IN ('baseline', 'probe')", job_id
    )
    stats.proposals_refused = await connection.fetchval(
        "SELECT count(*) FROM events WHERE job_id = $1 AND type = 'prompt.learning.proposal.refused'", job_id
    )
    stats.trials_tried = proposed + stats.proposals_refused
    return stats


@dataclass(frozen=True, slots=True)
class Spent:
    """What was metered beside the answers: with the calls that a crash repeated, and those that were abandoned.

    cost_usd: None where a call has no price. seconds: since the job was started.
    """

    calls: int
    call_cost_usd: float | None
    abandoned: int
    seconds: float


async def load_spent(connection: asyncpg.Connection, job_id: str) -> Spent:
    row = await connection.fetchrow(
        "SELECT count(*) AS calls, coalesce(sum(cost_usd), 0)::float8 AS cost, "
        "count(*) FILTER (WHERE cost_usd IS NULL AND prompt_tokens + completion_tokens + unknown_tokens > 0) "
        "AS unpriced, "
        "count(DISTINCT key) FILTER (WHERE NOT EXISTS "
        "(SELECT 1 FROM rollouts r WHERE r.job_id = calls.job_id AND r.key = calls.key)) AS abandoned "
        "FROM calls WHERE job_id = $1",
        job_id,
    )
    seconds = await connection.fetchval(
        "SELECT coalesce(extract(epoch FROM clock_timestamp() - started_at), 0)::float8 FROM jobs WHERE id = $1", job_id
    )
    return Spent(row["calls"], None if row["unpriced"] else row["cost"], row["abandoned"], seconds)


async def end_job(connection: asyncpg.Connection, job_id: str, epoch: int, ending: Ending) -> None:
    """Commit the end, all of it or nothing. Ending a job again in the same epoch changes nothing.

    Raises LeaseLost where the job runs elsewhere.
    """
    async with connection.transaction():
        seq = await connection.fetchval(
            "UPDATE jobs SET status = $3, finish_reason = $4, error = $5, best_score = $6, best_train_score = $7, "
            "best_validation_score = $8, best_snapshot_id = $9, metadata = $10, last_seq = last_seq + 1, "
            "finished_at = clock_timestamp(), updated_at = clock_timestamp(), worker_id = NULL, lease_until = NULL, "
            "task_app_key = NULL WHERE id = $1 AND epoch = $2 AND status = 'running' RETURNING last_seq",
            job_id,
            epoch,
            ending.status,
            ending.finish_reason,
            ending.error,
            ending.best_score,
            ending.best_train_score,
            ending.best_validation_score,
            ending.best_snapshot_id,
            await _merged_metadata(connection, job_id, ending.metadata),
        )
        if seq is None:
            await _require_ended(connection, job_id, epoch)
            return
        await connection.executemany(
            "INSERT INTO snapshots(id, job_id, label, score, payload) VALUES ($1, $2, $3, $4, $5)",
            [(s.id, job_id, s.label, s.score, orjson.dumps(s.payload).decode()) for s in ending.snapshots],
        )
        await connection.executemany(
            "INSERT INTO artifacts(id, job_id, snapshot_id, label, kind, score) VALUES ($1, $2, $3, $4, $5, $6)",
            [(a.id, job_id, a.snapshot_id, a.label, a.kind, a.score) for a in ending.artifacts],
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


async def _merged_metadata(connection: asyncpg.Connection, job_id: str, more: Mapping[str, Any]) -> str:
    sent = await connection.fetchval("SELECT metadata FROM jobs WHERE id = $1", job_id)
    return orjson.dumps({**orjson.loads(sent or "{}"), **more}).decode()


async def _require_ended(connection: asyncpg.Connection, job_id: str, epoch: int) -> None:
    found = await connection.fetchrow("SELECT epoch, status FROM jobs WHERE id = $1", job_id)
    if found is None or found["epoch"] != epoch or found["status"] not in ("succeeded", "failed", "cancelled"):
        raise LeaseLost(job_id)
