"""What following an experiment comes to, without any IO: its jobs' events, each told once, and the one that ends it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, cast

from promptjobs.errors.client import EventMalformed, ExperimentWaitTimedOut
from promptjobs.sdk.events import Event, parsed
from promptjobs.sdk.experiment_shapes import EXPERIMENT_TERMINAL_STATUSES
from promptjobs.sdk.following import Ending, Patience, Resuming

ENDS = tuple(f"experiment.{status}" for status in EXPERIMENT_TERMINAL_STATUSES)
OF_EXPERIMENT = Ending(EXPERIMENT_TERMINAL_STATUSES, ExperimentWaitTimedOut)


@dataclass(frozen=True, slots=True)
class ExperimentEvent:
    """An event of one of an experiment's jobs, or the one that ends the experiment, which is no job's.

    position, label: the job's place in the experiment. seq: of the job's events, 1, 2, 3 … without a gap. Of the end,
    job_id, position, label, seq and created_at are None, and data has the experiment's `status`, and `counts`, its jobs
    by status. cursor: behind it `follow_experiment` goes on; what it tells then may begin with events told before.
    text: the event's JSON, one line.
    """

    experiment_id: str
    job_id: str | None
    position: int | None
    label: str | None
    seq: int | None
    type: str
    level: str
    message: str
    data: Mapping[str, Any]
    created_at: datetime | None
    cursor: str
    text: str

    @property
    def is_terminal(self) -> bool:
        """Whether it is the experiment's last one; that of a job is not."""
        return self.type in ENDS

    @classmethod
    def parse(cls, content: bytes, cursor: str) -> Self:
        """Raises EventMalformed."""
        read, text = parsed(content)
        is_end = read.get("type") in ENDS
        return cls._of_end(read, text, cursor) if is_end else cls._of_job(read, text, cursor)

    @classmethod
    def _of_job(cls, read: Mapping[str, Any], text: str, cursor: str) -> Self:
        experiment_id, job_id, label = texts(read, "experiment_id", "job_id", "label")
        position = read.get("position")
        if not isinstance(position, int) or isinstance(position, bool) or position < 1:
            raise EventMalformed
        event = Event.of(read, text)
        told = (event.seq, event.type, event.level, event.message, event.data, event.created_at)
        return cls(experiment_id, job_id, position, label, *told, cursor, text)

    @classmethod
    def _of_end(cls, read: Mapping[str, Any], text: str, cursor: str) -> Self:
        experiment_id, kind, message, status = texts(read, "experiment_id", "type", "message", "status")
        if not isinstance(counts := read.get("counts"), dict):
            raise EventMalformed
        data = {"status": status, "counts": counts}
        return cls(experiment_id, None, None, None, None, kind, "info", message, data, None, cursor, text)


def texts(read: Mapping[str, Any], *names: str) -> list[str]:
    """What stands under these names. Raises EventMalformed where that is no text."""
    found = [read.get(name) for name in names]
    if not all(isinstance(each, str) for each in found):
        raise EventMalformed
    return cast(list[str], found)


class ExperimentFollowing(Resuming[ExperimentEvent]):
    """The events of an experiment behind a cursor of the service's, each job's once and in order.

    After a break the service may send again what it has sent; that is dropped.
    """

    def __init__(self, cursor: str, patience: Patience) -> None:
        super().__init__(patience)
        self._cursor, self._began_behind = cursor, bool(cursor)
        self._seqs: dict[str, int] = {}

    @property
    def cursor(self) -> str:
        return self._cursor

    def _told(self, content: bytes) -> ExperimentEvent | None:
        # The first events of a connection may come without an id: it goes on where it began.
        event = ExperimentEvent.parse(content, self._decoder.last_id or self._cursor)
        is_new = event.job_id is None or event.seq is None or self._is_next(event.job_id, event.seq)
        self._cursor, self.is_over = event.cursor, event.is_terminal
        return event if is_new else None

    def _is_next(self, job_id: str, seq: int) -> bool:
        """False for what was told before. Raises UnexpectedAnswer for what leaves one out."""
        # Behind a cursor that was given, the first event of a job may have any number.
        last = self._seqs.get(job_id, seq - 1 if self._began_behind else 0)
        if seq > last + 1:
            raise self._unexpected(f"event {seq} of job {job_id} came after event {last}")
        self._seqs[job_id] = max(seq, last)
        return seq > last
