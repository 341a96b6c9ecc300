"""What a client can do with experiments: estimate, create, read, list, cancel, delete."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.config_body import as_json, without_secrets
from promptjobs.core.experiment_drafts import Draft, Loaded, expand, loaded
from promptjobs.core.experiment_plan import PlannedJob, naming_job, plan
from promptjobs.db import experiments
from promptjobs.db.experiments import MAX_JOBS, ExperimentRow, ExperimentStatus, NewExperiment
from promptjobs.db.job_commands import Place
from promptjobs.db.jobs import JobRow
from promptjobs.db.session import Database
from promptjobs.db.transactions import at_one_moment, reading, writing
from promptjobs.errors import InvalidRequest
from promptjobs.jobs.configs import with_saved
from promptjobs.jobs.experiment_estimate import summed
from promptjobs.jobs.service import MAX_METADATA_BYTES, JobRequest, JobService
from promptjobs.jobs.turns import Turns

MAX_PARALLELISM = 64
MAX_PLANNING_WAITING = 7
"""With an Idempotency-Key, each of them holds one of the pool's twenty connections."""


@dataclass(frozen=True, slots=True)
class ExperimentRequest:
    """What a client has sent. jobs: each an object of config, config_name, algorithm, config_overrides, label and
    metadata. matrix: values by short name or dotted path. parallelism: jobs that run at a time, 1..64.
    """

    name: str
    jobs: Sequence[Mapping[str, Any]]
    description: str | None = None
    parallelism: int = 3
    matrix: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """An experiment with its jobs, in the order of their positions."""

    row: ExperimentRow
    jobs: Sequence[JobRow]


class ExperimentService:
    """The experiments of one database. jobs: makes the jobs of new ones."""

    def __init__(self, database: Database, jobs: JobService) -> None:
        self._database, self._jobs = database, jobs
        self._planning = Turns("experiments that are being planned", at_once=1, waiting=MAX_PLANNING_WAITING)

    async def create(self, request: ExperimentRequest, organisation: str) -> ExperimentView:
        """Plan and store all jobs and queue them, or nothing where one of them is refused.

        Raises InvalidRequest; OverrideIneffective; and what `JobService.create` raises, naming the job.
        """
        new, planned = await self._planned(request, organisation)
        async with writing(self._database) as connection:
            await experiments.create(connection, new)
            for job in planned:
                with naming_job(job.draft, job.label, job.places):
                    await self._jobs.store_in(connection, _job_request(job, new.id), organisation)
            return await self._view(connection, new.id)

    async def estimate(self, request: ExperimentRequest, organisation: str) -> dict[str, Any]:
        """What all jobs together and each of them would take and cost, as JSON; nothing is stored.

        Raises what `create` raises, except BalanceEmpty.
        """
        _, planned = await self._planned(request, organisation)
        estimates = []
        for job in planned:
            with naming_job(job.draft, job.label, job.places):
                estimates.append(await self._jobs.estimate(_job_request(job, None), organisation))
        return summed(planned, estimates, request.parallelism)

    async def _planned(self, request: ExperimentRequest, organisation: str) -> tuple[NewExperiment, list[PlannedJob]]:
        """In a thread, because hundreds of configs would keep the server from everything else for seconds.

        One request at a time: planning takes a core, and who waits may hold a connection of the pool.
        Raises RateLimited where too many wait.
        """
        async with self._planning.turn():
            new = await asyncio.to_thread(_new_experiment, request, organisation)
            drafts = expand(request.jobs, request.matrix, MAX_JOBS)
            async with reading(self._database) as connection:
                with_configs = await _loaded(connection, drafts, organisation)
            return new, await asyncio.to_thread(plan, with_configs)

    async def get(self, experiment_id: str) -> ExperimentView:
        """Raises ExperimentNotFound."""
        async with at_one_moment(self._database) as connection:
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


async def _loaded(connection: AsyncConnection, drafts: Sequence[Draft], organisation: str) -> list[Loaded]:
    """With their configs, saved ones read once each. Raises InvalidRequest, naming the job."""
    known: dict[tuple[int, str | None], tuple[str, Mapping[str, Any]]] = {}
    found = []
    for draft in drafts:
        asked, key = draft.asked, (draft.index, draft.algorithm)
        if asked.get("config_name") is None:
            found.append(loaded(draft, draft.algorithm, asked["config"]))
            continue
        if key not in known:
            with naming_job(draft, draft.label or asked["config_name"], {}):
                saved = (connection, organisation, asked["config_name"], draft.algorithm, asked.get("config"))
                known[key] = await with_saved(*saved)
        found.append(loaded(draft, *known[key]))
    return found


def _new_experiment(request: ExperimentRequest, organisation: str) -> NewExperiment:
    """As it is stored. Raises InvalidRequest, also for what cannot be stored."""
    if not 1 <= request.parallelism <= MAX_PARALLELISM:
        raise InvalidRequest(f"expected 1 to {MAX_PARALLELISM}, got {request.parallelism}", "parallelism")
    sent = {
        "name": request.name,
        "description": request.description,
        "parallelism": request.parallelism,
        "jobs": [as_json(job, (f"jobs[{index}]",)) for index, job in enumerate(request.jobs)],
        "matrix": dict(request.matrix),
        "metadata": dict(request.metadata),
    }
    kept = without_secrets({name: as_json(value, (name,)) for name, value in sent.items()})
    metadata = orjson.dumps(kept["metadata"])
    if len(metadata) > MAX_METADATA_BYTES:
        raise InvalidRequest(f"at most {MAX_METADATA_BYTES} bytes of JSON are kept, got {len(metadata)}", "metadata")
    return NewExperiment(
        id=f"exp_{uuid.uuid4().hex}",
        organisation=organisation,
        name=request.name,
        description=request.description,
        parallelism=request.parallelism,
        sent=orjson.dumps(kept).decode(),
        metadata=metadata.decode(),
    )


def _job_request(job: PlannedJob, experiment_id: str | None) -> JobRequest:
    """experiment_id: None for a job that is only estimated."""
    asked, settings = job.draft.asked, orjson.dumps(dict(job.settings)).decode()
    place = None if experiment_id is None else Place(experiment_id, job.draft.position, job.label, job.group, settings)
    return JobRequest(
        algorithm=job.algorithm,
        config_body=asked.get("config"),
        overrides=job.overrides,
        metadata=asked.get("metadata") or {},
        config_name=asked.get("config_name"),
        place=place,
        resolution=job.resolution,
    )
