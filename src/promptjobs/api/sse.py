"""The event streams: one LISTEN connection feeds every reader of this process."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sse_starlette import EventSourceResponse

from promptjobs.api.channel import RECENT_EVENTS, Channel, Chunk, Frame
from promptjobs.api.experiment_stream import ExperimentStreams
from promptjobs.api.outages import read_at_last
from promptjobs.api.stream_readers import CONNECTED, Reader, Readers
from promptjobs.api.stream_readers import StreamTiming as StreamTiming
from promptjobs.db import events
from promptjobs.db.events import EVENTS_CHANNEL
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

PAGE_EVENTS = 100
LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class EventHub:
    """Watches the jobs that are read in this process, and serves their readers.

    experiments: the streams of whole experiments, which are told of what is heard here.
    """

    def __init__(self, database: Database, timing: StreamTiming | None = None) -> None:
        self._database = database
        self._timing = timing or StreamTiming()
        self._channels: dict[str, Channel] = {}
        self._readers = Readers(self._timing, self._wake_all)
        self.experiments = ExperimentStreams(database, self._readers)
        self._dirty: set[str] = set()
        self._is_dirty = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the block runs; at its end all streams end."""
        async with asyncio.TaskGroup() as tasks:
            work = (self._listen(), self._pump(), self.experiments.pump(), self._sweep())
            background = [tasks.create_task(each) for each in (*work, *self._readers.work())]
            try:
                yield
            finally:
                self.close()
                for task in background:
                    task.cancel()

    def close(self) -> None:
        """End the streams, each after what it is sending."""
        self._readers.close()

    def _wake_all(self) -> None:
        for channel in self._channels.values():
            channel.wake()
        self.experiments.wake()

    def response(self, job_id: str, seq: int) -> EventSourceResponse:
        """A stream of what follows event `seq` of a job that exists."""
        return self._readers.response(self.stream(job_id, seq))

    async def stream(self, job_id: str, seq: int) -> AsyncIterator[bytes]:
        """What follows event `seq`, history first, in order and without a gap; it ends with the terminal event."""
        yield CONNECTED
        async with self._reading(job_id) as (reader, channel):
            while not self._readers.is_closing:
                chunk = channel.after(seq) if channel.reaches(seq) else await self._stored(job_id, seq)
                if chunk is None:
                    if channel.is_gone:
                        return
                    await channel.changed()
                    continue
                if chunk.body:
                    with reader.handed(chunk.last_seq - seq):
                        yield chunk.body
                if chunk.terminal is not None:
                    await reader.pause_before_end()
                    yield chunk.terminal
                    return
                seq = chunk.last_seq

    # --- the readers' side ---

    @asynccontextmanager
    async def _reading(self, job_id: str) -> AsyncIterator[tuple[Reader, Channel]]:
        """The job's channel, which lives as long as it has readers."""
        if job_id not in self._channels:
            last_seq = await self._last_seq(job_id)
            self._channels.setdefault(job_id, Channel(floor=max(0, (last_seq or 0) - RECENT_EVENTS)))
            self._mark(job_id)
            if last_seq is None:
                self._channels[job_id].end()
        channel = self._channels[job_id]
        channel.readers += 1
        try:
            with self._readers.reader() as reader:
                yield reader, channel
        finally:
            channel.readers -= 1
            if channel.readers == 0:
                del self._channels[job_id]

    async def _last_seq(self, job_id: str) -> int | None:
        """None for a job that has been deleted since it was asked for."""
        found = await read_at_last(
            self._database, self._timing.retry_most, lambda connection: events.last_seqs(connection, [job_id])
        )
        return found.get(job_id)

    async def _stored(self, job_id: str, seq: int) -> Chunk | None:
        """A page from the database; None where there is nothing more."""
        rows = await read_at_last(
            self._database,
            self._timing.retry_most,
            lambda connection: events.read_after(connection, job_id, seq, PAGE_EVENTS),
        )
        return Chunk.of([Frame.of(row) for row in rows]) if rows else None

    # --- the database's side ---

    def _mark(self, job_id: str) -> None:
        if job_id in self._channels:
            self._dirty.add(job_id)
            self._is_dirty.set()
        self.experiments.mark(job_id)

    async def _pump(self) -> None:
        """Fetch each new event once. What an outage leaves behind is found by the sweep."""
        while True:
            await self._is_dirty.wait()
            self._is_dirty.clear()
            while self._dirty:
                channel = self._channels.get(job_id := self._dirty.pop())
                if channel is not None:
                    with contextlib.suppress(DatabaseUnavailable):
                        await self._refresh(job_id, channel)

    async def _refresh(self, job_id: str, channel: Channel) -> None:
        async with reading(self._database) as connection:
            while rows := await events.read_after(connection, job_id, channel.head, PAGE_EVENTS):
                channel.add([Frame.of(row) for row in rows])
                if len(rows) < PAGE_EVENTS:
                    return

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._timing.sweep)
            with contextlib.suppress(DatabaseUnavailable):
                await self._mark_behind()

    async def _mark_behind(self) -> None:
        """Mark the jobs of which something was missed, and end the channels of those that have been deleted."""
        await self.experiments.mark_behind()
        read = list(self._channels)
        if not read:
            return
        async with reading(self._database) as connection:
            last_seqs = await events.last_seqs(connection, read)
        for job_id in read:
            channel = self._channels.get(job_id)
            if channel is None:
                continue
            if job_id not in last_seqs:
                channel.end()
            elif channel.head < last_seqs[job_id]:
                self._mark(job_id)

    async def _listen(self) -> None:
        """Hold the LISTEN connection, and open it again after each loss."""
        delay = self._timing.retry_least
        while True:
            try:
                connection = await self._database.connect("promptjobs-events")
                delay = self._timing.retry_least
                try:
                    await self._hear(connection)
                finally:
                    with contextlib.suppress(TimeoutError, *LOST):
                        await connection.close(timeout=self._timing.retry_most)
            except (DatabaseUnavailable, *LOST) as cause:
                logger.warning("listening for events failed", extra={"cause": repr(cause), "retry_seconds": delay})
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._timing.retry_most)

    async def _hear(self, connection: asyncpg.Connection) -> None:
        """Until the connection is lost; it is asked now and then, since a dead peer does not say so."""
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        await connection.add_listener(EVENTS_CHANNEL, lambda *heard: self._mark(heard[-1]))
        await self._mark_behind()
        while not lost.is_set():
            try:
                async with asyncio.timeout(self._timing.sweep):
                    await lost.wait()
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=self._timing.sweep)
