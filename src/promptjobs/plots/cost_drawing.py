"""Draws what a score costs: points of candidates or of jobs, and the line of those that nothing beats."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from promptjobs.plots.canvas import GREY, PALE, SERIES, headed, label, legend_below, score_axis, with_commas
from promptjobs.plots.figures import CostPoint, CostScatter

LINE: dict[str, Any] = {"color": GREY, "linewidth": 1.2, "linestyle": (0, (4, 2))}
OTHERS = (GREY, ".")
"""The mark of groups beyond those that have one of their own."""


def cost_scatter(found: CostScatter) -> Figure:
    figure = headed(found.heading)
    axes = figure.add_subplot()
    handles, names = [], []
    for at, name in enumerate(found.groups):
        style = _style(at, found)
        points = [each for each in found.points if each.group == at]
        if not points:
            continue
        axes.plot([each.cost for each in points], [each.score for each in points], alpha=0.9, zorder=3, **style)
        if at < len(SERIES):
            handles.append(Line2D([], [], **style))
            names.append(label(name))
    if len(found.groups) > len(SERIES):
        handles.append(Line2D([], [], **_style(len(SERIES), found)))
        names.append(f"{len(found.groups) - len(SERIES)} more")
    front = efficient([each for each in found.points if each.group not in found.accompanying])
    if len(front) > 1:
        x, y = [each.cost for each in front], [each.score for each in front]
        axes.step(x, y, where="post", zorder=2, **LINE)
        handles.append(Line2D([], [], **LINE))
        names.append("nothing cheaper is as good")
    score_axis(axes, [each.score for each in found.points], found.score_label)
    axes.set_xlabel(found.unit)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(with_commas)
    axes.grid(axis="x")
    legend_below(axes, handles, names)
    return figure


def _style(group: int, found: CostScatter) -> dict[str, Any]:
    if group in found.accompanying:
        return {"linestyle": "none", "marker": "o", "markersize": 4.0, "color": PALE, "markeredgecolor": GREY}
    color, marker = SERIES[group] if group < len(SERIES) else OTHERS
    return {"linestyle": "none", "marker": marker, "markersize": 7.5, "color": color, "markeredgecolor": "white"}


def efficient(points: Sequence[CostPoint]) -> list[CostPoint]:
    """Those to which no other is cheaper and at least as good, the cheapest first."""
    front: list[CostPoint] = []
    for point in sorted(points, key=lambda each: (each.cost, -each.score)):
        if not front or point.score > front[-1].score:
            front.append(point)
    return front
