"""Items are worked off in groups: in order, once each, and whoever waits is told what became of his."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from promptjobs.db.groups import MAX_ITEMS, MAX_WEIGHT, Groups
from promptjobs.errors import MeteringUnavailable

Work = Callable[[Any, Sequence[int]], Awaitable[Sequence[int]]]


class Connection:
    """As much of a connection as Groups uses; it breaks when told to."""

    def __init__(self) -> None:
        self.closed = False
        self.listeners: list[Callable[[object], None]] = []

    def is_closed(self) -> bool:
        return self.closed

    def add_termination_listener(self, listener: Callable[[object], None]) -> None:
        self.listeners.append(listener)

    def remove_termination_listener(self, listener: Callable[[object], None]) -> None:
        self.listeners.remove(listener)

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - asyncpg's signature
        self.closed = True

    def terminate(self) -> None:
        self.closed = True


class Database:
    """Opens connections unless it is down, and remembers them."""

    def __init__(self) -> None:
        self.is_down = False
        self.opened: list[Connection] = []

    async def connect(self) -> Any:
        if self.is_down:
            raise ConnectionRefusedError
        self.opened.append(Connection())
        return self.opened[-1]


@asynccontextmanager
async def running(
    work: Work, database: Database, *, keep: bool = False, patience_seconds: float = 5.0
) -> AsyncIterator[Groups[int, int]]:
    groups: Groups[int, int] = Groups(
        "test",
        database.connect,
        work,
        lambda: MeteringUnavailable("down"),
        keep=keep,
        patience_seconds=patience_seconds,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(groups.run())
        yield groups
        groups.stop()


class Doubler:
    """Doubles; each group waits for `gate`, and `failures` are raised first."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.seen: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def __call__(self, connection: Any, items: Sequence[int]) -> list[int]:
        self.seen.append(list(items))
        self.entered.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return [2 * item for item in items]


async def test_a_group_is_what_has_queued_while_the_last_one_was_worked() -> None:
    work = Doubler()
    work.gate.clear()
    async with running(work, Database()) as groups:
        first = groups.put(0)
        await work.entered.wait()
        others = [groups.put(n) for n in range(1, MAX_ITEMS + 10)]
        work.gate.set()
        assert await asyncio.gather(first, *others) == [2 * n for n in range(MAX_ITEMS + 10)]
    assert [len(group) for group in work.seen] == [1, MAX_ITEMS, 9]


async def test_a_group_is_no_heavier_than_allowed_or_one_item() -> None:
    work = Doubler()
    work.gate.clear()
    weights = [1, MAX_WEIGHT + 1, MAX_WEIGHT // 2, MAX_WEIGHT // 2, 1]
    async with running(work, Database()) as groups:
        first = groups.put(-1)
        await work.entered.wait()
        others = [groups.put(n, weight) for n, weight in enumerate(weights)]
        work.gate.set()
        await asyncio.gather(first, *others)
    assert work.seen == [[-1], [0], [1], [2, 3], [4]]


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionResetError(),
        TimeoutError(),
        asyncpg.InterfaceError("x"),
        asyncpg.InternalClientError("x"),
        asyncpg.AdminShutdownError("x"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_group_that_met_an_outage_is_worked_again_over_a_new_connection(failure: Exception) -> None:
    work, database = Doubler(failure, failure), Database()
    async with running(work, database) as groups:
        assert await groups.put(1) == 2
    assert work.seen == [[1]] * 3
    assert len(database.opened) == 3
    assert all(connection.closed and not connection.listeners for connection in database.opened)


async def test_an_item_that_is_refused_does_not_take_the_others_with_it() -> None:
    async def work(connection: Any, items: Sequence[int]) -> Sequence[int]:
        if 13 in items:
            raise asyncpg.ForeignKeyViolationError("13")
        return items

    async with running(work, Database()) as groups:
        results = await asyncio.gather(*(groups.put(n) for n in range(11, 16)), return_exceptions=True)
        assert groups.is_up
    assert [n for n in results if isinstance(n, int)] == [11, 12, 14, 15]
    assert isinstance(results[2], asyncpg.ForeignKeyViolationError)


@pytest.mark.parametrize("keep", [False, True])
async def test_who_waits_in_an_outage_is_told_in_time(keep: bool) -> None:
    work, database = Doubler(), Database()
    database.is_down = True
    async with running(work, database, keep=keep, patience_seconds=0.05) as groups:
        with pytest.raises(MeteringUnavailable):
            await groups.wait_up()
        with pytest.raises(MeteringUnavailable):
            await groups.put(1)
        database.is_down, groups.patience_seconds = False, 5.0
        assert await groups.put(2) == 4
    assert [item for group in work.seen for item in group] == ([1, 2] if keep else [2])


async def test_idle_connection_that_is_lost_is_noticed() -> None:
    database = Database()
    async with running(Doubler(), database) as groups:
        await groups.wait_up()
        [connection] = database.opened
        connection.closed = True
        connection.listeners[0](connection)
        assert not groups.is_up
        await groups.wait_up()
        assert len(database.opened) == 2


async def test_stop_works_off_the_queue_and_refuses_what_comes_later() -> None:
    work = Doubler()
    async with running(work, Database()) as groups:
        await groups.wait_up()
        last = groups.put(1)
    assert last.result() == 2
    with pytest.raises(MeteringUnavailable):
        await groups.put(2)
    assert not groups.is_up


async def test_a_defect_ends_the_work_and_leaves_nobody_waiting() -> None:
    waiting = []

    async def live() -> None:
        async with running(Doubler(ZeroDivisionError()), Database()) as groups:
            waiting.append(groups.put(1))
            await waiting[0]

    with pytest.raises(ExceptionGroup) as failed:
        await live()
    assert failed.group_contains(ZeroDivisionError)
    with pytest.raises(MeteringUnavailable):
        waiting[0].result()


async def test_who_no_longer_waits_disturbs_nobody() -> None:
    work = Doubler()
    work.gate.clear()
    async with running(work, Database()) as groups:
        gone, staying = groups.put(1), groups.put(2)
        await work.entered.wait()
        gone.cancel()
        work.gate.set()
        assert await staying == 4
