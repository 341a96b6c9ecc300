"""The rows of the experiments' benchmark: a table full of jobs that are over, and queues of experiments in front."""

from dataclasses import dataclass

import asyncpg

from promptjobs.core.config import resolve
from promptjobs.db import job_commands
from promptjobs.db.balances import DEFAULT_ORGANISATION
from promptjobs.db.experiments import MAX_JOBS
from promptjobs.db.job_commands import NewJob
from promptjobs.db.jobs import JobStatus
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from scale_jobs import job_body
from scale_tables import fill

ORGANISATION = DEFAULT_ORGANISATION
JOBS_OF_AN_EXPERIMENT = MAX_JOBS
TASK_APP = "http://127.0.0.1:1"
"""Of jobs that never run."""

TEMPLATE = "pl_template"

_QUEUED = """
INSERT INTO jobs(id, organisation, algorithm, status, config, config_sent)
SELECT 'pl_' || replace(gen_random_uuid()::text, '-', ''), organisation, algorithm, 'queued', config, config_sent
FROM jobs, generate_series(1, $2::int) WHERE id = $1"""

_EXPERIMENT = "INSERT INTO experiments(id, organisation, name, parallelism, sent) VALUES ($1, $2, $1, $3, '{}')"

_JOBS = """
INSERT INTO jobs(id, organisation, algorithm, status, config, config_sent, experiment_id, experiment_position,
  experiment_label, experiment_group, experiment_settings, experiment_slot, worker_id, lease_until, started_at)
SELECT 'pl_' || replace(gen_random_uuid()::text, '-', ''), organisation, algorithm,
  CASE WHEN n <= $4 THEN 'running' ELSE 'queued' END, config, config_sent, $2, n, 'job ' || n, 'all', '{}',
  CASE WHEN n <= $4 THEN n - 1 END, CASE WHEN n <= $4 THEN 'another worker' END,
  CASE WHEN n <= $4 THEN clock_timestamp() + interval '1 hour' END, CASE WHEN n <= $4 THEN clock_timestamp() END
FROM jobs, generate_series(1, $3::int) n WHERE id = $1"""

_END = """
UPDATE jobs SET status = 'succeeded', finished_at = clock_timestamp(), started_at = coalesce(started_at, created_at),
  worker_id = NULL, lease_until = NULL WHERE status IN ('queued', 'running')"""

_GATHER = """
WITH numbered AS (
  SELECT id, row_number() OVER (ORDER BY created_at, id) - 1 AS n FROM jobs
  WHERE experiment_id IS NULL AND id <> $2),
made AS (
  INSERT INTO experiments(id, organisation, name, parallelism, sent, created_at)
  SELECT 'exp_' || n, $3, 'an old one', 3, '{}', clock_timestamp() - interval '1 day' - n * interval '1 minute'
  FROM generate_series(0, (SELECT max(n) FROM numbered) / $1) n RETURNING id)
UPDATE jobs SET experiment_id = 'exp_' || (n / $1), experiment_position = n % $1 + 1, experiment_label = 'job',
  experiment_group = 'all', experiment_settings = '{}'
FROM numbered WHERE jobs.id = numbered.id AND (SELECT count(*) FROM made) > 0"""


@dataclass(slots=True)
class Rows:
    """experiments: how many were added in front."""

    connection: asyncpg.Connection
    experiments: int = 0

    @staticmethod
    async def on(database: Database, connection: asyncpg.Connection, jobs: int) -> "Rows":
        """`jobs` jobs that are over, copies of one that the service could have made; then nothing is queued."""
        body = job_body(TASK_APP, seeds=100, concurrent=1)
        resolved = resolve(body["algorithm"], body["config_body"], {})
        text = resolved.config.model_dump_json()
        new = NewJob(
            id=TEMPLATE,
            algorithm=body["algorithm"],
            status=JobStatus.PENDING,
            config=text,
            config_sent=text,
            warnings="[]",
            metadata="{}",
            task_app_key=None,
            event_message="Created",
            event_data="{}",
        )
        async with writing(database) as writer:
            await job_commands.create(writer, new)
        await fill(connection, TEMPLATE, jobs, 0)
        return Rows(connection)

    async def add_queued(self, count: int) -> None:
        """Jobs of their own, at the end of the queue."""
        await self.connection.execute(_QUEUED, TEMPLATE, count)

    async def add_full_experiment(self, parallelism: int) -> None:
        """All its places are taken, the other jobs are queued."""
        await self.add_experiment(parallelism, running=parallelism)

    async def add_experiment(self, parallelism: int, running: int) -> str:
        """Of the greatest size, at the end of the queue. Returns its id."""
        self.experiments += 1
        experiment_id = f"exp_ahead_{self.experiments}"
        await self.connection.execute(_EXPERIMENT, experiment_id, ORGANISATION, parallelism)
        await self.connection.execute(_JOBS, TEMPLATE, experiment_id, JOBS_OF_AN_EXPERIMENT, running)
        return experiment_id

    async def clear_queue(self) -> None:
        """Whatever is queued or runs is over, and nothing of it is left in the way of later claims."""
        await self.connection.execute(_END)
        await self.settle()

    async def gather_into_experiments(self) -> None:
        """All that are over, in experiments of the greatest size; only the newest of these have been queued before."""
        await self.connection.execute(_GATHER, JOBS_OF_AN_EXPERIMENT, TEMPLATE, ORGANISATION)
        await self.settle()

    async def settle(self) -> None:
        """Afterwards the planner knows what there is."""
        await self.connection.execute("VACUUM ANALYZE jobs")
        await self.connection.execute("VACUUM ANALYZE experiments")
