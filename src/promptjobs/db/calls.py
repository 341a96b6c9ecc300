"""Tokens and calls: what a token allows, every metered call, and the calls made under a token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg
import orjson

from promptjobs.core.asks import Key
from promptjobs.db.ledger_statements import SETTLING


@dataclass(frozen=True, slots=True)
class TokenState:
    """A token with its job and candidate. seconds_left: until it ends by itself; 0 where it is worth nothing already.

    baseline_id: whose pattern recognises the task app's messages; None where they pass unchanged. has_balance: whether
    what the job's organisation may spend is limited.
    """

    digest: bytes
    job_id: str
    key: Key
    candidate_id: str
    seed: int
    phase: str
    tier: str
    attempt: int
    epoch: int
    baseline_id: str | None
    organisation: str
    has_balance: bool
    seconds_left: float


class CallRecord(NamedTuple):
    """One call of a task app, as it is stored; a tuple, because calls are written by columns, thousands a second.

    token: digest of the token. n: tells the calls of a token apart; it says nothing about their order. messages: JSON
    text of what was sent upstream, or of what the task app sent where nothing was. status: what the task app was
    answered, 499 where it had gone. error: "code: detail". reply: JSON text of the first choice's message.
    cost_usd: None where it is unknown. seconds: from the request to the end of the reply.
    """

    token: bytes
    n: int
    job_id: str
    key: Key
    candidate_id: str
    seed: int
    phase: str
    attempt: int
    provider: str
    model: str
    streamed: bool
    status: int
    error: str | None
    messages: str
    reply: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    unknown_tokens: int
    cost_usd: float | None
    seconds: float

    @property
    def error_code(self) -> str | None:
        return None if self.error is None else self.error.partition(":")[0]

    @property
    def reply_text(self) -> str:
        """The reply's text; "" where there is none, as with tool calls alone."""
        content = None if self.reply is None else orjson.loads(self.reply).get("content")
        return content if isinstance(content, str) else ""


class Bill(NamedTuple):
    """What a call is settled with, beside its cost_usd.

    hold_id: None where nothing was reserved for it. tokens: None where they are not known. calls: 1 where it may have
    reached the provider, else 0.
    """

    hold_id: bytes | None
    tokens: int | None
    calls: int


_COLUMNS = (
    "token bytea, n int, job_id text, key bytea, candidate_id text, seed bigint, phase text, attempt int, "
    "provider text, model text, streamed bool, status int, error text, messages text, reply text, finish_reason text, "
    "prompt_tokens int, completion_tokens int, unknown_tokens int, cost_usd float8, seconds float8"
)
_NAMES = ", ".join(column.split()[0] for column in _COLUMNS.split(", "))
_ARRAYS = ", ".join(f"${at}::{column.split()[1]}[]" for at, column in enumerate(_COLUMNS.split(", "), 1))

_BILLED = ("token", "n", "job_id", "phase", "cost_usd")
_AT = {name: at for at, name in enumerate(_NAMES.split(", "), 1)}

# Only what this statement has stored is settled, so one of unknown outcome can be sent again. usd() has as many places.
_INSERT = f"""
WITH stored AS (
    INSERT INTO calls({_NAMES}) SELECT * FROM unnest({_ARRAYS})
    ON CONFLICT DO NOTHING RETURNING token, n
), due AS (
    SELECT c.job_id, CASE c.phase WHEN 'optimization' THEN 'policy' ELSE c.phase END AS category, c.hold_id,
           round(c.cost_usd::numeric, 12) AS usd, c.tokens, c.calls
    FROM unnest({", ".join(f"${_AT[name]}" for name in _BILLED)}, $22::bytea[], $23::bigint[], $24::int[])
    AS c({", ".join(_BILLED)}, hold_id, tokens, calls) JOIN stored USING (token, n)
    WHERE c.calls > 0 OR c.hold_id IS NOT NULL
), {SETTLING}
SELECT token, n FROM stored
"""

_CALLS = f"SELECT {_NAMES} FROM calls WHERE token = ANY($1::bytea[]) ORDER BY created_at, n"

# The database's clock decides, and a lease that has run out ends the token whether or not another worker took the job.
_STATES = """
SELECT t.digest, t.job_id, t.key, t.candidate_id, t.seed, t.phase, t.tier, t.attempt, t.epoch, c.baseline_id,
       j.organisation, EXISTS (SELECT FROM balances b WHERE b.organisation = j.organisation) AS has_balance,
       CASE WHEN t.revoked_at IS NULL AND t.epoch = j.epoch AND j.status = 'running' AND j.lease_until IS NOT NULL
            THEN greatest(extract(epoch FROM least(t.expires_at, j.lease_until) - clock_timestamp()), 0)
            ELSE 0 END::float8 AS seconds_left
FROM tokens t JOIN jobs j ON j.id = t.job_id JOIN candidates c USING (job_id, candidate_id)
WHERE t.digest = ANY($1::bytea[])
"""


async def load_tokens(connection: asyncpg.Connection, digests: Sequence[bytes]) -> dict[bytes, TokenState]:
    """The states of the tokens that exist."""
    rows = await connection.fetch(_STATES, digests)
    return {
        row["digest"]: TokenState(
            row["digest"], row["job_id"], row["key"], row["candidate_id"], row["seed"], row["phase"],
            row["tier"], row["attempt"], row["epoch"], row["baseline_id"], row["organisation"], row["has_balance"],
            row["seconds_left"],
        )
        for row in rows
    }  # fmt: skip


async def load_config(connection: asyncpg.Connection, job_id: str) -> str | None:
    """The job's resolved config as JSON text; None where the job is gone."""
    config: str | None = await connection.fetchval("SELECT config FROM jobs WHERE id = $1", job_id)
    return config


async def load_prompts(
    connection: asyncpg.Connection, job_id: str, candidate_ids: Sequence[str]
) -> dict[str, str | None]:
    """JSON text of each candidate's template; None where it has none of its own."""
    rows = await connection.fetch(
        "SELECT candidate_id, prompt FROM candidates WHERE job_id = $1 AND candidate_id = ANY($2::text[])",
        job_id,
        candidate_ids,
    )
    return {row["candidate_id"]: row["prompt"] for row in rows}


async def insert_calls(
    connection: asyncpg.Connection, calls: Sequence[CallRecord], bills: Sequence[Bill]
) -> set[tuple[bytes, int]]:
    """Commit the calls and settle them in the ledger, in one statement; bills[i] is that of calls[i].

    Returns (token, n) of those that this statement stored. A call that is missing there was met by a row of the same
    token and n, and is not settled.
    """
    columns = *zip(*calls, strict=True), *zip(*bills, strict=True)
    return {(row[0], row[1]) for row in await connection.fetch(_INSERT, *columns)}


async def calls_of(connection: asyncpg.Connection, digests: Sequence[bytes]) -> dict[bytes, list[CallRecord]]:
    """The calls made under each token, in the order in which they ended; a token without calls has an empty list."""
    found: dict[bytes, list[CallRecord]] = {digest: [] for digest in digests}
    for row in await connection.fetch(_CALLS, digests):
        call = CallRecord(*row)
        found[call.token].append(call)
    return found
