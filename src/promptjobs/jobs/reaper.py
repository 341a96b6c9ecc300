"""Puts jobs back to the queue whose worker is gone, and settles what it had reserved. One runs in every replica."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncpg

from promptjobs.db import leases
from promptjobs.db.groups import OUTAGE
from promptjobs.db.ledger import expire_holds, orphaned_holders
from promptjobs.jobs.lease import boot_seconds
from promptjobs.telemetry.metrics import REAPED_JOBS

log = logging.getLogger(__name__)

LEAST_SECONDS, MOST_SECONDS = 1.0, 10.0
RECONNECT_SECONDS = 0.5


class Reaper:
    """`run` returns after `stop`. lease_seconds: of this service's workers.

    Where the database, or this process, was away, leases may have run out although their workers live: they get the
    time of one heartbeat, and of this process's own delay, to renew them before anything is reaped. What a process has
    reserved for calls is given up when it was found disconnected in two rounds in a row.
    """

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], lease_seconds: float) -> None:
        self._connect = connect
        self._heartbeat_seconds = lease_seconds / 4
        self._round_seconds = min(MOST_SECONDS, max(LEAST_SECONDS, self._heartbeat_seconds))
        self._stopped = asyncio.Event()
        self._suspects: frozenset[int] = frozenset()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        """Reap until stopped. Raises only what is a defect."""
        while not self._stopped.is_set():
            connection: asyncpg.Connection | None = None
            try:
                connection = await self._connect()
                await self._rounds(connection)
            except OUTAGE as error:
                log.warning("jobs without a worker cannot be looked for", extra={"cause": type(error).__name__})
            finally:
                if connection is not None:
                    connection.terminate()
            await self._pause(RECONNECT_SECONDS)

    async def _rounds(self, connection: asyncpg.Connection) -> None:
        """Reap over this connection until stopped; the first time after as long as workers need to come back."""
        self._suspects = frozenset()
        await self._pause(max(self._round_seconds, self._heartbeat_seconds))
        while not (self._stopped.is_set() or connection.is_closed()):
            async with asyncio.timeout(MOST_SECONDS):
                await self._round(connection)
            began = boot_seconds()
            await self._pause(self._round_seconds)
            if boot_seconds() - began > self._round_seconds + self._heartbeat_seconds:
                # This process has been standing still, so the workers of this machine may have been, too.
                await self._pause(self._heartbeat_seconds)

    async def _round(self, connection: asyncpg.Connection) -> None:
        reaped = await leases.reap(connection)
        if reaped:
            REAPED_JOBS.inc(len(reaped))
            log.warning("jobs whose worker is gone are queued again", extra={"job_ids": reaped})
        orphaned = await orphaned_holders(connection)
        expired = await expire_holds(connection, orphaned & self._suspects)
        self._suspects = orphaned
        if expired:
            log.warning("reservations of calls that nobody settled were charged", extra={"count": expired})

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            pass
