"""The requests on experiments: create, estimate, read, list, cancel, delete, results, comparisons, events."""

from collections.abc import Callable
from typing import Literal, cast

from promptjobs.sdk.answers import Reply, read_nothing, read_object, read_text
from promptjobs.sdk.experiment_files import ExperimentSource, experiment_of
from promptjobs.sdk.experiment_shapes import Experiment, ExperimentEstimate, ExperimentResults, JobComparison
from promptjobs.sdk.requests import Listing, Request, below, body_of, keyed, listing, query_of, streamed

TableFormat = Literal["markdown", "csv"]
Compared = Literal["leader", "all", "none"]
ComparedSeeds = Literal["held_out", "search", "validation", "test"]

EXPERIMENTS_PATH = "/api/experiments"
MEDIA_TYPES = {"markdown": "text/markdown", "csv": "text/csv"}

_as_experiment = cast(Callable[[Reply], Experiment], read_object)
_as_estimate = cast(Callable[[Reply], ExperimentEstimate], read_object)
_as_results = cast(Callable[[Reply], ExperimentResults], read_object)
_as_comparison = cast(Callable[[Reply], JobComparison], read_object)


def experiment_path(experiment_id: str, *parts: str) -> str:
    return f"{EXPERIMENTS_PATH}{below(experiment_id, *parts)}"


def create(source: ExperimentSource, idempotency_key: str | None) -> Request[Experiment]:
    """Raises ConfigFileInvalid."""
    body = experiment_of(source)
    return Request("POST", EXPERIMENTS_PATH, _as_experiment, body=body, headers=keyed(idempotency_key))


def estimate(source: ExperimentSource) -> Request[ExperimentEstimate]:
    """Raises ConfigFileInvalid."""
    return Request("POST", f"{EXPERIMENTS_PATH}/estimate", _as_estimate, body=experiment_of(source))


def experiments(status: str | None, limit: int | None) -> Listing:
    return listing(EXPERIMENTS_PATH, limit, status=status)


def experiment(experiment_id: str) -> Request[Experiment]:
    return Request("GET", experiment_path(experiment_id), _as_experiment)


def cancel(experiment_id: str, reason: str | None) -> Request[Experiment]:
    return Request("POST", experiment_path(experiment_id, "cancel"), _as_experiment, body=body_of(reason=reason))


def delete(experiment_id: str) -> Request[None]:
    return Request("DELETE", experiment_path(experiment_id), read_nothing)


def results(experiment_id: str, compare: Compared | None, variants: int | None) -> Request[ExperimentResults]:
    query = query_of(compare=compare, variants=variants)
    return Request("GET", experiment_path(experiment_id, "results"), _as_results, query=query)


def results_text(experiment_id: str, form: TableFormat, compare: Compared | None, variants: int | None) -> Request[str]:
    query = query_of(format=form, compare=compare, variants=variants)
    headers = {"accept": MEDIA_TYPES[form]}
    return Request("GET", experiment_path(experiment_id, "results"), read_text, query=query, headers=headers)


def compare_jobs(experiment_id: str, first: str, second: str, seeds: ComparedSeeds | None) -> Request[JobComparison]:
    query = query_of(first=first, second=second, seeds=seeds)
    return Request("GET", experiment_path(experiment_id, "comparison"), _as_comparison, query=query)


def stream(experiment_id: str, cursor: str) -> Request[None]:
    """The stream of events behind the one of that id. Its answer is read as it comes, and not as a whole."""
    return streamed(experiment_path(experiment_id, "events", "stream"), cursor)
