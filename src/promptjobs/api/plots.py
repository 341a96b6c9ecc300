"""Routes of the plots of jobs and experiments."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
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
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors.experiments import PlotNotFound
from promptjobs.errors.shown import MAX_SHOWN
from promptjobs.jobs.turns import Turns
from promptjobs.plots.figures import Picture, PictureFormat
from promptjobs.plots.pictures import Pictures, require_installed

jobs_router = APIRouter(tags=["results"])
experiments_router = APIRouter(tags=["experiments"])

Key = tuple[str, str, str]
"""Of a picture: the id of what it shows, the plot's name, the format."""

Looked = tuple[bool, Callable[[], Awaitable[Picture]]]
"""Whether what is shown is over; and what reads the picture's figures, if they are needed."""

Look = Callable[[AsyncConnection], Awaitable[Looked]]

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


@dataclass(frozen=True, slots=True)
class Studio:
    """What a route needs to answer with a picture."""

    request: Request
    database: Database
    turns: Turns
    pictures: Pictures

    async def answer(self, key: Key, form: PictureFormat, look: Look) -> Response:
        """key: of the picture, for which it is kept once nothing can change it. look: reads what it is of."""
        async with self.turns.turn(), reading(self.database) as connection:
            is_over, figured = await look(connection)
            content = self.pictures.kept(key) if is_over else None
            if content is None:
                picture = await figured()
        if content is None:
            content = await self.pictures.draw(picture, form, keep_as=key if is_over else None)
        return conditional(self.request, _response(content, key, form), is_over=is_over)


async def _studio(request: Request, database: TheDatabase, turns: FigureTurns) -> Studio:
    return Studio(request, database, turns, request.app.state.pictures)


TheStudio = Annotated[Studio, Depends(_studio)]
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
    job_id: JobId, plot: Annotated[str, _named(JobPlot)], studio: TheStudio, form: Format = PictureFormat.SVG
) -> Response:
    """A picture of what is known now. The same figures give the same picture, byte for byte."""
    require_installed()
    name = JobPlot(_known(plot, JobPlot))

    async def look(connection: AsyncConnection) -> Looked:
        standing = await candidates.read_standing(connection, job_id)

        async def figured() -> Picture:
            return await OF_JOB[name](connection, await plot_facts.read_facts(connection, job_id, standing))

        return standing.is_over, figured

    return await studio.answer((job_id, name.value, form.value), form, look)


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
    experiment_id: ExperimentId,
    plot: Annotated[str, _named(ExperimentPlot)],
    studio: TheStudio,
    form: Format = PictureFormat.SVG,
) -> Response:
    """A picture of what its jobs have come to by now, side by side."""
    require_installed()
    name = ExperimentPlot(_known(plot, ExperimentPlot))

    async def look(connection: AsyncConnection) -> Looked:
        row = await experiments.read(connection, experiment_id)

        async def figured() -> Picture:
            return await OF_EXPERIMENT[name](connection, await plot_experiment_figures.read_facts(connection, row))

        return row.status.is_terminal, figured

    return await studio.answer((experiment_id, name.value, form.value), form, look)


def _known(plot: str, kind: type[StrEnum]) -> str:
    """Raises PlotNotFound."""
    names = [each.value for each in kind]
    if plot not in names:
        raise PlotNotFound(plot[:MAX_SHOWN], names)
    return plot


def _list(plots: Mapping[Any, str]) -> Response:
    return JsonResponse([{"name": name.value, "shows": shows, "formats": FORMATS} for name, shows in plots.items()])


def _response(content: bytes, key: Key, form: PictureFormat) -> Response:
    item_id, plot, _ = key
    headers = {"content-disposition": f'inline; filename="{item_id}.{plot}.{form.value}"'}
    if form is PictureFormat.SVG:
        headers["content-security-policy"] = CONTENT_SECURITY_POLICY
    return Response(content, media_type=MEDIA_TYPES[form], headers=headers)
