"""Queries of the events table: a job's stream, numbered 1..n without a gap."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.models import Event, Job

EVENTS_CHANNEL = "promptjobs_events"
"""NOTIFY with a job's id: it has new events, or another status."""
JOBS_CHANNEL = "promptjobs_jobs"
"""NOTIFY with a job's id: it is queued, or its cancellation is wanted."""

TERMINAL_TYPES = frozenset(
    f"prompt.learning.{algorithm}.{outcome}"
    for algorithm in ("gepa", "mipro", "staged")
    for outcome in ("complete", "failed", "cancelled")
)
"""Every finished job has exactly one of these, and it is the last."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event; data is JSON text."""

    job_id: str
    seq: int
    type: str
    message: str
    level: str
    data: str
    created_at: datetime

    @property
    def is_terminal(self) -> bool:
        return self.type in TERMINAL_TYPES


COLUMNS = (Event.job_id, Event.seq, Event.type, Event.message, Event.level, Event.data, Event.created_at)


async def read_after(
    connection: AsyncConnection, job_id: str, seq: int, limit: int, types: Sequence[str] | None = None
) -> list[EventRow]:
    """The first `limit` events with a number above `seq`, in order; of these `types` only, where given."""
    query = select(*COLUMNS).where(Event.job_id == job_id, Event.seq > seq).order_by(Event.seq).limit(limit)
    if types is not None:
        query = query.where(Event.type.in_(types))
    return [EventRow(*row) for row in await connection.execute(query)]


async def last_seqs(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, int]:
    """The number of the last event of each job that exists."""
    found = await connection.execute(select(Job.id, Job.last_seq).where(Job.id.in_(job_ids)))
    return {row.id: row.last_seq for row in found}


async def append(
    connection: AsyncConnection, job_id: str, event_type: str, message: str, data: dict[str, Any], level: str = "info"
) -> int:
    """Add an event and notify; returns its number.

    The number is allocated under the job row's lock, never from a sequence: otherwise a later commit could show a lower
    number, which a reader who has passed it would never see.
    """
    numbered = await connection.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(last_seq=Job.last_seq + 1, updated_at=text("clock_timestamp()"))
        .returning(Job.last_seq)
    )
    seq = numbered.scalar_one()
    await connection.execute(
        insert(Event).values(
            job_id=job_id,
            seq=seq,
            type=event_type,
            message=message,
            level=level,
            data=orjson.dumps(data).decode(),
        )
    )
    await notify(connection, EVENTS_CHANNEL, job_id)
    return seq


async def notify(connection: AsyncConnection, channel: str, job_id: str) -> None:
    """Sent when the transaction commits."""
    await connection.execute(text("SELECT pg_notify(:channel, :job_id)"), {"channel": channel, "job_id": job_id})
