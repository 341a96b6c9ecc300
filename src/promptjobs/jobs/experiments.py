"""What a client can do with experiments: estimate, create, read, list, cancel, delete."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db import experiments
from promptjobs.db.experiments import ExperimentRow, ExperimentStatus
from promptjobs.db.jobs import JobRow
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from promptjobs.jobs.service import JobService


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """An experiment with its jobs, in the order of their positions."""

    row: ExperimentRow
    jobs: Sequence[JobRow]


class ExperimentService:
    """The experiments of one database. jobs: makes the jobs of new ones."""

    def __init__(self, database: Database, jobs: JobService) -> None:
        self._database, self._jobs = database, jobs

    async def get(self, experiment_id: str) -> ExperimentView:
        """Raises ExperimentNotFound."""
        async with reading(self._database) as connection:
            return await self._view(connection, experiment_id)

    async def page(
        self, organisation: str, limit: int, after: str | None = None, status: ExperimentStatus | None = None
    ) -> list[ExperimentRow]:
        """Newest first. Raises InvalidRequest for a cursor that is no experiment."""
        async with reading(self._database) as connection:
            return await experiments.read_page(connection, organisation, limit, after, status)

    async def cancel(self, experiment_id: str, reason: str | None = None) -> ExperimentView:
        """Cancel all jobs that are not over; repeating it changes nothing. Raises ExperimentNotFound."""
        async with writing(self._database) as connection:
            await experiments.cancel(connection, experiment_id, reason)
            return await self._view(connection, experiment_id)

    async def delete(self, experiment_id: str) -> None:
        """Delete an experiment that is over, with its jobs. Raises ExperimentNotFound, ExperimentConflict."""
        async with writing(self._database) as connection:
            await experiments.remove(connection, experiment_id)

    async def _view(self, connection: AsyncConnection, experiment_id: str) -> ExperimentView:
        row = await experiments.read(connection, experiment_id)
        return ExperimentView(row, await experiments.read_jobs(connection, row))
