"""Routes of the plots of jobs and experiments."""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from promptjobs.api import plot_candidates, plot_comparison, plot_curve, plot_experiment_figures, plot_facts
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.caching import NOT_CHANGED, conditional
from promptjobs.api.figure_turns import FigureTurns
from promptjobs.api.parameters import ExperimentId, JobId, TheDatabase
from promptjobs.api.plot_experiment_figures import ExperimentFacts
from promptjobs.api.plot_facts import JobFacts
from promptjobs.api.plot_schemas import FORMATS, OF_EXPERIMENTS, OF_JOBS, ExperimentPlot, JobPlot, PlotObject
from promptjobs.db import candidates, experiments
from promptjobs.db.transactions import reading
from promptjobs.errors.experiments import PlotNotFound
from promptjobs.errors.shown import MAX_SHOWN
from promptjobs.plots.figures import Picture, PictureFormat
from promptjobs.plots.pictures import Pictures, require_installed

jobs_router = APIRouter(tags=["results"])
experiments_router = APIRouter(tags=["experiments"])

MEDIA_TYPES = {PictureFormat.SVG: "image/svg+xml", PictureFormat.PNG: "image/png"}

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; sandbox; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Of an SVG, which is a page too where it is opened by itself. Its shapes are coloured by styles of their own; with
nothing that may be loaded, a style can do nothing else."""

OF_JOB: Mapping[JobPlot, Callable[[AsyncConnection, JobFacts], Awaitable[Picture]]] = {
    JobPlot.LEARNING_CURVE: plot_curve.learning_curve,
    JobPlot.PARETO_FRONT: plot_candidates.front_map,
    JobPlot.SCORE_DISTRIBUTION: plot_comparison.distribution,
    JobPlot.COST_VS_SCORE: plot_candidates.cost_scatter,
    JobPlot.WINS_AND_LOSSES: plot_comparison.differences,
}
OF_EXPERIMENT: Mapping[ExperimentPlot, Callable[[AsyncConnection, ExperimentFacts], Awaitable[Picture]]] = {
    ExperimentPlot.LEARNING_CURVES: plot_experiment_figures.curve_bundle,
    ExperimentPlot.SCORE_BY_GROUP: plot_experiment_figures.group_bars,
    ExperimentPlot.COST_VS_SCORE: plot_experiment_figures.cost_scatter,
}

PICTURE: dict[int | str, dict[str, Any]] = {
    **NOT_CHANGED,
    200: {
        "description": "The picture.",
        "content": {
            "image/svg+xml": {"schema": {"type": "string"}, "example": '<svg xmlns="http://www.w3.org/2000/svg"/>'},
            "image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}, "example": "(bytes)"},
        },
    },
}


async def _pictures(request: Request) -> Pictures:
    """The service's, made when the first one is asked for."""
    state = request.app.state
    if not hasattr(state, "pictures"):
        state.pictures = Pictures()
    pictures: Pictures = state.pictures
    return pictures


ThePictures = Annotated[Pictures, Depends(_pictures)]
Format = Annotated[PictureFormat, Query(alias="format", description="As which the picture is wanted.")]


def _named(kind: type[StrEnum]) -> Any:
    """The parameter of the address that names a plot."""
    return Path(description="The plot's name.", json_schema_extra={"enum": [each.value for each in kind]})


@jobs_router.get("/{job_id}/plots", response_model=list[PlotObject], summary="List the plots of a job")
async def list_job_plots(job_id: JobId, database: TheDatabase) -> Response:
    """What can be drawn of a job, at any time: a plot that has nothing to show yet says so."""
    require_installed()
    async with reading(database) as connection:
        await candidates.is_over(connection, job_id)
    return _list(OF_JOBS)


@jobs_router.get("/{job_id}/plots/{plot}", response_class=Response, summary="Draw a plot of a job", responses=PICTURE)
async def read_job_plot(
    request: Request,
    job_id: JobId,
    plot: Annotated[str, _named(JobPlot)],
    database: TheDatabase,
    pictures: ThePictures,
    turns: FigureTurns,
    form: Format = PictureFormat.SVG,
) -> Response:
    """A picture of what is known now. The same figures give the same picture, byte for byte."""
    require_installed()
    name = JobPlot(_known(plot, JobPlot))
    key = (job_id, name.value, form.value)
    async with turns.turn(), reading(database) as connection:
        standing = await candidates.read_standing(connection, job_id)
        content = pictures.kept(key) if standing.is_over else None
        if content is None:
            facts = await plot_facts.read_facts(connection, job_id, standing)
            picture = await OF_JOB[name](connection, facts)
    if content is None:
        content = await pictures.draw(picture, form, keep_as=key if standing.is_over else None)
    return conditional(request, _answer(content, key, form), is_over=standing.is_over)


@experiments_router.get(
    "/{experiment_id}/plots", response_model=list[PlotObject], summary="List the plots of an experiment"
)
async def list_experiment_plots(experiment_id: ExperimentId, database: TheDatabase) -> Response:
    """What can be drawn of an experiment, at any time."""
    require_installed()
    async with reading(database) as connection:
        await experiments.read(connection, experiment_id)
    return _list(OF_EXPERIMENTS)


@experiments_router.get(
    "/{experiment_id}/plots/{plot}",
    response_class=Response,
    summary="Draw a plot of an experiment",
    responses=PICTURE,
)
async def read_experiment_plot(
    request: Request,
    experiment_id: ExperimentId,
    plot: Annotated[str, _named(ExperimentPlot)],
    database: TheDatabase,
    pictures: ThePictures,
    turns: FigureTurns,
    form: Format = PictureFormat.SVG,
) -> Response:
    """A picture of what its jobs have come to by now, side by side."""
    require_installed()
    name = ExperimentPlot(_known(plot, ExperimentPlot))
    key = (experiment_id, name.value, form.value)
    async with turns.turn(), reading(database) as connection:
        row = await experiments.read(connection, experiment_id)
        is_over = row.status.is_terminal
        content = pictures.kept(key) if is_over else None
        if content is None:
            facts = await plot_experiment_figures.read_facts(connection, row)
            picture = await OF_EXPERIMENT[name](connection, facts)
    if content is None:
        content = await pictures.draw(picture, form, keep_as=key if is_over else None)
    return conditional(request, _answer(content, key, form), is_over=is_over)


def _known(plot: str, kind: type[StrEnum]) -> str:
    """Raises PlotNotFound."""
    names = [each.value for each in kind]
    if plot not in names:
        raise PlotNotFound(plot[:MAX_SHOWN], names)
    return plot


def _list(plots: Mapping[Any, str]) -> Response:
    return JsonResponse([{"name": name.value, "shows": shows, "formats": FORMATS} for name, shows in plots.items()])


def _answer(content: bytes, key: tuple[str, str, str], form: PictureFormat) -> Response:
    item_id, plot, _ = key
    headers = {"content-disposition": f'inline; filename="{item_id}.{plot}.{form.value}"'}
    if form is PictureFormat.SVG:
        headers["content-security-policy"] = CONTENT_SECURITY_POLICY
    return Response(content, media_type=MEDIA_TYPES[form], headers=headers)
