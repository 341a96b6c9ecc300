"""The jobs that a worker holds: claimed, kept by heartbeats, told what their users want, and let go."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg

from promptjobs.core.lanes import Cause
from promptjobs.db import leases
from promptjobs.db.connections import Connections
from promptjobs.db.groups import OUTAGE
from promptjobs.db.leases import Beat, Claim
from promptjobs.errors import DatabaseUnavailable
from promptjobs.jobs.lease import Lease, boot_seconds
from promptjobs.jobs.runner import Run
from promptjobs.telemetry.metrics import LEASES_LOST

log = logging.getLogger(__name__)

JOBS_CHANNEL = "promptjobs_jobs"
RECONNECT_SECONDS = 0.5


@dataclass(slots=True, eq=False)
class Held:
    """A job that this worker has claimed, and what is wanted of it. interrupted: set with the first wish."""

    claim: Claim
    lease: Lease
    run: Run | None = None
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    is_cancelled: bool = False
    is_paused: bool = False
    is_suspended: bool = False
    is_lost: bool = False

    def begin(self, run: Run) -> None:
        """Pass on to the run what is wanted, and what has been wanted before."""
        self.run = run
        self._tell()

    def cancel(self) -> None:
        self.is_cancelled = True
        self._tell()

    def pause(self) -> None:
        self.is_paused = True
        self._tell()

    def suspend(self) -> None:
        """Leave off at once: the worker ends."""
        self.is_suspended = True
        self._tell()

    def lose(self) -> None:
        """The lease is gone: no call may start, and nothing can be written."""
        self.is_lost = True
        self.lease.until = 0.0
        self._tell()

    @property
    def has_to_leave_off(self) -> bool:
        """Whether a job that has not begun to run should not."""
        return self.is_suspended or self.is_lost or (self.is_paused and not self.is_cancelled)

    def _tell(self) -> None:
        wanted = (self.is_cancelled, self.is_paused, self.is_suspended or self.is_lost)
        if any(wanted):
            self.interrupted.set()
        if self.run is None:
            return
        is_cancelled, is_paused, leaves_off = wanted
        if is_cancelled:
            self.run.request_stop(Cause.CANCEL, "the job was cancelled")
        if is_paused:
            self.run.drain()
        if leaves_off:
            self.run.suspend()


class Claims:
    """One per worker. revoke: told each job whose tokens must not be used here any more.

    `keep_leases` and `listen` run beside the jobs; they return after `stop`, the first when no job is held any more.
    """

    def __init__(
        self,
        connections: Connections,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        worker_id: str,
        lease_seconds: float,
        revoke: Callable[[str], None],
    ) -> None:
        """connect: for heartbeats and news, which must not wait until a running job gives a connection back."""
        self.held: dict[str, Held] = {}
        self._connections, self._connect = connections, connect
        self._worker_id, self._lease_seconds = worker_id, lease_seconds
        self._revoke = revoke
        self._leaving: dict[str, int] = {}
        self._letting_go = asyncio.Lock()
        self._is_stopping = False
        self._wake = asyncio.Event()
        self._beat = asyncio.Event()
        self._deaf = asyncio.Event()

    def stop(self) -> None:
        """Suspend every job that is held."""
        self._is_stopping = True
        for held in self.held.values():
            held.suspend()
        self._wake.set()
        self._beat.set()
        self._deaf.set()

    # --- taking and letting go ---------------------------------------------------------------------------------------

    async def claim(self) -> Held | None:
        """A job to run; None where there is none, or no database."""
        asked_at = boot_seconds()
        try:
            async with self._connections.use() as connection:
                claim = await leases.claim_next(connection, self._worker_id, self._lease_seconds)
        except OUTAGE as error:
            log.warning("no job could be claimed", extra={"cause": type(error).__name__})
            return None
        if claim is None:
            return None
        before = self.held.get(claim.job_id)
        if before is not None:
            # Our own lease had run out, and nobody was faster.
            before.lose()
            self._revoke(claim.job_id)
        held = Held(claim, Lease(claim.job_id, claim.epoch, asked_at + self._lease_seconds))
        self.held[claim.job_id] = held
        if self._is_stopping:
            held.suspend()
        if claim.is_cancel_requested:
            held.cancel()
        return held

    async def news(self, seconds: float) -> None:
        """Return when there may be something to claim, after `seconds` at most."""
        await _set_within(self._wake, seconds)

    async def let_go(self, held: Held) -> None:
        """Hand a job over, or pause it where that is wanted."""
        claim = held.claim
        if held.is_lost:
            LEASES_LOST.inc()
            log.warning("a job's lease was lost", extra={"job_id": claim.job_id})
            return
        self._leaving[claim.job_id] = claim.epoch
        async with self._letting_go:
            # One statement for all that have come while the one before it was under way: a worker may hold hundreds.
            leaving, self._leaving = self._leaving, {}
            if not leaving:
                return
            try:
                await self._connections.persist(lambda c: leases.park(c, self._worker_id, leaving))
            except DatabaseUnavailable:
                log.warning(
                    "jobs could not be handed over: their leases have to run out", extra={"job_ids": [*leaving]}
                )

    def ended(self, held: Held) -> None:
        """Nothing more is done for the job here."""
        if self.held.get(held.claim.job_id) is held:
            del self.held[held.claim.job_id]
            self._revoke(held.claim.job_id)
        self._wake.set()
        self._beat.set()

    # --- leases ------------------------------------------------------------------------------------------------------

    async def keep_leases(self) -> None:
        """Extend all leases in one statement every quarter of a lease, and at once when there may be news."""
        connection: asyncpg.Connection | None = None
        try:
            while not (self._is_stopping and not self.held):
                pause = self._lease_seconds / 4
                try:
                    async with asyncio.timeout(self._lease_seconds):
                        connection = connection or await self._connect()
                        await self._heartbeat(connection)
                except OUTAGE as error:
                    log.warning("leases could not be extended", extra={"cause": type(error).__name__})
                    if connection is not None:
                        connection.terminate()
                    connection, pause = None, min(pause, RECONNECT_SECONDS)
                await _set_within(self._beat, pause)
        finally:
            if connection is not None:
                connection.terminate()

    async def _heartbeat(self, connection: asyncpg.Connection) -> None:
        asked_at = boot_seconds()
        asked = dict(self.held)
        if not asked:
            return
        epochs = {job_id: held.claim.epoch for job_id, held in asked.items()}
        beats = await leases.heartbeat(connection, self._worker_id, epochs, self._lease_seconds)
        for job_id, held in asked.items():
            beat = beats.get(job_id)
            if beat is not None:
                held.lease.until = asked_at + self._lease_seconds
                self._heed(held, beat)
            elif self.held.get(job_id) is held:
                self._revoke(job_id)
                held.lose()

    def _heed(self, held: Held, beat: Beat) -> None:
        if beat.is_cancel_requested:
            held.cancel()
        elif beat.is_pause_requested:
            held.pause()

    # --- news --------------------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """NOTIFY tells of jobs to claim and of their users' wishes; the polls make up for one that is lost."""
        while not self._is_stopping:
            self._deaf.clear()
            connection: asyncpg.Connection | None = None
            try:
                connection = await self._connect()
                connection.add_termination_listener(lambda _: self._deaf.set())
                await connection.add_listener(JOBS_CHANNEL, self._told)
                self._wake.set()
                self._beat.set()
                if not self._is_stopping:
                    await self._deaf.wait()
            except OUTAGE as error:
                log.warning("not listening for jobs", extra={"cause": type(error).__name__})
            finally:
                if connection is not None:
                    connection.terminate()
            if not self._is_stopping:
                await asyncio.sleep(RECONNECT_SECONDS)

    def _told(self, _: object, __: int, ___: str, job_id: object) -> None:
        if job_id in self.held:
            self._beat.set()
        else:
            self._wake.set()


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, and clear it; after `seconds` at most."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()
