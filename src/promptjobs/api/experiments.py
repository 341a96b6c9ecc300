"""Routes of experiments: estimate, create, list, read, cancel, delete."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from promptjobs.api import experiment_schemas
from promptjobs.api.auth import TheOrganisation
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.body_models import Body, body_schema, read_as
from promptjobs.api.caching import conditional
from promptjobs.api.experiment_wire import experiment_objects, experiment_with_jobs
from promptjobs.api.idempotency import Idempotent
from promptjobs.api.links import page_links
from promptjobs.api.parameters import (
    EXPERIMENT_ID,
    MAX_LIMIT,
    ExperimentId,
    Limit,
    TheDatabase,
    TheExperiments,
    cut,
)
from promptjobs.api.problems import invalid
from promptjobs.db.experiments import ExperimentStatus
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors.shown import MAX_SHOWN
from promptjobs.jobs.experiments import ExperimentRequest, ExperimentView

router = APIRouter(tags=["experiments"])


@router.post(
    "",
    response_model=experiment_schemas.ExperimentObject,
    summary="Create an experiment",
    openapi_extra=body_schema(experiment_schemas.CreateExperiment),
)
async def create_experiment(
    body: Body,
    experiments: TheExperiments,
    database: TheDatabase,
    organisation: TheOrganisation,
    idempotent: Idempotent,
) -> Response:
    """Every job with every combination of the matrix, each resolved and checked like a job of its own, its overrides
    once more for their effect. They are queued together, or none is; at most `parallelism` of them run at a time, in
    the order of their positions, whatever workers there are."""
    request = _experiment_request(body)

    async def created() -> Response:
        return await _shown(database, await experiments.create(request, organisation))

    return await idempotent.run(created)


@router.post(
    "/estimate",
    response_model=experiment_schemas.ExperimentEstimate,
    summary="Estimate what an experiment would cost",
    openapi_extra=body_schema(experiment_schemas.CreateExperiment),
)
async def estimate_experiment(body: Body, experiments: TheExperiments, organisation: TheOrganisation) -> Response:
    """For the body that would create the experiment, which is checked in the same way. Nothing is stored or called."""
    return JsonResponse(await experiments.estimate(_experiment_request(body), organisation))


def _experiment_request(body: dict[str, Any]) -> ExperimentRequest:
    sent = _read(body)
    return ExperimentRequest(
        name=sent.name,
        description=sent.description,
        parallelism=sent.parallelism,
        jobs=[{name: value for name, value in job if value is not None} for job in sent.jobs],
        matrix=sent.matrix or {},
        metadata=sent.metadata or {},
    )


def _read(body: dict[str, Any]) -> experiment_schemas.CreateExperiment:
    """As `read_as`, but errors name their places like those that are found later on: jobs[2].label."""
    try:
        return experiment_schemas.CreateExperiment.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
    for each in found:
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:MAX_SHOWN]}" for step in each["loc"])
        each["loc"] = (path.removeprefix("."),)
    raise invalid(found)


@router.get("", response_model=list[experiment_schemas.ExperimentObject], summary="List experiments, newest first")
async def list_experiments(
    request: Request,
    experiments: TheExperiments,
    database: TheDatabase,
    organisation: TheOrganisation,
    limit: Limit = 50,
    after: Annotated[
        str | None,
        Query(pattern=f"^{EXPERIMENT_ID.pattern}$", description="Id of the experiment behind which the page starts."),
    ] = None,
    status: Annotated[ExperimentStatus | None, Query(description="Only those with this status.")] = None,
) -> Response:
    """A bare array without the jobs; the `Link` header names the next page, which stays the same while experiments are
    added."""
    limit = min(limit, MAX_LIMIT)
    rows, has_more = cut(await experiments.page(organisation, limit + 1, after, status), limit)
    async with reading(database) as connection:
        objects = await experiment_objects(connection, rows)
    return JsonResponse(objects, headers=page_links(request, rows[-1].id if has_more else None))


@router.get("/{experiment_id}", response_model=experiment_schemas.ExperimentObject, summary="Read an experiment")
async def read_experiment(
    request: Request, experiment_id: ExperimentId, experiments: TheExperiments, database: TheDatabase
) -> Response:
    """Where it stands, with its jobs in the order of their positions. Once all of them are over, the answer has an
    ETag."""
    view = await experiments.get(experiment_id)
    return conditional(request, await _shown(database, view), is_over=view.row.status.is_terminal)


@router.post(
    "/{experiment_id}/cancel",
    response_model=experiment_schemas.ExperimentObject,
    summary="Cancel an experiment",
    openapi_extra=body_schema(experiment_schemas.CancelExperiment, is_required=False),
)
async def cancel_experiment(
    experiment_id: ExperimentId, body: Body, experiments: TheExperiments, database: TheDatabase
) -> Response:
    """Cancels all of its jobs that are not over, each as a job of its own: those that no worker has had at once, the
    others publish the best they have. Repeating it changes nothing, and an experiment that is over stays as it is."""
    reason = read_as(experiment_schemas.CancelExperiment, body).reason
    return await _shown(database, await experiments.cancel(experiment_id, reason))


@router.delete("/{experiment_id}", status_code=204, response_class=Response, summary="Delete an experiment")
async def delete_experiment(experiment_id: ExperimentId, experiments: TheExperiments) -> Response:
    """Only one that is over; with its jobs and everything they have left. There is no way back."""
    await experiments.delete(experiment_id)
    return Response(status_code=204)


async def _shown(database: Database, view: ExperimentView) -> Response:
    async with reading(database) as connection:
        return JsonResponse(await experiment_with_jobs(connection, view))
