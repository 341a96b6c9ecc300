"""Experiments of jobs that are there already, whatever they have been through."""

import uuid
from collections.abc import Sequence

from sqlalchemy import update

from promptjobs.db import experiments
from promptjobs.db.experiments import NewExperiment
from promptjobs.db.models import Job
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing


async def gathered(database: Database, organisation: str, job_ids: Sequence[str]) -> str:
    """The id of a new experiment of these jobs, in this order."""
    experiment_id = f"exp_{uuid.uuid4().hex}"
    async with writing(database) as connection:
        await experiments.create(
            connection, NewExperiment(experiment_id, organisation, "gathered", None, 2, "{}", "{}")
        )
        for position, job_id in enumerate(job_ids, 1):
            place = {
                "experiment_id": experiment_id,
                "experiment_position": position,
                "experiment_label": f"number {position}",
                "experiment_group": f"number {position}",
                "experiment_settings": "{}",
                "experiment_slot": position - 1,
            }
            await connection.execute(update(Job).where(Job.id == job_id).values(**place))
    return experiment_id
