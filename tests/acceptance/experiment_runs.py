"""Experiments as tests run them: created over HTTP, held at the task app, and watched there and in the database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from promptjobs.db.session import Database
from tests.acceptance.client import Api, Json
from tests.acceptance.faulty_app import FaultyApp, Talk, Visit, once
from tests.acceptance.runs import connected, keys_of

EXPERIMENTS = "/api/experiments"


@dataclass(frozen=True)
class Submitted:
    """An experiment that was accepted. jobs: their ids, in the order of their positions."""

    id: str
    jobs: Sequence[str]


async def submit(api: Api, parallelism: int, configs: Sequence[Json], **more: Any) -> Submitted:
    """An experiment with a GEPA job for each config body."""
    jobs = [{"algorithm": "gepa", "config": config} for config in configs]
    body = {"name": "a test", "parallelism": parallelism, "jobs": jobs, **more}
    response = await api.http.post(EXPERIMENTS, json=body)
    assert response.status_code == 200, response.text
    made = response.json()
    jobs_made = [job["job_id"] for job in made["jobs"]]
    api.posted += jobs_made
    return Submitted(made["experiment_id"], jobs_made)


async def read(api: Api, experiment_id: str) -> Json:
    response = await api.http.get(f"{EXPERIMENTS}/{experiment_id}")
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


async def cancel(api: Api, experiment_id: str) -> Json:
    response = await api.http.post(f"{EXPERIMENTS}/{experiment_id}/cancel", json={"reason": "enough"})
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


async def ended(api: Api, submitted: Submitted) -> Json:
    """The experiment once all its jobs are over."""
    for job_id in submitted.jobs:
        await api.ended(job_id)
    experiment = await read(api, submitted.id)
    assert experiment["finished_at"] is not None
    return experiment


# --- what is under way -----------------------------------------------------------------------------------------------


@dataclass
class Crowd:
    """Whose rollouts are under way at a task app: give it `talk`. most: jobs that had some at the same moment."""

    jobs: frozenset[str] = frozenset()
    most: int = 0
    _inside: list[str] = field(default_factory=list)

    def watching(self, talk: Talk = once) -> Talk:
        """`talk`, watched. Only `jobs` count, all of them where none are named."""

        async def watched(app: FaultyApp, visit: Visit) -> str:
            job_id = job_of(visit)
            self._inside.append(job_id)
            inside = set(self._inside)
            self.most = max(self.most, len(inside & self.jobs if self.jobs else inside))
            try:
                return await talk(app, visit)
            finally:
                self._inside.remove(job_id)

        return watched


def job_of(visit: Visit) -> str:
    """The job that a rollout is for."""
    job_id: str = visit.body["run_id"]
    return job_id


async def arrived(app: FaultyApp, job_id: str, count: int = 1) -> None:
    """Return as soon as so many rollouts of a job have come in."""
    while sum(job_of(visit) == job_id for visit in app.visits) < count:
        await app.visited(len(app.visits) + 1)


async def running(database: Database, experiment_id: str) -> list[str]:
    """Its jobs that run by now, in the order of their positions."""
    query = "SELECT id FROM jobs WHERE experiment_id = $1 AND status = 'running' ORDER BY experiment_position"
    async with connected(database) as connection:
        return [row["id"] for row in await connection.fetch(query, experiment_id)]


# --- what has been ---------------------------------------------------------------------------------------------------


async def spans(database: Database, experiment_id: str) -> list[tuple[datetime, datetime]]:
    """From when until when each of its jobs has run, pauses and changes of worker included, in the order of positions.

    A place is free with the commit that follows the end of a span, so those of jobs that shared a place do not overlap.
    """
    query = (
        "SELECT started_at, finished_at FROM jobs WHERE experiment_id = $1 AND started_at IS NOT NULL "
        "ORDER BY experiment_position"
    )
    async with connected(database) as connection:
        return [(row["started_at"], row["finished_at"]) for row in await connection.fetch(query, experiment_id)]


def most_at_once(found: Sequence[tuple[datetime, datetime]]) -> int:
    """How many of the spans overlap, at the fullest moment: that is when one of them begins."""
    return max(sum(begins <= moment < ends for begins, ends in found) for moment, _ in found)


async def assert_nothing_asked_twice(database: Database, visits: Sequence[Visit]) -> None:
    asked = list(zip(map(job_of, visits), await keys_of(database, visits), strict=True))
    assert len(asked) == len(set(asked))
