"""The requests on what a job has found: trials, rollouts, candidates, the report, snapshots, artifacts, metrics."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, cast

from promptjobs.errors.client import UnexpectedAnswer
from promptjobs.sdk.answers import Reply, read_list, read_object, read_text
from promptjobs.sdk.job_requests import job_path
from promptjobs.sdk.requests import Listing, Request, listing, query_of
from promptjobs.sdk.shapes import Archive, Artifact, Candidate, Json, Lineage, MetricPoint, Rollout, Snapshot

ReportFormat = Literal["markdown", "html"]

_as_archive = cast(Callable[[Reply], Archive], read_object)
_as_lineage = cast(Callable[[Reply], Lineage], read_object)
_as_candidate = cast(Callable[[Reply], Candidate], read_object)
_as_rollout = cast(Callable[[Reply], Rollout], read_object)
_as_snapshot = cast(Callable[[Reply], Snapshot], read_object)


def _listed(reply: Reply, name: str) -> Any:
    """The array that stands in an object under `name`."""
    found = read_object(reply).get(name)
    if not isinstance(found, list):
        raise UnexpectedAnswer(reply.url, f"it answered an object without the list {name!r}")
    return found


def trials(
    job_id: str,
    phase: str | None,
    candidate_id: str | None,
    since: datetime | str | None,
    with_rollouts: bool,
    limit: int | None,
) -> Listing:
    since = since.isoformat() if isinstance(since, datetime) else since
    include = None if with_rollouts else "none"
    path = job_path(job_id, "trials")
    return listing(path, limit, phase=phase, candidate_id=candidate_id, since=since, include=include)


def rollouts(job_id: str, candidate_id: str | None, seed: int | None, phase: str | None, limit: int | None) -> Listing:
    path = job_path(job_id, "rollouts")
    return listing(path, limit, candidate_id=candidate_id, seed=seed, phase=phase)


def rollout(job_id: str, rollout_id: str) -> Request[Rollout]:
    return Request("GET", job_path(job_id, "rollouts", rollout_id), _as_rollout)


def candidates(
    job_id: str, status: str | None, operator: str | None, is_pareto: bool | None, limit: int | None
) -> Listing:
    path = job_path(job_id, "candidates")
    return listing(path, limit, status=status, operator=operator, is_pareto=is_pareto)


def candidate(job_id: str, candidate_id: str) -> Request[Candidate]:
    return Request("GET", job_path(job_id, "candidates", candidate_id), _as_candidate)


def refused_proposals(job_id: str, limit: int | None) -> Listing:
    return listing(job_path(job_id, "proposals", "refused"), limit)


def completions(job_id: str, purpose: str | None, limit: int | None) -> Listing:
    return listing(job_path(job_id, "completions"), limit, purpose=purpose)


def archive(job_id: str) -> Request[Archive]:
    return Request("GET", job_path(job_id, "archive"), _as_archive)


def lineage(job_id: str, after: int | None, limit: int | None) -> Request[Lineage]:
    return Request("GET", job_path(job_id, "lineage"), _as_lineage, query=query_of(after=after, limit=limit))


def report(job_id: str, form: ReportFormat) -> Request[str]:
    headers = {"accept": "text/html" if form == "html" else "text/markdown"}
    return Request("GET", job_path(job_id, "report"), read_text, query=query_of(format=form), headers=headers)


def artifacts(job_id: str) -> Request[list[Artifact]]:
    return Request("GET", job_path(job_id, "artifacts"), lambda reply: _listed(reply, "artifacts"))


def snapshots(job_id: str, limit: int | None) -> Request[list[Json]]:
    return Request("GET", job_path(job_id, "snapshots"), read_list, query=query_of(limit=limit))


def snapshot(job_id: str, snapshot_id: str) -> Request[Snapshot]:
    return Request("GET", job_path(job_id, "snapshots", snapshot_id), _as_snapshot)


def metrics(job_id: str, limit: int | None) -> Request[list[MetricPoint]]:
    path = job_path(job_id, "metrics")
    return Request("GET", path, lambda reply: _listed(reply, "points"), query=query_of(limit=limit))


def learning_curve(job_id: str) -> Request[list[Json]]:
    return Request("GET", job_path(job_id, "learning-curve"), lambda reply: _listed(reply, "points"))
