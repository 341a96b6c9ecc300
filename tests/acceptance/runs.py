"""What a run has come to, seen over HTTP and by SQL: what it has found, and whether anything was asked twice."""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson

from promptjobs.db.session import Database
from tests.acceptance.client import Api, Json, config
from tests.acceptance.faulty_app import FaultyApp, Visit
from tests.acceptance.faulty_model import FaultyModel
from tests.acceptance.service import Ports, Process, Processes, serving_on

FIXED = {"gepa.turn_order": "fixed"}
SLOTS, LANES = 8, 4
"""Of the small job."""

REPEATABLE = frozenset({"metered_calls", "metered_cost_usd", "abandoned_rollouts", "total_time_seconds", "spend"})
"""Counters of what was paid rather than of what was found."""


@asynccontextmanager
async def connected(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect()
    try:
        yield connection
    finally:
        await connection.close()


async def column(database: Database, name: str, jobs: Sequence[str]) -> list[Any]:
    """A column of the jobs' rows, in the order in which they are named."""
    async with connected(database) as connection:
        return [await connection.fetchval(f"SELECT {name} FROM jobs WHERE id = $1", job_id) for job_id in jobs]


async def recorded_keys(database: Database, job_id: str) -> set[bytes]:
    """The rollouts that have an answer: whatever happens, none of them may be asked again."""
    async with connected(database) as connection:
        return {row["key"] for row in await connection.fetch("SELECT key FROM rollouts WHERE job_id = $1", job_id)}


async def keys_of(database: Database, visits: Iterable[Visit]) -> list[bytes]:
    """Which rollouts the task app was asked for, by the tokens in the URLs that it was given."""
    digests = [hashlib.sha256(visit.url.split("/v1/")[1].split("/")[0].encode()).digest() for visit in visits]
    async with connected(database) as connection:
        rows = await connection.fetch("SELECT digest, key FROM tokens WHERE digest = ANY($1::bytea[])", digests)
    known = {row["digest"]: row["key"] for row in rows}
    return [known[digest] for digest in digests]


async def calls_of(database: Database, job_id: str) -> list[Json]:
    """What was sent to the provider, oldest first, with the candidate it was sent for."""
    async with connected(database) as connection:
        rows = await connection.fetch("SELECT * FROM calls WHERE job_id = $1 ORDER BY created_at", job_id)
    return [{**row, "messages": orjson.loads(row["messages"])} for row in rows]


@dataclass(frozen=True)
class Found:
    """All that a run has found, without the clock, its own names, and what was paid more than once."""

    events: Sequence[Any]
    trials: Sequence[Any]
    candidates: Sequence[Any]
    payload: Json
    stats: Json


async def found_by(api: Api, job_id: str) -> Found:
    job = await api.read(job_id)
    assert job["status"] == "succeeded", job["error"]
    events = await api.events(job_id)
    payload = dict(job["metadata"]["prompt_best_snapshot"])
    stats = _without(payload.pop("stats"), REPEATABLE)
    return Found(
        events=[[each["seq"], each["type"], each["message"], each["data"]] for each in events[1:-1]],
        trials=[_without(trial, {"created_at", "rollouts"}) for trial in await api.read(job_id, "/trials", limit=200)],
        candidates=[_without(each, {"created_at"}) for each in await api.read(job_id, "/candidates", limit=200)],
        payload=_without(payload, REPEATABLE),
        stats=stats,
    )


def _without(body: Json, names: Iterable[str]) -> Json:
    return {name: value for name, value in body.items() if name not in names}


async def undisturbed_run(url: str, ports: Ports) -> Found:
    """What the small job finds in fixed order when nothing happens to it."""
    app, model = FaultyApp(), FaultyModel()
    async with serving_on(app.app(), ports.task_app), serving_on(model.app(), ports.model), Api.at(url) as api:
        job_id = await api.submit(config(ports.task_app_url, FIXED))
        await api.ended(job_id)
        return await found_by(api, job_id)


async def assert_whole(api: Api, database: Database, job_id: str) -> Json:
    """The job has succeeded, its events have no gap, and its rows are unique and counted."""
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    events = await api.events(job_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    ends = [event["seq"] for event in events if event["type"] == f"prompt.learning.{job['algorithm']}.complete"]
    assert ends == [len(events)]
    async with connected(database) as connection:
        rows = await connection.fetch("SELECT * FROM rollouts WHERE job_id = $1", job_id)
        snapshots = await connection.fetch("SELECT id, label FROM snapshots WHERE job_id = $1", job_id)
        artifacts = await connection.fetch("SELECT snapshot_id FROM artifacts WHERE job_id = $1", job_id)
    assert len({(row["candidate_id"], row["seed"], row["draw"]) for row in rows}) == len(rows)
    assert all(row["score"] is not None for row in rows)
    assert job["metadata"]["stats"]["total_rollouts"] == len(rows)
    assert len({row["label"] for row in snapshots}) == len(snapshots)
    assert {row["id"] for row in snapshots} == {row["snapshot_id"] for row in artifacts}
    assert len(artifacts) == len(snapshots)
    return job


@dataclass
class Killing:
    """A job whose service is killed and started again. checks: for each kill, how many rollouts the task app had been
    asked for until then, and which ones were recorded."""

    processes: Processes
    database: Database
    app: FaultyApp
    model: FaultyModel
    job_id: str
    service: Process
    checks: list[tuple[int, set[bytes]]] = field(default_factory=list)

    async def kill(self) -> None:
        """Kill the service and start another."""
        self.service.kill()
        self.checks.append((len(self.app.visits), await recorded_keys(self.database, self.job_id)))
        self.service = await self.processes.serve()

    async def assert_nothing_recorded_was_asked_again(self) -> None:
        """And what was asked again was in flight when a kill came, of a task app that makes one call in a rollout."""
        await self.assert_no_recorded_rollout_was_asked_again()
        assert self.model.repeated() <= len(self.checks) * (SLOTS + LANES)

    async def assert_no_recorded_rollout_was_asked_again(self) -> None:
        keys = await keys_of(self.database, self.app.visits)
        for asked, recorded in self.checks:
            assert not recorded.intersection(keys[asked:])
        assert max(Counter(keys).values()) <= 1 + len(self.checks)
