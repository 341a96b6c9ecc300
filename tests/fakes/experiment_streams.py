"""Experiments that are written to as workers do, and readers of their streams."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import update

from promptjobs.api.app import EXPERIMENTS_PATH
from promptjobs.db import events, experiments, job_commands
from promptjobs.db.experiments import NewExperiment
from promptjobs.db.job_commands import Place
from promptjobs.db.jobs import JobStatus
from promptjobs.db.models import Job
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from tests.fakes.queued_jobs import queued_job
from tests.fakes.served import Received, Served, receive

numbers = itertools.count(1)


@dataclass
class Running:
    """An experiment whose jobs are written to as a worker does. jobs: their ids, by position - 1."""

    database: Database
    experiment_id: str
    jobs: list[str]

    @property
    def path(self) -> str:
        return f"{EXPERIMENTS_PATH}/{self.experiment_id}/events/stream"

    async def write(self, position: int, count: int = 1, padding: str = "") -> None:
        async with writing(self.database) as connection:
            for _ in range(count):
                data = {"padding": padding}
                await events.append(connection, self.jobs[position - 1], "some.event", "one of many", data)

    async def end(self, *positions: int, outcome: str = "complete") -> None:
        """Each in a transaction of its own: its status together with its last event."""
        status = {"complete": JobStatus.SUCCEEDED, "failed": JobStatus.FAILED, "cancelled": JobStatus.CANCELLED}
        for position in positions:
            job_id = self.jobs[position - 1]
            async with writing(self.database) as connection:
                await connection.execute(update(Job).where(Job.id == job_id).values(status=status[outcome]))
                await events.append(connection, job_id, f"prompt.learning.gepa.{outcome}", "The end", {})

    async def end_all(self) -> None:
        await self.end(*range(1, len(self.jobs) + 1))

    async def last_seqs(self) -> dict[int, int]:
        async with writing(self.database) as connection:
            found = await events.last_seqs(connection, self.jobs)
        return {position: found[job_id] for position, job_id in enumerate(self.jobs, 1)}


async def written_experiment(database: Database, jobs: int) -> Running:
    """Without configs: no worker could run its jobs."""
    experiment_id = f"exp_{next(numbers):032x}"
    ids = [f"pl_{next(numbers):032x}" for _ in range(jobs)]
    async with writing(database) as connection:
        new = NewExperiment(experiment_id, "default", "a test", None, 4, "{}", "{}")
        await experiments.create(connection, new)
        for position, job_id in enumerate(ids, 1):
            label = f"job \u2028 {position}" if position == 1 else f"job {position}"
            place = Place(experiment_id, position, label, "all", "{}")
            await job_commands.create(connection, queued_job(job_id, place))
    return Running(database, experiment_id, ids)


Http = httpx.AsyncClient


@asynccontextmanager
async def reading(http: Http, here: Served, running: Running, **request: Any) -> AsyncIterator[AsyncIterator[Received]]:
    """For a minute at most: heartbeats would keep one waiting for ever."""
    stream = http.stream("GET", here.base_url + running.path, **request)
    async with asyncio.timeout(60), stream as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield receive(response)


async def all_of(http: Http, here: Served, running: Running, **request: Any) -> list[Received]:
    async with reading(http, here, running, **request) as stream:
        return [each async for each in stream]


def id_of(received: Received) -> str | None:
    found = [line[4:] for line in received.block.split("\n") if line.startswith("id: ")]
    return found[0] if found else None


def keys(received: list[Received]) -> list[tuple[int, int]]:
    """Position and number of all events but the one that ends the experiment."""
    return [(each.event["position"], each.event["seq"]) for each in received if "seq" in each.event]


def whole(last_seqs: dict[int, int]) -> list[tuple[int, int]]:
    """Every event of every job, job by job."""
    return [(position, seq) for position, last in last_seqs.items() for seq in range(1, last + 1)]
