"""The requests on jobs: create, estimate, read, list, commands, events."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, cast

from promptjobs.sdk.answers import Reply, read_nothing, read_object, read_readiness
from promptjobs.sdk.config_files import ConfigSource, algorithm_of, config_of
from promptjobs.sdk.requests import Listing, Request, below, body_of, keyed, listing, query_of, streamed
from promptjobs.sdk.shapes import Config, Estimate, EventPage, Job, Json, Result

WarmStart = bool | Mapping[str, Any]

JOBS_PATH = "/api/prompt-learning/online/jobs"

_as_job = cast(Callable[[Reply], Job], read_object)
_as_estimate = cast(Callable[[Reply], Estimate], read_object)
_as_config = cast(Callable[[Reply], Config], read_object)
_as_event_page = cast(Callable[[Reply], EventPage], read_object)


def job_path(job_id: str, *parts: str) -> str:
    return f"{JOBS_PATH}{below(job_id, *parts)}"


def create(
    config: ConfigSource | None,
    algorithm: str | None,
    overrides: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None,
    config_name: str | None,
    auto_start: bool,
    idempotency_key: str | None,
) -> Request[Job]:
    """Raises ConfigFileInvalid."""
    body = _job_body(config, algorithm, overrides, config_name)
    body |= body_of(metadata=_plain(metadata), auto_start=None if auto_start else False)
    return Request("POST", JOBS_PATH, _as_job, body=body, headers=keyed(idempotency_key))


def estimate(
    config: ConfigSource | None,
    algorithm: str | None,
    overrides: Mapping[str, Any] | None,
    config_name: str | None,
) -> Request[Estimate]:
    """Raises ConfigFileInvalid."""
    body = _job_body(config, algorithm, overrides, config_name)
    return Request("POST", f"{JOBS_PATH}/estimate", _as_estimate, body=body)


def _job_body(
    config: ConfigSource | None, algorithm: str | None, overrides: Mapping[str, Any] | None, config_name: str | None
) -> Json:
    """What names no algorithm runs with the config's own. Of a saved config the service knows it."""
    found = None if config is None else config_of(config)
    if algorithm is None and found is not None:
        algorithm = algorithm_of(found)
    return body_of(algorithm=algorithm, config_body=_plain(found), overrides=_plain(overrides), config_name=config_name)


def _plain(values: Mapping[str, Any] | None) -> Json | None:
    return None if values is None else dict(values)


def job(job_id: str) -> Request[Job]:
    return Request("GET", job_path(job_id), _as_job)


def result(job_id: str) -> Request[Result]:
    return Request("GET", job_path(job_id), lambda reply: Result.of(_as_job(reply)))


def jobs(
    status: str | None,
    algorithm: str | None,
    since: datetime | str | None,
    metadata: Mapping[str, object] | None,
    parent_id: str | None,
    config_name: str | None,
    limit: int | None,
) -> Listing:
    since = since.isoformat() if isinstance(since, datetime) else since
    named = {"status": status, "algorithm": algorithm, "since": since, "parent_id": parent_id}
    labels = {f"metadata.{name}": label(value) for name, value in (metadata or {}).items()}
    return listing(JOBS_PATH, limit, **named, config_name=config_name, **labels)


def label(value: object) -> str:
    """A scalar of a job's metadata as the service keeps it for filters."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def command(job_id: str, name: str, body: Json | None = None) -> Request[Job]:
    """name: start, pause, resume or cancel."""
    return Request("POST", job_path(job_id, name), _as_job, body=body)


def cancel(job_id: str, reason: str | None) -> Request[Job]:
    return command(job_id, "cancel", body_of(reason=reason))


def delete(job_id: str) -> Request[None]:
    return Request("DELETE", job_path(job_id), read_nothing)


def fork(
    job_id: str,
    overrides: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None,
    warm_start: WarmStart | None,
    auto_start: bool,
    task_app_api_key: str | None,
    idempotency_key: str | None,
) -> Request[Job]:
    body = body_of(
        overrides=_plain(overrides),
        metadata=_plain(metadata),
        warm_start=warm_start if isinstance(warm_start, bool) else _plain(warm_start),
        task_app_api_key=task_app_api_key,
        auto_start=None if auto_start else False,
    )
    return Request("POST", job_path(job_id, "fork"), _as_job, body=body, headers=keyed(idempotency_key))


def config(job_id: str) -> Request[Config]:
    return Request("GET", job_path(job_id, "config"), _as_config)


def events(job_id: str, after: int, limit: int | None) -> Request[EventPage]:
    return Request("GET", job_path(job_id, "events"), _as_event_page, query=query_of(since_seq=after, limit=limit))


def stream(job_id: str, cursor: str) -> Request[None]:
    """The stream of events behind the one of that id. Its answer is read as it comes, and not as a whole."""
    return streamed(job_path(job_id, "events", "stream"), cursor)


def readiness() -> Request[bool]:
    return Request("GET", "/readyz", read_readiness)
