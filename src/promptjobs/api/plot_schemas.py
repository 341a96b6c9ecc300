"""What the routes of plots answer beside pictures, and the names of the plots."""

from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, Field

from promptjobs.api.schemas import Answer
from promptjobs.plots.figures import PictureFormat


class JobPlot(StrEnum):
    LEARNING_CURVE = "learning-curve"
    PARETO_FRONT = "pareto-front"
    SCORE_DISTRIBUTION = "score-distribution"
    COST_VS_SCORE = "cost-vs-score"
    WINS_AND_LOSSES = "wins-and-losses"


class ExperimentPlot(StrEnum):
    LEARNING_CURVES = "learning-curves"
    SCORE_BY_GROUP = "score-by-group"
    COST_VS_SCORE = "cost-vs-score"


OF_JOBS = {
    JobPlot.LEARNING_CURVE: "The best score over the rollouts spent, with every evaluation: on few seeds, on "
    "those that rank, and on the validation seeds.",
    JobPlot.PARETO_FRONT: "The front's candidates seed by seed, and who is best where; of MIPRO its leading "
    "configurations.",
    JobPlot.SCORE_DISTRIBUTION: "How many seeds have which score, for the baseline and the best.",
    JobPlot.COST_VS_SCORE: "Every candidate by what a rollout with it costs, and by its score.",
    JobPlot.WINS_AND_LOSSES: "Seed by seed, what the best scores more or less than the baseline.",
}
OF_EXPERIMENTS = {
    ExperimentPlot.LEARNING_CURVES: "The best score of every job over its rollouts.",
    ExperimentPlot.SCORE_BY_GROUP: "The jobs' scores by group, with mean and interval; the jobs of a group differ in "
    "their random seed alone.",
    ExperimentPlot.COST_VS_SCORE: "Every job by what it has cost in all, and by its score.",
}
"""What is to be seen on each."""

FORMATS = [form.value for form in PictureFormat]


EXAMPLE_PLOT: dict[str, Any] = {
    "name": JobPlot.LEARNING_CURVE.value,
    "shows": OF_JOBS[JobPlot.LEARNING_CURVE],
    "formats": FORMATS,
}


class PlotObject(Answer):
    """A plot that can be drawn."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_PLOT]})

    name: str = Field(description="By which the plot is asked for.")
    shows: str = Field(description="What is to be seen.")
    formats: list[str] = Field(description="In which it can be drawn.")
