"""Routes of jobs: estimate, create, fork, list, read, start, pause, resume, cancel, delete, config."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from promptjobs.api import job_schemas
from promptjobs.api.auth import TheOrganisation
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.body_models import Body, body_schema, read_as
from promptjobs.api.caching import conditional
from promptjobs.api.config_schemas import CONFIG_NAME
from promptjobs.api.idempotency import Idempotent
from promptjobs.api.labels import TheLabels
from promptjobs.api.links import page_links
from promptjobs.api.parameters import (
    EXPERIMENT_ID,
    JOB_ID,
    MAX_LIMIT,
    JobId,
    Limit,
    Offset,
    Since,
    TheService,
    cut,
)
from promptjobs.api.wire import config_object, job_object
from promptjobs.db.jobs import JobFilter, JobStatus
from promptjobs.jobs.forking import ForkRequest
from promptjobs.jobs.service import JobRequest

router = APIRouter(tags=["jobs"])


@router.post(
    "",
    response_model=job_schemas.JobObject,
    summary="Create a job",
    openapi_extra=body_schema(job_schemas.CreateJob),
)
async def create_job(
    body: Body, service: TheService, organisation: TheOrganisation, idempotent: Idempotent
) -> Response:
    """The config is resolved and checked here, once: what is accepted is what runs, and what the job shows."""
    request = _job_request(body)

    async def created() -> Response:
        return JsonResponse(job_object(await service.create(request, organisation)))

    return await idempotent.run(created)


@router.post(
    "/estimate",
    response_model=job_schemas.EstimateObject,
    summary="Estimate what a job would cost",
    openapi_extra=body_schema(job_schemas.CreateJob),
)
async def estimate_job(body: Body, service: TheService, organisation: TheOrganisation) -> Response:
    """For the body that would create the job, which is checked in the same way. Nothing is stored or called."""
    return JsonResponse(await service.estimate(_job_request(body), organisation))


@router.post(
    "/{job_id}/fork",
    response_model=job_schemas.JobObject,
    summary="Fork a job",
    openapi_extra=body_schema(job_schemas.ForkJob, is_required=False),
)
async def fork_job(
    job_id: JobId, body: Body, service: TheService, organisation: TheOrganisation, idempotent: Idempotent
) -> Response:
    """A new job from the request of this one, with overrides of its own; it begins with the candidates that are best
    here, whatever this job's status. Its `parent_id` is this job."""
    asked = _fork_request(read_as(job_schemas.ForkJob, body))

    async def created() -> Response:
        return JsonResponse(job_object(await service.fork(job_id, asked, organisation)))

    return await idempotent.run(created)


def _job_request(body: dict[str, Any]) -> JobRequest:
    sent = read_as(job_schemas.CreateJob, body)
    return JobRequest(
        algorithm=sent.algorithm,
        config_body=sent.config_body,
        overrides=sent.overrides or {},
        metadata=sent.metadata or {},
        auto_start=sent.auto_start,
        config_name=sent.config_name,
        unknown=tuple(sent.model_extra or ()),
    )


def _fork_request(sent: job_schemas.ForkJob) -> ForkRequest:
    warm = job_schemas.WarmStart() if sent.warm_start is None or sent.warm_start is True else sent.warm_start
    return ForkRequest(
        overrides=sent.overrides or {},
        metadata=sent.metadata,
        candidates=warm.model_dump() if isinstance(warm, job_schemas.WarmStart) else None,
        is_asked_for=sent.warm_start is not None,
        auto_start=sent.auto_start,
        task_app_api_key=sent.task_app_api_key,
        unknown=tuple(sent.model_extra or ()),
    )


