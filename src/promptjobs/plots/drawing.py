"""Draws a picture and writes it out: the same figures give the same bytes, and an SVG holds nothing but shapes."""

import io
import re
from html import escape
from typing import assert_never

from matplotlib.figure import Figure

from promptjobs.plots import canvas
from promptjobs.plots.cost_drawing import cost_scatter
from promptjobs.plots.experiment_drawings import curve_bundle, group_bars
from promptjobs.plots.figures import (
    CostScatter,
    CurveBundle,
    Differences,
    Distribution,
    FrontMap,
    GroupBars,
    LearningCurve,
    Picture,
    PictureFormat,
)
from promptjobs.plots.job_drawings import differences, distribution, front_map, learning_curve

DOTS_PER_INCH = 150
NO_METADATA = {"svg": dict.fromkeys(("Creator", "Date", "Format", "Type")), "png": {"Software": None}}
"""Whoever draws when is no part of a picture."""

DOCTYPE = re.compile(rb"<!DOCTYPE[^>]*>\s*")
COMMENT = re.compile(rb"<!--.*?-->\s*", re.DOTALL)
OPENING = re.compile(rb"(<svg\b[^>]*)>")


def draw(picture: Picture, form: PictureFormat) -> bytes:
    """The file. To be called after `canvas.configure`."""
    figure = canvas.nothing_yet(picture.heading) if picture.heading.nothing is not None else _drawn(picture)
    written = io.BytesIO()
    figure.savefig(written, format=form.value, dpi=DOTS_PER_INCH, metadata=NO_METADATA[form.value])
    content = written.getvalue()
    return content if form is PictureFormat.PNG else _bare(content, picture.heading.title)


def _drawn(picture: Picture) -> Figure:
    match picture:
        case LearningCurve():
            return learning_curve(picture)
        case FrontMap():
            return front_map(picture)
        case Distribution():
            return distribution(picture)
        case Differences():
            return differences(picture)
        case CostScatter():
            return cost_scatter(picture)
        case CurveBundle():
            return curve_bundle(picture)
        case GroupBars():
            return group_bars(picture)
        case _:
            assert_never(picture)


def _bare(svg: bytes, title: str) -> bytes:
    """Without what names other files, and with a title in words: its letters are drawn as shapes."""
    named = f' role="img"><title>{escape(canvas.label(title, canvas.MAX_TITLE))}</title>'.encode()
    bare = COMMENT.sub(b"", DOCTYPE.sub(b"", svg))
    return OPENING.sub(lambda found: found[1] + named, bare, count=1)
