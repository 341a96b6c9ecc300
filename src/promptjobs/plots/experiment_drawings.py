"""Draws what the jobs of an experiment have found, side by side."""

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from promptjobs.plots.canvas import (
    BLACK,
    BLUE,
    GREY,
    MAX_SERIES,
    ORANGE,
    SERIES,
    headed,
    label,
    legend_below,
    rollout_axis,
    score_axis,
)
from promptjobs.plots.figures import CurveBundle, GroupBars, GroupScores

ROW_INCHES = 0.5
LIFT, STEP = 0.19, 0.13
NEAR = 0.012
MAX_LEVELS = 4


def curve_bundle(found: CurveBundle) -> Figure:
    """The best score of every job over its rollouts; jobs of a group, which differ in their seed, look the same."""
    figure = headed(found.heading)
    axes = figure.add_subplot()
    for curve in found.curves:
        color, marker = SERIES[curve.group] if curve.group < MAX_SERIES else (GREY, "")
        x, y = zip(*curve.steps, strict=True)
        end = max(curve.rollouts, x[-1])
        axes.step([*x, end], [*y, y[-1]], where="post", color=color, linewidth=1.5, alpha=0.85)
        axes.plot([end], [y[-1]], marker=marker or ".", color=color, markersize=7, markeredgecolor="white", zorder=4)
    handles = [
        Line2D([], [], color=color, marker=marker, markersize=7, markeredgecolor="white")
        for color, marker in SERIES[: len(found.groups)]
    ]
    names = [label(name) for name in found.groups[:MAX_SERIES]]
    if len(found.groups) > MAX_SERIES:
        handles.append(Line2D([], [], color=GREY))
        names.append(f"{len(found.groups) - MAX_SERIES} more")
    score_axis(
        axes,
        [score for curve in found.curves for _, score in curve.steps],
        "best score so far, on the search's own seeds",
    )
    rollout_axis(axes)
    legend_below(axes, handles, names)
    return figure


def group_bars(found: GroupBars) -> Figure:
    """A line for each group: its jobs, their mean with its interval, and where they began."""
    figure = headed(found.heading, height=min(14.0, 2.1 + ROW_INCHES * len(found.rows)))
    axes = figure.add_subplot()
    for y, row in enumerate(found.rows):
        _row(axes, y, row)
    axes.set_yticks(range(len(found.rows)), [label(row.label) for row in found.rows])
    axes.set_ylim(len(found.rows) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(found.score_label)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    legend_below(
        axes,
        [
            Line2D([], [], color=BLACK, marker="|", markersize=11, markeredgewidth=2.2, linewidth=1.6),
            Line2D([], [], linestyle="none", marker="o", color=BLUE, markersize=6, markeredgecolor="white"),
            Line2D([], [], linestyle="none", marker="o", markersize=6, markerfacecolor="none", markeredgecolor=ORANGE),
        ],
        ["mean and its 95 % interval", "best of a job", "baseline of a job"],
    )
    return figure


def _row(axes: Axes, y: int, row: GroupScores) -> None:
    """Jobs lie above the mean's line, those of about the same score on top of each other."""
    if row.low is not None and row.high is not None:
        axes.plot([max(0.0, row.low), min(1.0, row.high)], [y, y], color=BLACK, linewidth=1.6, zorder=3)
    axes.plot([row.mean], [y], marker="|", markersize=11, markeredgewidth=2.2, color=BLACK, zorder=4)
    for scores, color, is_filled in ((row.baselines, ORANGE, False), (row.scores, BLUE, True)):
        heights = [y - LIFT - STEP * level for level in stacked(scores)]
        axes.plot(
            scores,
            heights,
            linestyle="none",
            marker="o",
            markersize=6,
            markerfacecolor=color if is_filled else "none",
            markeredgecolor="white" if is_filled else color,
            markeredgewidth=0.7 if is_filled else 1.3,
            zorder=5 if is_filled else 2,
        )


def stacked(scores: Sequence[float]) -> list[int]:
    """Levels from 0 on, by which near scores can be told apart."""
    levels = [0] * len(scores)
    order = sorted(range(len(scores)), key=lambda at: scores[at])
    for before, at in itertools.pairwise(order):
        if scores[at] - scores[before] < NEAR:
            levels[at] = (levels[before] + 1) % MAX_LEVELS
    return levels
