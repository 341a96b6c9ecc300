"""The recent events of one job, encoded once for all who read them."""

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from promptjobs.api.wire import event_json
from promptjobs.db.events import EventRow

RECENT_EVENTS = 512
RECENT_BYTES = 2 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
"""About the most that one chunk holds, as long as no single event is larger."""

SEPARATORS = tuple((each.encode(), b"\\u%04x" % ord(each)) for each in "\u0085\u2028\u2029")
"""Characters that JSON leaves alone, but at which some readers of lines end a line; with their escapes."""


def on_one_line(data: bytes) -> bytes:
    """JSON without what any reader might take for the end of a line."""
    for separator, escaped in SEPARATORS:
        data = data.replace(separator, escaped)
    return data


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as it is sent: one line each of id, type and JSON."""

    seq: int
    is_terminal: bool
    sent: bytes

    @staticmethod
    def of(row: EventRow) -> "Frame":
        head = f"id: {row.seq}\nevent: {row.type}\ndata: ".encode()
        return Frame(row.seq, row.is_terminal, b"".join((head, on_one_line(event_json(row)), b"\n\n")))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events that follow each other. body: all but a terminal one, which is sent alone."""

    body: bytes
    terminal: bytes | None
    last_seq: int

    @staticmethod
    def of(frames: Sequence[Frame]) -> "Chunk":
        """frames: at least one, in order; a terminal one is the last."""
        last = frames[-1]
        before = frames[:-1] if last.is_terminal else frames
        return Chunk(b"".join(frame.sent for frame in before), last.sent if last.is_terminal else None, last.seq)


class Bell:
    """Wakes all who wait for it."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def rung(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)


class Channel:
    """What follows `floor`, up to `head`.

    A reader is a cursor into it and has no queue of its own: a slow one costs nothing, a burst overruns nobody, and one
    that has fallen behind `floor` goes on from the database.
    """

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.head = floor
        self.readers = 0
        self.is_gone = False
        self._frames: list[Frame] = []
        self._seqs: list[int] = []
        self._bytes = 0
        self._chunks: dict[int, Chunk] = {}
        self._bell = Bell()

    def add(self, frames: Sequence[Frame]) -> None:
        """Keep `frames`, which follow `head`, drop what is too old, and wake the readers."""
        self._frames.extend(frames)
        self._seqs.extend(frame.seq for frame in frames)
        self._bytes += sum(len(frame.sent) for frame in frames)
        self.head = self._seqs[-1]
        self._trim()
        self._chunks.clear()
        self.wake()

    def _trim(self) -> None:
        drop = 0
        while len(self._frames) - drop > RECENT_EVENTS or self._bytes > RECENT_BYTES:
            self._bytes -= len(self._frames[drop].sent)
            drop += 1
        if drop:
            self.floor = self._seqs[drop - 1]
            del self._frames[:drop], self._seqs[:drop]

    def reaches(self, seq: int) -> bool:
        """Whether everything that follows `seq` is here."""
        return seq >= self.floor

    def after(self, seq: int) -> Chunk | None:
        """The first of what follows `seq`, if anything does. Readers at the same place are handed the same bytes."""
        if seq >= self.head:
            return None
        if seq not in self._chunks:
            start = end = bisect_right(self._seqs, seq)
            size = 0
            while end < len(self._frames) and size < CHUNK_BYTES:
                size += len(self._frames[end].sent)
                end += 1
            self._chunks[seq] = Chunk.of(self._frames[start:end])
        return self._chunks[seq]

    def end(self) -> None:
        """The job has been deleted: nothing will follow."""
        self.is_gone = True
        self.wake()

    def wake(self) -> None:
        """Let the readers look again."""
        self._bell.ring()

    async def changed(self) -> None:
        """Wait for `wake`. A reader that has called `after` in the same step of the loop misses nothing."""
        await self._bell.rung()
