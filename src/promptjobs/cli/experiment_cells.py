"""What the tables of experiments are made of: columns, and how one figure is written."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from promptjobs.cli.show import STYLE_OF_STATUS
from promptjobs.cli.text import one_line

Row = Mapping[str, Any]

NONE = "–"


def with_columns(columns: Sequence[tuple[str, str]], *, is_tight: bool = False) -> Table:
    """columns: their titles, and how each is aligned, left or right; "fold" is text that may take several lines."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0 if is_tight else 1, 0, 0))
    for title, kind in columns:
        if kind == "fold":
            table.add_column(title, overflow="fold")
        else:
            table.add_column(title, justify="right" if kind == "right" else "left", no_wrap=True)
    return table


def headline(experiment: Row, *aside: str) -> Text:
    """Its name, its status, its jobs by status; then what is said aside."""
    status = experiment["status"]
    line = Text.assemble("experiment ", (one_line(experiment["name"]), "bold"), f" ({experiment['experiment_id']}) ")
    counts = ", ".join(f"{count} {name}" for name, count in experiment["counts"].items() if count)
    return line.append(status, style_of(status)).append("".join(f" · {part}" for part in (counts, *aside)), "dim")


def style_of(status: str) -> str:
    """Of a job or an experiment; an experiment that is completed looks like a job that has succeeded."""
    return STYLE_OF_STATUS.get("succeeded" if status == "completed" else status, "")


def counted(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def clock(seconds: float) -> str:
    """42 s, 2:05, 1:02:33: a duration where there is little room."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def estimate(value: Row | None) -> Text:
    """ "+0.360 [+0.25, +0.46]", in the colour of what it says."""
    if value is None:
        return Text(NONE)
    low, high = value["low"], value["high"]
    if low is None or high is None:  # one seed tells no spread
        return Text(signed(value["mean"]))
    style = "green" if low > 0 else "red" if high < 0 else ""
    return Text(f"{signed(value['mean'])} [{signed(low, 2)}, {signed(high, 2)}]", style)


def signed(value: float, digits: int = 3) -> str:
    """With its sign; what rounds to nothing is +0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def p_value(value: float | None) -> str:
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def letter(index: int) -> str:
    """A, B … Z, AA, AB …: how a group is called below its table."""
    before, place = divmod(index, 26)
    return (letter(before - 1) if before else "") + chr(ord("A") + place)
