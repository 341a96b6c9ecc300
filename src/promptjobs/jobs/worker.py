"""Claims jobs, keeps their leases, runs them, and hands them over when it is asked to stop."""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
from pydantic import SecretStr

from promptjobs.clients.http import Outgoing
from promptjobs.clients.llm import Llm
from promptjobs.clients.task_app import Dialect, TaskApp
from promptjobs.core.config import JobConfig, read_config
from promptjobs.core.lanes import Cause
from promptjobs.core.optimizers import optimizer_of
from promptjobs.core.result import OptimizationResult
from promptjobs.db import leases
from promptjobs.db.calls import CallRecord, calls_of
from promptjobs.db.groups import OUTAGE, Groups
from promptjobs.db.leases import Claim
from promptjobs.db.publishing import end_job, load_spent, load_statistics
from promptjobs.db.session import Database
from promptjobs.errors import DatabaseUnavailable, JobFailed, LeaseLost, PromptjobsError, TaskAppUnreachable
from promptjobs.interceptor.grants import Grants
from promptjobs.jobs.lease import Lease, boot_seconds
from promptjobs.jobs.publish import ending_of
from promptjobs.jobs.runner import Run, Suspended
from promptjobs.jobs.world import JobWorld
from promptjobs.jobs.writer import Writer

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 5
"""Claims of a job without any durable progress: more than this, and the job itself is what ends its workers."""

POLL_SECONDS = 1.0
RECONNECT_SECONDS = 0.5
PUBLISH_ATTEMPTS = 60
CALLS_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """public_url: where task apps reach the interceptor. environment_key: for jobs that bring no key of their own."""

    public_url: str
    jobs: int = 8
    lease_seconds: float = 30.0
    outage_seconds: float = 120.0
    rollout_timeout_seconds: float = 300.0
    environment_key: SecretStr | None = None


@dataclass(slots=True)
class Held:
    """A job that this worker has claimed."""

    claim: Claim
    lease: Lease
    run: Run | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    is_suspended: bool = False

    def cancel(self) -> None:
        self.cancelled.set()
        if self.run is not None:
            self.run.request_stop(Cause.CANCEL, "the job was cancelled")

    def suspend(self) -> None:
        self.is_suspended = True
        self.cancelled.set()
        if self.run is not None:
            self.run.suspend()


