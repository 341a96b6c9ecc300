"""Draws what a single job has found: its curve, its front, and how its best prompt differs from the baseline."""

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from promptjobs.plots.canvas import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PALE,
    VERMILION,
    headed,
    label,
    legend_below,
    rollout_axis,
    score_axis,
)
from promptjobs.plots.figures import Differences, Distribution, Evaluation, FrontMap, LearningCurve, SeedScores

BINS = 10
MAX_NAMED_BARS = 4
MAX_NAMED_SEEDS = 60
ROW_INCHES = 0.24
STEPS = 10
UNKNOWN = "#f1f2f4"


# --- the learning curve ----------------------------------------------------------------------------------------------


def learning_curve(curve: LearningCurve) -> Figure:
    """What was measured on few seeds, on all of them, and held out, each in its own mark; the best so far as a line."""
    figure = headed(curve.heading)
    axes = figure.add_subplot()
    handles = [
        _dots(axes, curve.minibatches, PALE, "o", 3.5, "on a minibatch"),
        _dots(axes, curve.full, BLUE, "s", 5.0, f"full evaluation ({_count(curve.full)})"),
        _dots(axes, curve.validation, VERMILION, "D", 6.5, f"validation ({_count(curve.validation)})"),
    ]
    if curve.validation_baseline is not None:
        handles.append(_dots(axes, [curve.validation_baseline], ORANGE, "D", 6.5, "baseline, validation"))
    if curve.best:
        steps = [*curve.best, (max(curve.rollouts, curve.best[-1][0]), curve.best[-1][1])]
        x, y = zip(*steps, strict=True)
        axes.step(x, y, where="post", color=BLACK, linewidth=1.8, zorder=4)
        handles.append(Line2D([], [], color=BLACK, linewidth=1.8, label="best so far, as ranked"))
    if curve.baseline is not None:
        axes.axhline(curve.baseline, color=ORANGE, linewidth=1.6, linestyle=(0, (5, 3)), zorder=2)
        handles.append(Line2D([], [], color=ORANGE, linewidth=1.6, linestyle=(0, (5, 3)), label="baseline"))
    every = (*curve.minibatches, *curve.full, *curve.validation)
    score_axis(axes, [each.score for each in every], "mean score (0 to 1)")
    rollout_axis(axes)
    found = [handle for handle in handles if handle is not None]
    legend_below(axes, found, [str(handle.get_label()) for handle in found])
    return figure


def _count(found: Sequence[Evaluation]) -> str:
    """On how many seeds they rest: a number, or from where to where."""
    seeds = [each.seeds for each in found] or [0]
    least, most = min(seeds), max(seeds)
    return f"{most} seeds" if least == most else f"{least}–{most} seeds"


def _dots(axes: Axes, found: Sequence[Evaluation], color: str, marker: str, size: float, name: str) -> Line2D | None:
    """Marks of one kind; None where there are none."""
    if not found:
        return None
    x, y = [each.rollouts for each in found], [each.score for each in found]
    edge = GREY if color == PALE else "white"
    [line] = axes.plot(
        x, y, linestyle="none", marker=marker, markersize=size, color=color, markeredgecolor=edge, markeredgewidth=0.6
    )
    line.set_zorder(3 if color == PALE else 5)
    return Line2D(
        [], [], linestyle="none", marker=marker, markersize=size + 1, color=color, markeredgecolor=edge, label=name
    )


# --- the front -------------------------------------------------------------------------------------------------------


def front_map(found: FrontMap) -> Figure:
    """Candidates by seeds: the colour is the score, a dot says that nobody on the map is better there."""
    height = min(12.0, max(3.0, 1.9 + ROW_INCHES * len(found.rows)))
    figure = headed(found.heading, height)
    axes = figure.add_subplot()
    # A mesh and few colours are drawn as shapes; anything else would be an image inside the picture.
    cells = [[math.nan if score is None else score for score in row.scores] for row in found.rows]
    colors = mpl.colormaps["cividis"].resampled(STEPS).with_extremes(bad=UNKNOWN)
    columns, rows = ([at - 0.5 for at in range(many + 1)] for many in (len(found.seeds), len(found.rows)))
    image = axes.pcolormesh(
        columns, rows, cells, cmap=colors, vmin=0.0, vmax=1.0, edgecolor="white", linewidth=0.4, snap=True
    )
    axes.set_facecolor(UNKNOWN)
    axes.invert_yaxis()
    winners = _winners(found)
    for dark, color in ((True, "white"), (False, BLACK)):
        marks = [(x, y) for y, x, is_dark in winners if is_dark is dark]
        x, y = [x for x, _ in marks], [y for _, y in marks]
        axes.plot(x, y, linestyle="none", marker="o", markersize=4, color=color, markeredgewidth=0)
    axes.set_yticks(range(len(found.rows)), [label(row.label) for row in found.rows], fontsize=9)
    _name_seeds(axes, found.seeds)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.015)
    bar.outline.set_visible(False)
    bar.set_label("score")
    legend_below(
        axes,
        [
            Line2D([], [], linestyle="none", marker="o", markersize=5, color=BLACK),
            Patch(facecolor=UNKNOWN, edgecolor=PALE),
        ],
        ["among the best on this seed", "not measured, or failed"],
    )
    return figure


