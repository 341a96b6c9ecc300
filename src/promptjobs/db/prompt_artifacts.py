"""Queries of the prompts that an organisation's jobs have found, one a job."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Float, and_, case, cast, func, or_, select
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.jobs import JobStatus
from promptjobs.db.models import Job

IN_PROGRESS = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED)
"""Where the best prompt is the one so far. A job that was interrupted is queued again, and keeps it."""


@dataclass(frozen=True, slots=True)
class PromptArtifact:
    """The best prompt of a job. best_snapshot_id is None while the job goes on: its score is the best so far."""

    job_id: str
    algorithm: str
    status: JobStatus
    best_score: float | None
    best_train_score: float | None
    best_validation_score: float | None
    best_snapshot_id: str | None
    created_at: datetime
    finished_at: datetime | None


async def read_prompts(
    connection: AsyncConnection, organisation: str, status: JobStatus | None, limit: int
) -> list[PromptArtifact]:
    """The newest `limit` jobs that have a prompt to show."""
    so_far = cast(cast(Job.progress, JSON)["best_score"].astext, Float)
    query = (
        select(
            Job.id,
            Job.algorithm,
            Job.status,
            case((Job.best_snapshot_id.is_not(None), Job.best_score), else_=so_far).label("best_score"),
            Job.best_train_score,
            Job.best_validation_score,
            Job.best_snapshot_id,
            Job.created_at,
            Job.finished_at,
        )
        .where(*_have_prompt(organisation, status))
        .order_by(Job.created_at.desc(), Job.id.desc())
        .limit(limit)
    )
    return [
        PromptArtifact(job_id, algorithm, JobStatus(stands), *rest)
        for job_id, algorithm, stands, *rest in await connection.execute(query)
    ]


async def count_prompts(connection: AsyncConnection, organisation: str, status: JobStatus | None) -> int:
    """How many jobs have a prompt to show."""
    query = select(func.count()).select_from(Job).where(*_have_prompt(organisation, status))
    return (await connection.execute(query)).scalar_one()


async def config_name_of(connection: AsyncConnection, job_id: str) -> str | None:
    """Of the saved config that the job was made from; None where it was made from none."""
    query = select(Job.config_name).where(Job.id == job_id)
    found: str | None = (await connection.execute(query)).scalar_one_or_none()
    return found


def _have_prompt(organisation: str, status: JobStatus | None) -> list[ColumnElement[bool]]:
    best_id = cast(Job.progress, JSON)["best_candidate_id"].astext
    is_in_progress = and_(Job.status.in_(IN_PROGRESS), best_id.is_not(None))
    conditions = [Job.organisation == organisation, or_(Job.best_snapshot_id.is_not(None), is_in_progress)]
    return conditions if status is None else [*conditions, Job.status == status]