class Worker:
    """One per process. grants: those of the interceptor in this process, if it has one.

    `run` returns after `stop`, when every job is ended or handed over.
    """

    def __init__(
        self, database: Database, *, task_apps: Outgoing, llm: Llm, grants: Grants | None, options: WorkerOptions
    ) -> None:
        self.database = database
        self.task_apps, self.llm, self.grants, self.options = task_apps, llm, grants, options
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.held: dict[str, Held] = {}
        self._is_stopping = False
        self._wake = asyncio.Event()
        self._beat = asyncio.Event()
        self._calls: Groups[bytes, list[CallRecord]] = Groups(
            "calls of rollouts",
            self._connect,
            self._load_calls,
            lambda: DatabaseUnavailable("the calls of a rollout cannot be read"),
            keep=False,
            patience_seconds=CALLS_PATIENCE_SECONDS,
        )

    def stop(self) -> None:
        """Leave off: running jobs are suspended and handed over at once."""
        self._is_stopping = True
        for held in self.held.values():
            held.suspend()
        self._wake.set()
        self._beat.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._calls.run())
            group.create_task(self._keeping_leases())
            group.create_task(self._listening())
            async with asyncio.TaskGroup() as jobs:
                while not self._is_stopping:
                    claim = await self._claim() if len(self.held) < self.options.jobs else None
                    if claim is None:
                        await self._woken(POLL_SECONDS)
                    else:
                        jobs.create_task(self._job(claim))
            self._calls.stop()

    # --- claims, leases, news ----------------------------------------------------------------------------------------

    async def _connect(self) -> asyncpg.Connection:
        return await self.database.connect(f"promptjobs worker {os.getpid()}")

    async def _load_calls(self, connection: asyncpg.Connection, digests: Sequence[bytes]) -> list[list[CallRecord]]:
        found = await calls_of(connection, digests)
        return [found[digest] for digest in digests]

    async def _woken(self, seconds: float) -> None:
        """Return when there may be something to claim, after `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _claim(self) -> Claim | None:
        asked_at = boot_seconds()
        try:
            connection = await self._connect()
            try:
                claim = await leases.claim_next(connection, self.worker_id, self.options.lease_seconds)
            finally:
                connection.terminate()
        except OUTAGE as error:
            log.warning("no job could be claimed", extra={"cause": type(error).__name__})
            return None
        if claim is not None:
            lease = Lease(claim.job_id, claim.epoch, asked_at + self.options.lease_seconds)
            self.held[claim.job_id] = Held(claim, lease)
        return claim

    async def _keeping_leases(self) -> None:
        """Extend all leases in one statement every quarter of a lease, and at once when there may be news."""
        connection: asyncpg.Connection | None = None
        while not (self._is_stopping and not self.held):
            try:
                if connection is None:
                    connection = await self._connect()
                await self._heartbeat(connection)
                pause = self.options.lease_seconds / 4
            except OUTAGE as error:
                log.warning("leases could not be extended", extra={"cause": type(error).__name__})
                if connection is not None:
                    connection.terminate()
                connection, pause = None, RECONNECT_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._beat.wait()
            except TimeoutError:
                pass
            self._beat.clear()
        if connection is not None:
            connection.terminate()

    async def _heartbeat(self, connection: asyncpg.Connection) -> None:
        asked_at = boot_seconds()
        asked = dict(self.held)
        if not asked:
            return
        epochs = {job_id: held.claim.epoch for job_id, held in asked.items()}
        beats = await leases.heartbeat(connection, self.worker_id, epochs, self.options.lease_seconds)
        for job_id, held in asked.items():
            beat = beats.get(job_id)
            if beat is None:
                held.lease.until = 0.0
                self._revoke(job_id)
            else:
                held.lease.until = asked_at + self.options.lease_seconds
                if beat.is_cancel_requested:
                    held.cancel()

    def _revoke(self, job_id: str) -> None:
        """The interceptor of this process forgets the job's tokens at once; others do within their cache's second."""
        if self.grants is not None:
            self.grants.revoke_job(job_id)

    async def _listening(self) -> None:
        """NOTIFY tells of new jobs and of cancellations; the polls make up for one that is lost."""
        connection: asyncpg.Connection | None = None
        while not self._is_stopping:
            if connection is None or connection.is_closed():
                try:
                    connection = await self._connect()
                    await connection.add_listener("promptjobs_jobs", self._told)
                except OUTAGE as error:
                    log.warning("not listening for jobs", extra={"cause": type(error).__name__})
                    connection = None
            await asyncio.sleep(RECONNECT_SECONDS)
        if connection is not None:
            connection.terminate()

    def _told(self, _: object, __: int, ___: str, job_id: object) -> None:
        if job_id in self.held:
            self._beat.set()
        else:
            self._wake.set()

    # --- one job -----------------------------------------------------------------------------------------------------

    async def _job(self, claim: Claim) -> None:
        """Run a claimed job to its end, its hand-over, or the loss of its lease. Nothing it raises ends the worker."""
        held = self.held[claim.job_id]
        if self._is_stopping:
            held.suspend()
        if claim.is_cancel_requested:
            held.cancel()
        try:
            await self._carry_out(held)
        except Suspended:
            await self._hand_over(claim)
        except LeaseLost:
            log.warning("a job's lease was lost", extra={"job_id": claim.job_id})
        except DatabaseUnavailable as error:
            log.error("a job is left to the next worker", extra={"job_id": claim.job_id, "cause": str(error)})
        except Exception as error:
            # The edge of a job: a defect in one must not end the others.
            log.exception("a job failed", extra={"job_id": claim.job_id})
            await self._fail(held, error)
        finally:
            self.held.pop(claim.job_id, None)
            self._revoke(claim.job_id)
            self._wake.set()
            self._beat.set()

    async def _carry_out(self, held: Held) -> None:
        claim = held.claim
        if claim.attempts > MOST_ATTEMPTS:
            raise JobFailed(f"the job ended its worker {MOST_ATTEMPTS} times in a row without any progress")
        config = read_config(claim.config)
        task_app = self._task_app(config, claim)
        await self._check(held, task_app)
        world = self._world(held, config, task_app)
        run = Run(
            job_id=claim.job_id,
            connect=self._connect,
            make_writer=lambda next_n: self._writer(claim, world, next_n),
            world=world,
            make_optimizer=lambda: optimizer_of(config),
            rng_seed=config.search.rng_seed,
            turn_order=config.search.turn_order,
            slots=config.search.max_concurrent,
        )
        held.run = run
        if held.is_suspended:
            run.suspend()
        elif held.cancelled.is_set():
            held.cancel()
        deadline = self._deadline(config, claim, run)
        try:
            result = await run.run()
        finally:
            if deadline is not None:
                deadline.cancel()
        await self._publish(held, config, result, run.stopped, run.stop_detail)

    def _task_app(self, config: JobConfig, claim: Claim) -> TaskApp:
        dialect = None if config.task_app.dialect == "auto" else Dialect(config.task_app.dialect)
        key = SecretStr(claim.task_app_key) if claim.task_app_key else self.options.environment_key
        return TaskApp(self.task_apps, config.task_app.url, key, dialect)

    async def _check(self, held: Held, task_app: TaskApp) -> None:
        """The task app has to be there when a job starts; later an outage is waited out. A cancel does not wait."""
        check = asyncio.ensure_future(task_app.check())
        cancelled = asyncio.ensure_future(held.cancelled.wait())
        try:
            await asyncio.wait({check, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if check.done():
                check.result()
        except TaskAppUnreachable:
            if held.claim.last_group == 0:
                raise
        finally:
            for task in (check, cancelled):
                task.cancel()
            await asyncio.gather(check, cancelled, return_exceptions=True)

    def _world(self, held: Held, config: JobConfig, task_app: TaskApp) -> JobWorld:
        return JobWorld(
            job_id=held.claim.job_id,
            config=config,
            lease=held.lease,
            task_app=task_app,
            llm=self.llm,
            grants=self.grants,
            calls_of=self._calls.put,
            url=self.options.public_url.rstrip("/"),
            rollout_timeout_seconds=self.options.rollout_timeout_seconds,
            outage_seconds=self.options.outage_seconds,
        )

    def _writer(self, claim: Claim, world: JobWorld, next_n: int) -> Writer:
        world.writer = Writer(self._connect, claim.job_id, claim.epoch, claim.last_group, next_n)
        return world.writer

    def _deadline(self, config: JobConfig, claim: Claim, run: Run) -> asyncio.TimerHandle | None:
        if config.search.max_seconds is None:
            return None
        left = max(0.0, config.search.max_seconds - claim.running_seconds)
        said = f"the job has run for {config.search.max_seconds:g} s"
        return asyncio.get_running_loop().call_later(left, run.request_stop, Cause.DEADLINE, said)

    # --- its end -----------------------------------------------------------------------------------------------------

    async def _publish(
        self,
        held: Held,
        config: JobConfig,
        result: OptimizationResult | None,
        stopped: Cause | None,
        detail: str | None,
    ) -> None:
        """End the job in one transaction; an outcome that is unknown is found out by trying again."""
        claim = held.claim

        async def end(connection: asyncpg.Connection) -> None:
            statistics = await load_statistics(connection, claim.job_id)
            spent = await load_spent(connection, claim.job_id)
            ending = ending_of(config, result, statistics, spent, stopped, detail)
            await end_job(connection, claim.job_id, claim.epoch, ending)

        await self._persistently(end)

    async def _fail(self, held: Held, error: Exception) -> None:
        """End a job that cannot go on. Where even that fails, its lease runs out and another worker tries."""
        known = isinstance(error, PromptjobsError)
        said = str(error) if known else f"an internal error ended the job: {type(error).__name__}"
        try:
            config = read_config(held.claim.config)
            await self._publish(held, config, None, Cause.ERRORS, said)
        except (LeaseLost, DatabaseUnavailable) as lost:
            log.warning("a failed job could not be ended", extra={"job_id": held.claim.job_id, "cause": str(lost)})
        except Exception:
            log.exception("a failed job could not be ended", extra={"job_id": held.claim.job_id})

    async def _hand_over(self, claim: Claim) -> None:
        try:
            await self._persistently(lambda c: leases.release(c, [claim.job_id], self.worker_id))
        except DatabaseUnavailable:
            log.warning("a job could not be handed over: its lease has to run out", extra={"job_id": claim.job_id})

    async def _persistently(self, work: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
        """Do `work`, which may be repeated, on a connection that works. Raises DatabaseUnavailable after 30 s."""
        for _ in range(PUBLISH_ATTEMPTS):
            try:
                connection = await self._connect()
                try:
                    await work(connection)
                    return
                finally:
                    connection.terminate()
            except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
                raise
            except OUTAGE as error:
                log.warning("the database is away; trying again", extra={"cause": type(error).__name__})
                await asyncio.sleep(RECONNECT_SECONDS)
        raise DatabaseUnavailable("the database does not answer")
