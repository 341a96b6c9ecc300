"""Turns the events of a job that are worth a line into that line."""

from collections import Counter
from datetime import datetime

from rich.text import Text

from promptjobs.cli.text import one_line
from promptjobs.sdk.events import Event

NOTABLE = {
    "prompt.learning.gepa.baseline": "cyan",
    "prompt.learning.gepa.new_best": "bold green",
    "prompt.learning.gepa.termination.triggered": "dim",
    "prompt.learning.phase.changed": "dim",
    "prompt.learning.validation.scored": "cyan",
    "prompt.learning.started": "dim",
    "prompt.learning.pause.requested": "yellow",
    "prompt.learning.paused": "bold yellow",
    "prompt.learning.resumed": "cyan",
    "prompt.learning.cancel.requested": "yellow",
    "prompt.learning.mipro.baseline": "cyan",
    "prompt.learning.mipro.baseline.messages": "dim",
    "prompt.learning.mipro.termination.triggered": "dim",
    "mipro.job.started": "dim",
    "mipro.bootstrap.progress": "cyan",
    "mipro.iteration.start": "dim",
    "mipro.new_incumbent": "bold green",
    "mipro.fulleval.complete": "cyan",
    "mipro.optimization.exhausted": "dim",
}
"""Events that are told in a line of their own, and how; so are all that are more than information."""

STYLE_OF_LEVEL = {"warning": "yellow", "error": "bold red"}
PROPOSED, REFUSED = "mipro.instruction.proposed", "prompt.learning.proposal.refused"


class Notes:
    """The time since the job's first event stands in front of each line."""

    def __init__(self) -> None:
        self._first: datetime | None = None
        self._proposed: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def lines(self, event: Event) -> list[Text]:
        """What is to be told now, oldest first; none for an event that tells nothing to a person.

        Proposals come in batches, and are told when another event shows that a batch is over.
        """
        self._first = self._first or event.created_at
        seconds = (event.created_at - self._first).total_seconds()
        if event.type == PROPOSED:
            self._proposed[str(event.data["stage_id"])] += 1
            return []
        if event.type == REFUSED:
            self._refused[event.message] += 1
            return []
        style = STYLE_OF_LEVEL.get(event.level) or NOTABLE.get(event.type)
        found = [*self._batch(), *([] if style is None else [(event.message, style)])]
        return [Text.assemble((f"{seconds:8.1f} s  ", "dim"), (one_line(message), style)) for message, style in found]

    def _batch(self) -> list[tuple[str, str]]:
        told = [
            (message if times == 1 else f"{message} ({times} times)", "yellow")
            for message, times in self._refused.items()
        ]
        count = self._proposed.total()
        if count:
            by_stage = ", ".join(f"{number} for {stage}" for stage, number in self._proposed.items())
            told.append((f"{count} new {'instruction' if count == 1 else 'instructions'}: {by_stage}", ""))
        self._proposed.clear()
        self._refused.clear()
        return told
