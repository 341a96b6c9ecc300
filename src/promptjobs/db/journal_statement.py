"""The statement that commits a group: the fence, `seq` and every insert in one round trip."""

from collections.abc import Mapping
from functools import cache

ROLLOUT = (
    "key", "n", "candidate_id", "seed", "draw", "phase", "is_baseline", "tier", "score", "reason", "detail",
    "prompt_tokens", "completion_tokens", "unknown_tokens", "cost_usd", "seconds", "attempts", "body",
)  # fmt: skip
COMPLETION = (
    "key", "n", "purpose", "provider", "model", "draw", "reason", "detail", "finish_reason", "prompt_tokens",
    "completion_tokens", "unknown_tokens", "cost_usd", "seconds", "attempts", "request", "body",
)  # fmt: skip
TURN = ("n", "lane", "cause", "chain", "search_version", "detail")
EVENT = ("seq", "turn", "type", "message", "level", "data")
CANDIDATE = ("candidate_id", "n", "baseline_id", "prompt", "parents", "operator", "generation", "turn")
TRIAL = (
    "n", "candidate_id", "phase", "is_baseline", "seeds", "scores", "score", "failed", "reused", "lane", "generation",
    "turn",
)  # fmt: skip
TOKEN = ("digest", "key", "candidate_id", "seed", "phase", "tier", "attempt", "lifetime_seconds")

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "rollouts": ROLLOUT,
    "completions": COMPLETION,
    "turns": TURN,
    "events": EVENT,
    "candidates": CANDIDATE,
    "trials": TRIAL,
    "tokens": TOKEN,
}
"""What a row of a group names, by table. `seq` counts from 1 within the group, and a token has a lifetime."""

HAS_EPOCH = ("rollouts", "completions", "turns", "tokens")
FIRST_TABLE = 6
"""Parameters before it: job_id, epoch, number, progress, number of the events. After the tables: revoked digests."""

_JOB = """
j AS (UPDATE jobs SET last_seq = last_seq + $5::int, last_group = $3, progress = coalesce($4::text, progress),
        updated_at = clock_timestamp()
      WHERE id = $1 AND epoch = $2 AND last_group = $3 - 1 AND status = 'running' RETURNING last_seq)"""

# Without a condition on the job: it would have the planner read all of a job's tokens for each group.
_REVOKED = """
revoked AS (UPDATE tokens SET revoked_at = clock_timestamp() FROM j WHERE digest = ANY(${at}::bytea[]))"""

_TOLD = """
SELECT last_seq, CASE WHEN $5 > 0 THEN pg_notify('promptjobs_events', $1)::text END FROM j"""


def _insert(table: str, at: int) -> str:
    """Rows arrive as one JSON array a table, which costs us a third of what arrays of columns do to encode."""
    names, values = list(COLUMNS[table]), [f"u.{name}" for name in COLUMNS[table]]
    source = f"json_populate_recordset(NULL::{table}, ${at}::json) u"
    if table == "events":
        values[names.index("seq")] = "j.last_seq - $5 + u.seq"
    if table == "tokens":
        names[-1], values[-1] = "expires_at", "clock_timestamp() + make_interval(secs => u.lifetime_seconds)"
        types = "digest bytea, key bytea, candidate_id text, seed bigint, phase text, tier text, attempt int"
        source = f"json_to_recordset(${at}::json) u({types}, lifetime_seconds float8)"
    if table in HAS_EPOCH:
        names.append("epoch")
        values.append("$2::int")
    into = f"INSERT INTO {table}(job_id, {', '.join(names)})"
    return f"\nnew_{table} AS ({into} SELECT $1, {', '.join(values)} FROM j, {source})"


@cache
def statement_of(tables: tuple[str, ...], has_revoked: bool) -> str:
    """The statement for a group with rows in these tables, in the order of COLUMNS.

    An insert without rows costs Postgres nearly as much as one with a row, and most groups have rows in one table or
    three. No transaction stays open that a frozen runner could hold; where the fence refuses, nothing is inserted.
    """
    parts = [_JOB, *(_insert(table, at) for at, table in enumerate(tables, FIRST_TABLE))]
    if has_revoked:
        parts.append(_REVOKED.format(at=FIRST_TABLE + len(tables)))
    return "WITH" + ",".join(parts) + _TOLD


# A statement is planned once for a session, when the tables may be empty yet: a plan that reads whole tables would
# then be kept while they grow.
SESSION = "SET enable_seqscan = off"
