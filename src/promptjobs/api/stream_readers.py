"""Those who read event streams in this process: how they are paced, ended when they take nothing, and sent home."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent

from promptjobs.telemetry.metrics import SSE_CLIENTS

logger = logging.getLogger(__name__)

CONNECTED = b": connected\n\n"


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

    timing: StreamTiming
    task: "asyncio.Task[object] | None"
    sending_since: float | None = None
    _sent_at: float = field(init=False)
    _read_by: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._sent_at = -self.timing.terminal_delay

    @contextmanager
    def handed(self, num_events: int) -> Iterator[None]:
        """While the block runs, the reader is handed so many events."""
        clock = asyncio.get_running_loop().time
        self.sending_since = clock()
        yield
        self.sending_since = None
        self._sent_at = clock()
        self._read_by = max(self._read_by, self._sent_at) + self.timing.read_seconds * num_events

    async def pause_before_end(self) -> None:
        """Until the reader can be thought to have dealt with what it was handed."""
        latest = min(self._read_by, self._sent_at + self.timing.terminal_most)
        until = max(self._sent_at + self.timing.terminal_delay, latest)
        await asyncio.sleep(until - asyncio.get_running_loop().time())


class Readers:
    """All streams of this process. on_close: wakes those that wait for events."""

    def __init__(self, timing: StreamTiming, on_close: Callable[[], None]) -> None:
        self.timing = timing
        self.is_closing = False
        self._on_close = on_close
        self._readers: set[Reader] = set()
        self._shutdown = anyio.Event()

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """The stream that the current task sends, as long as it does."""
        reader = Reader(self.timing, asyncio.current_task())
        self._readers.add(reader)
        SSE_CLIENTS.inc()
        try:
            yield reader
        finally:
            SSE_CLIENTS.dec()
            self._readers.discard(reader)

    def response(self, stream: AsyncIterator[bytes]) -> EventSourceResponse:
        timing = self.timing
        return EventSourceResponse(
            stream,
            ping=timing.heartbeat,
            ping_message_factory=lambda: ServerSentEvent(comment="heartbeat", sep="\n"),
            sep="\n",
            shutdown_event=self._shutdown,
            shutdown_grace_period=timing.shutdown_grace,
        )

    def close(self) -> None:
        """End the streams, each after what it is sending."""
        self.is_closing = True
        self._on_close()

    def work(self) -> tuple[Coroutine[None, None, None], ...]:
        """What has to run as long as there may be readers."""
        return self._end_stalled(), self._await_shutdown()

    async def _end_stalled(self) -> None:
        """Disconnect readers who take nothing: they can resume. A timer for each chunk would double its cost."""
        while True:
            await asyncio.sleep(self.timing.stall / 4)
            oldest = asyncio.get_running_loop().time() - self.timing.stall
            for reader in self._readers:
                if reader.task is not None and reader.sending_since is not None and reader.sending_since < oldest:
                    logger.info("a reader of an event stream has stalled and is disconnected")
                    reader.task.cancel()

    async def _await_shutdown(self) -> None:
        """The server's stop signal reaches the streams long before the lifespan ends, which waits for them."""
        await self._shutdown.wait()
        self.close()
