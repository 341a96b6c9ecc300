"""Shows an experiment while it runs: bars of running jobs on a terminal, plain lines elsewhere, JSON for programs."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from promptjobs.cli.display import break_line
from promptjobs.cli.experiment_progress import ExperimentProgress
from promptjobs.cli.text import one_line, write_line
from promptjobs.sdk.experiment_following import ExperimentEvent
from promptjobs.sdk.experiment_shapes import ExperimentJob

LINE_EVERY_SECONDS = 5.0
DRAWN_EVERY_SECONDS = 0.1
LEFT_FOR_LINES = 4
"""Rows of a terminal that the bars leave free."""


class ExperimentDisplay(Protocol):
    """Shows what happens in an experiment."""

    def show(self, event: ExperimentEvent) -> None: ...

    def show_break(self, cause: str, attempt: int) -> None:
        """The connection broke; attempt 1, 2 … to come back follows."""


def experiment_display_for(
    out: Console, jobs: Sequence[ExperimentJob], *, as_json: bool
) -> AbstractContextManager[ExperimentDisplay]:
    """The way to show an experiment of these jobs on `out`; enter it before the first event."""
    if as_json:
        return nullcontext(ExperimentJsonLines())
    if out.is_terminal and not out.is_dumb_terminal:
        return ExperimentBars(out, jobs)
    return nullcontext(ExperimentLines(out, jobs))


class ExperimentBars:
    """A bar for each running job, as many as the terminal has room for, and one for all; lines scroll above them."""

    def __init__(
        self, out: Console, jobs: Sequence[ExperimentJob], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._clock = ExperimentProgress(jobs), clock
        self._next_at = 0.0
        self._room = max(1, out.height - LEFT_FOR_LINES)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True, justify="right")),
            TimeElapsedColumn(),
            console=out,
            expand=True,
            # A thread that draws while lines are printed and bars come and go would leave parts of old bars behind.
            auto_refresh=False,
        )
        self._tasks: dict[int, TaskID] = {}
        self._all = self._bars.add_task(self._progress.summary, total=1.0, figures="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._bars.stop()

    def show(self, event: ExperimentEvent) -> None:
        lines = list(self._progress.told(event))
        for line in lines:
            self._bars.console.print(line)
        now = self._clock()
        if lines or now >= self._next_at or event.is_terminal:
            self._next_at = now + DRAWN_EVERY_SECONDS
            self._update()
            self._bars.refresh()

    def _update(self) -> None:
        shown = self._progress.running[: self._room]
        for position in self._tasks.keys() - {each.position for each in shown}:
            self._bars.remove_task(self._tasks.pop(position))
        for each in shown:
            if each.position not in self._tasks:
                self._tasks[each.position] = self._bars.add_task(one_line(each.label), total=1.0, figures="")
            self._bars.update(self._tasks[each.position], completed=each.share, figures=each.figures)
        share = self._progress.share
        self._bars.update(
            self._all, description=self._progress.summary, completed=share, figures=f"{100 * share:.0f} %"
        )

    def show_break(self, cause: str, attempt: int) -> None:
        self._bars.console.print(Text(f"           {break_line(cause, attempt)}", "yellow"))


class ExperimentLines:
    """A line for each job that starts or ends, and one on all of them now and then."""

    def __init__(
        self, out: Console, jobs: Sequence[ExperimentJob], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out, self._clock = out, clock
        self._progress = ExperimentProgress(jobs)
        self._next_at = clock() + LINE_EVERY_SECONDS

    def show(self, event: ExperimentEvent) -> None:
        for line in self._progress.told(event):
            self._out.print(line, soft_wrap=True)
        now = self._clock()
        if now >= self._next_at and not event.is_terminal:
            self._next_at = now + LINE_EVERY_SECONDS
            said = f"{'':10}  {self._progress.summary} · {100 * self._progress.share:.0f} %"
            self._out.print(said, soft_wrap=True, highlight=False)

    def show_break(self, cause: str, attempt: int) -> None:
        self._out.print(f"{'':10}  {break_line(cause, attempt)}", soft_wrap=True, highlight=False, markup=False)


class ExperimentJsonLines:
    """Every event as it came, a line each, on stdout."""

    def show(self, event: ExperimentEvent) -> None:
        write_line(event.text)

    def show_break(self, cause: str, attempt: int) -> None:
        """The reader of the lines sees no break: they go on where they stopped."""
