"""Routes of jobs: estimate, create, list, read, start, pause, resume, cancel, delete, config."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from promptjobs.api import job_schemas
from promptjobs.api.bodies import JsonResponse, json_object
from promptjobs.api.parameters import (
    JOB_ID,
    MAX_LIMIT,
    JobId,
    Limit,
    Offset,
    Since,
    TheService,
    cut,
    next_page,
)
from promptjobs.api.problems import invalid
from promptjobs.api.wire import config_object, job_object
from promptjobs.db.jobs import JobFilter, JobStatus
from promptjobs.jobs.service import JobRequest

router = APIRouter(tags=["jobs"])

Body = Annotated[dict[str, Any], Depends(json_object)]


def _body_schema(model: type[job_schemas.CreateJob | job_schemas.CancelJob], *, is_required: bool) -> dict[str, Any]:
    """Describes a body that is read by `json_object`, which the framework does not see."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": is_required, "content": content}}


@router.post(
    "",
    response_model=job_schemas.JobObject,
    summary="Create a job",
    openapi_extra=_body_schema(job_schemas.CreateJob, is_required=True),
)
async def create_job(body: Body, service: TheService) -> Response:
    """The config is resolved and checked here, once: what is accepted is what runs, and what the job shows."""
    return JsonResponse(job_object(await service.create(_job_request(body))))


@router.post(
    "/estimate",
    response_model=job_schemas.EstimateObject,
    summary="Estimate what a job would cost",
    openapi_extra=_body_schema(job_schemas.CreateJob, is_required=True),
)
async def estimate_job(body: Body, service: TheService) -> Response:
    """For the body that would create the job, which is checked in the same way. Nothing is stored or called."""
    return JsonResponse(await service.estimate(_job_request(body)))


def _job_request(body: dict[str, Any]) -> JobRequest:
    try:
        sent = job_schemas.CreateJob.model_validate(body)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False, include_context=False)) from None
    return JobRequest(
        algorithm=sent.algorithm,
        config_body=sent.config_body,
        overrides=sent.overrides or {},
        metadata=sent.metadata or {},
        auto_start=sent.auto_start,
        config_name=sent.config_name,
        unknown=tuple(sent.model_extra or ()),
    )


@router.get("", response_model=list[job_schemas.JobObject], summary="List jobs, newest first")
async def list_jobs(
    request: Request,
    service: TheService,
    limit: Limit = 50,
    after: Annotated[
        str | None, Query(pattern=f"^{JOB_ID.pattern}$", description="Id of the job behind which the page starts.")
    ] = None,
    offset: Offset = 0,
    status: Annotated[JobStatus | None, Query(description="Only those with this status.")] = None,
    algorithm: Annotated[str | None, Query(pattern="^[a-z]{1,20}$", description="Only those of this one.")] = None,
    since: Since = None,
) -> Response:
    """A bare array; the `Link` header names the next page, which stays the same while jobs are added."""
    limit = min(limit, MAX_LIMIT)
    rows, has_more = cut(await service.page(JobFilter(limit + 1, after, offset, status, algorithm, since)), limit)
    headers = next_page(request, rows[-1].id) if has_more else None
    return JsonResponse([job_object(row, is_listed=True) for row in rows], headers=headers)


@router.get("/{job_id}", response_model=job_schemas.JobObject, summary="Read a job")
async def read_job(job_id: JobId, service: TheService) -> Response:
    """Status, progress, and what is best so far."""
    return JsonResponse(job_object(await service.get(job_id)))


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
    openapi_extra=_body_schema(job_schemas.CancelJob, is_required=False),
)
async def cancel_job(job_id: JobId, body: Body, service: TheService) -> Response:
    """A job that has not started is cancelled at once, a running one by its worker within seconds, which publishes the
    best it has. Repeating it changes nothing, and a job that is over stays as it is."""
    try:
        sent = job_schemas.CancelJob.model_validate(body)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False, include_context=False)) from None
    return JsonResponse(job_object(await service.cancel(job_id, sent.reason)))


@router.delete("/{job_id}", status_code=204, response_class=Response, summary="Delete a job")
async def delete_job(job_id: JobId, service: TheService) -> Response:
    """Only one that is over; with its events, candidates, rollouts, calls, snapshots and artifacts. There is no way
    back."""
    await service.delete(job_id)
    return Response(status_code=204)


@router.get("/{job_id}/config", response_model=job_schemas.ConfigObject, summary="Read a job's config")
async def read_config(job_id: JobId, service: TheService) -> Response:
    """As it was sent, and as it runs; without secrets."""
    return JsonResponse(config_object(await service.config(job_id)))
