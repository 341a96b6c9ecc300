"""What the events of an experiment come to: where each of its jobs is now, and what is worth a line."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from promptjobs.cli.display import PAUSED, PROGRESS, RESUMED
from promptjobs.cli.experiment_cells import style_of
from promptjobs.cli.figures import best_and_baseline
from promptjobs.cli.notes import REFUSED, STYLE_OF_LEVEL
from promptjobs.cli.text import one_line, score
from promptjobs.sdk.events import TERMINAL
from promptjobs.sdk.experiment_following import ExperimentEvent
from promptjobs.sdk.experiment_shapes import ExperimentJob
from promptjobs.sdk.shapes import TERMINAL_STATUSES

STARTED = frozenset({"prompt.learning.gepa.start", "mipro.job.started", PROGRESS})
STATUS_OF_OUTCOME = {"complete": "succeeded", "failed": "failed", "cancelled": "cancelled"}
MARK_OF_STATUS = {"succeeded": "✓", "failed": "✗", "cancelled": "–"}


@dataclass(slots=True)
class Standing:
    """A job as its events tell it. done, total: rollouts; total is 0 until it is known. best: None until measured."""

    position: int
    label: str
    status: str = "queued"
    done: int = 0
    total: int = 0
    best: float | None = None

    @property
    def figures(self) -> str:
        """ "340/800 best 0.381"."""
        return f"{self.done}/{self.total} best {score(self.best)}"

    @property
    def share(self) -> float:
        """How much of the job is done, in [0, 1]."""
        if self.status in TERMINAL_STATUSES:
            return 1.0
        return min(1.0, self.done / self.total) if self.total else 0.0


class ExperimentProgress:
    """All jobs of an experiment, by their events from the first one on."""

    def __init__(self, jobs: Sequence[ExperimentJob]) -> None:
        self.standings = {job["job_id"]: Standing(job["position"], job["label"]) for job in jobs}
        self._first: datetime | None = None

    def told(self, event: ExperimentEvent) -> Iterator[Text]:
        """Take the event in; what of it a person is to be told."""
        if event.created_at is None or event.job_id not in self.standings:
            return
        self._first = self._first or event.created_at
        seconds = (event.created_at - self._first).total_seconds()
        standing = self.standings[event.job_id]
        line = self._line(event, standing)
        if line is not None:
            number = f"{standing.position:>{len(str(len(self.standings)))}}"
            yield Text.assemble((f"{seconds:8.1f} s  ", "dim"), (f"{number} ", "bold"), line)

    def _line(self, event: ExperimentEvent, standing: Standing) -> Text | None:
        if ended := TERMINAL.fullmatch(event.type):
            standing.status = STATUS_OF_OUTCOME[ended[2]]
            standing.best = event.data.get("best_score")
            return _end_line(event, standing)
        if event.type == PAUSED:
            standing.status = "paused"
            return Text(f"{one_line(standing.label)} is paused", "yellow")
        if event.type == RESUMED:
            standing.status = "queued"
            return Text(f"{one_line(standing.label)} goes on", "cyan")
        if event.type == PROGRESS:
            data = event.data
            standing.done, standing.total = data["rollouts_completed"], data["rollouts_total"]
            standing.best = data["best_score"]
        if event.type in STARTED and standing.status != "running":
            standing.status = "running"
            return Text(f"{one_line(standing.label)} runs", "dim")
        if event.level in STYLE_OF_LEVEL and event.type != REFUSED:  # of many jobs these would hide the rest
            return Text(f"{one_line(standing.label)}: {one_line(event.message)}", STYLE_OF_LEVEL[event.level])
        return None

    @property
    def running(self) -> list[Standing]:
        """In the order of their positions."""
        return [each for each in self.standings.values() if each.status == "running"]

    @property
    def share(self) -> float:
        """How much of all is done, in [0, 1]."""
        return sum(each.share for each in self.standings.values()) / max(1, len(self.standings))

    @property
    def summary(self) -> str:
        """ "4 of 12 over · 4 running · 4 queued"."""
        counts = Counter(each.status for each in self.standings.values())
        over = sum(counts.pop(status, 0) for status in TERMINAL_STATUSES)
        parts = [f"{over} of {len(self.standings)} over", *(f"{count} {status}" for status, count in counts.items())]
        return " · ".join(parts)


def _end_line(event: ExperimentEvent, standing: Standing) -> Text:
    status = standing.status
    line = Text.assemble((f"{MARK_OF_STATUS.get(status, '')} ", style_of(status)), one_line(standing.label))
    if event.data.get("error"):
        return line.append(f": {one_line(event.data['error'])}", "red")
    if standing.best is None:  # it may have ended before anything was measured, or even before its start
        return line.append(f": {one_line(event.message)}", "dim")
    best, baseline = best_and_baseline(event.data)
    said = "" if status == "succeeded" else f" {status}"
    return line.append(f"{said} · best {best} · baseline {baseline}", "dim")
