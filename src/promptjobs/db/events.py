"""Queries of the events table: a job's stream, numbered 1..n without a gap."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import orjson
from sqlalchemy import ARRAY, Text, any_, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.models import Event, Job
from promptjobs.db.statements import Statement
from promptjobs.db.transactions import driver_of

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


@dataclass(frozen=True, slots=True)
class LastEvent:
    """What a job has told last, without its data."""

    seq: int
    type: str
    message: str
    created_at: datetime


COLUMNS = (Event.job_id, Event.seq, Event.type, Event.message, Event.level, Event.data, Event.created_at)


async def read_after(
    connection: AsyncConnection, job_id: str, seq: int, limit: int, types: Sequence[str] | None = None
) -> list[EventRow]:
    """The first `limit` events with a number above `seq`, in order; of these `types` only, where given."""
    if types is None:
        found = await _after().rows(connection, job_id=job_id, seq=seq, limit=limit)
    else:
        found = await _after(are_typed=True).rows(connection, job_id=job_id, seq=seq, limit=limit, types=list(types))
    return [EventRow(*row.values()) for row in found]


@cache
def _after(*, are_typed: bool = False) -> Statement:
    query = select(*COLUMNS).where(Event.job_id == bindparam("job_id"), Event.seq > bindparam("seq"))
    if are_typed:
        query = query.where(Event.type == any_(bindparam("types", type_=ARRAY(Text))))
    return Statement(query.order_by(Event.seq).limit(bindparam("limit")))


async def last_seqs(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, int]:
    """The number of the last event of each job that exists."""
    found = await connection.execute(select(Job.id, Job.last_seq).where(Job.id.in_(job_ids)))
    return {row.id: row.last_seq for row in found}


async def read_last(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, LastEvent]:
    """The last event of each of these jobs that exists."""
    query = select(Event.job_id, Event.seq, Event.type, Event.message, Event.created_at)
    query = query.join(Job, (Job.id == Event.job_id) & (Job.last_seq == Event.seq)).where(Job.id.in_(job_ids))
    return {
        row.job_id: LastEvent(row.seq, row.type, row.message, row.created_at) for row in await connection.execute(query)
    }


async def append(
    connection: AsyncConnection, job_id: str, event_type: str, message: str, data: dict[str, Any], level: str = "info"
) -> int:
    """Add an event and notify; returns its number.

    The number is allocated under the job row's lock, never from a sequence: otherwise a later commit could show a lower
    number, which a reader who has passed it would never see.
    """
    [numbered] = await _number().rows(connection, job_id=job_id)
    seq = int(numbered["last_seq"])
    values = {"job_id": job_id, "seq": seq, "type": event_type, "message": message, "level": level}
    await _insert().rows(connection, **values, data=orjson.dumps(data).decode())
    await notify(connection, EVENTS_CHANNEL, job_id)
    return seq


@cache
def _number() -> Statement:
    query = update(Job).where(Job.id == bindparam("job_id"))
    query = query.values(last_seq=Job.last_seq + 1, updated_at=func.clock_timestamp())
    return Statement(query.returning(Job.last_seq))


@cache
def _insert() -> Statement:
    names = ("job_id", "seq", "type", "message", "level", "data")
    return Statement(insert(Event).values({name: bindparam(name) for name in names}))


async def notify(connection: AsyncConnection, channel: str, job_id: str) -> None:
    """Sent when the transaction commits."""
    await (await driver_of(connection)).execute("SELECT pg_notify($1, $2)", channel, job_id)
