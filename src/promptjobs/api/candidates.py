"""Routes of what a search has tried: candidates, refused proposals, the archive and the lineage."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from promptjobs.api import candidate_schemas, candidate_wire
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.caching import NOT_CHANGED, conditional
from promptjobs.api.links import page_links
from promptjobs.api.parameters import MAX_LIMIT, After, JobId, Limit, TheDatabase, ThePage, cut
from promptjobs.core.rejections import CandidateStatus
from promptjobs.db import candidates, seed_scores
from promptjobs.db.archive import read_archive
from promptjobs.db.candidates import CandidateFilter, JudgedCandidate, Standing, read_standing
from promptjobs.db.results import Page
from promptjobs.db.seed_scores import NO_COST
from promptjobs.db.transactions import reading
from promptjobs.errors import CandidateNotFound
from promptjobs.errors.shown import MAX_SHOWN

router = APIRouter(tags=["results"], responses=NOT_CHANGED)

MAX_NODES = 1000
CANDIDATE_ID = re.compile(r"[A-Za-z0-9_.:-]{1,200}")

ByStatus = Annotated[CandidateStatus | None, Query(description="Only those with this status.")]
ByOperator = Annotated[
    str | None, Query(pattern="^[a-z_]{1,50}$", description="Only those that came to be in this way.")
]
ByFront = Annotated[bool | None, Query(description="Only those on the Pareto front, or only the others.")]
Nodes = Annotated[int, Query(ge=1, description=f"Nodes of a page; more than {MAX_NODES} are cut to {MAX_NODES}.")]


@router.get(
    "/{job_id}/candidates",
    response_model=list[candidate_schemas.CandidateObject],
    summary="List the candidates of a job",
)
async def list_candidates(
    request: Request,
    job_id: JobId,
    database: TheDatabase,
    page: ThePage,
    status: ByStatus = None,
    operator: ByOperator = None,
    is_pareto: ByFront = None,
) -> Response:
    """Every prompt that was tried, with its scores seed by seed, its lineage, and why it was rejected. A bare array in
    the order of their numbers; `Link` names the next page. Proposals that never became candidates have a list of their
    own."""
    wanted = CandidateFilter(status, operator, is_pareto)
    async with reading(database) as connection:
        standing = await read_standing(connection, job_id)
        longer = replace(page, limit=page.limit + 1)
        judged = await candidates.read_judged(connection, job_id, standing, longer, wanted)
        found, has_more = cut(judged, page.limit)
        objects = await _objects(connection, job_id, standing, found)
    links = page_links(request, found[-1].candidate.n if has_more else None)
    return conditional(request, JsonResponse(objects, headers=links), is_over=standing.is_over)


@router.get(
    "/{job_id}/candidates/{candidate_id}",
    response_model=candidate_schemas.CandidateObject,
    summary="Read a candidate of a job",
)
async def read_candidate(
    request: Request,
    job_id: JobId,
    candidate_id: Annotated[str, Path(description="The candidate's id.", examples=[candidate_schemas.EXAMPLE_CHILD])],
    database: TheDatabase,
) -> Response:
    """One prompt that was tried, as it stands in the list."""
    if CANDIDATE_ID.fullmatch(candidate_id) is None:
        raise CandidateNotFound(candidate_id[:MAX_SHOWN])
    async with reading(database) as connection:
        standing = await read_standing(connection, job_id)
        found = await candidates.read_one(connection, job_id, standing, candidate_id)
        [shown] = await _objects(connection, job_id, standing, [found])
    return conditional(request, JsonResponse(shown), is_over=standing.is_over)


async def _objects(
    connection: AsyncConnection, job_id: str, standing: Standing, found: Sequence[JudgedCandidate]
) -> list[dict[str, Any]]:
    """So many queries, however many candidates there are."""
    ids = [each.candidate.candidate_id for each in found]
    if not ids:
        return []
    scores = await seed_scores.read_scores(connection, job_id, ids)
    failures = await seed_scores.read_failures(connection, job_id, ids)
    costs = await seed_scores.read_costs(connection, job_id, ids)
    choices = await candidates.read_choices(connection, job_id, ids) if standing.algorithm == "mipro" else {}
    return [
        candidate_wire.candidate_object(each, scores[name], failures, costs.get(name, NO_COST), choices.get(name))
        for name, each in zip(ids, found, strict=True)
    ]


@router.get(
    "/{job_id}/proposals/refused",
    response_model=list[candidate_schemas.RefusedProposal],
    summary="List the refused proposals of a job",
)
async def list_refused(
    request: Request, job_id: JobId, database: TheDatabase, limit: Limit = 50, after: After = None
) -> Response:
    """Proposals that never became candidates: replies that could not be used, prompts that break a guard, prompts that
    were tried already. A bare array in the order in which they were refused; `Link` names the next page."""
    limit = min(limit, MAX_LIMIT)
    async with reading(database) as connection:
        over = await candidates.is_over(connection, job_id)
        events = await candidates.read_refused(connection, job_id, after or 0, limit + 1)
    found, has_more = cut(events, limit)
    links = page_links(request, found[-1].seq if has_more else None)
    answer = JsonResponse([candidate_wire.refused_object(each) for each in found], headers=links)
    return conditional(request, answer, is_over=over)


@router.get("/{job_id}/archive", response_model=candidate_schemas.ArchiveObject, summary="Read the archive of a job")
async def show_archive(request: Request, job_id: JobId, database: TheDatabase) -> Response:
    """The best prompts, with their scores seed by seed, and who is best on which seed.

    While the job runs, GEPA's Pareto front, or the configurations that MIPRO's model ranks first; once it is over, what
    it has published.
    """
    async with reading(database) as connection:
        standing = await read_standing(connection, job_id)
        archive = await read_archive(connection, job_id, standing)
    answer = JsonResponse(candidate_wire.archive_object(archive, standing))
    return conditional(request, answer, is_over=standing.is_over)


@router.get("/{job_id}/lineage", response_model=candidate_schemas.LineageObject, summary="Read who descends from whom")
async def show_lineage(
    request: Request, job_id: JobId, database: TheDatabase, limit: Nodes = 500, after: After = None
) -> Response:
    """The candidates as a graph, without their prompts, in the order of their numbers."""
    limit = min(limit, MAX_NODES)
    async with reading(database) as connection:
        standing = await read_standing(connection, job_id)
        page = Page(limit + 1, after)
        judged = await candidates.read_judged(connection, job_id, standing, page, CandidateFilter())
        found, has_more = cut(judged, limit)
        scores = await seed_scores.read_scores(connection, job_id, [each.candidate.candidate_id for each in found])
    links = page_links(request, found[-1].candidate.n if has_more else None)
    answer = JsonResponse(candidate_wire.lineage_object(found, scores, has_more), headers=links)
    return conditional(request, answer, is_over=standing.is_over)
