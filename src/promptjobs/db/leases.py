"""Who may run a job: claims with a lease and a rising epoch, heartbeats, hand-overs, and leases that have run out."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import asyncpg


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is ours until the lease runs out. epoch fences every write.

    attempts: claims in a row without progress, which is a new turn or answer (the tokens of a restart are none).
    running_seconds: since the job was first started, by the database's clock; pauses do not count. has_balance:
    whether the organisation may spend only so much.
    """

    job_id: str
    epoch: int
    last_group: int
    attempts: int
    config: str
    task_app_key: str | None
    is_cancel_requested: bool
    running_seconds: float
    organisation: str
    has_balance: bool


MOST_TRIES = 5
"""Of a claim. One fails where another worker takes the same place of an experiment at the same time."""

HEADS = 64
"""Jobs at the head of the queue that a claim looks at: those before it may all be locked by other claims."""

# Only jobs that can be taken are looked at, since thousands may wait before them for a place of their experiment: the
# oldest of those on their own, of those that are cancelled, and of each experiment as many as it has free places. All
# jobs of an experiment are as old as the experiment. One that is cancelled needs no place: its worker only publishes
# what there is. Any free place will do: workers that all want the lowest would be in each other's way. A unique index
# keeps a place from being taken twice.
_WANTED = "(pause_requested_at IS NULL OR cancel_requested_at IS NOT NULL)"
_CLAIM = f"""
WITH RECURSIVE waiting AS (
  (SELECT min(experiment_id) AS id FROM jobs WHERE status = 'queued' AND experiment_id IS NOT NULL)
  UNION ALL
  SELECT (SELECT min(experiment_id) FROM jobs WHERE status = 'queued' AND experiment_id > waiting.id)
  FROM waiting WHERE id IS NOT NULL),
heads AS MATERIALIZED (
  (SELECT id, created_at FROM jobs WHERE status = 'queued' AND experiment_id IS NULL AND {_WANTED}
    ORDER BY created_at, id LIMIT {HEADS})
  UNION ALL
  (SELECT id, created_at FROM jobs
    WHERE status = 'queued' AND experiment_id IS NOT NULL AND cancel_requested_at IS NOT NULL
    ORDER BY created_at LIMIT {HEADS})
  UNION ALL
  SELECT head.id, e.created_at FROM waiting JOIN experiments e ON e.id = waiting.id CROSS JOIN LATERAL (
    SELECT id FROM jobs q WHERE q.experiment_id = e.id AND q.status = 'queued' AND q.pause_requested_at IS NULL
    ORDER BY q.experiment_position LIMIT greatest(0, e.parallelism - (SELECT count(*) FROM jobs r
      WHERE r.experiment_id = e.id AND r.status = 'running' AND r.experiment_slot IS NOT NULL))) head),
due AS (
  SELECT jobs.id, experiment_id, cancel_requested_at FROM heads JOIN jobs ON jobs.id = heads.id
  WHERE status = 'queued' AND {_WANTED}
  ORDER BY heads.created_at, experiment_position, jobs.id LIMIT 1 FOR UPDATE OF jobs SKIP LOCKED),
place AS (
  SELECT (SELECT slot FROM due JOIN experiments e ON e.id = due.experiment_id
      CROSS JOIN generate_series(0, e.parallelism - 1) slot
    WHERE due.cancel_requested_at IS NULL AND NOT EXISTS (SELECT FROM jobs r
      WHERE r.experiment_id = due.experiment_id AND r.status = 'running' AND r.experiment_slot = slot)
    ORDER BY random() LIMIT 1) AS slot),
recorded AS MATERIALIZED (
  SELECT id AS job_id, (SELECT count(*) FROM turns t WHERE t.job_id = due.id)
    + (SELECT count(*) FROM rollouts r WHERE r.job_id = due.id)
    + (SELECT count(*) FROM completions c WHERE c.job_id = due.id) AS n FROM due)
UPDATE jobs SET status = 'running', epoch = epoch + 1, worker_id = $1, updated_at = clock_timestamp(),
  lease_until = clock_timestamp() + make_interval(secs => $2), experiment_slot = place.slot,
  started_at = coalesce(started_at, clock_timestamp()),
  attempts = CASE WHEN claimed_records = recorded.n THEN attempts + 1 ELSE 1 END, claimed_records = recorded.n
FROM recorded, place WHERE id = recorded.job_id
RETURNING id, epoch, last_group, attempts, config, task_app_key, cancel_requested_at IS NOT NULL AS cancelled,
  extract(epoch FROM clock_timestamp() - started_at)::float8 - paused_seconds AS running_seconds, organisation,
  EXISTS (SELECT FROM balances b WHERE b.organisation = jobs.organisation) AS has_balance
"""


