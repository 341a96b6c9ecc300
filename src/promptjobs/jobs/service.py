"""What a client can do with jobs: estimate, create, read, list, start, pause, resume, cancel, delete."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from promptjobs.clients.providers import Providers
from promptjobs.core.config import JobConfig, Resolution, resolve
from promptjobs.core.config_body import without_secrets
from promptjobs.db import balances, job_commands, jobs
from promptjobs.db.job_commands import NewJob
from promptjobs.db.jobs import ConfigRow, JobFilter, JobRow, JobStatus
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from promptjobs.errors import InvalidRequest, NotYetSupported
from promptjobs.jobs.estimating import estimate_job
from promptjobs.jobs.pricing_check import check_priced

MAX_METADATA_BYTES = 64 * 1024
MAX_UNKNOWN = 20
MAX_SHOWN = 100


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a client has sent. unknown: names of further fields, which are ignored with a warning each."""

    algorithm: str
    config_body: Mapping[str, Any]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    auto_start: bool = True
    config_name: str | None = None
    unknown: Sequence[str] = ()


class JobService:
    """The jobs of one database. check_budget raises BudgetTooSmall for a budget that cannot hold a whole search."""

    def __init__(self, database: Database, providers: Providers, check_budget: Callable[[JobConfig], None]) -> None:
        self.database = database
        self._providers = providers
        self._check_budget = check_budget

    async def create(self, request: JobRequest) -> JobRow:
        """Resolve the config once, store what will run, and queue the job unless it is to wait for its start.

        Raises InvalidRequest and its kinds: InvalidConfig, NotYetSupported, ProviderNotConfigured, BudgetTooSmall,
        UnpricedModel; and BalanceEmpty.
        """
        config, job = self._prepared(request)
        async with writing(self.database) as connection:
            check_priced(config, await balances.has_balance(connection, job.organisation))
            await job_commands.require_money(connection, job.organisation)
            await job_commands.create(connection, job)
            return await jobs.read(connection, job.id)

    async def estimate(self, request: JobRequest) -> dict[str, Any]:
        """What the job would take and cost, as JSON; nothing is stored.

        Raises what `create` raises, except BalanceEmpty: it tells how much has to be added.
        """
        config, job = self._prepared(request)
        async with reading(self.database) as connection:
            check_priced(config, await balances.has_balance(connection, job.organisation))
        return estimate_job(config)

    def _prepared(self, request: JobRequest) -> tuple[JobConfig, NewJob]:
        """What will run, and the job as it is stored. Raises InvalidRequest and its kinds."""
        if request.config_name is not None:
            raise NotYetSupported("saved configs are not supported yet: send the config itself", "config_name")
        metadata = _metadata_text(request.metadata)
        resolution = resolve(request.algorithm, request.config_body, request.overrides)
        for provider in _providers_of(resolution.config):
            self._providers.get(provider)
        self._check_budget(resolution.config)
        return resolution.config, _new_job(request, resolution, metadata)

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


def _providers_of(config: JobConfig) -> list[str]:
    """The providers that the job will call."""
    search = config.search
    named = [config.policy.provider, search.meta_model.provider]
    if search.verifier is not None:
        named.append(search.verifier.backend_provider)
    if search.proxy_models is not None:
        named.append(search.proxy_models.lo_provider)
    return [*named, *(policy.provider for policy in search.module_policies.values())]


def _new_job(request: JobRequest, resolution: Resolution, metadata: str) -> NewJob:
    config = resolution.config
    warnings = [*_unknown(request.unknown), *resolution.warnings]
    data = {
        "algorithm": config.algorithm,
        "provider": config.policy.provider,
        "model": config.policy.model,
        "rollout_budget": config.search.rollout_budget,
        "auto_start": request.auto_start,
        "warnings": warnings,
    }
    return NewJob(
        id=f"pl_{uuid.uuid4().hex}",
        algorithm=config.algorithm,
        status=JobStatus.QUEUED if request.auto_start else JobStatus.PENDING,
        config=config.model_dump_json(),
        config_sent=orjson.dumps(resolution.sent).decode(),
        warnings=orjson.dumps(warnings).decode(),
        metadata=metadata,
        task_app_key=resolution.task_app_key,
        event_message=f"Created a {config.algorithm} job with {config.search.rollout_budget} rollouts",
        event_data=orjson.dumps(data).decode(),
    )


def _unknown(names: Sequence[str]) -> list[str]:
    warnings = [f"unknown field {name[:MAX_SHOWN]!r} is ignored" for name in names[:MAX_UNKNOWN]]
    return warnings if len(names) <= MAX_UNKNOWN else [*warnings, f"and {len(names) - MAX_UNKNOWN} more"]


def _metadata_text(metadata: Mapping[str, Any]) -> str:
    """JSON text of what the client keeps with its job, without secrets."""
    text = orjson.dumps(without_secrets(dict(metadata)))
    if len(text) > MAX_METADATA_BYTES:
        raise InvalidRequest(f"at most {MAX_METADATA_BYTES} bytes of JSON are kept, got {len(text)}", "metadata")
    return text.decode()
