"""Runs a search over a real journal, as a worker would: claim, drive, and claim again after a death."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from promptjobs.core.optimizer import Optimizer
from promptjobs.db.connections import Connections
from promptjobs.db.journal import open_session
from promptjobs.db.leases import Claim, claim_next, reap
from promptjobs.db.session import Database
from promptjobs.jobs.runner import Run, World
from promptjobs.jobs.writer import Writer
from tests.fakes.worlds import Killed


async def new_job(database: Database) -> str:
    job_id = f"pl_{uuid.uuid4().hex}"
    connection = await database.connect()
    try:
        await connection.execute(
            "INSERT INTO jobs(id, algorithm, status, config_sent, config) VALUES ($1, 'gepa', 'queued', '{}', '{}')",
            job_id,
        )
    finally:
        await connection.close()
    return job_id


@dataclass
class Journaled:
    """One job and the means to run it again and again."""

    database: Database
    job_id: str
    make_optimizer: Callable[[], Optimizer]
    turn_order: str = "arrival"
    slots: int = 16
    rng_seed: int = 7
    shared: Connections | None = None
    last: Run | None = None
    before_run: Callable[[Run], None] | None = None

    async def claim(self) -> Claim:
        connection = await self.database.connect()
        try:
            await connection.execute(
                "UPDATE jobs SET lease_until = clock_timestamp() - interval '1 second' WHERE id = $1", self.job_id
            )
            await reap(connection)
            # Longer than any test: a finished run stays "running" here, and must not be due before this job.
            claim = await claim_next(connection, "test-worker", 3_600.0)
        finally:
            await connection.close()
        assert claim is not None
        assert claim.job_id == self.job_id
        return claim

    async def run(self, world: World, claim: Claim | None = None) -> Any:
        held = claim or await self.claim()
        connections = self.shared or Connections(self.database.connect, 2, open_session)
        run = Run(
            job_id=self.job_id,
            connections=connections,
            make_writer=lambda n: Writer(connections, self.job_id, held.epoch, held.last_group, n),
            world=world,
            make_optimizer=self.make_optimizer,
            rng_seed=self.rng_seed,
            turn_order=self.turn_order,
            slots=self.slots,
        )
        self.last = run
        if self.before_run:
            self.before_run(run)
        try:
            return await run.run()
        finally:
            if self.shared is None:
                connections.close()

    async def run_until_killed(self, world: World) -> bool:
        """Whether it was killed; else it has ended."""
        try:
            await self.run(world)
        except Killed:
            return True
        return False

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        connection = await self.database.connect()
        try:
            return list(await connection.fetch(query, self.job_id, *arguments))
        finally:
            await connection.close()
