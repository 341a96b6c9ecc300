"""Queries behind an experiment's stream of events: which jobs it has, how far each has come, and how it has ended."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.jobs import JobStatus
from promptjobs.db.models import Job


@dataclass(frozen=True, slots=True)
class Member:
    """A job of an experiment. last_seq: the number of its last event, behind which nothing follows where is_final."""

    job_id: str
    position: int
    label: str
    last_seq: int
    is_final: bool


async def members(connection: AsyncConnection, experiment_id: str) -> list[Member]:
    """In the order of their positions; none where there is no such experiment."""
    columns = (Job.id, Job.experiment_position, Job.experiment_label, Job.last_seq, Job.status)
    query = select(*columns).where(Job.experiment_id == experiment_id).order_by(Job.experiment_position)
    return [
        Member(job_id, position or 0, label or "", last_seq, JobStatus(status).is_terminal)
        for job_id, position, label, last_seq, status in await connection.execute(query)
    ]


async def last_seqs(connection: AsyncConnection, experiment_ids: Sequence[str]) -> dict[str, dict[int, int]]:
    """The number of the last event of each job, by experiment and position; of the experiments that exist."""
    query = select(Job.experiment_id, Job.experiment_position, Job.last_seq)
    found: dict[str, dict[int, int]] = {}
    for experiment_id, position, last_seq in await connection.execute(
        query.where(Job.experiment_id.in_(experiment_ids))
    ):
        found.setdefault(experiment_id or "", {})[position or 0] = last_seq
    return found
