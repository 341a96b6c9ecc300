"""Messages to webhooks on their way: written with the end of a job, claimed, and recorded with what came of them.

A message that is due is claimed by moving its next attempt into the future: whoever dies over it has lost it by then.
`attempts` counts claims, and so tells the newest from older ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import asyncpg
import orjson

CHANNEL = "promptjobs_webhooks"
"""NOTIFY: a message may be due."""

KEPT_DAYS = 30
PRUNED_AT_ONCE = 1_000
TEST_TYPE = "webhook.test"

TOLD = ("best_score", "best_score_seeds", "baseline_score")
TOLD_STATS = (
    "total_rollouts",
    "failed_rollouts",
    "trials_tried",
    "total_tokens",
    "total_cost_usd",
    "total_time_seconds",
)
"""What a message tells of the result and of the counters, by the names that they have in the job."""


class JobEndType(StrEnum):
    """What webhooks are told of: `job.` and the status with which a job has ended."""

    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"


class DeliveryStatus(StrEnum):
    """Where a message stands. A pending one is due at its next attempt."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


_ENDED = """
SELECT organisation, algorithm, status, error, finish_reason, best_snapshot_id, created_at, started_at, finished_at
FROM jobs WHERE id = $1"""

# The lock makes the insert wait for a webhook that is being deleted, and pass it over: its reference would fail, and
# the end of the job with it.
_ENQUEUE = f"""
WITH told AS (
  INSERT INTO webhook_deliveries(id, webhook_id, job_id, event_type, payload, next_attempt_at)
  SELECT 'msg_' || replace(gen_random_uuid()::text, '-', ''), w.id, $2, $3, $4, clock_timestamp()
  FROM webhooks w
  WHERE w.organisation = $1 AND w.disabled_at IS NULL AND (w.event_types = '{{}}' OR $3 = ANY(w.event_types))
  FOR KEY SHARE OF w
  RETURNING id)
SELECT pg_notify('{CHANNEL}', '') FROM (SELECT count(*) AS n FROM told) AS counted WHERE n > 0"""


async def enqueue_end(
    connection: asyncpg.Connection,
    job_id: str,
    *,
    detail: str | None,
    metadata: Mapping[str, Any],
    figures: Mapping[str, Any],
    stats: Mapping[str, Any],
) -> None:
    """Have the webhooks of the job's organisation told of its end, in the transaction that ends it.

    The job's row has its end already. detail: of the finish reason; metadata: the client's own; figures and stats:
    where the scores and counters are looked up, null where they are missing.
    """
    job = dict(await connection.fetchrow(_ENDED, job_id))
    organisation = job.pop("organisation")
    event_type = JobEndType(f"job.{job['status']}")
    data = {
        "job_id": job_id,
        **job,
        "finish_detail": detail,
        **{name: figures.get(name) for name in TOLD},
        "metadata": metadata,
        "stats": {name: stats.get(name) for name in TOLD_STATS},
    }
    payload = message_body(event_type, job["finished_at"], data)
    await connection.execute(_ENQUEUE, organisation, job_id, event_type, payload)


def message_body(event_type: str, timestamp: Any, data: Mapping[str, Any]) -> str:
    """The body as it is stored, signed and sent. timestamp: when it happened, as a datetime."""
    return orjson.dumps({"type": event_type, "timestamp": timestamp, "data": data}).decode()


# --- sending ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """A message that is ours to send once, until the lease is over. secret: sealed."""

    id: str
    webhook_id: str
    organisation: str
    event_type: str
    payload: str
    attempts: int
    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class Busy:
    """Webhooks and organisations to which nothing more is sent for now."""

    webhooks: Sequence[str] = ()
    organisations: Sequence[str] = ()


_WAITING = """
FROM webhook_deliveries d JOIN webhooks w ON w.id = d.webhook_id
WHERE d.status = 'pending' AND w.disabled_at IS NULL
  AND d.webhook_id <> ALL($1::text[]) AND w.organisation <> ALL($2::text[])"""

# One that another process has just taken is passed over while it is locked, and no longer due after that.
_CLAIM = f"""
WITH due AS (
  SELECT d.id, w.organisation, w.url, w.secret {_WAITING} AND d.next_attempt_at <= clock_timestamp()
  ORDER BY d.next_attempt_at, d.id LIMIT 1 FOR UPDATE OF d SKIP LOCKED)
UPDATE webhook_deliveries d
SET attempts = attempts + 1, next_attempt_at = clock_timestamp() + make_interval(secs => $3)
FROM due WHERE d.id = due.id
RETURNING d.id, d.webhook_id, due.organisation, d.event_type, d.payload, d.attempts, due.url, due.secret"""


async def claim(connection: asyncpg.Connection, busy: Busy, lease_seconds: float) -> ClaimedMessage | None:
    """The message that has been due longest, of a webhook that is not disabled."""
    row = await connection.fetchrow(_CLAIM, busy.webhooks, busy.organisations, lease_seconds)
    return ClaimedMessage(*row) if row else None


_NEXT_DUE = f"SELECT extract(epoch FROM min(d.next_attempt_at) - clock_timestamp())::float8 {_WAITING}"


async def seconds_until_due(connection: asyncpg.Connection, busy: Busy) -> float | None:
    """How long until there is something to claim, as far as is known; below 0 where it is overdue."""
    found: float | None = await connection.fetchval(_NEXT_DUE, busy.webhooks, busy.organisations)
    return found


@dataclass(frozen=True, slots=True)
class Attempt:
    """What has come of an attempt. A pending message is tried again in `delay_seconds`.

    error: in words, null where it was delivered. disables: the receiver wants no more messages.
    """

    status: DeliveryStatus
    delay_seconds: float | None = None
    response_status: int | None = None
    error: str | None = None
    disables: bool = False


_RECORD = """
UPDATE webhook_deliveries SET status = $3, response_status = $5, error = $6,
  next_attempt_at = clock_timestamp() + make_interval(secs => $4),
  delivered_at = CASE WHEN $3 = 'delivered' THEN clock_timestamp() ELSE delivered_at END
WHERE id = $1 AND attempts = $2 AND status = 'pending'"""

_DISABLE = """
UPDATE webhooks SET disabled_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE id = $1 AND disabled_at IS NULL"""


async def record(connection: asyncpg.Connection, message: ClaimedMessage, attempt: Attempt) -> None:
    """Store what has come of the message, unless it was claimed again since. Doing it again changes nothing."""
    if attempt.disables:
        await connection.execute(_DISABLE, message.webhook_id)
    await connection.execute(
        _RECORD,
        message.id,
        message.attempts,
        attempt.status,
        attempt.delay_seconds,
        attempt.response_status,
        attempt.error,
    )


_PRUNE = f"""
DELETE FROM webhook_deliveries WHERE id IN (
  SELECT id FROM webhook_deliveries WHERE created_at < clock_timestamp() - make_interval(days => {KEPT_DAYS})
  LIMIT {PRUNED_AT_ONCE} FOR UPDATE SKIP LOCKED)"""


async def prune(connection: asyncpg.Connection) -> bool:
    """Delete some of what is older than KEPT_DAYS, whatever its status. Returns whether there may be more."""
    done: str = await connection.execute(_PRUNE)
    return done == f"DELETE {PRUNED_AT_ONCE}"
