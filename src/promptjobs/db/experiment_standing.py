"""How far the jobs of experiments have come, by the database's clock, and what they have spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Double, Row, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.jobs import JobStatus
from promptjobs.db.models import Job, LedgerRow

OVER = tuple(status for status in JobStatus if status.is_terminal)

_SECONDS = func.extract("epoch", func.coalesce(Job.finished_at, Job.paused_at, func.clock_timestamp()) - Job.started_at)
RUNNING_SECONDS = cast(_SECONDS, Double) - Job.paused_seconds
"""From the job's start to its end or now, pauses aside; null before it."""


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job that is not over. running_seconds: since its start, pauses aside; None before it. silent_seconds: since it
    has recorded anything, or was commanded. progress, config: JSON texts, None before its start.
    """

    job_id: str
    experiment_id: str
    status: JobStatus
    running_seconds: float | None
    silent_seconds: float
    progress: str | None
    config: str | None


@dataclass(frozen=True, slots=True)
class OverJobs:
    """Those of an experiment's jobs that are over, as far as they had begun: how many, and how long they took on
    average.
    """

    count: int
    mean_seconds: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What has been spent. unpriced_calls: at a price that is not known; usd is without them."""

    tokens: int
    usd: float
    unpriced_calls: int

    @staticmethod
    def of(row: Row[*tuple[Any, ...]]) -> "Totals":
        """row: has SPENT."""
        return Totals(int(row.tokens), float(row.usd), int(row.unpriced_calls))


SPENT = [func.sum(column).label(column.key) for column in (LedgerRow.tokens, LedgerRow.usd, LedgerRow.unpriced_calls)]
"""Columns of a query that groups rows of the ledger."""


async def read_open(connection: AsyncConnection, experiment_ids: Sequence[str]) -> list[OpenJob]:
    """The jobs of these experiments that are not over, in the order of their positions."""
    query = select(
        Job.id.label("job_id"),
        Job.experiment_id,
        Job.status,
        RUNNING_SECONDS.label("running_seconds"),
        cast(func.extract("epoch", func.clock_timestamp() - Job.updated_at), Double).label("silent_seconds"),
        case((Job.started_at.is_not(None), Job.progress)).label("progress"),
        case((Job.started_at.is_not(None), Job.config)).label("config"),
    )
    query = query.where(Job.experiment_id.in_(experiment_ids), Job.status.not_in(OVER))
    return [_open(row) for row in await connection.execute(query.order_by(Job.experiment_position))]


def _open(row: Row[*tuple[Any, ...]]) -> OpenJob:
    found = dict(row._mapping)
    return OpenJob(status=JobStatus(found.pop("status")), **found)


async def read_over(connection: AsyncConnection, experiment_ids: Sequence[str]) -> Mapping[str, OverJobs]:
    """By experiment; of one without such jobs there are none."""
    query = select(Job.experiment_id, func.count().label("jobs"), func.avg(RUNNING_SECONDS).label("mean_seconds"))
    query = query.where(Job.experiment_id.in_(experiment_ids), Job.status.in_(OVER), Job.started_at.is_not(None))
    found = await connection.execute(query.group_by(Job.experiment_id))
    return {row.experiment_id: OverJobs(row.jobs, row.mean_seconds) for row in found}


async def read_totals(connection: AsyncConnection, experiment_ids: Sequence[str]) -> Mapping[str, Totals]:
    """By experiment; of one without jobs there are none."""
    query = select(Job.experiment_id, *SPENT).join(LedgerRow, LedgerRow.job_id == Job.id)
    query = query.where(Job.experiment_id.in_(experiment_ids)).group_by(Job.experiment_id)
    return {row.experiment_id: Totals.of(row) for row in await connection.execute(query)}
