"""Routes of what a job has found: trials, rollouts, metrics, learning curve, snapshots, artifacts."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from promptjobs.api import schemas, wire
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.caching import NOT_CHANGED, conditional
from promptjobs.api.links import page_links
from promptjobs.api.parameters import (
    MAX_LIMIT,
    CandidateId,
    JobId,
    Limit,
    TheDatabase,
    ThePage,
    TheService,
    cut,
)
from promptjobs.api.trace_wire import shown_rollout
from promptjobs.core.trial import Phase
from promptjobs.db import jobs, results, traces
from promptjobs.db.candidates import is_over
from promptjobs.db.results import RolloutFilter
from promptjobs.db.transactions import reading
from promptjobs.errors import SnapshotNotFound
from promptjobs.errors.shown import MAX_SHOWN

router = APIRouter(tags=["results"])

MAX_POINTS = 10_000
MAX_SEED = 2**53
MAX_TRACED = 50
"""Rollouts of a page that shows their calls: a call may hold a long conversation."""

STORED_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")

AfterId = Annotated[
    str | None,
    Query(pattern=f"^{STORED_ID.pattern}$", description="Id of the item behind which the page starts."),
]
PhaseFilter = Annotated[Phase | None, Query(description="Only those of this phase.")]


async def _check_job(connection: AsyncConnection, job_id: str, found: Sequence[object]) -> None:
    """What has items exists; only an empty list needs a question of its own. Raises JobNotFound."""
    if not found:
        await jobs.require(connection, job_id)


@router.get(
    "/{job_id}/trials",
    response_model=list[schemas.TrialObject],
    summary="List the trials of a job",
    responses=NOT_CHANGED,
)
async def list_trials(
    request: Request,
    job_id: JobId,
    database: TheDatabase,
    page: ThePage,
    phase: PhaseFilter = None,
    candidate_id: CandidateId = None,
    include: Annotated[
        Literal["rollouts", "none"], Query(description="`none` leaves out the rollouts behind the scores.")
    ] = "rollouts",
) -> Response:
    """A bare array in the order of their numbers; the `Link` header names the next page."""
    async with reading(database) as connection:
        over = await is_over(connection, job_id)
        wanted = replace(page, limit=page.limit + 1)
        found = await results.read_trials(connection, job_id, wanted, phase, candidate_id)
        stored, has_more = cut(found, page.limit)
        trials = [each.trial for each in stored]
        rollouts = await results.read_trial_rollouts(connection, job_id, trials) if include == "rollouts" else None
    objects = [
        wire.trial_object(each, None if rollouts is None else rollouts[index]) for index, each in enumerate(stored)
    ]
    links = page_links(request, trials[-1].n if has_more else None)
    return conditional(request, JsonResponse(objects, headers=links), is_over=over)


@router.get(
    "/{job_id}/rollouts",
    response_model=list[schemas.RolloutObject],
    summary="List the rollouts of a job",
    responses=NOT_CHANGED,
)
async def list_rollouts(
    request: Request,
    job_id: JobId,
    database: TheDatabase,
    limit: Limit = 50,
    after: Annotated[
        str | None, Query(pattern="^[0-9a-f]{32}$", description="Id of the rollout behind which the page starts.")
    ] = None,
    candidate_id: CandidateId = None,
    seed: Annotated[int | None, Query(ge=0, le=MAX_SEED, description="Only those on this seed.")] = None,
    phase: PhaseFilter = None,
    include: Annotated[
        Literal["calls", "none"],
        Query(description=f"`calls` adds the calls of each rollout's LLM; pages are then cut to {MAX_TRACED}."),
    ] = "none",
) -> Response:
    """With what the model saw and said. A bare array by candidate, seed and draw; `Link` names the next page."""
    limit = min(limit, MAX_TRACED if include == "calls" else MAX_LIMIT)
    key = None if after is None else bytes.fromhex(after)
    async with reading(database) as connection:
        over = await is_over(connection, job_id)
        wanted = RolloutFilter(limit + 1, key, candidate_id, seed, phase)
        found, has_more = cut(await results.read_rollouts(connection, job_id, wanted), limit)
        calls = await traces.read_calls(connection, job_id, [r.key for r in found]) if include == "calls" else None
    objects = [shown_rollout(each, None if calls is None else calls[each.key]) for each in found]
    links = page_links(request, found[-1].key.hex() if has_more else None)
    return conditional(request, JsonResponse(objects, headers=links), is_over=over)


@router.get("/{job_id}/metrics", response_model=schemas.MetricList, summary="Read the scores of trials as a metric")
async def read_metrics(
    job_id: JobId,
    database: TheDatabase,
    limit: Annotated[int, Query(ge=1, description=f"The newest so many; at most {MAX_POINTS}.")] = 200,
) -> Response:
    """The newest points, oldest first. `step` is the trial's number."""
    async with reading(database) as connection:
        points = await results.read_mean_scores(connection, job_id, min(limit, MAX_POINTS))
        await _check_job(connection, job_id, points)
    return JsonResponse({"points": [wire.metric_point(job_id, point) for point in points]})


