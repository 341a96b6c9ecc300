"""What a client can do with jobs: estimate, create, fork, read, list, start, pause, resume, cancel, delete."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.clients.providers import Providers
from promptjobs.core.config import JobConfig, Resolution, resolve
from promptjobs.core.config_body import without_secrets
from promptjobs.db import balances, job_commands, jobs
from promptjobs.db.job_commands import NewJob, Place
from promptjobs.db.jobs import ConfigRow, JobFilter, JobRow, JobStatus
from promptjobs.db.secrets import seal_task_app_key
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from promptjobs.db.vault import Vault
from promptjobs.errors import BudgetTooSmall, InvalidRequest
from promptjobs.errors.shown import MAX_SHOWN
from promptjobs.jobs.configs import SavedConfigs, with_saved
from promptjobs.jobs.estimating import estimate_job
from promptjobs.jobs.forking import ForkRequest, forked, narrowing, warm_started
from promptjobs.jobs.labels import labels_of
from promptjobs.jobs.pricing_check import check_priced
from promptjobs.jobs.provider_check import check_providers

MAX_METADATA_BYTES = 64 * 1024
MAX_UNKNOWN = 20


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a client has sent. unknown: names of further fields, which are ignored with a warning each.

    algorithm, config_body: may be None where config_name says which saved config stands for them. parent_id: the job
    that this one is a fork of. place: in an experiment. resolution: of the request's config, where that is known
    already.
    """

    algorithm: str | None
    config_body: Mapping[str, Any] | None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    auto_start: bool = True
    config_name: str | None = None
    unknown: Sequence[str] = ()
    parent_id: str | None = None
    place: Place | None = None
    resolution: Resolution | None = None


