"""Shows a job while it runs: a bar on a terminal, plain lines elsewhere, JSON for programs."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from promptjobs.cli.figures import best_and_baseline, failed
from promptjobs.cli.follow import Display
from promptjobs.cli.notes import Notes
from promptjobs.cli.text import one_line, tried, write_line
from promptjobs.sdk.events import Event

PROGRESS = "prompt.learning.progress"
PAUSED, RESUMED = "prompt.learning.paused", "prompt.learning.resumed"
LINE_EVERY_SECONDS = 3.0


def display_for(out: Console, *, as_json: bool) -> AbstractContextManager[Display]:
    """The way to show a job on `out`; enter it before the first event."""
    if as_json:
        return nullcontext(JsonLines())
    if out.is_terminal and not out.is_dumb_terminal:
        return Bar(out)
    return nullcontext(Lines(out))


def figures(progress: Mapping[str, Any]) -> str:
    """Best score, baseline, how much was tried, and what has failed, in a few words."""
    best, baseline = best_and_baseline(progress)
    told = f"best {best} · baseline {baseline} · {tried(progress)}"
    return f"{told} · {failed(progress)}" if progress.get("failed_rollouts") else told


class TwoLines(Progress):
    """A bar, and the figures below it."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.figures:
            yield Text(f"  {self.figures}", no_wrap=True, overflow="ellipsis")


class Bar:
    """A bar of rollouts at the bottom of the terminal; lines scroll above it."""

    def __init__(self, out: Console) -> None:
        self._notes = Notes()
        self._progress = TwoLines(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            MofNCompleteColumn(),
            TextColumn("rollouts"),
            TimeElapsedColumn(),
            console=out,
            expand=True,
        )
        self._task = self._progress.add_task("queued", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.columns = self._progress.columns[1:]  # what stays on the screen turns no more
        self._progress.stop()

    def show(self, event: Event) -> None:
        for line in self._notes.lines(event):
            self._progress.console.print(line)
        if event.type == PROGRESS:
            data = event.data
            done, total = data["rollouts_completed"], data["rollouts_total"]
            self._progress.figures = figures(data)
            self._progress.update(self._task, description=data["phase"], completed=done, total=total)
        elif event.type in (PAUSED, RESUMED):
            self._progress.update(self._task, description="paused" if event.type == PAUSED else "queued")

    def show_break(self, cause: str, attempt: int) -> None:
        self._progress.console.print(Text(f"           {break_line(cause, attempt)}", "yellow"))


class Lines:
    """A line for each notable event, and one on the progress now and then."""

    def __init__(self, out: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._notes = Notes()
        self._phase: str | None = None
        self._next_at = -LINE_EVERY_SECONDS

    def show(self, event: Event) -> None:
        for line in self._notes.lines(event):
            self._out.print(line, soft_wrap=True)
        if event.type == PROGRESS:
            self._show_progress(event.data)
        elif event.type in (PAUSED, RESUMED):
            self._phase = None  # the next progress is told at once

    def _show_progress(self, data: Mapping[str, Any]) -> None:
        now = self._clock()
        if data["phase"] == self._phase and now < self._next_at:
            return
        self._phase, self._next_at = data["phase"], now + LINE_EVERY_SECONDS
        done = f"{data['rollouts_completed']}/{data['rollouts_total']} rollouts"
        self._out.print(f"{'':10}  {data['phase']}: {done} · {figures(data)}", soft_wrap=True, highlight=False)

    def show_break(self, cause: str, attempt: int) -> None:
        self._out.print(f"{'':10}  {break_line(cause, attempt)}", soft_wrap=True, highlight=False, markup=False)


def break_line(cause: str, attempt: int) -> str:
    return one_line(f"the connection broke ({cause}); coming back, attempt {attempt}")


class JsonLines:
    """Every event as it came, a line each, on stdout."""

    def show(self, event: Event) -> None:
        write_line(event.text)

    def show_break(self, cause: str, attempt: int) -> None:
        """The reader of the lines sees no break: they go on where they stopped."""
