"""The client for programs with an event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import httpx

from promptjobs.sdk import job_requests, result_requests
from promptjobs.sdk.async_account_client import AsyncAccountClient
from promptjobs.sdk.async_experiment_client import AsyncExperimentClient
from promptjobs.sdk.async_plot_client import AsyncPlotClient
from promptjobs.sdk.async_sender import AsyncSender
from promptjobs.sdk.config_files import ConfigSource
from promptjobs.sdk.connection import Connection
from promptjobs.sdk.events import Event
from promptjobs.sdk.following import GIVE_UP_AFTER_SECONDS, Following, OnBreak, Patience, Waiting, checked_cursor
from promptjobs.sdk.job_requests import WarmStart
from promptjobs.sdk.result_requests import ReportFormat
from promptjobs.sdk.shapes import (
    Archive,
    Artifact,
    Candidate,
    Config,
    Estimate,
    EventPage,
    Job,
    Json,
    Lineage,
    MetricPoint,
    Result,
    Rollout,
    Snapshot,
    Trial,
)


class AsyncClient(AsyncAccountClient, AsyncExperimentClient, AsyncPlotClient):
    """As `Client`, method by method; each that asks the service is awaited, or iterated with `async for`."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 30.0,
        http_client: httpx.AsyncClient | None = None,
        max_retries: int = 2,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """As of `Client`."""
        self._connection = Connection.open(url, api_key, timeout_seconds, max_retries)
        self._sender = AsyncSender(self._connection, http_client, sleep)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    @property
    def url(self) -> str:
        """Where the service is; without a slash at its end."""
        return self._connection.url

    @property
    def has_key(self) -> bool:
        """Whether an API key is sent."""
        return self._connection.api_key is not None

    async def close(self) -> None:
        """End the connections, unless they are of a client that was given."""
        await self._sender.close()

    async def is_ready(self) -> bool:
        return await self._sender.send(job_requests.readiness())

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def create(
        self,
        config: ConfigSource | None = None,
        *,
        algorithm: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        config_name: str | None = None,
        auto_start: bool = True,
        idempotency_key: str | None = None,
    ) -> Job:
        return await self._sender.send(
            job_requests.create(config, algorithm, overrides, metadata, config_name, auto_start, idempotency_key)
        )

    async def estimate(
        self,
        config: ConfigSource | None = None,
        *,
        algorithm: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        config_name: str | None = None,
    ) -> Estimate:
        return await self._sender.send(job_requests.estimate(config, algorithm, overrides, config_name))

    async def job(self, job_id: str) -> Job:
        return await self._sender.send(job_requests.job(job_id))

    def jobs(
        self,
        *,
        status: str | None = None,
        algorithm: str | None = None,
        since: datetime | str | None = None,
        metadata: Mapping[str, object] | None = None,
        parent_id: str | None = None,
        config_name: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Job]:
        wanted = job_requests.jobs(status, algorithm, since, metadata, parent_id, config_name, limit)
        found = self._sender.items(wanted)
        return cast(AsyncIterator[Job], found)

    async def start(self, job_id: str) -> Job:
        return await self._sender.send(job_requests.command(job_id, "start"))

    async def pause(self, job_id: str) -> Job:
        return await self._sender.send(job_requests.command(job_id, "pause"))

    async def resume(self, job_id: str) -> Job:
        return await self._sender.send(job_requests.command(job_id, "resume"))

    async def cancel(self, job_id: str, reason: str | None = None) -> Job:
        return await self._sender.send(job_requests.cancel(job_id, reason))

    async def delete(self, job_id: str) -> None:
        await self._sender.send(job_requests.delete(job_id))

    async def fork(
        self,
        job_id: str,
        *,
        overrides: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        warm_start: WarmStart | None = None,
        auto_start: bool = True,
        task_app_api_key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        wanted = job_requests.fork(
            job_id, overrides, metadata, warm_start, auto_start, task_app_api_key, idempotency_key
        )
        return await self._sender.send(wanted)

    async def config(self, job_id: str) -> Config:
        return await self._sender.send(job_requests.config(job_id))

    # --- following ---------------------------------------------------------------------------------------------------

    async def events(self, job_id: str, after: int = 0, limit: int | None = None) -> EventPage:
        return await self._sender.send(job_requests.events(job_id, checked_cursor(after), limit))

    def follow(
        self,
        job_id: str,
        after: int = 0,
        *,
        give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS,
        on_break: OnBreak | None = None,
    ) -> AsyncIterator[Event]:
        following = Following(checked_cursor(after), Patience(self.url, give_up_after_seconds))
        return self._sender.follow(following, partial(job_requests.stream, job_id), on_break)

    async def wait(
        self,
        job_id: str,
        timeout_seconds: float | None = None,
        *,
        give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS,
    ) -> Job:
        waiting = Waiting(job_id, timeout_seconds, Patience(self.url, give_up_after_seconds))
        return await self._sender.wait(job_requests.job(job_id), waiting)

    # --- results -----------------------------------------------------------------------------------------------------

    async def result(self, job_id: str) -> Result:
        return await self._sender.send(job_requests.result(job_id))

    def trials(
        self,
        job_id: str,
        *,
        phase: str | None = None,
        candidate_id: str | None = None,
        since: datetime | str | None = None,
        with_rollouts: bool = True,
        limit: int | None = None,
    ) -> AsyncIterator[Trial]:
        wanted = result_requests.trials(job_id, phase, candidate_id, since, with_rollouts, limit)
        return cast(AsyncIterator[Trial], self._sender.items(wanted))

    def rollouts(
        self,
        job_id: str,
        *,
        candidate_id: str | None = None,
        seed: int | None = None,
        phase: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Rollout]:
        wanted = result_requests.rollouts(job_id, candidate_id, seed, phase, limit)
        return cast(AsyncIterator[Rollout], self._sender.items(wanted))

    async def rollout(self, job_id: str, rollout_id: str) -> Rollout:
        return await self._sender.send(result_requests.rollout(job_id, rollout_id))

    def candidates(
        self,
        job_id: str,
        *,
        status: str | None = None,
        operator: str | None = None,
        is_pareto: bool | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Candidate]:
        wanted = result_requests.candidates(job_id, status, operator, is_pareto, limit)
        return cast(AsyncIterator[Candidate], self._sender.items(wanted))

    async def candidate(self, job_id: str, candidate_id: str) -> Candidate:
        return await self._sender.send(result_requests.candidate(job_id, candidate_id))

    def refused_proposals(self, job_id: str, *, limit: int | None = None) -> AsyncIterator[Json]:
        return self._sender.items(result_requests.refused_proposals(job_id, limit))

    def completions(self, job_id: str, *, purpose: str | None = None, limit: int | None = None) -> AsyncIterator[Json]:
        return self._sender.items(result_requests.completions(job_id, purpose, limit))

    async def archive(self, job_id: str) -> Archive:
        return await self._sender.send(result_requests.archive(job_id))

    async def lineage(self, job_id: str, *, after: int | None = None, limit: int | None = None) -> Lineage:
        return await self._sender.send(result_requests.lineage(job_id, after, limit))

    async def report(self, job_id: str, format: ReportFormat = "markdown") -> str:  # noqa: A002 - the service's own word
        return await self._sender.send(result_requests.report(job_id, format))

    async def artifacts(self, job_id: str) -> list[Artifact]:
        return await self._sender.send(result_requests.artifacts(job_id))

    async def snapshots(self, job_id: str, *, limit: int | None = None) -> list[Json]:
        return await self._sender.send(result_requests.snapshots(job_id, limit))

    async def snapshot(self, job_id: str, snapshot_id: str) -> Snapshot:
        return await self._sender.send(result_requests.snapshot(job_id, snapshot_id))

    async def metrics(self, job_id: str, *, limit: int | None = None) -> list[MetricPoint]:
        return await self._sender.send(result_requests.metrics(job_id, limit))

    async def learning_curve(self, job_id: str) -> list[Json]:
        return await self._sender.send(result_requests.learning_curve(job_id))