async def claim_next(connection: asyncpg.Connection, worker_id: str, lease_seconds: float) -> Claim | None:
    """Take the job that has been queued longest, by its creation, of those whose experiment has a free place; None
    where there is none. One whose lease runs out is queued by the reaper."""
    for _ in range(MOST_TRIES):
        with suppress(asyncpg.UniqueViolationError):
            row = await connection.fetchrow(_CLAIM, worker_id, lease_seconds)
            return Claim(*row.values()) if row else None
    return None


@dataclass(frozen=True, slots=True)
class Beat:
    """What its user wants of a job that is ours."""

    is_cancel_requested: bool
    is_pause_requested: bool


# In the order of the ids, like every statement that locks several jobs: two of them must not wait for each other.
_OURS = """
SELECT id FROM jobs JOIN unnest($2::text[], $3::int[]) AS held(job_id, held_epoch) ON id = job_id
WHERE epoch = held_epoch AND worker_id = $1 AND status = 'running' ORDER BY id FOR UPDATE OF jobs"""

_HEARTBEAT = f"""
WITH ours AS ({_OURS})
UPDATE jobs SET lease_until = clock_timestamp() + make_interval(secs => $4) FROM ours WHERE jobs.id = ours.id
RETURNING jobs.id, cancel_requested_at IS NOT NULL AS cancelled, pause_requested_at IS NOT NULL AS paused"""


async def heartbeat(
    connection: asyncpg.Connection, worker_id: str, epochs: Mapping[str, int], lease_seconds: float
) -> dict[str, Beat]:
    """Extend the leases of `epochs` (job → epoch). A job that is missing from the answer is no longer ours."""
    rows = await connection.fetch(
        _HEARTBEAT,
        worker_id,
        list(epochs),
        list(epochs.values()),
        lease_seconds,
    )
    return {row["id"]: Beat(row["cancelled"], row["paused"]) for row in rows}


# A job that stops running without an end is paused where that is wanted, else queued; a cancel goes before a pause,
# since only a worker can publish. `freed` is this update over the jobs that `due` has locked.
_IS_PAUSED = "(jobs.pause_requested_at IS NOT NULL AND jobs.cancel_requested_at IS NULL)"
_FREED = f"""
freed AS (
  UPDATE jobs SET status = CASE WHEN {_IS_PAUSED} THEN 'paused' ELSE 'queued' END,
    paused_at = CASE WHEN {_IS_PAUSED} THEN clock_timestamp() END, pause_requested_at = NULL,
    last_seq = last_seq + {_IS_PAUSED}::int, worker_id = NULL, lease_until = NULL,
    claimed_records = CASE WHEN due.has_died THEN claimed_records END, updated_at = clock_timestamp()
  FROM due WHERE jobs.id = due.id RETURNING jobs.id, jobs.status, jobs.last_seq),
told AS (
  INSERT INTO events(job_id, seq, type, message, level, data)
  SELECT id, last_seq, 'prompt.learning.paused', 'The job was paused', 'info', '{{}}'
  FROM freed WHERE status = 'paused')
SELECT id, status, pg_notify('promptjobs_jobs', id), pg_notify('promptjobs_events', id) FROM freed"""

_PARK = f"""
WITH ours AS ({_OURS}),
due AS (SELECT id, false AS has_died FROM ours),
{_FREED}"""

# Locked rows are passed over: whoever holds the lock is another reaper, a heartbeat, a worker that writes or publishes,
# or a user's wish. The next round sees what has come of it.
_REAP = f"""
WITH due AS (
  SELECT id, true AS has_died FROM jobs
  WHERE (status = 'running' AND lease_until < clock_timestamp())
    OR (status = 'queued' AND pause_requested_at IS NOT NULL AND cancel_requested_at IS NULL)
  FOR UPDATE SKIP LOCKED),
{_FREED}"""


async def park(connection: asyncpg.Connection, worker_id: str, epochs: Mapping[str, int]) -> dict[str, str]:
    """Let go of jobs (job → epoch) at once: paused where that is wanted now, else queued, and other workers are told.

    Returns their statuses, without those that are not ours any more or have ended. Doing it again changes nothing.
    """
    rows = await connection.fetch(_PARK, worker_id, list(epochs), list(epochs.values()))
    return {row["id"]: row["status"] for row in rows}


async def reap(connection: asyncpg.Connection) -> list[str]:
    """Queue the jobs whose worker has let its lease run out, or pause them where that was wanted. Returns their ids.

    Their attempts count on: a job that ends its workers must not do so for ever.
    """
    return [row["id"] for row in await connection.fetch(_REAP)]
