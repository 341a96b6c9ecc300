"""Routes of what was said: one trial, one rollout with the calls of its LLM, the calls of meta-model and judge."""

import re
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from promptjobs.api import schemas, trace_schemas, trace_wire, wire
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.caching import NOT_CHANGED, conditional
from promptjobs.api.links import page_links
from promptjobs.api.parameters import MAX_LIMIT, MAX_NUMBER, After, JobId, Limit, TheDatabase, cut
from promptjobs.db import results, traces
from promptjobs.db.candidates import is_over
from promptjobs.db.transactions import reading
from promptjobs.errors import RolloutNotFound
from promptjobs.errors.shown import MAX_SHOWN

router = APIRouter(tags=["results"], responses=NOT_CHANGED)

ROLLOUT_ID = re.compile(r"[0-9a-f]{32}")

Purpose = Annotated[
    str | None, Query(pattern="^[a-z_]{1,50}$", description="Only those for this: reflection, proposal, judge …")
]


@router.get("/{job_id}/trials/{n}", response_model=schemas.TrialObject, summary="Read a trial of a job")
async def read_trial(
    request: Request,
    job_id: JobId,
    n: Annotated[int, Path(ge=0, le=MAX_NUMBER, description="The trial's number.")],
    database: TheDatabase,
) -> Response:
    """With the rollouts that its scores come from; the route of each shows what was said in it."""
    async with reading(database) as connection:
        over = await is_over(connection, job_id)
        stored = await traces.read_trial(connection, job_id, n)
        [rollouts] = await results.read_trial_rollouts(connection, job_id, [stored.trial])
    return conditional(request, JsonResponse(wire.trial_object(stored, rollouts)), is_over=over)


@router.get("/{job_id}/rollouts/{rollout_id}", response_model=schemas.RolloutObject, summary="Read a rollout of a job")
async def read_rollout(
    request: Request,
    job_id: JobId,
    rollout_id: Annotated[str, Path(description="The rollout's id: 32 hexadecimal digits.")],
    database: TheDatabase,
) -> Response:
    """With every call of its LLM: the messages as they were sent to the provider, the reply, tokens, cost and time."""
    if ROLLOUT_ID.fullmatch(rollout_id) is None:
        raise RolloutNotFound(rollout_id[:MAX_SHOWN])
    key = bytes.fromhex(rollout_id)
    async with reading(database) as connection:
        over = await is_over(connection, job_id)
        found = await traces.read_rollout(connection, job_id, key)
        calls = await traces.read_calls(connection, job_id, [key])
    return conditional(request, JsonResponse(trace_wire.shown_rollout(found, calls[key])), is_over=over)


@router.get(
    "/{job_id}/completions",
    response_model=list[trace_schemas.CompletionObject],
    summary="List the calls of meta-model and judge",
)
async def list_completions(
    request: Request,
    job_id: JobId,
    database: TheDatabase,
    limit: Limit = 50,
    after: After = None,
    purpose: Purpose = None,
) -> Response:
    """What the search has asked models for itself, and what they said. A bare array in the order in which they were
    answered; `Link` names the next page."""
    limit = min(limit, MAX_LIMIT)
    async with reading(database) as connection:
        over = await is_over(connection, job_id)
        completions = await traces.read_completions(connection, job_id, limit + 1, after, purpose)
    found, has_more = cut(completions, limit)
    links = page_links(request, found[-1].n if has_more else None)
    answer = JsonResponse([trace_wire.completion_object(each) for each in found], headers=links)
    return conditional(request, answer, is_over=over)
