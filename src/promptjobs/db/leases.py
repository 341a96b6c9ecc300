"""Who may run a job: claims with a lease and a rising epoch, heartbeats, hand-overs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is ours until the lease runs out. epoch fences every write.

    attempts: claims in a row without progress, which is a new turn or answer (the tokens of a restart are none).
    running_seconds: since the job was first started, by the database's clock.
    """

    job_id: str
    epoch: int
    last_group: int
    attempts: int
    config: str
    task_app_key: str | None
    is_cancel_requested: bool
    running_seconds: float


_CLAIM = """
WITH due AS (
  SELECT id FROM jobs WHERE status IN ('queued', 'running') AND (status = 'queued' OR lease_until < clock_timestamp())
  ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED),
recorded AS (
  SELECT id AS job_id, (SELECT count(*) FROM turns t WHERE t.job_id = due.id)
    + (SELECT count(*) FROM rollouts r WHERE r.job_id = due.id)
    + (SELECT count(*) FROM completions c WHERE c.job_id = due.id) AS n FROM due)
UPDATE jobs SET status = 'running', epoch = epoch + 1, worker_id = $1, updated_at = clock_timestamp(),
  lease_until = clock_timestamp() + make_interval(secs => $2),
  started_at = coalesce(started_at, clock_timestamp()),
  attempts = CASE WHEN claimed_records = recorded.n THEN attempts + 1 ELSE 1 END, claimed_records = recorded.n
FROM recorded WHERE id = recorded.job_id
RETURNING id, epoch, last_group, attempts, config, task_app_key, cancel_requested_at IS NOT NULL AS cancelled,
  extract(epoch FROM clock_timestamp() - started_at)::float8 AS running_seconds
"""


async def claim_next(connection: asyncpg.Connection, worker_id: str, lease_seconds: float) -> Claim | None:
    """Take the oldest job that is queued, or whose worker has let its lease run out."""
    row = await connection.fetchrow(_CLAIM, worker_id, lease_seconds)
    return Claim(*row.values()) if row else None


@dataclass(frozen=True, slots=True)
class Beat:
    is_cancel_requested: bool


async def heartbeat(
    connection: asyncpg.Connection, worker_id: str, epochs: Mapping[str, int], lease_seconds: float
) -> dict[str, Beat]:
    """Extend the leases of `epochs` (job → epoch). A job that is missing from the answer is no longer ours."""
    rows = await connection.fetch(
        "UPDATE jobs SET lease_until = clock_timestamp() + make_interval(secs => $4) "
        "FROM unnest($2::text[], $3::int[]) AS held(job_id, held_epoch) "
        "WHERE id = job_id AND epoch = held_epoch AND worker_id = $1 AND status = 'running' "
        "RETURNING id, cancel_requested_at IS NOT NULL AS cancelled",
        worker_id,
        list(epochs),
        list(epochs.values()),
        lease_seconds,
    )
    return {row["id"]: Beat(row["cancelled"]) for row in rows}


async def release(connection: asyncpg.Connection, job_ids: Sequence[str], worker_id: str) -> None:
    """Hand jobs over at once: they are queued again, and other workers are told."""
    await connection.execute(
        "WITH freed AS (UPDATE jobs SET status = 'queued', worker_id = NULL, lease_until = NULL, "
        "claimed_records = NULL, updated_at = clock_timestamp() "
        "WHERE id = ANY($1::text[]) AND worker_id = $2 AND status = 'running' RETURNING id) "
        "SELECT pg_notify('promptjobs_jobs', id) FROM freed",
        list(job_ids),
        worker_id,
    )
