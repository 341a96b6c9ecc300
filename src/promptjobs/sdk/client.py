"""The client for programs that wait for each answer."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import httpx

from promptjobs.sdk import job_requests, result_requests
from promptjobs.sdk.account_client import AccountClient
from promptjobs.sdk.config_files import ConfigSource
from promptjobs.sdk.connection import Connection
from promptjobs.sdk.events import Event
from promptjobs.sdk.experiment_client import ExperimentClient
from promptjobs.sdk.following import GIVE_UP_AFTER_SECONDS, Following, OnBreak, Patience, Waiting, checked_cursor
from promptjobs.sdk.job_requests import WarmStart
from promptjobs.sdk.plot_client import PlotClient
from promptjobs.sdk.result_requests import ReportFormat
from promptjobs.sdk.sender import Sender
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


class Client(AccountClient, ExperimentClient, PlotClient):
    """A service, with one method for each thing that it can be asked. May be shared by threads.

    Every method raises ApiError, whose subclasses name the reasons, for an answer that is an error, and
    ConnectionFailed where there is no usable answer. What only reads is asked again after a passing failure, up to
    `max_retries` times; so are `create`, `create_experiment` and `fork`, which the service carries out once all the
    same.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 30.0,
        http_client: httpx.Client | None = None,
        max_retries: int = 2,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """url, api_key: those of PROMPTJOBS_URL and PROMPTJOBS_API_KEY where they are not given.

        timeout_seconds: of a request, without a byte of its answer. http_client: one of your own, with its proxies and
        certificates; `close` leaves it open. max_retries: 0..10. sleep: how a pause is made. Raises ArgumentInvalid.
        """
        self._connection = Connection.open(url, api_key, timeout_seconds, max_retries)
        self._sender = Sender(self._connection, http_client, sleep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    @property
    def url(self) -> str:
        """Where the service is; without a slash at its end."""
        return self._connection.url

    @property
    def has_key(self) -> bool:
        """Whether an API key is sent."""
        return self._connection.api_key is not None

    def close(self) -> None:
        """End the connections, unless they are of a client that was given."""
        self._sender.close()

    def is_ready(self) -> bool:
        """Whether the service can work."""
        return self._sender.send(job_requests.readiness())

    # --- jobs --------------------------------------------------------------------------------------------------------

    def create(
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
        """Create a job, and start it unless `auto_start` is false.

        config: a mapping, or the path of a TOML file; config_name: a saved one instead. algorithm: where it is not the
        config's. overrides: values by dotted path. idempotency_key: requests with the same one create one job; a new
        one for each call unless it is given. Raises ConfigFileInvalid.
        """
        return self._sender.send(
            job_requests.create(config, algorithm, overrides, metadata, config_name, auto_start, idempotency_key)
        )

    def estimate(
        self,
        config: ConfigSource | None = None,
        *,
        algorithm: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        config_name: str | None = None,
    ) -> Estimate:
        """What such a job would take and cost; nothing is created. Raises ConfigFileInvalid."""
        return self._sender.send(job_requests.estimate(config, algorithm, overrides, config_name))

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return self._sender.send(job_requests.job(job_id))

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
    ) -> Iterator[Job]:
        """All jobs that fit, newest first, at most `limit`. metadata: scalars that the job's own metadata holds.

        parent_id: of the job that they were forked from. config_name: of the saved config that they were made of.
        """
        wanted = job_requests.jobs(status, algorithm, since, metadata, parent_id, config_name, limit)
        found = self._sender.items(wanted)
        return cast(Iterator[Job], found)

    def start(self, job_id: str) -> Job:
        """Start a job that was created with `auto_start=False`. This and the next may be repeated without effect."""
        return self._sender.send(job_requests.command(job_id, "start"))

    def pause(self, job_id: str) -> Job:
        return self._sender.send(job_requests.command(job_id, "pause"))

    def resume(self, job_id: str) -> Job:
        return self._sender.send(job_requests.command(job_id, "resume"))

    def cancel(self, job_id: str, reason: str | None = None) -> Job:
        """Have the job end with the best it has; one that is over stays as it is."""
        return self._sender.send(job_requests.cancel(job_id, reason))

    def delete(self, job_id: str) -> None:
        """Delete a job that is over, with everything it has left."""
        self._sender.send(job_requests.delete(job_id))

    def fork(
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
        """Create a job with another's config, changed by `overrides`.

        warm_start: which candidates of that one it begins with, as {"candidates": "best", "front" or a list of ids,
        "max_candidates": 1..}; true or None for its front, false for none. task_app_api_key: the parent's is not kept.
        """
        wanted = job_requests.fork(
            job_id, overrides, metadata, warm_start, auto_start, task_app_api_key, idempotency_key
        )
        return self._sender.send(wanted)

    def config(self, job_id: str) -> Config:
        """The config as it was sent, and as it runs."""
        return self._sender.send(job_requests.config(job_id))

    # --- following ---------------------------------------------------------------------------------------------------

    def events(self, job_id: str, after: int = 0, limit: int | None = None) -> EventPage:
        """A page of the events behind number `after`."""
        return self._sender.send(job_requests.events(job_id, checked_cursor(after), limit))

    def follow(
        self,
        job_id: str,
        after: int = 0,
        *,
        give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS,
        on_break: OnBreak | None = None,
    ) -> Iterator[Event]:
        """Every event behind number `after`, once and in order, until the job's last one.

        A connection that breaks is made again, from where it stopped. give_up_after_seconds: how long in a row nothing
        may be heard of the service before ConnectionFailed is raised. on_break: is told of each break.
        """
        following = Following(checked_cursor(after), Patience(self.url, give_up_after_seconds))
        return self._sender.follow(following, partial(job_requests.stream, job_id), on_break)

    def wait(
        self,
        job_id: str,
        timeout_seconds: float | None = None,
        *,
        give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS,
    ) -> Job:
        """The job when it is over. Raises WaitTimedOut; the job goes on then."""
        waiting = Waiting(job_id, timeout_seconds, Patience(self.url, give_up_after_seconds))
        return self._sender.wait(job_requests.job(job_id), waiting)

    # --- results -----------------------------------------------------------------------------------------------------

    def result(self, job_id: str) -> Result:
        """The best prompt and its scores; of a job that is not over the best so far."""
        return self._sender.send(job_requests.result(job_id))

    def trials(
        self,
        job_id: str,
        *,
        phase: str | None = None,
        candidate_id: str | None = None,
        since: datetime | str | None = None,
        with_rollouts: bool = True,
        limit: int | None = None,
    ) -> Iterator[Trial]:
        """In the order of their numbers."""
        wanted = result_requests.trials(job_id, phase, candidate_id, since, with_rollouts, limit)
        return cast(Iterator[Trial], self._sender.items(wanted))

    def rollouts(
        self,
        job_id: str,
        *,
        candidate_id: str | None = None,
        seed: int | None = None,
        phase: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Rollout]:
        """By candidate, seed and draw."""
        wanted = result_requests.rollouts(job_id, candidate_id, seed, phase, limit)
        return cast(Iterator[Rollout], self._sender.items(wanted))

    def rollout(self, job_id: str, rollout_id: str) -> Rollout:
        """One rollout, with the calls that were made in it."""
        return self._sender.send(result_requests.rollout(job_id, rollout_id))

    def candidates(
        self,
        job_id: str,
        *,
        status: str | None = None,
        operator: str | None = None,
        is_pareto: bool | None = None,
        limit: int | None = None,
    ) -> Iterator[Candidate]:
        """Every prompt that was tried, in the order of their numbers, with its scores and why it was rejected."""
        wanted = result_requests.candidates(job_id, status, operator, is_pareto, limit)
        return cast(Iterator[Candidate], self._sender.items(wanted))

    def candidate(self, job_id: str, candidate_id: str) -> Candidate:
        return self._sender.send(result_requests.candidate(job_id, candidate_id))

    def refused_proposals(self, job_id: str, *, limit: int | None = None) -> Iterator[Json]:
        """Proposals that never became candidates, and why."""
        return self._sender.items(result_requests.refused_proposals(job_id, limit))

    def completions(self, job_id: str, *, purpose: str | None = None, limit: int | None = None) -> Iterator[Json]:
        """What the search has asked models for itself, and what they said."""
        return self._sender.items(result_requests.completions(job_id, purpose, limit))

    def archive(self, job_id: str) -> Archive:
        """The best prompts, and who is best on which seed."""
        return self._sender.send(result_requests.archive(job_id))

    def lineage(self, job_id: str, *, after: int | None = None, limit: int | None = None) -> Lineage:
        """Which candidate came from which. after: the number of the last node of the page before."""
        return self._sender.send(result_requests.lineage(job_id, after, limit))

    def report(self, job_id: str, format: ReportFormat = "markdown") -> str:  # noqa: A002 - the service's own word
        """The job's report, as a text of that format."""
        return self._sender.send(result_requests.report(job_id, format))

    def artifacts(self, job_id: str) -> list[Artifact]:
        """What the job has published."""
        return self._sender.send(result_requests.artifacts(job_id))

    def snapshots(self, job_id: str, *, limit: int | None = None) -> list[Json]:
        """Newest first, without their payloads."""
        return self._sender.send(result_requests.snapshots(job_id, limit))

    def snapshot(self, job_id: str, snapshot_id: str) -> Snapshot:
        return self._sender.send(result_requests.snapshot(job_id, snapshot_id))

    def metrics(self, job_id: str, *, limit: int | None = None) -> list[MetricPoint]:
        """The mean scores of the newest trials, oldest first."""
        return self._sender.send(result_requests.metrics(job_id, limit))

    def learning_curve(self, job_id: str) -> list[Json]:
        """The best score over the rollouts spent."""
        return self._sender.send(result_requests.learning_curve(job_id))
