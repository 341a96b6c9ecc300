"""Jobs that wait in the queue and are never run: all that the database asks of one, and nothing in it."""

from promptjobs.db.job_commands import NewJob, Place
from promptjobs.db.jobs import JobStatus


def queued_job(job_id: str, place: Place | None = None) -> NewJob:
    return NewJob(
        id=job_id,
        algorithm="gepa",
        status=JobStatus.QUEUED,
        config="{}",
        config_sent="{}",
        warnings="[]",
        metadata="{}",
        task_app_key=None,
        event_message="Created",
        event_data="{}",
        place=place,
    )
