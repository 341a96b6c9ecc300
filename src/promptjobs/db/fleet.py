"""What stands in the database for all workers together: how many jobs there are by status, and how long they queue."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.jobs import JobStatus

ENDED = tuple(status for status in JobStatus if status.is_terminal)
LIVE = tuple(status for status in JobStatus if not status.is_terminal)


@dataclass(frozen=True, slots=True)
class Live:
    """jobs: by status, each of LIVE. queue_age_seconds: of the job that has been queued longest, 0 where none is."""

    jobs: Mapping[str, int]
    queue_age_seconds: float


# `updated_at` of a queued job is when it was queued, or when its user last wished something of it.
_LIVE = text("""
SELECT status, count(*) AS jobs, extract(epoch FROM clock_timestamp() - min(updated_at))::float8 AS age
FROM jobs WHERE status IN ('queued', 'running') GROUP BY status
UNION ALL
SELECT status, count(*), NULL FROM jobs WHERE status IN ('pending', 'paused') GROUP BY status
""")

_ENDED = text("SELECT status, count(*) AS jobs FROM jobs WHERE status = ANY (:ended) GROUP BY status")


async def read_live(connection: AsyncConnection) -> Live:
    """The jobs that are not over, of all organisations. One statement that does not look at the others."""
    rows = {row.status: row for row in await connection.execute(_LIVE)}
    queued = rows.get(JobStatus.QUEUED)
    jobs = {str(status): rows[status].jobs if status in rows else 0 for status in LIVE}
    return Live(jobs, 0.0 if queued is None else max(0.0, queued.age))


async def count_ended(connection: AsyncConnection) -> Mapping[str, int]:
    """The jobs that are over, by status. Its cost grows with them: tenths of a second for 100,000."""
    rows = {row.status: row.jobs for row in await connection.execute(_ENDED, {"ended": list(ENDED)})}
    return {str(status): rows.get(status, 0) for status in ENDED}