@router.get(
    "/{job_id}/learning-curve",
    response_model=schemas.LearningCurve,
    summary="Read how the best score rose",
    responses=NOT_CHANGED,
)
async def read_learning_curve(request: Request, job_id: JobId, database: TheDatabase, service: TheService) -> Response:
    """The baseline, then each new best, with its prompt and the rollouts spent until then."""
    row = await service.get(job_id)
    job = wire.job_object(row, is_listed=True)
    async with reading(database) as connection:
        found = await results.read_curve(connection, job_id)
    points = [wire.curve_point(event, job["rollout_budget"]) for event in found]
    answer = JsonResponse({"points": [point for point in points if point is not None]})
    return conditional(request, answer, is_over=row.status.is_terminal)


@router.get(
    "/{job_id}/snapshots",
    response_model=list[schemas.SnapshotSummary],
    summary="List the snapshots of a job",
    responses=NOT_CHANGED,
)
async def list_snapshots(
    request: Request, job_id: JobId, database: TheDatabase, limit: Limit = 50, after: AfterId = None
) -> Response:
    """Newest first, without their payloads; a bare array, with `Link`."""
    limit = min(limit, MAX_LIMIT)
    async with reading(database) as connection:
        over = await is_over(connection, job_id)
        found, has_more = cut(await results.read_snapshots(connection, job_id, limit + 1, after), limit)
    links = page_links(request, found[-1].id if has_more else None)
    answer = JsonResponse([wire.snapshot_object(each) for each in found], headers=links)
    return conditional(request, answer, is_over=over)


@router.get(
    "/{job_id}/snapshots/{snapshot_id}",
    response_model=schemas.SnapshotObject,
    summary="Read a snapshot of a job",
    responses=NOT_CHANGED,
)
async def read_snapshot(
    request: Request,
    job_id: JobId,
    snapshot_id: Annotated[str, Path(description="The snapshot's id.")],
    database: TheDatabase,
) -> Response:
    """The published prompt as messages, the archive, and all counters."""
    if STORED_ID.fullmatch(snapshot_id) is None:
        raise SnapshotNotFound(snapshot_id[:MAX_SHOWN])
    async with reading(database) as connection:
        over = await is_over(connection, job_id)
        found = await results.read_snapshot(connection, job_id, snapshot_id)
    return conditional(request, JsonResponse(wire.snapshot_object(found)), is_over=over)


@router.get(
    "/{job_id}/artifacts",
    response_model=schemas.ArtifactList,
    summary="List the artifacts of a job",
    responses=NOT_CHANGED,
)
async def list_artifacts(
    request: Request, job_id: JobId, database: TheDatabase, limit: Limit = MAX_LIMIT, after: AfterId = None
) -> Response:
    """What the job has published, oldest first; each item names the snapshot that holds its content. `Link` names the
    next page."""
    limit = min(limit, MAX_LIMIT)
    async with reading(database) as connection:
        over = await is_over(connection, job_id)
        found, has_more = cut(await results.read_artifacts(connection, job_id, limit + 1, after), limit)
    links = page_links(request, found[-1].id if has_more else None)
    answer = JsonResponse({"artifacts": [wire.artifact_object(each) for each in found]}, headers=links)
    return conditional(request, answer, is_over=over)
