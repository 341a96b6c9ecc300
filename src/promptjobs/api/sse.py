"""The event streams: one LISTEN connection feeds every reader of this process."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import asyncpg
from sse_starlette import EventSourceResponse, ServerSentEvent

from promptjobs.api.channel import RECENT_EVENTS, Channel, Chunk, Frame
from promptjobs.db import events
from promptjobs.db.events import EVENTS_CHANNEL
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors import DatabaseUnavailable
from promptjobs.telemetry.metrics import SSE_CLIENTS

logger = logging.getLogger(__name__)

PAGE_EVENTS = 100
CONNECTED = b": connected\n\n"
LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@dataclass(frozen=True, slots=True)
class StreamTiming:
    """Seconds.

    terminal_delay: between the last two events of a stream, since clients lose what shares a burst with the end.
    read_seconds: what a slow client takes for one event: the pause before the end grows with what it has to catch up
    on, up to terminal_most.
    sweep: how often the database is asked for what no notification has told. stall: how long a reader may take nothing.
    Attempts to listen again are retry_least apart, then twice as much, up to retry_most.
    """

    heartbeat: float = 15.0
    terminal_delay: float = 0.5
    read_seconds: float = 0.012
    terminal_most: float = 1.5
    sweep: float = 5.0
    stall: float = 30.0
    retry_least: float = 0.1
    retry_most: float = 5.0
    shutdown_grace: float = 2.0


@dataclass(slots=True, eq=False)
class Reader:
    """One stream, and since when it has been handing over a chunk, by the loop's clock."""

    task: "asyncio.Task[object] | None"
    sending_since: float | None = None


class EventHub:
    """Watches the jobs that are read in this process, and serves their readers."""

    def __init__(self, database: Database, timing: StreamTiming | None = None) -> None:
        self._database = database
        self._timing = timing or StreamTiming()
        self._channels: dict[str, Channel] = {}
        self._readers: set[Reader] = set()
        self._dirty: set[str] = set()
        self._is_dirty = asyncio.Event()
        self._is_closing = False
        self._shutdown = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the block runs; at its end all streams end."""
        async with asyncio.TaskGroup() as tasks:
            work = (self._listen(), self._pump(), self._sweep(), self._end_stalled(), self._await_shutdown())
            background = [tasks.create_task(each) for each in work]
            try:
                yield
            finally:
                self.close()
                for task in background:
                    task.cancel()

    def close(self) -> None:
        """End the streams, each after what it is sending."""
        self._is_closing = True
        for channel in self._channels.values():
            channel.wake()

    def response(self, job_id: str, seq: int) -> EventSourceResponse:
        """A stream of what follows event `seq` of a job that exists."""
        timing = self._timing
        return EventSourceResponse(
            self.stream(job_id, seq),
            ping=timing.heartbeat,
            ping_message_factory=lambda: ServerSentEvent(comment="heartbeat", sep="\n"),
            sep="\n",
            shutdown_event=self._shutdown,
            shutdown_grace_period=timing.shutdown_grace,
        )

    async def stream(self, job_id: str, seq: int) -> AsyncIterator[bytes]:
        """What follows event `seq`, history first, in order and without a gap; it ends with the terminal event."""
        yield CONNECTED
        loop, timing = asyncio.get_running_loop(), self._timing
        sent_at, read_by = -timing.terminal_delay, 0.0
        async with self._reading(job_id) as (reader, channel):
            while not self._is_closing:
                chunk = channel.after(seq) if channel.reaches(seq) else await self._stored(job_id, seq)
                if chunk is None:
                    if channel.is_gone:
                        return
                    await channel.changed()
                    continue
                if chunk.body:
                    reader.sending_since = loop.time()
                    yield chunk.body
                    reader.sending_since = None
                    sent_at = loop.time()
                    read_by = max(read_by, sent_at) + timing.read_seconds * (chunk.last_seq - seq)
                if chunk.terminal is not None:
                    latest = min(read_by, sent_at + timing.terminal_most)
                    await asyncio.sleep(max(sent_at + timing.terminal_delay, latest) - loop.time())
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
        reader = Reader(asyncio.current_task())
        channel.readers += 1
        self._readers.add(reader)
        SSE_CLIENTS.inc()
        try:
            yield reader, channel
        finally:
            SSE_CLIENTS.dec()
            self._readers.discard(reader)
            channel.readers -= 1
            if channel.readers == 0:
                del self._channels[job_id]

    async def _last_seq(self, job_id: str) -> int | None:
        """None for a job that has been deleted since it was asked for."""
        while True:
            with contextlib.suppress(DatabaseUnavailable):
                async with reading(self._database) as connection:
                    return (await events.last_seqs(connection, [job_id])).get(job_id)
            await asyncio.sleep(self._timing.retry_most)

    async def _stored(self, job_id: str, seq: int) -> Chunk | None:
        """A page from the database. An outage is waited for: clients take a stream's end for the job's."""
        while True:
            with contextlib.suppress(DatabaseUnavailable):
                async with reading(self._database) as connection:
                    rows = await events.read_after(connection, job_id, seq, PAGE_EVENTS)
                return Chunk.of([Frame.of(row) for row in rows]) if rows else None
            await asyncio.sleep(self._timing.retry_most)

    # --- the database's side ---

    def _mark(self, job_id: str) -> None:
        if job_id in self._channels:
            self._dirty.add(job_id)
            self._is_dirty.set()

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

    async def _end_stalled(self) -> None:
        """Disconnect readers who take nothing: they can resume. A timer for each chunk would double its cost."""
        while True:
            await asyncio.sleep(self._timing.stall / 4)
            oldest = asyncio.get_running_loop().time() - self._timing.stall
            for reader in self._readers:
                if reader.task is not None and reader.sending_since is not None and reader.sending_since < oldest:
                    logger.info("a reader of an event stream has stalled and is disconnected")
                    reader.task.cancel()

    async def _await_shutdown(self) -> None:
        """The server's stop signal reaches the streams long before the lifespan ends, which waits for them."""
        await self._shutdown.wait()
        self.close()
