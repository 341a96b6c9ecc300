"""Requests that must not be carried out twice: their keys, and what the first one was answered.

A key, what its request does, and the answer are one transaction. A process that dies before the commit leaves nothing
of the three, so that a retry carries the request out; after it, a retry finds the answer. In between an advisory lock,
which ends with the transaction, tells others that the request is being carried out.
"""

import hashlib
from dataclasses import dataclass

from sqlalchemy import String, delete, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.models import IdempotencyKey
from promptjobs.errors import IdempotencyKeyReused

KEPT = text("interval '24 hours'")
PRUNED_AT_A_TIME = 100


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """route: the name of the operation. digest: SHA-256 of all that the client has sent."""

    organisation: str
    route: str
    key: str
    digest: bytes

    @property
    def context(self) -> str:
        """What its answer is sealed for."""
        return f"idempotency:{self.organisation}:{self.route}:{self.key}"

    @property
    def lock(self) -> int:
        """Number of its advisory lock. Two keys with the same one, of 2^64, would merely wait for each other."""
        digest = hashlib.sha256("\0".join((self.organisation, self.route, self.key)).encode()).digest()
        return int.from_bytes(digest[:8], signed=True)


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """What the first request was answered. sealed_body can only be opened with the service's secret key."""

    status: int
    content_type: str
    sealed_body: bytes


async def find(connection: AsyncConnection, request: KeyedRequest) -> GivenAnswer | None:
    """The answer, if the request was carried out in the last 24 hours.

    Raises IdempotencyKeyReused where the key came with something else.
    """
    row = (
        await connection.execute(
            select(
                IdempotencyKey.body_digest, IdempotencyKey.status, IdempotencyKey.content_type, IdempotencyKey.body
            ).where(
                IdempotencyKey.organisation == request.organisation,
                IdempotencyKey.route == request.route,
                IdempotencyKey.key == request.key,
                IdempotencyKey.created_at > func.clock_timestamp() - KEPT,
            )
        )
    ).one_or_none()
    if row is None:
        return None
    if row.body_digest != request.digest:
        raise IdempotencyKeyReused
    return GivenAnswer(row.status, row.content_type, row.body)


async def begin(connection: AsyncConnection, request: KeyedRequest) -> bool:
    """Whether this transaction may carry the request out: no other one is about to. To be followed by `find`, since
    the other may have ended before."""
    is_ours = await connection.scalar(select(func.pg_try_advisory_xact_lock(request.lock)))
    return bool(is_ours)


async def keep(connection: AsyncConnection, request: KeyedRequest, answer: GivenAnswer) -> None:
    """Store the answer in place of one that has expired, if there is one; and remove some that have."""
    kept = {
        "body_digest": request.digest,
        "status": answer.status,
        "content_type": answer.content_type,
        "body": answer.sealed_body,
        "created_at": func.clock_timestamp(),
    }
    names = {"organisation": request.organisation, "route": request.route, "key": request.key}
    statement = insert(IdempotencyKey).values(**names, **kept)
    await connection.execute(statement.on_conflict_do_update(index_elements=list(names), set_=kept))
    await _prune(connection)


async def _prune(connection: AsyncConnection) -> None:
    """Rows that others are removing are left to them."""
    ctid = literal_column("ctid", String)
    expired = (
        select(ctid)
        .select_from(IdempotencyKey)
        .where(IdempotencyKey.created_at <= func.clock_timestamp() - KEPT)
        .limit(PRUNED_AT_A_TIME)
        .with_for_update(skip_locked=True)
    )
    await connection.execute(delete(IdempotencyKey).where(ctid.in_(expired)))