@router.get("", response_model=list[job_schemas.JobObject], summary="List jobs, newest first")
async def list_jobs(
    request: Request,
    service: TheService,
    organisation: TheOrganisation,
    labels: TheLabels,
    limit: Limit = 50,
    after: Annotated[
        str | None, Query(pattern=f"^{JOB_ID.pattern}$", description="Id of the job behind which the page starts.")
    ] = None,
    offset: Offset = 0,
    status: Annotated[JobStatus | None, Query(description="Only those with this status.")] = None,
    algorithm: Annotated[Literal["gepa", "mipro"] | None, Query(description="Only those of this one.")] = None,
    since: Since = None,
    parent_id: Annotated[
        str | None, Query(pattern=f"^{JOB_ID.pattern}$", description="Only those that were forked from this job.")
    ] = None,
    config_name: Annotated[
        str | None, Query(pattern=CONFIG_NAME, description="Only those that were made of this saved config.")
    ] = None,
    experiment_id: Annotated[
        str | None, Query(pattern=f"^{EXPERIMENT_ID.pattern}$", description="Only those of this experiment.")
    ] = None,
) -> Response:
    """A bare array; the `Link` header names the next page, which stays the same while jobs are added.
    `metadata.<key>=<value>` lists only jobs whose metadata has this value at its top; several must all hold."""
    limit = min(limit, MAX_LIMIT)
    wanted = JobFilter(
        organisation,
        limit + 1,
        after,
        offset,
        status=status,
        algorithm=algorithm,
        since=since,
        parent_id=parent_id,
        config_name=config_name,
        experiment_id=experiment_id,
        labels=labels,
    )
    rows, has_more = cut(await service.page(wanted), limit)
    links = page_links(request, rows[-1].id if has_more else None)
    return JsonResponse([job_object(row, is_listed=True) for row in rows], headers=links)


@router.get("/{job_id}", response_model=job_schemas.JobObject, summary="Read a job")
async def read_job(request: Request, job_id: JobId, service: TheService) -> Response:
    """Status, progress, and what is best so far. Once the job is over, the answer has an ETag."""
    row = await service.get(job_id)
    return conditional(request, JsonResponse(job_object(row)), is_over=row.status.is_terminal)


@router.post("/{job_id}/start", response_model=job_schemas.JobObject, summary="Start a pending job")
async def start_job(job_id: JobId, service: TheService) -> Response:
    """For jobs that were created with `auto_start: false`; one that was started before stays as it is."""
    return JsonResponse(job_object(await service.start(job_id)))


@router.post("/{job_id}/pause", response_model=job_schemas.JobObject, summary="Pause a job")
async def pause_job(job_id: JobId, service: TheService) -> Response:
    """A queued job is paused at once; a running one by its worker, as soon as what is under way is finished and kept.
    Until then `pause_requested_at` is set. Repeating it changes nothing."""
    return JsonResponse(job_object(await service.pause(job_id)))


@router.post("/{job_id}/resume", response_model=job_schemas.JobObject, summary="Resume a paused job")
async def resume_job(job_id: JobId, service: TheService) -> Response:
    """The job is queued again and goes on where it was; a pause that has not begun yet is called off. Repeating it
    changes nothing."""
    return JsonResponse(job_object(await service.resume(job_id)))


@router.post(
    "/{job_id}/cancel",
    response_model=job_schemas.JobObject,
    summary="Cancel a job",
    openapi_extra=body_schema(job_schemas.CancelJob, is_required=False),
)
async def cancel_job(job_id: JobId, body: Body, service: TheService) -> Response:
    """A job that has not started is cancelled at once, a running one by its worker within seconds, which publishes the
    best it has. Repeating it changes nothing, and a job that is over stays as it is."""
    reason = read_as(job_schemas.CancelJob, body).reason
    return JsonResponse(job_object(await service.cancel(job_id, reason)))


@router.delete("/{job_id}", status_code=204, response_class=Response, summary="Delete a job")
async def delete_job(job_id: JobId, service: TheService) -> Response:
    """Only one that is over; with its events, candidates, rollouts, calls, snapshots and artifacts. There is no way
    back."""
    await service.delete(job_id)
    return Response(status_code=204)


@router.get("/{job_id}/config", response_model=job_schemas.ConfigObject, summary="Read a job's config")
async def read_config(request: Request, job_id: JobId, service: TheService) -> Response:
    """As it was sent, and as it runs; without secrets. It never changes, so the answer has an ETag."""
    return conditional(request, JsonResponse(config_object(await service.config(job_id))), is_over=True)
