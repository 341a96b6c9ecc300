"""The recent events of one experiment's jobs, merged as they come and encoded once for all who read them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from promptjobs.api.channel import CHUNK_BYTES, RECENT_BYTES, RECENT_EVENTS, Bell, on_one_line
from promptjobs.api.experiment_wire import counts_json
from promptjobs.api.wire import event_json
from promptjobs.db.events import EventRow
from promptjobs.db.experiment_events import Member
from promptjobs.db.experiments import ExperimentRow
from promptjobs.db.jobs import JobStatus

CURSOR = re.compile(r"[1-9][0-9]{0,8}:[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}:[1-9][0-9]{0,8})*")
END = "end"
"""The cursor behind the event that ends the experiment."""

Seqs = dict[int, int]
"""Up to which event a job's have been sent, by its position; jobs of which none was are left out."""


def cursor_text(seqs: Mapping[int, int]) -> str:
    """As it stands in `id:`, such as "1:17.3:5"."""
    return ".".join(f"{position}:{seq}" for position, seq in sorted(seqs.items()))


def cursor_of(text: str) -> Seqs | None:
    """None for what is no such text, or names a job twice."""
    if CURSOR.fullmatch(text) is None:
        return None
    pairs = [each.split(":") for each in text.split(".")]
    found = {int(position): int(seq) for position, seq in pairs}
    return found if len(found) == len(pairs) else None


@dataclass(frozen=True, slots=True)
class Merged:
    """An event of the job at `position`, as it is sent, without the line of its id: that is each reader's own."""

    position: int
    seq: int
    sent: bytes


@dataclass(frozen=True, slots=True)
class Ending:
    """The event that ends an experiment, as it is sent."""

    sent: bytes

    @staticmethod
    def of(row: ExperimentRow) -> "Ending":
        counts = counts_json(row)
        succeeded = counts[JobStatus.SUCCEEDED]
        kind = f"experiment.{row.status}"
        data = {
            "experiment_id": row.id,
            "type": kind,
            "message": f"The experiment is {row.status}: {succeeded} of {row.num_jobs} jobs have succeeded.",
            "status": row.status.value,
            "counts": counts,
        }
        return Ending(b"".join((f"id: {END}\nevent: {kind}\ndata: ".encode(), orjson.dumps(data), b"\n\n")))


def chunk_of(found: Sequence[Merged], seqs: Mapping[int, int]) -> bytes:
    """Events that follow each other; the last one has the cursor `seqs` for its id, where a broken stream resumes."""
    head = f"id: {cursor_text(seqs)}\n".encode()
    return b"".join((*(each.sent for each in found[:-1]), head, found[-1].sent))


class ExperimentChannel:
    """What follows `floors`, up to `heads`: for each job, by its position, the number of an event.

    A reader holds no queue: it is the numbers that it has been sent, and a place in what is kept here. One of whom more
    is wanted than that goes on from the database. Nothing of what happened before there were readers is kept.
    """

    def __init__(self, experiment_id: str, members: Sequence[Member]) -> None:
        self.jobs = {member.position: member.job_id for member in members}
        self.positions = {member.job_id: member.position for member in members}
        self.heads: Seqs = {member.position: member.last_seq for member in members}
        self.floors: Seqs = dict(self.heads)
        self.open = {member.position for member in members if not member.is_final}
        self.ending: Ending | None = None
        self.readers = 0
        self.is_gone = not members
        self.bell = Bell()
        self._tails = {
            member.position: b",%s}"
            % orjson.dumps({"experiment_id": experiment_id, "position": member.position, "label": member.label})[1:-1]
            for member in members
        }
        self._kept: list[Merged] = []
        self._first = 0
        self._bytes = 0

    def merged(self, rows: Sequence[EventRow]) -> list[Merged]:
        """rows: of one job."""
        found = []
        for row in rows:
            position = self.positions[row.job_id]
            data = on_one_line(event_json(row)[:-1] + self._tails[position])
            found.append(Merged(position, row.seq, b"event: %s\ndata: %s\n\n" % (row.type.encode(), data)))
        return found

    def add(self, rows: Sequence[EventRow]) -> None:
        """Keep events of one job, which follow its head, drop what is too old, and wake the readers."""
        self._kept += (merged := self.merged(rows))
        self._bytes += sum(len(each.sent) for each in merged)
        last = merged[-1]
        self.heads[last.position] = last.seq
        if rows[-1].is_terminal:
            self.open.discard(last.position)
        self._trim()
        self.bell.ring()

    def _trim(self) -> None:
        drop = 0
        while len(self._kept) - drop > RECENT_EVENTS or self._bytes > RECENT_BYTES:
            dropped = self._kept[drop]
            self.floors[dropped.position] = dropped.seq
            self._bytes -= len(dropped.sent)
            drop += 1
        del self._kept[:drop]
        self._first += drop

    def missing(self, seqs: Mapping[int, int]) -> int | None:
        """The first job of which a reader lacks what is not here any more."""
        return next((position for position, floor in self.floors.items() if seqs.get(position, 0) < floor), None)

    def after(self, place: int, seqs: Mapping[int, int]) -> tuple[int, list[Merged]]:
        """What a reader lacks, from its `place` on, about CHUNK_BYTES of it; and its next place. Nothing is missing."""
        found: list[Merged] = []
        size, at = 0, max(place - self._first, 0)
        while at < len(self._kept) and size < CHUNK_BYTES:
            each = self._kept[at]
            at += 1
            # A reader that comes from the database may be ahead of what is kept.
            if each.seq > seqs.get(each.position, 0):
                found.append(each)
                size += len(each.sent)
        return self._first + at, found

    def end(self) -> None:
        """The experiment has been deleted: nothing will follow."""
        self.is_gone = True
        self.bell.ring()
