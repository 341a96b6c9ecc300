"""What is to be drawn: each kind of picture by its figures alone, so that the same figures give the same picture."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Discriminator, TypeAdapter


class PictureFormat(StrEnum):
    SVG = "svg"
    PNG = "png"


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above a picture. nothing: why there is nothing to show yet, which is then all that is drawn."""

    title: str
    note: str = ""
    nothing: str | None = None


# --- of a job --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One measured mean. rollouts: how many had been spent then. score: in [0, 1], over so many seeds."""

    rollouts: int
    score: float
    seeds: int


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """minibatches: evaluations on a few seeds; full: on the seeds that candidates are ranked by; validation: held out.
    best: (rollouts, score) wherever the best rose. rollouts: spent until now, of so many at most."""

    heading: Heading
    minibatches: tuple[Evaluation, ...]
    full: tuple[Evaluation, ...]
    validation: tuple[Evaluation, ...]
    validation_baseline: Evaluation | None
    best: tuple[tuple[int, float], ...]
    baseline: float | None
    rollouts: int
    kind: Literal["learning_curve"] = "learning_curve"


@dataclass(frozen=True, slots=True)
class FrontRow:
    """A candidate: scores[i] on the i-th seed of the map, None where it was not measured there."""

    label: str
    scores: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class FrontMap:
    """Who is best where. Rows from the best on. eps: so far below a seed's best, one is still among the best there."""

    heading: Heading
    seeds: tuple[int, ...]
    rows: tuple[FrontRow, ...]
    eps: float
    kind: Literal["front_map"] = "front_map"


@dataclass(frozen=True, slots=True)
class SeedScores:
    """What baseline and best have scored on the seeds of one set, each in [0, 1]."""

    name: str
    baseline: tuple[float, ...]
    best: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    heading: Heading
    sets: tuple[SeedScores, ...]
    kind: Literal["distribution"] = "distribution"


@dataclass(frozen=True, slots=True)
class Differences:
    """(seed, best − baseline) in [-1, 1], in any order."""

    heading: Heading
    differences: tuple[tuple[int, float], ...]
    kind: Literal["differences"] = "differences"


# --- of jobs and of experiments --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CostPoint:
    """cost: 0 or more, in the unit of its picture. group: an index of the picture's groups."""

    cost: float
    score: float
    group: int


@dataclass(frozen=True, slots=True)
class CostScatter:
    """unit: of the costs, with what they are for. accompanying: groups too unsure to be compared with the others."""

    heading: Heading
    unit: str
    score_label: str
    groups: tuple[str, ...]
    points: tuple[CostPoint, ...]
    accompanying: tuple[int, ...] = ()
    kind: Literal["cost_scatter"] = "cost_scatter"


# --- of an experiment ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve:
    """A job's best score. steps: (rollouts, score) wherever it rose; rollouts: spent until now."""

    group: int
    steps: tuple[tuple[int, float], ...]
    rollouts: int


@dataclass(frozen=True, slots=True)
class CurveBundle:
    heading: Heading
    groups: tuple[str, ...]
    curves: tuple[Curve, ...]
    kind: Literal["curve_bundle"] = "curve_bundle"


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Jobs that differ in their random seed alone. low, high: of the mean's 95 % interval, None for a single job."""

    label: str
    scores: tuple[float, ...]
    baselines: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class GroupBars:
    heading: Heading
    score_label: str
    rows: tuple[GroupScores, ...]
    kind: Literal["group_bars"] = "group_bars"


Picture = Annotated[
    LearningCurve | FrontMap | Distribution | Differences | CostScatter | CurveBundle | GroupBars,
    Discriminator("kind"),
]

PICTURE: TypeAdapter[Picture] = TypeAdapter(Picture)
"""How a picture's figures reach the process that draws it: as JSON."""
