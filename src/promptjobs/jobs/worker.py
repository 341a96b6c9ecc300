"""Runs jobs as far as there are any: checks, searches, publishes, and hands over when it is asked to stop."""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import asyncpg
from pydantic import SecretStr

from promptjobs.clients.http import Outgoing
from promptjobs.clients.llm import Llm
from promptjobs.clients.providers import OwnKeys
from promptjobs.clients.task_app import Dialect, TaskApp
from promptjobs.core.config import JobConfig, read_config
from promptjobs.core.lanes import Cause
from promptjobs.core.optimizers import optimizer_of
from promptjobs.core.policies import used_models
from promptjobs.core.result import OptimizationResult
from promptjobs.db.balances import DEFAULT_ORGANISATION
from promptjobs.db.calls import CallRecord, calls_of
from promptjobs.db.connections import Connections
from promptjobs.db.groups import Groups
from promptjobs.db.journal import open_session
from promptjobs.db.leases import Claim
from promptjobs.db.ledger import Ledger
from promptjobs.db.publishing import end_job, load_spent, load_statistics
from promptjobs.db.secrets import open_task_app_key
from promptjobs.db.session import Database
from promptjobs.db.vault import Vault
from promptjobs.errors import DatabaseUnavailable, JobFailed, LeaseLost, PromptjobsError, TaskAppUnreachable
from promptjobs.interceptor.grants import Grants
from promptjobs.interceptor.keyring import Keyring
from promptjobs.interceptor.recent import RecentCalls
from promptjobs.jobs.claims import Claims, Held
from promptjobs.jobs.publish import ending_of
from promptjobs.jobs.runner import Run, Suspended
from promptjobs.jobs.world import JobWorld
from promptjobs.jobs.writer import Writer
from promptjobs.telemetry import metrics

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 5
"""Claims of a job without any durable progress: more than this, and the job itself is what ends its workers."""

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
"""How long a job waits for the database with what it cannot do without."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """public_url: where task apps reach the interceptor. environment_key: the server's, for jobs that bring no key of
    their own and whose organisation has left none.

    database_connections: that all the jobs share.
    """

    public_url: str
    jobs: int = 8
    database_connections: int = 8
    lease_seconds: float = 30.0
    outage_seconds: float = 120.0
    rollout_timeout_seconds: float = 300.0
    environment_key: SecretStr | None = None


class Worker:
    """One per process. grants: those of the interceptor in this process, if it has one. recent: the calls that it has
    recorded, where no other process serves our tokens.

    `run` returns after `stop`, when every job is ended or handed over.
    """

    def __init__(
        self,
        database: Database,
        *,
        task_apps: Outgoing,
        llm: Llm,
        grants: Grants | None,
        ledger: Ledger,
        vault: Vault,
        options: WorkerOptions,
        recent: RecentCalls | None = None,
    ) -> None:
        """ledger: runs as long as the worker does."""
        self.database = database
        self.task_apps, self.llm, self.grants, self.ledger, self.options = task_apps, llm, grants, ledger, options
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._connections = Connections(self._connect, options.database_connections, open_session)
        self._claims = Claims(self._connections, self._connect, self.worker_id, options.lease_seconds, self._revoke_job)
        self._is_stopping = False
        self._recent = recent
        self._vault, self._keyring = vault, Keyring(self._connect, vault, patience_seconds=PATIENCE_SECONDS)
        self._calls: Groups[bytes, list[CallRecord]] = Groups(
            "calls of rollouts",
            self._connect,
            self._load_calls,
            lambda: DatabaseUnavailable("the calls of a rollout cannot be read"),
            keep=False,
            patience_seconds=PATIENCE_SECONDS,
        )

    def stop(self) -> None:
        """Leave off: running jobs are suspended and handed over at once."""
        self._is_stopping = True
        self._claims.stop()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._calls.run())
                group.create_task(self._keyring.groups.run())
                group.create_task(self._claims.keep_leases())
                group.create_task(self._claims.listen())
                async with asyncio.TaskGroup() as jobs:
                    while not self._is_stopping:
                        held = await self._claims.claim() if len(self._claims.held) < self.options.jobs else None
                        if held is None:
                            await self._claims.news(POLL_SECONDS)
                        else:
                            jobs.create_task(self._job(held))
                self._calls.stop()
                self._keyring.groups.stop()
        finally:
            self._connections.close()

    async def _connect(self) -> asyncpg.Connection:
        return await self.database.connect(f"promptjobs worker {os.getpid()}")

    async def _load_calls(self, connection: asyncpg.Connection, digests: Sequence[bytes]) -> list[list[CallRecord]]:
        found = await calls_of(connection, digests)
        return [found[digest] for digest in digests]

    async def _calls_of(self, digest: bytes) -> list[CallRecord]:
        """The calls that were made under a token whose rollout is over."""
        known = None if self._recent is None else self._recent.take(digest)
        return await self._calls.put(digest) if known is None else known

    def _revoke_job(self, job_id: str) -> None:
        """The interceptor of this process forgets the job's tokens at once; others do within their cache's second."""
        if self.grants is not None:
            self.grants.revoke_job(job_id)

    # --- one job -----------------------------------------------------------------------------------------------------

    async def _job(self, held: Held) -> None:
        """Run a claimed job to its end, its hand-over, or the loss of its lease. Nothing it raises ends the worker."""
        job_id = held.claim.job_id
        try:
            await self._carry_out(held)
        except Suspended:
            await self._claims.let_go(held)
        except LeaseLost:
            log.warning("a job's lease was lost", extra={"job_id": job_id})
            metrics.LEASES_LOST.inc()
        except DatabaseUnavailable as error:
            log.error("a job is left to the next worker", extra={"job_id": job_id, "cause": str(error)})
        except Exception as error:
            # The edge of a job: a defect in one must not end the others. What is no defect says itself what it is of.
            is_defect = not isinstance(error, PromptjobsError)
            log.error("a job failed", extra={"job_id": job_id, "cause": str(error)}, exc_info=is_defect)
            await self._fail(held, error)
        finally:
            self._claims.ended(held)

    async def _carry_out(self, held: Held) -> None:
        """Raises Suspended, LeaseLost, DatabaseUnavailable, and whatever a job fails of."""
        claim = held.claim
        if claim.attempts > MOST_ATTEMPTS:
            raise JobFailed(f"the job ended its worker {MOST_ATTEMPTS} times in a row without any progress")
        config = read_config(claim.config)
        own = await self._keys_of(config, claim)
        for used in used_models(config):
            own.require(used.provider)
        task_app = await self._task_app(config, claim)
        await self._check(held, task_app)
        if held.has_to_leave_off:
            raise Suspended
        world = self._world(held, config, task_app)
        run = Run(
            job_id=claim.job_id,
            connections=self._connections,
            make_writer=lambda next_n: self._writer(claim, world, next_n),
            world=world,
            make_optimizer=lambda: optimizer_of(config),
            rng_seed=config.search.rng_seed,
            turn_order=config.search.turn_order,
            slots=config.search.max_concurrent,
        )
        held.begin(run)
        deadline = self._deadline(config, claim, run)
        try:
            result = await run.run()
        finally:
            if deadline is not None:
                deadline.cancel()
        await self._publish(held, config, result, run.stopped, run.stop_detail)

    async def _keys_of(self, config: JobConfig, claim: Claim) -> OwnKeys:
        return await self._keyring.keys(claim.job_id, claim.epoch, claim.organisation, config.use_byok)

    async def _task_app(self, config: JobConfig, claim: Claim) -> TaskApp:
        """With the job's own key, else the one that its organisation has left.

        The server's own is for the organisation `default` alone: any other could have it sent to an address of its own.
        """
        dialect = None if config.task_app.dialect == "auto" else Dialect(config.task_app.dialect)
        key = open_task_app_key(self._vault, claim.task_app_key, claim.job_id)
        if key is None:
            key = await self._keyring.environment_key(claim.organisation)
        if key is None and claim.organisation == DEFAULT_ORGANISATION:
            key = self.options.environment_key
        return TaskApp(self.task_apps, config.task_app.url, key, dialect)

    async def _check(self, held: Held, task_app: TaskApp) -> None:
        """The task app has to be there when a job starts; later an outage is waited out. A wish does not wait."""
        check = asyncio.ensure_future(task_app.check())
        interrupted = asyncio.ensure_future(held.interrupted.wait())
        try:
            await asyncio.wait({check, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if check.done():
                check.result()
        except TaskAppUnreachable:
            if held.claim.last_group == 0:
                raise
        finally:
            for task in (check, interrupted):
                task.cancel()
            await asyncio.gather(check, interrupted, return_exceptions=True)

    def _world(self, held: Held, config: JobConfig, task_app: TaskApp) -> JobWorld:
        return JobWorld(
            job_id=held.claim.job_id,
            config=config,
            lease=held.lease,
            task_app=task_app,
            llm=self.llm.with_keys(partial(self._keys_of, config, held.claim)),
            grants=self.grants,
            ledger=self.ledger,
            organisation=held.claim.organisation,
            has_balance=held.claim.has_balance,
            calls_of=self._calls_of,
            url=self.options.public_url.rstrip("/"),
            rollout_timeout_seconds=self.options.rollout_timeout_seconds,
            outage_seconds=self.options.outage_seconds,
        )

    def _writer(self, claim: Claim, world: JobWorld, next_n: int) -> Writer:
        world.writer = Writer(self._connections, claim.job_id, claim.epoch, claim.last_group, next_n)
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

        await self._connections.persist(end)

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
