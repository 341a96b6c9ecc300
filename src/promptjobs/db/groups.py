"""Natural group commit: one task with a connection of its own works off whatever queued while it was busy."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

import asyncpg

from promptjobs.errors import PromptjobsError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_ITEMS = 256
MAX_WEIGHT = 8 * 2**20
CONNECT_SECONDS = 2.0
STATEMENT_SECONDS = 5.0
BUSY_SECONDS = 1.0
"""A group that takes longer counts as an outage until it is done."""

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.25

REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
OUTAGE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""asyncpg raises any of these when a backend dies in mid-query: only REFUSED is certainly the items' own fault."""

log = logging.getLogger(__name__)


class Entry(Generic[Item, Result]):
    """An item in the queue. weight is in bytes; queued_at by the event loop's clock."""

    __slots__ = ("done", "item", "queued_at", "weight")

    def __init__(self, item: Item, weight: int, queued_at: float, done: "asyncio.Future[Result]") -> None:
        self.item, self.weight, self.queued_at, self.done = item, weight, queued_at, done


class Groups(Generic[Item, Result]):
    """Items go in one by one; `work` gets them in groups, in order, and returns a result for each.

    In an outage of the database the connection is renewed and the same items are worked again. Who has waited
    `patience_seconds` is told `unavailable()`; with `keep`, the item itself stays in the queue until `stop`. Items that
    the database refuses are told its error; the others of their group are not affected.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        work: Callable[[asyncpg.Connection, Sequence[Item]], Awaitable[Sequence[Result]]],
        unavailable: Callable[[], PromptjobsError],
        *,
        keep: bool,
        patience_seconds: float,
    ) -> None:
        self.name, self.keep, self.patience_seconds = name, keep, patience_seconds
        self._connect, self._work, self._unavailable = connect, work, unavailable
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Entry[Item, Result]] = deque()
        self._wake = asyncio.Event()
        self._connected = False
        self._in_outage = False
        self._ended = False
        self._busy_since: float | None = None
        self._give_up_at: float | None = None

    def put(self, item: Item, weight: int = 0) -> "asyncio.Future[Result]":
        """Queue an item of `weight` bytes. The future may be left alone: nothing is logged about it."""
        done: asyncio.Future[Result] = self._loop.create_future()
        entry = Entry(item, weight, self._loop.time(), done)
        if self._ended:
            self._refuse(entry, self._unavailable())
        else:
            self._queue.append(entry)
            self._wake.set()
        return done

    @property
    def is_up(self) -> bool:
        """Whether an item would be worked off at once, as far as is known."""
        busy = self._busy_since
        return self._connected and (busy is None or self._loop.time() - busy < BUSY_SECONDS)

    async def wait_up(self) -> None:
        """Return when the database answers. Raises `unavailable()` after `patience_seconds`."""
        deadline = self._loop.time() + self.patience_seconds
        while not self.is_up:
            if self._ended or self._loop.time() >= deadline:
                raise self._unavailable()
            await asyncio.sleep(FIRST_PAUSE_SECONDS)

    def stop(self) -> None:
        """Let `run` return once the queue is empty, in an outage after `patience_seconds` at most."""
        self._give_up_at = self._loop.time() + self.patience_seconds
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop`. Raises only what is a defect; whoever waits is then told `unavailable()`."""
        try:
            pause = FIRST_PAUSE_SECONDS
            while not self._is_over():
                if await self._session():
                    pause = FIRST_PAUSE_SECONDS
                self._dismiss()
                if not self._is_over():
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        finally:
            self._ended, self._connected = True, False
            if self._queue and self.keep:
                log.error("items were not stored", extra={"part": self.name, "count": len(self._queue)})
            while self._queue:
                self._refuse(self._queue.popleft(), self._unavailable())

    def _is_over(self) -> bool:
        return self._give_up_at is not None and (not self._queue or self._loop.time() >= self._give_up_at)

    async def _session(self) -> bool:
        """Open a connection and work over it until it is lost or all is over. Returns whether it could be opened."""
        connection: asyncpg.Connection | None = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await self._connect()
            connection.add_termination_listener(self._lost)
            self._connected = True
            if self._in_outage:
                self._in_outage = False
                log.info("database connection restored", extra={"part": self.name})
            await self._serve(connection)
            await connection.close(timeout=CONNECT_SECONDS)
        except OUTAGE as exc:
            if not self._in_outage:
                log.warning("database connection lost", extra={"part": self.name, "cause": type(exc).__name__})
            self._in_outage = True
        finally:
            self._connected, self._busy_since = False, None
            if connection is not None:
                connection.remove_termination_listener(self._lost)
                connection.terminate()
        return connection is not None

    async def _serve(self, connection: asyncpg.Connection) -> None:
        while not connection.is_closed() and not self._is_over():
            if self._queue:
                await self._work_off(connection, self._next_group())
            else:
                self._wake.clear()
                await self._wake.wait()

    def _lost(self, _: object) -> None:
        self._connected = False
        self._wake.set()

    def _next_group(self) -> list[Entry[Item, Result]]:
        """The oldest entries; they stay in the queue until they are done."""
        group: list[Entry[Item, Result]] = []
        weight = 0
        for entry in islice(self._queue, MAX_ITEMS):
            weight += entry.weight
            if group and weight > MAX_WEIGHT:
                break
            group.append(entry)
        return group

    async def _work_off(self, connection: asyncpg.Connection, group: list[Entry[Item, Result]]) -> None:
        """`group` is the head of the queue. Each entry leaves the queue when it is told its result."""
        self._busy_since = self._loop.time()
        try:
            async with asyncio.timeout(STATEMENT_SECONDS):
                results = await self._work(connection, [entry.item for entry in group])
        except REFUSED as exc:
            if len(group) > 1:
                for entry in group:
                    await self._work_off(connection, [entry])
                return
            log.error("the database refuses an item", extra={"part": self.name, "cause": type(exc).__name__})
            self._refuse(self._queue.popleft(), exc)
        else:
            for result in results:
                done = self._queue.popleft().done
                if not done.done():
                    done.set_result(result)
        self._busy_since = None

    def _dismiss(self) -> None:
        """Tell those who have waited long enough."""
        late = self._loop.time() - self.patience_seconds
        for entry in self._queue:
            if entry.queued_at <= late:
                self._refuse(entry, self._unavailable())
        if not self.keep:
            self._queue = deque(entry for entry in self._queue if not entry.done.done())

    @staticmethod
    def _refuse(entry: Entry[Item, Result], error: Exception) -> None:
        if not entry.done.done():
            entry.done.set_exception(error)
            entry.done.exception()  # marks it as seen: nobody may be waiting
