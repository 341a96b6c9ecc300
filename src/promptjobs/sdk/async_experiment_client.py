"""What `AsyncClient` asks about experiments: many jobs, created together and compared in one table."""

from collections.abc import AsyncIterator
from functools import partial
from typing import cast

from promptjobs.sdk import experiment_requests
from promptjobs.sdk.async_sender import AsyncSender
from promptjobs.sdk.connection import Connection
from promptjobs.sdk.experiment_files import ExperimentSource
from promptjobs.sdk.experiment_following import OF_EXPERIMENT, ExperimentEvent, ExperimentFollowing
from promptjobs.sdk.experiment_requests import Compared, ComparedSeeds, TableFormat
from promptjobs.sdk.experiment_shapes import Experiment, ExperimentEstimate, ExperimentResults, JobComparison
from promptjobs.sdk.following import GIVE_UP_AFTER_SECONDS, OnBreak, Patience, Waiting


class AsyncExperimentClient:
    """The part of `AsyncClient` that is about experiments."""

    _sender: AsyncSender
    _connection: Connection

    async def create_experiment(
        self, experiment: ExperimentSource, *, idempotency_key: str | None = None
    ) -> Experiment:
        return await self._sender.send(experiment_requests.create(experiment, idempotency_key))

    async def estimate_experiment(self, experiment: ExperimentSource) -> ExperimentEstimate:
        return await self._sender.send(experiment_requests.estimate(experiment))

    def experiments(self, *, status: str | None = None, limit: int | None = None) -> AsyncIterator[Experiment]:
        found = self._sender.items(experiment_requests.experiments(status, limit))
        return cast(AsyncIterator[Experiment], found)

    async def experiment(self, experiment_id: str) -> Experiment:
        return await self._sender.send(experiment_requests.experiment(experiment_id))

    async def cancel_experiment(self, experiment_id: str, reason: str | None = None) -> Experiment:
        return await self._sender.send(experiment_requests.cancel(experiment_id, reason))

    async def delete_experiment(self, experiment_id: str) -> None:
        await self._sender.send(experiment_requests.delete(experiment_id))

    async def experiment_results(
        self, experiment_id: str, *, compare: Compared | None = None, variants: int | None = None
    ) -> ExperimentResults:
        return await self._sender.send(experiment_requests.results(experiment_id, compare, variants))

    async def experiment_results_text(
        self,
        experiment_id: str,
        format: TableFormat = "markdown",  # noqa: A002 - the service's own word
        *,
        compare: Compared | None = None,
        variants: int | None = None,
    ) -> str:
        return await self._sender.send(experiment_requests.results_text(experiment_id, format, compare, variants))

    async def compare_jobs(
        self, experiment_id: str, first: str, second: str, *, seeds: ComparedSeeds | None = None
    ) -> JobComparison:
        return await self._sender.send(experiment_requests.compare_jobs(experiment_id, first, second, seeds))

    def follow_experiment(
        self,
        experiment_id: str,
        cursor: str | None = None,
        *,
        give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS,
        on_break: OnBreak | None = None,
    ) -> AsyncIterator[ExperimentEvent]:
        following = ExperimentFollowing(cursor or "", Patience(self._connection.url, give_up_after_seconds))
        return self._sender.follow(following, partial(experiment_requests.stream, experiment_id), on_break)

    async def wait_for_experiment(
        self,
        experiment_id: str,
        timeout_seconds: float | None = None,
        *,
        give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS,
    ) -> Experiment:
        patience = Patience(self._connection.url, give_up_after_seconds)
        waiting = Waiting(experiment_id, timeout_seconds, patience, OF_EXPERIMENT)
        return await self._sender.wait(experiment_requests.experiment(experiment_id), waiting)