def _winners(found: FrontMap) -> list[tuple[int, int, bool]]:
    """(row, column, whether the cell is dark) of the best of each seed. A seed on which all fail has none."""
    marked = []
    for x in range(len(found.seeds)):
        column = [(y, row.scores[x]) for y, row in enumerate(found.rows)]
        known = [(y, score) for y, score in column if score is not None]
        best = max((score for _, score in known), default=0.0)
        marked += [(y, x, score < 0.6) for y, score in known if best > 0 and score >= best - found.eps]
    return marked


def _name_seeds(axes: Axes, seeds: Sequence[int]) -> None:
    axes.set_xlabel("seed")
    if len(seeds) <= MAX_NAMED_SEEDS:
        axes.set_xticks(range(len(seeds)), [str(seed) for seed in seeds], rotation=90, fontsize=8)
    else:
        axes.set_xlabel(f"{len(seeds)} seeds")
        axes.set_xticks([])


# --- baseline against best -------------------------------------------------------------------------------------------


def distribution(found: Distribution) -> Figure:
    """How many seeds have which score, for the baseline and the best, a panel for each set of seeds."""
    figure = headed(found.heading)
    panels = figure.subplots(1, len(found.sets), sharey=True, squeeze=False)[0]
    for axes, each in zip(panels, found.sets, strict=True):
        _panel(axes, each)
    most = max(100 * max(_counts(scores)) / len(scores) for each in found.sets for scores in (each.baseline, each.best))
    panels[0].set_ylim(0, 1.22 * most)
    panels[0].set_yticks(range(0, int(most) + 1, 20 if most > 50 else 10))
    panels[0].set_ylabel("share of the seeds (%)")
    legend_below(
        panels[0],
        [Patch(color=ORANGE), Patch(color=BLUE), Line2D([], [], color=GREY, linestyle=(0, (4, 2)))],
        ["baseline", "best", "mean"],
    )
    return figure


def _panel(axes: Axes, found: SeedScores) -> None:
    """Two bars for each tenth of the scores, side by side."""
    for scores, color, shift in ((found.baseline, ORANGE, -1), (found.best, BLUE, 1)):
        counts = _counts(scores)
        x = [(at + 0.5 + 0.2 * shift) / BINS for at in range(BINS)]
        bars = axes.bar(x, [100 * count / len(scores) for count in counts], width=0.4 / BINS, color=color, linewidth=0)
        if sum(count > 0 for count in counts) <= MAX_NAMED_BARS:
            axes.bar_label(bars, [f"{count}" if count else "" for count in counts], fontsize=8, color=color, padding=1)
        mean = math.fsum(scores) / len(scores)
        axes.axvline(mean, color=color, linewidth=1.6, linestyle=(0, (4, 2)))
        align = "left" if mean < 0.5 else "right"
        axes.text(
            mean + (0.015 if mean < 0.5 else -0.015),
            0.985 if shift > 0 else 0.925,
            f"{mean:.3f}",
            transform=axes.get_xaxis_transform(),
            ha=align,
            va="top",
            fontsize=9,
            color=color,
        )
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"score on the {label(found.name)} seeds")
    axes.grid(axis="y")


def _counts(scores: Sequence[float]) -> list[int]:
    """How many lie in each tenth."""
    counts = [0] * BINS
    for score in scores:
        counts[min(BINS - 1, int(score * BINS))] += 1
    return counts


def differences(found: Differences) -> Figure:
    """A bar for each seed, from the greatest win to the greatest loss."""
    figure = headed(found.heading)
    axes = figure.add_subplot()
    ranked = sorted(found.differences, key=lambda each: (-each[1], each[0]))
    values = [value for _, value in ranked]
    colors = [BLUE if value > 0 else VERMILION if value < 0 else GREY for value in values]
    edge = 0.4 if len(ranked) <= 150 else 0.0
    axes.bar(range(len(ranked)), values, width=0.85, color=colors, edgecolor="white", linewidth=edge)
    ties = [at for at, value in enumerate(values) if value == 0]
    axes.plot(ties, [0.0] * len(ties), linestyle="none", marker="|", markersize=6, color=GREY)
    axes.axhline(0, color=GREY, linewidth=0.8)
    reach = max(0.1, *(abs(value) for value in values))
    axes.set_ylim(-1.08 * reach, 1.08 * reach)
    axes.set_xlim(-0.8, len(ranked) - 0.2)
    axes.set_ylabel("score of the best − score of the baseline")
    axes.grid(axis="y")
    _name_seeds(axes, [seed for seed, _ in ranked])
    counts = [sum(value > 0 for value in values), len(ties), sum(value < 0 for value in values)]
    legend_below(
        axes,
        [
            Patch(color=BLUE),
            Line2D([], [], linestyle="none", marker="|", markersize=8, color=GREY),
            Patch(color=VERMILION),
        ],
        [f"the best wins ({counts[0]})", f"the same ({counts[1]})", f"the baseline wins ({counts[2]})"],
    )
    return figure
