"""Queries of what was said: a trial, a rollout with the calls of its LLM, and the calls of meta-model and judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.asks import DESCRIPTION
from promptjobs.db.columns import columns_of
from promptjobs.db.history import trial_from
from promptjobs.db.models import Call, CompletionRow, RolloutRow, TrialRow
from promptjobs.db.results import ROLLOUT_COLUMNS, StoredRollout, StoredTrial
from promptjobs.errors import RolloutNotFound
from promptjobs.errors.results import TrialNotFound


async def read_trial(connection: AsyncConnection, job_id: str, n: int) -> StoredTrial:
    """Raises TrialNotFound."""
    query = select(TrialRow.__table__).where(TrialRow.job_id == job_id, TrialRow.n == n)
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise TrialNotFound(n)
    return StoredTrial(trial_from(dict(row)), row["created_at"])


async def read_rollout(connection: AsyncConnection, job_id: str, key: bytes) -> StoredRollout:
    """One rollout with its body. Raises RolloutNotFound, also for another job's."""
    query = select(*ROLLOUT_COLUMNS, RolloutRow.body).where(RolloutRow.job_id == job_id, RolloutRow.key == key)
    row = (await connection.execute(query)).first()
    if row is None:
        raise RolloutNotFound(key.hex())
    return StoredRollout(*tuple(row))


# --- calls of a rollout's LLM ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredCall:
    """One call through the interceptor, without the token that it was made with.

    attempt: of the rollout. status: what the task app was answered, 499 where it had gone. error: "code: detail".
    messages, reply: JSON texts.
    """

    key: bytes
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
    created_at: datetime


CALL_COLUMNS = columns_of(StoredCall, Call)


async def read_calls(connection: AsyncConnection, job_id: str, keys: Sequence[bytes]) -> dict[bytes, list[StoredCall]]:
    """The calls of each rollout, by its key, in the order in which they ended; every key has an entry."""
    found: dict[bytes, list[StoredCall]] = {key: [] for key in keys}
    query = select(*CALL_COLUMNS).where(Call.job_id == job_id, Call.key.in_(keys)).order_by(Call.created_at, Call.n)
    for row in await connection.execute(query):
        found[row.key].append(StoredCall(*tuple(row)))
    return found


# --- calls of meta-model and judge -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """A completion with what was sent and what came back. n: number of its answer in the job. request, body: JSON
    texts; body holds the failure's words where there is a reason."""

    key: bytes
    n: int
    purpose: str
    provider: str
    model: str
    draw: int
    reason: str | None
    detail: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    unknown_tokens: int
    cost_usd: float | None
    seconds: float
    attempts: int
    request: str
    body: str
    created_at: datetime


COMPLETION_COLUMNS = columns_of(StoredCompletion, CompletionRow)


async def read_completions(
    connection: AsyncConnection, job_id: str, limit: int, after: int | None = None, purpose: str | None = None
) -> list[StoredCompletion]:
    """In the order in which they were answered. What a task app says of itself is no call of a model, and left out."""
    query = select(*COMPLETION_COLUMNS).where(CompletionRow.job_id == job_id, CompletionRow.purpose != DESCRIPTION)
    if after is not None:
        query = query.where(CompletionRow.n > after)
    if purpose is not None:
        query = query.where(CompletionRow.purpose == purpose)
    rows = await connection.execute(query.order_by(CompletionRow.n).limit(limit))
    return [StoredCompletion(*tuple(row)) for row in rows]