class JobService:
    """The jobs of one database. check_budget raises BudgetTooSmall for a budget that cannot hold a whole search.

    providers: those of the server. configs: what organisations have saved for jobs to come.
    """

    def __init__(
        self, database: Database, providers: Providers, check_budget: Callable[[JobConfig], None], vault: Vault
    ) -> None:
        self.database = database
        self.providers = providers
        self.configs = SavedConfigs(database, check_budget)
        self._check_budget = check_budget
        self.vault = vault

    async def create(self, request: JobRequest, organisation: str) -> JobRow:
        """Resolve the config once, store what will run, and queue the job unless it is to wait for its start.

        Raises InvalidRequest and its kinds: InvalidConfig, NotYetSupported, ProviderNotConfigured, BudgetTooSmall,
        UnpricedModel; and BalanceEmpty, SecretUnreadable.
        """
        async with writing(self.database) as connection:
            return await self.create_in(connection, request, organisation)

    async def fork(self, job_id: str, asked: ForkRequest, organisation: str) -> JobRow:
        """A new job from the request of an earlier one. Raises JobNotFound, and what `create` raises.

        Where the client has not said how many candidates it is to begin with, they are as many as the budget holds.
        """
        *wider, last = narrowing(asked)
        async with writing(self.database) as connection:
            for each in wider:
                with suppress(BudgetTooSmall):
                    return await self._fork(connection, job_id, each, organisation)
            return await self._fork(connection, job_id, last, organisation)

    async def _fork(self, connection: AsyncConnection, job_id: str, asked: ForkRequest, organisation: str) -> JobRow:
        parent = await forked(connection, organisation, job_id, asked)
        request = JobRequest(
            algorithm=parent.algorithm,
            config_body=parent.config_body,
            overrides=parent.overrides,
            metadata=asked.metadata or {},
            auto_start=asked.auto_start,
            unknown=asked.unknown,
            parent_id=job_id,
        )
        return await self.create_in(connection, request, organisation)

    async def estimate(self, request: JobRequest, organisation: str) -> dict[str, Any]:
        """What the job would take and cost, as JSON; nothing is stored.

        Raises what `create` raises, except BalanceEmpty: it tells how much has to be added.
        """
        async with reading(self.database) as connection:
            config, _ = await self._prepared(connection, request, organisation)
            check_priced(config, await balances.read(connection, organisation) is not None)
        return estimate_job(config)

    async def create_in(self, connection: AsyncConnection, request: JobRequest, organisation: str) -> JobRow:
        """`create` as a part of a transaction."""
        return await jobs.read(connection, await self.store_in(connection, request, organisation))

    async def store_in(self, connection: AsyncConnection, request: JobRequest, organisation: str) -> str:
        """The same for its id alone."""
        config, job = await self._prepared(connection, request, organisation)
        balance = await balances.read(connection, organisation)
        check_priced(config, balance is not None)
        balances.require_money(balance)
        await job_commands.create(connection, job)
        return job.id

    async def _prepared(
        self, connection: AsyncConnection, request: JobRequest, organisation: str
    ) -> tuple[JobConfig, NewJob]:
        """What will run, and the job as it is stored. Raises InvalidRequest and its kinds."""
        metadata = _metadata_text(request.metadata)
        resolved = request.resolution
        if resolved is None:
            saved = (connection, organisation, request.config_name, request.algorithm, request.config_body)
            resolved = resolve(*await with_saved(*saved), request.overrides)
        resolution = await warm_started(connection, organisation, resolved)
        await check_providers(connection, resolution.config, self.providers, self.vault, organisation)
        self._check_budget(resolution.config)
        return resolution.config, self._new_job(request, organisation, resolution, metadata)

    def _new_job(self, request: JobRequest, organisation: str, resolution: Resolution, metadata: str) -> NewJob:
        config, job_id = resolution.config, f"pl_{uuid.uuid4().hex}"
        warnings = [*_unknown(request.unknown), *resolution.warnings]
        data = {
            "algorithm": config.algorithm,
            "provider": config.policy.provider,
            "model": config.policy.model,
            "rollout_budget": config.search.rollout_budget,
            "auto_start": request.auto_start,
            "warnings": warnings,
            "parent_id": request.parent_id,
            "config_name": request.config_name,
            "warm_start": [prompt.origin for prompt in config.search.warm_prompts],
        }
        forked_from = "" if request.parent_id is None else f", forked from {request.parent_id}"
        return NewJob(
            id=job_id,
            organisation=organisation,
            algorithm=config.algorithm,
            status=JobStatus.QUEUED if request.auto_start else JobStatus.PENDING,
            config=config.model_dump_json(),
            config_sent=orjson.dumps(resolution.sent).decode(),
            warnings=orjson.dumps(warnings).decode(),
            metadata=metadata,
            labels=labels_of(orjson.loads(metadata)),
            parent_id=request.parent_id,
            config_name=request.config_name,
            place=request.place,
            task_app_key=seal_task_app_key(self.vault, resolution.task_app_key, job_id),
            event_message=f"Created a {config.algorithm} job with {config.search.rollout_budget} rollouts{forked_from}",
            event_data=orjson.dumps(data).decode(),
        )

    async def get(self, job_id: str) -> JobRow:
        """Raises JobNotFound."""
        async with reading(self.database) as connection:
            return await jobs.read(connection, job_id)

    async def page(self, wanted: JobFilter) -> list[JobRow]:
        """Newest first. Raises InvalidRequest for a cursor that is no job."""
        async with reading(self.database) as connection:
            return await jobs.read_page(connection, wanted)

    async def config(self, job_id: str) -> ConfigRow:
        """Raises JobNotFound."""
        async with reading(self.database) as connection:
            return await jobs.read_config(connection, job_id)

    async def start(self, job_id: str) -> JobRow:
        """Queue a pending job. Raises JobNotFound; JobConflict where it is over; BalanceEmpty."""
        async with writing(self.database) as connection:
            await job_commands.start(connection, job_id)
            return await jobs.read(connection, job_id)

    async def pause(self, job_id: str) -> JobRow:
        """Set the job aside, or have its worker do so; repeating it changes nothing.

        Raises JobNotFound, JobConflict.
        """
        async with writing(self.database) as connection:
            await job_commands.pause(connection, job_id)
            return await jobs.read(connection, job_id)

    async def resume(self, job_id: str) -> JobRow:
        """Let a paused job go on; repeating it changes nothing. Raises JobNotFound, JobConflict, BalanceEmpty."""
        async with writing(self.database) as connection:
            await job_commands.resume(connection, job_id)
            return await jobs.read(connection, job_id)

    async def cancel(self, job_id: str, reason: str | None = None) -> JobRow:
        """End the job, or have its worker end it; repeating it changes nothing. Raises JobNotFound."""
        async with writing(self.database) as connection:
            await job_commands.cancel(connection, job_id, reason)
            return await jobs.read(connection, job_id)

    async def delete(self, job_id: str) -> None:
        """Delete a job that is over, with all that it has left. Raises JobNotFound, JobConflict."""
        async with writing(self.database) as connection:
            await job_commands.remove(connection, job_id)


def _unknown(names: Sequence[str]) -> list[str]:
    warnings = [f"unknown field {name[:MAX_SHOWN]!r} is ignored" for name in names[:MAX_UNKNOWN]]
    return warnings if len(names) <= MAX_UNKNOWN else [*warnings, f"and {len(names) - MAX_UNKNOWN} more"]


def _metadata_text(metadata: Mapping[str, Any]) -> str:
    """JSON text of what the client keeps with its job, without secrets."""
    text = orjson.dumps(without_secrets(dict(metadata)))
    if len(text) > MAX_METADATA_BYTES:
        raise InvalidRequest(f"at most {MAX_METADATA_BYTES} bytes of JSON are kept, got {len(text)}", "metadata")
    return text.decode()
