"""A process that runs one toy search as a worker would: claim, heartbeats, journal, and the world over a socket.

python -m tests.fakes.runner_process URL JOB_ID SOCKET LEASE_SECONDS
It prints "claimed EPOCH", and at its end "ended RESULT CALLS" or "lost CALLS".
"""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Sequence
from typing import Any

import asyncpg

from promptjobs.core.asks import Answer, Ask, Completion, CompletionBody, Fact, Rollout, RolloutBody
from promptjobs.core.optimizer import Optimizer
from promptjobs.core.prompt import Message
from promptjobs.db.connections import Connections
from promptjobs.db.journal import AnswerRecord, TokenRecord, body_text, open_session
from promptjobs.db.leases import Claim, claim_next, heartbeat, reap
from promptjobs.db.session import Database
from promptjobs.errors import LeaseLost
from promptjobs.jobs.lease import Lease, boot_seconds
from promptjobs.jobs.runner import Run
from promptjobs.jobs.writer import Writer
from tests.fakes.searches import Evolving, Nested

OUTAGE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
CLAIM_ATTEMPTS = 600
PAUSE_SECONDS = 0.05


def search_of(config: dict[str, Any]) -> Optimizer:
    search = {"evolving": Evolving, "nested": Nested}[config["search"]]
    return search(lanes=config["lanes"], budget=config["budget"])


class RemoteWorld:
    """Asks the world's process, as long as the lease is held."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next_id = 0

    async def connect(self, path: str) -> None:
        reader, self._writer = await asyncio.open_unix_connection(path)
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            reply = json.loads(line)
            waiting = self._waiting.pop(reply["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(reply)

    def observe(self, facts: Sequence[Fact]) -> None:
        pass

    def tokens(self, asks: Sequence[Ask]) -> list[TokenRecord]:
        return [
            TokenRecord(secrets.token_bytes(32), ask.key, ask.candidate_id, ask.seed, ask.phase, 0, 60.0)
            for ask in asks
            if isinstance(ask, Rollout)
        ]

    async def answer(self, ask: Ask) -> AnswerRecord:
        reply = await self._ask(ask.key.hex(), "rollout" if isinstance(ask, Rollout) else "completion")
        match ask:
            case Rollout():
                body = RolloutBody((Message("user", f"input {ask.seed}"),), "out", reply["feedback"])
                return AnswerRecord(ask, Answer(ask.key, reply["score"]), body_text(body))
            case Completion():
                text = body_text(CompletionBody(reply["text"], "stop"))
                return AnswerRecord(ask, Answer(ask.key), text, finish_reason="stop")

    async def _ask(self, key: str, kind: str) -> dict[str, Any]:
        self._next_id += 1
        asked = {"id": self._next_id, "job_id": self.lease.job_id, "epoch": self.lease.epoch, "pid": os.getpid()}
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[self._next_id] = waiting
        checked_at = boot_seconds()
        self.lease.require()
        line = json.dumps({**asked, "key": key, "kind": kind, "checked_at": checked_at})
        self._writer.write(line.encode() + b"\n")
        found: dict[str, Any] = await waiting
        return found


async def claimed(database: Database, job_id: str, lease_seconds: float) -> tuple[Claim, Lease]:
    """Wait until the job can be had: another worker's lease may have to run out."""
    connection = await database.connect()
    try:
        for _ in range(CLAIM_ATTEMPTS):
            await reap(connection)
            asked_at = boot_seconds()
            claim = await claim_next(connection, str(os.getpid()), lease_seconds)
            if claim is not None:
                assert claim.job_id == job_id
                return claim, Lease(job_id, claim.epoch, asked_at + lease_seconds)
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        connection.terminate()
    raise RuntimeError(f"{job_id} could not be claimed")


async def keep(database: Database, lease: Lease, lease_seconds: float) -> None:
    connection: asyncpg.Connection | None = None
    while True:
        pause = lease_seconds / 4
        try:
            connection = connection or await database.connect()
            asked_at = boot_seconds()
            beats = await heartbeat(connection, str(os.getpid()), {lease.job_id: lease.epoch}, lease_seconds)
            lease.until = asked_at + lease_seconds if lease.job_id in beats else 0.0
        except OUTAGE:
            if connection is not None:
                connection.terminate()
            connection, pause = None, PAUSE_SECONDS
        await asyncio.sleep(pause)


async def end(database: Database, claim: Claim, result: Any) -> None:
    for _ in range(CLAIM_ATTEMPTS):
        try:
            connection = await database.connect()
            try:
                await connection.execute(
                    "UPDATE jobs SET status = 'succeeded', metadata = $3 WHERE id = $1 AND epoch = $2",
                    claim.job_id,
                    claim.epoch,
                    json.dumps(result),
                )
            finally:
                connection.terminate()
        except OUTAGE:
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return


async def main(url: str, job_id: str, socket: str, lease_seconds: float) -> None:
    database = Database.open(url)
    claim, lease = await claimed(database, job_id, lease_seconds)
    print("claimed", claim.epoch, flush=True)
    keeping = asyncio.create_task(keep(database, lease, lease_seconds))
    config = json.loads(claim.config)
    world = RemoteWorld(lease)
    await world.connect(socket)
    connections = Connections(database.connect, 2, open_session)
    run = Run(
        job_id=job_id,
        connections=connections,
        make_writer=lambda n: Writer(connections, job_id, claim.epoch, claim.last_group, n),
        world=world,
        make_optimizer=lambda: search_of(config),
        rng_seed=7,
        turn_order=config["turn_order"],
        slots=config["slots"],
    )
    try:
        result = await run.run()
    except LeaseLost:
        print("lost", run.calls, flush=True)
        return
    finally:
        keeping.cancel()
    await end(database, claim, result)
    print("ended", json.dumps(result), run.calls, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
