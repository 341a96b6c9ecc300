"""Routes of what an experiment has found: its results, and the comparison of two of its jobs."""

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from promptjobs.api import experiment_result_schemas
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.caching import NOT_CHANGED, conditional
from promptjobs.api.experiment_wire import counts_json
from promptjobs.api.figure_turns import FigureTurns
from promptjobs.api.parameters import EXAMPLE_ID, JOB_ID, ExperimentId, TheDatabase
from promptjobs.core.experiment_comparisons import MAX_COMPARED, Compare, ExperimentResults, compared
from promptjobs.core.experiment_results import JobResult
from promptjobs.core.experiment_tables import results_csv, results_markdown
from promptjobs.core.seed_sets import SeedSet
from promptjobs.db import experiments
from promptjobs.db.experiment_results import read_results
from promptjobs.db.experiments import ExperimentRow
from promptjobs.db.transactions import at_one_moment
from promptjobs.errors import InvalidRequest, JobNotFound
from promptjobs.errors.shown import MAX_SHOWN

router = APIRouter(tags=["experiments"], responses=NOT_CHANGED)

MAX_VARIANTS_OF_A_JOB = 50

Json = dict[str, Any]


class ResultFormat(StrEnum):
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


class ComparedSeeds(StrEnum):
    """HELD_OUT: of the sets in which both have scores the last one, at best with common seeds."""

    HELD_OUT = "held_out"
    SEARCH = "search"
    VALIDATION = "validation"
    TEST = "test"


@router.get(
    "/{experiment_id}/results",
    response_model=experiment_result_schemas.ExperimentResultsObject,
    summary="Read the results of an experiment",
    responses={
        200: {
            "content": {
                "text/csv": {
                    "schema": {"type": "string"},
                    "example": "position,label,job_id\n1,gepa · seed=1,pl_5b0f\n",
                },
                "text/markdown": {"schema": {"type": "string"}, "example": "# Results of GEPA against MIPRO\n"},
            }
        }
    },
)
async def read_experiment_results(
    request: Request,
    experiment_id: ExperimentId,
    database: TheDatabase,
    turns: FigureTurns,
    result_format: Annotated[
        ResultFormat,
        Query(alias="format", description="`csv`: a row for each job, without comparisons and prompts."),
    ] = ResultFormat.JSON,
    compare: Annotated[
        Compare,
        Query(
            description="The best job with every other one, each with each (of at most "
            f"{MAX_COMPARED} jobs with scores), or none."
        ),
    ] = Compare.LEADER,
    variants: Annotated[
        int,
        Query(
            ge=0,
            le=MAX_VARIANTS_OF_A_JOB,
            description="Prompts of each job, at most; fewer where there is much to show.",
        ),
    ] = 5,
) -> Response:
    """A row for each job: baseline, best and lift on each set of seeds with their intervals, counters, cost, time, and
    its best prompts. Then the same over jobs that differ in their random seed alone, and who is better than whom.

    While jobs run, their figures so far.
    """
    shown = 0 if result_format is ResultFormat.CSV else variants
    async with turns.turn():
        async with at_one_moment(database) as connection:
            row = await experiments.read(connection, experiment_id)
            jobs = await read_results(connection, experiment_id, variants=shown)
        scored = sum(job.eval_set is not None for job in jobs)
        if compare is Compare.ALL and scored > MAX_COMPARED:
            raise InvalidRequest(
                f"at most {MAX_COMPARED} jobs are compared each with each, and {scored} have scores", "compare"
            )
        # Comparing many jobs takes its time: others are served meanwhile.
        answer = await asyncio.to_thread(_written, result_format, row, jobs, compare)
    return conditional(request, answer, is_over=row.status.is_terminal)


def _written(form: ResultFormat, row: ExperimentRow, jobs: Sequence[JobResult], compare: Compare) -> Response:
    if form is ResultFormat.CSV:
        return Response(results_csv(jobs), media_type="text/csv")
    found = ExperimentResults.of(_head(row), jobs, compare)
    if form is ResultFormat.MARKDOWN:
        return Response(results_markdown(found), media_type="text/markdown")
    return JsonResponse(found.to_json())


def _head(row: ExperimentRow) -> Json:
    return {
        "experiment_id": row.id,
        "name": row.name,
        "status": row.status,
        "num_jobs": row.num_jobs,
        "counts": counts_json(row),
    }


@router.get(
    "/{experiment_id}/comparison",
    response_model=experiment_result_schemas.JobComparisonObject,
    summary="Compare two jobs of an experiment",
)
async def compare_experiment_jobs(
    request: Request,
    experiment_id: ExperimentId,
    database: TheDatabase,
    turns: FigureTurns,
    first: Annotated[str, Query(description="A job's id.", examples=[EXAMPLE_ID])],
    second: Annotated[str, Query(description="Another job's id.", examples=[experiment_result_schemas.EXAMPLE_OTHER])],
    seeds: Annotated[
        ComparedSeeds, Query(description="`held_out`: the last set on which both have scores.")
    ] = ComparedSeeds.HELD_OUT,
) -> Response:
    """Their best prompts, paired over the seeds that both have a score on. `p_adjusted` is that of this comparison
    alone: who picks the pair after a look at many has to count those too."""
    if first == second:
        raise InvalidRequest("expected two different jobs", "second")
    for job_id in (first, second):
        if JOB_ID.fullmatch(job_id) is None:
            raise JobNotFound(job_id[:MAX_SHOWN])
    wanted = None if seeds is ComparedSeeds.HELD_OUT else SeedSet(seeds.value)
    async with turns.turn():
        async with at_one_moment(database) as connection:
            found = {job.job_id: job for job in await read_results(connection, experiment_id, job_ids=[first, second])}
        for job_id in (first, second):
            if job_id not in found:
                raise JobNotFound(job_id)
        one, other = found[first], found[second]
        answer = JsonResponse((await asyncio.to_thread(compared, one, other, wanted)).to_json())
    return conditional(request, answer, is_over=one.is_over and other.is_over)
