"""Whole searches in the database, with all their facts and answers, as a worker leaves them: going on, or published."""

from dataclasses import dataclass
from functools import cache

from promptjobs.core.config import JobConfig
from promptjobs.core.result import OptimizationResult
from promptjobs.db.journal import Group, write_group
from promptjobs.db.publishing import end_job, load_spent, load_statistics
from promptjobs.db.session import Database
from promptjobs.jobs.publish import ending_of
from tests.fakes.recorded_jobs import running_job
from tests.golden.record import MOST_TURNS, Recorder
from tests.golden.scenarios import SCENARIOS, Scenario


@cache
def _run(scenario: Scenario | str, turns: int) -> tuple[JobConfig, Group, OptimizationResult | None]:
    found = next(s for s in SCENARIOS if s.name == scenario) if isinstance(scenario, str) else scenario
    recorder = Recorder(found)
    group = recorder.run(turns)
    return recorder.config, group, recorder.lanes.result if recorder.lanes.has_ended else None


@dataclass
class RecordedSearch:
    """A job with what its search has recorded; result: None while it goes on."""

    database: Database
    job_id: str
    epoch: int
    config: JobConfig
    result: OptimizationResult | None

    async def publish(self) -> None:
        """End the job as its worker would."""
        connection = await self.database.connect()
        try:
            statistics, spent = (
                await load_statistics(connection, self.job_id),
                await load_spent(connection, self.job_id),
            )
            ending = ending_of(self.config, self.result, statistics, spent)
            await end_job(connection, self.job_id, self.epoch, ending)
        finally:
            await connection.close()


async def recorded_search(database: Database, name: str, turns: int = MOST_TURNS) -> RecordedSearch:
    """The golden scenario of this name after so many turns."""
    config, group, result = _run(name, turns)
    job = await running_job(database)
    connection = await database.connect()
    try:
        written = await write_group(connection, job.job_id, job.epoch, 1, group)
        assert written is not None
        await connection.execute(
            "UPDATE jobs SET config = $2, algorithm = $3 WHERE id = $1",
            job.job_id,
            config.model_dump_json(),
            config.algorithm,
        )
    finally:
        await connection.close()
    return RecordedSearch(database, job.job_id, job.epoch, config, result)
