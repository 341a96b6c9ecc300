"""Whose a job is."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.models import Job


async def organisation_of(connection: AsyncConnection, job_id: str) -> str | None:
    """None for a job that does not exist."""
    found: str | None = (
        await connection.execute(select(Job.organisation).where(Job.id == job_id))
    ).scalar_one_or_none()
    return found
