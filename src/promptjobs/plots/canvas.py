"""The look of all pictures: size, font, colours that the colour-blind can tell apart, headings, legends."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from promptjobs.plots.figures import Heading
from promptjobs.plots.labels import shown

WIDTH, HEIGHT = 9.0, 5.0
"""Inches; a point is 1/72 of one."""

HEAD = 0.62
"""Inches that title and note take."""

MARGIN = 0.15
LEGEND_CHARACTERS = 128

MAX_TITLE = 90
MAX_NOTE = 130
MAX_LABEL = 44

BLUE, VERMILION, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
PURPLE, SKY, BLACK, GREY, PALE = "#cc79a7", "#56b4e9", "#222222", "#6b7178", "#c3c8ce"
"""Colours of Okabe and Ito, which look different to everybody, and greys for what only accompanies."""

SERIES = (
    (BLUE, "o"),
    (VERMILION, "s"),
    (GREEN, "^"),
    (PURPLE, "D"),
    (ORANGE, "v"),
    (SKY, "P"),
    (BLACK, "X"),
)
"""Of groups, each in a colour and a marker of its own."""

MAX_SERIES = len(SERIES)

SETTINGS: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # a dollar is a dollar, also in the texts of users
    "text.usetex": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "promptjobs",
    "path.simplify": False,
}


def configure() -> None:
    """Once in a process: the same look whatever the user's own settings are."""
    mpl.rcdefaults()
    mpl.rcParams.update(SETTINGS)  # type: ignore[arg-type]


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def label(text: str, most: int = MAX_LABEL) -> str:
    return shown(text, most, _glyphs())


def headed(heading: Heading, height: float = HEIGHT) -> Figure:
    """An empty picture with its title and its note. height: in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.08, rect=(0, 0, 1, 1 - HEAD / height))
    figure = Figure(figsize=(WIDTH, height), layout=layout, facecolor="white")
    title, note = label(heading.title, MAX_TITLE), label(heading.note, MAX_NOTE)
    figure.text(MARGIN / WIDTH, 1 - 0.14 / height, title, va="top", fontsize=12, fontweight="bold", color=BLACK)
    figure.text(MARGIN / WIDTH, 1 - 0.4 / height, note, va="top", fontsize=9, color=GREY)
    return figure


def nothing_yet(heading: Heading) -> Figure:
    """The picture of something that has nothing to show."""
    figure = headed(heading, height=2.5)
    axes = figure.add_subplot()
    axes.set_axis_off()
    said = label(heading.nothing or "", MAX_NOTE)
    axes.text(0.5, 0.5, said, ha="center", va="center", fontsize=11, color=GREY, transform=axes.transAxes)
    return figure


def score_axis(axes: Axes, scores: Sequence[float], title: str = "score") -> None:
    """The vertical axis of scores: from 0 on, and to 1 where they come near it."""
    axes.set_ylabel(title)
    axes.set_ylim(-0.03, max(0.1, min(1.0, 1.15 * max(scores, default=1.0))) + 0.03)
    axes.grid(axis="y")


def with_commas(value: float, _: float) -> str:
    """A tick's number."""
    return f"{value:,.6g}"


def rollout_axis(axes: Axes) -> None:
    axes.set_xlabel("rollouts spent")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(with_commas)


def legend_below(axes: Axes, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Below the axes, where it covers nothing, in as many columns as the longest name leaves room for."""
    columns = max(1, min(len(names), LEGEND_CHARACTERS // (max(map(len, names), default=0) + 7)))
    axes.figure.legend(
        list(handles), list(names), loc="outside lower left", ncols=columns, handletextpad=0.5, columnspacing=1.6
    )
