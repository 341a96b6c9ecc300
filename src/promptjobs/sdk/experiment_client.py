"""What `Client` asks about experiments: many jobs, created together and compared in one table."""

from collections.abc import Iterator
from functools import partial
from typing import cast

from promptjobs.sdk import experiment_requests
from promptjobs.sdk.connection import Connection
from promptjobs.sdk.experiment_files import ExperimentSource
from promptjobs.sdk.experiment_following import OF_EXPERIMENT, ExperimentEvent, ExperimentFollowing
from promptjobs.sdk.experiment_requests import Compared, ComparedSeeds, TableFormat
from promptjobs.sdk.experiment_shapes import (
    Experiment,
    ExperimentEstimate,
    ExperimentResults,
    JobComparison,
)
from promptjobs.sdk.following import GIVE_UP_AFTER_SECONDS, OnBreak, Patience, Waiting
from promptjobs.sdk.sender import Sender


class ExperimentClient:
    """The part of `Client` that is about experiments."""

    _sender: Sender
    _connection: Connection

    def create_experiment(self, experiment: ExperimentSource, *, idempotency_key: str | None = None) -> Experiment:
        """Create an experiment: all of its jobs, or none.

        experiment: a mapping, or the path of a TOML file; a job's `config` may be the path of one, too, relative to the
        experiment's file. idempotency_key: requests with the same one create one experiment; a new one for each call
        unless it is given. Raises ConfigFileInvalid.
        """
        return self._sender.send(experiment_requests.create(experiment, idempotency_key))

    def estimate_experiment(self, experiment: ExperimentSource) -> ExperimentEstimate:
        """What such an experiment would take and cost; nothing is created. Raises ConfigFileInvalid."""
        return self._sender.send(experiment_requests.estimate(experiment))

    def experiments(self, *, status: str | None = None, limit: int | None = None) -> Iterator[Experiment]:
        """All experiments that fit, newest first, at most `limit`; without their jobs."""
        found = self._sender.items(experiment_requests.experiments(status, limit))
        return cast(Iterator[Experiment], found)

    def experiment(self, experiment_id: str) -> Experiment:
        """The experiment as it is now, with its jobs."""
        return self._sender.send(experiment_requests.experiment(experiment_id))

    def cancel_experiment(self, experiment_id: str, reason: str | None = None) -> Experiment:
        """Have all of its jobs end with the best they have; those that are over stay as they are."""
        return self._sender.send(experiment_requests.cancel(experiment_id, reason))

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment that is over, with its jobs and everything they have left."""
        self._sender.send(experiment_requests.delete(experiment_id))

    def experiment_results(
        self, experiment_id: str, *, compare: Compared | None = None, variants: int | None = None
    ) -> ExperimentResults:
        """The results so far, job by job and group by group.

        compare: the best job with each other ("leader"), every two ("all") or none. variants: so many of each job's
        best prompts, 0..50.
        """
        return self._sender.send(experiment_requests.results(experiment_id, compare, variants))

    def experiment_results_text(
        self,
        experiment_id: str,
        format: TableFormat = "markdown",  # noqa: A002 - the service's own word
        *,
        compare: Compared | None = None,
        variants: int | None = None,
    ) -> str:
        """As `experiment_results`, as a text of that format."""
        return self._sender.send(experiment_requests.results_text(experiment_id, format, compare, variants))

    def compare_jobs(
        self, experiment_id: str, first: str, second: str, *, seeds: ComparedSeeds | None = None
    ) -> JobComparison:
        """Two jobs of the experiment, by their ids, over the seeds that both were measured on."""
        return self._sender.send(experiment_requests.compare_jobs(experiment_id, first, second, seeds))

    def follow_experiment(
        self,
        experiment_id: str,
        cursor: str | None = None,
        *,
        give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS,
        on_break: OnBreak | None = None,
    ) -> Iterator[ExperimentEvent]:
        """Every event of every job, each job's in order and once; then the one that ends the experiment.

        cursor: that of an event, behind which to begin. A connection that breaks is made again, from where it stopped;
        give_up_after_seconds, on_break: as of `follow`.
        """
        following = ExperimentFollowing(cursor or "", Patience(self._connection.url, give_up_after_seconds))
        return self._sender.follow(following, partial(experiment_requests.stream, experiment_id), on_break)

    def wait_for_experiment(
        self,
        experiment_id: str,
        timeout_seconds: float | None = None,
        *,
        give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS,
    ) -> Experiment:
        """The experiment when all of its jobs are over. Raises ExperimentWaitTimedOut; the experiment goes on then."""
        patience = Patience(self._connection.url, give_up_after_seconds)
        waiting = Waiting(experiment_id, timeout_seconds, patience, OF_EXPERIMENT)
        return self._sender.wait(experiment_requests.experiment(experiment_id), waiting)
