"""The one writer of a running job: groups whatever has queued, commits it in one fenced statement, tells who waits."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from promptjobs.db.connections import DEFINITE, Connections
from promptjobs.db.groups import OUTAGE
from promptjobs.db.journal import AnswerRecord, Group, TokenRecord, TurnRecord, last_group, write_group
from promptjobs.errors import LeaseLost

log = logging.getLogger(__name__)

MOST_ANSWERS = 500
"""Answers in one group: bounds the statement's size, not the throughput."""

RECONNECT_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
RECONNECTS = 300


@dataclass(slots=True)
class _Queued:
    future: asyncio.Future[None]
    answer: tuple[int, AnswerRecord] | None = None
    turn: TurnRecord | None = None
    tokens: Sequence[TokenRecord] = ()


class Writer:
    """FIFO. Each `put_…` returns a future that is done when its rows are durable.

    A connection is borrowed for each group. After an error of unknown outcome the number of the last group is read
    over another: equal to its own means committed, else the group is sent again. `number` starts at the job's
    last_group as read when it was claimed.
    """

    def __init__(self, connections: Connections, job_id: str, epoch: int, number: int, next_n: int) -> None:
        """connections: prepared by db.journal.open_session."""
        self._connections = connections
        self.job_id, self.epoch, self.number = job_id, epoch, number
        self.next_n = next_n
        self.groups = 0
        self._queue: deque[_Queued] = deque()
        self._wake = asyncio.Event()
        self._is_closing = False
        self._failure: BaseException | None = None

    def put_answer(self, record: AnswerRecord) -> asyncio.Future[None]:
        n, self.next_n = self.next_n, self.next_n + 1
        return self._put(_Queued(self._future(), answer=(n, record)))

    def put_turn(self, turn: TurnRecord, tokens: Sequence[TokenRecord]) -> asyncio.Future[None]:
        return self._put(_Queued(self._future(), turn=turn, tokens=tokens))

    def put_tokens(self, tokens: Sequence[TokenRecord]) -> asyncio.Future[None]:
        return self._put(_Queued(self._future(), tokens=tokens))

    def close(self) -> None:
        """No more is put; `run` ends when the queue is empty."""
        self._is_closing = True
        self._wake.set()

    async def flush(self) -> None:
        """Return when everything put so far is durable."""
        await self._put(_Queued(self._future()))

    def _future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def _put(self, queued: _Queued) -> asyncio.Future[None]:
        if self._failure is not None:
            queued.future.set_exception(self._failure)
        else:
            self._queue.append(queued)
            self._wake.set()
        return queued.future

    async def run(self) -> None:
        """Write until closed. Raises LeaseLost; every waiting future then fails with it."""
        taken: list[asyncio.Future[None]] = []
        try:
            while True:
                if not self._queue:
                    if self._is_closing:
                        return
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                group, taken = self._take()
                await self._commit(group)
                for future in taken:
                    if not future.done():
                        future.set_result(None)
        except BaseException as error:
            self._fail(error, taken)
            raise

    def _take(self) -> tuple[Group, list[asyncio.Future[None]]]:
        group, taken = Group(), []
        while self._queue and len(group.answers) < MOST_ANSWERS:
            queued = self._queue.popleft()
            taken.append(queued.future)
            if queued.answer is not None:
                group.answers.append(queued.answer)
            if queued.turn is not None:
                group.turns.append(queued.turn)
            group.tokens.extend(queued.tokens)
        return group, taken

    async def _commit(self, group: Group) -> None:
        if not (group.answers or group.turns or group.tokens):
            return
        number = self.number + 1
        if not await self._send(number, group):
            raise LeaseLost(self.job_id)
        self.number = number
        self.groups += 1

    async def _send(self, number: int, group: Group) -> bool:
        """Whether the group is committed; False where the fence refused it."""
        for attempt in range(RECONNECTS):
            try:
                async with self._connections.use() as connection:
                    if attempt and await self._was_committed(connection, number):
                        return True
                    if await write_group(connection, self.job_id, self.epoch, number, group) is not None:
                        return True
                    # Refused: another runner owns the job, or an earlier attempt was committed after we looked.
                    return attempt > 0 and await self._was_committed(connection, number)
            except DEFINITE:
                raise
            except OUTAGE as error:
                log.warning("a group's outcome is unknown; looking again", extra={"error": type(error).__name__})
                await asyncio.sleep(RECONNECT_SECONDS[min(attempt, len(RECONNECT_SECONDS) - 1)])
        raise LeaseLost(self.job_id)

    async def _was_committed(self, connection: asyncpg.Connection, number: int) -> bool:
        return await last_group(connection, self.job_id) == (self.epoch, number)

    def _fail(self, error: BaseException, taken: Sequence[asyncio.Future[None]]) -> None:
        self._failure = error if isinstance(error, Exception) else LeaseLost(self.job_id)
        for future in (*taken, *(queued.future for queued in self._queue)):
            if not future.done():
                future.set_exception(self._failure)
                future.exception()  # retrieved: whoever no longer waits must not leave noise behind
        self._queue.clear()
