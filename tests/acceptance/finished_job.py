"""One job from its POST to its end, followed by several clients at once; what they saw, and what the tables hold."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import orjson

from promptjobs.db.session import Database
from promptjobs.demo.dataset import BASELINE_SYSTEM, USER_PATTERN
from promptjobs.demo.model_server import POLICY_MODEL, REFLECTION_MODEL, create_model_app
from promptjobs.demo.task_app import create_task_app
from tests.acceptance.client import TERMINAL, Api, Json
from tests.acceptance.service import Ports, serving_on
from tests.fakes.config_bodies import body
from tests.fakes.served import Received

TABLES = ("jobs", "events", "candidates", "trials", "rollouts", "completions", "calls", "snapshots", "artifacts")
CLIENT_METADATA = {"backend_base_url": "http://127.0.0.1/api", "owner": "me"}

CHANGES: Mapping[str, Any] = {
    "initial_prompt": {
        "id": "tickets",
        "messages": [
            {"role": "system", "pattern": BASELINE_SYSTEM, "order": 0},
            {"role": "user", "pattern": USER_PATTERN, "order": 1},
        ],
        "wildcards": {"message": "REQUIRED"},
    },
    "policy": {"provider": "toy", "model": "the-model-of-the-file", "max_completion_tokens": 64},
    "policy.price": {"input_usd_per_million": 1.0, "output_usd_per_million": 2.0},
    "gepa.rng_seed": 0,
    "gepa.lanes": 4,
    "gepa.turn_order": "fixed",
    "gepa.mutation": {"llm_provider": "toy", "llm_model": REFLECTION_MODEL},
    "gepa.rollout": {"budget": 340, "max_concurrent": 16, "minibatch_size": 8},
    "gepa.evaluation": {
        "train_seeds": list(range(60)),
        "validation_seeds": list(range(1000, 1020)),
        "test_pool": list(range(2000, 2040)),
    },
    "gepa.archive": {"pareto_set_size": 20},
}
OVERRIDES = {"prompt_learning.policy.model": POLICY_MODEL}
"""The model that runs is this one, not the file's."""


@dataclass(frozen=True)
class Finished:
    """streamed: as a second client received them while the job ran. arrivals: when, by the wall clock. rows: the
    tables, as they are at the end; those of other jobs left out. snapshots: each as its own route shows it."""

    created: Json
    job: Json
    listed: Json
    streamed: list[Received]
    arrivals: list[float]
    polled: list[Json]
    events: list[Json]
    trials: list[Json]
    candidates: list[Json]
    snapshots: list[Json]
    artifacts: list[Json]
    curve: list[Json]
    metrics: list[Json]
    config: Json
    rows: Mapping[str, list[Json]]

    @property
    def stats(self) -> Json:
        found: Json = self.job["metadata"]["stats"]
        return found

    @property
    def best_snapshot(self) -> Json:
        return next(each for each in self.snapshots if each["id"] == self.job["best_snapshot_id"])

    @property
    def payload(self) -> Json:
        found: Json = self.best_snapshot["payload"]
        return found

    def of_type(self, event_type: str) -> Iterator[Json]:
        """The data of the events of one type, in order."""
        return (event["data"] for event in self.events if event["type"] == event_type)


async def observe(url: str, database_url: str, ports: Ports) -> Finished:
    async with (
        serving_on(create_task_app(), ports.task_app),
        serving_on(create_model_app(), ports.model),
        Api.at(url) as api,
        Api.at(url) as second,
    ):
        config_body = body(deepcopy({**CHANGES, "task_app_url": ports.task_app_url}))
        response = await api.create(config_body, overrides=OVERRIDES, metadata=CLIENT_METADATA)
        assert response.status_code == 200, response.text
        created = response.json()
        job_id = created["job_id"]
        news = asyncio.Event()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            watching = group.create_task(_watch(second, job_id, news))
            polling = group.create_task(_poll(api, job_id, news))
        streamed, arrivals = watching.result()
        return await _read_all(api, job_id, database_url, created, streamed, arrivals, polling.result())


async def _watch(api: Api, job_id: str, news: asyncio.Event) -> tuple[list[Received], list[float]]:
    received, arrivals = [], []
    async for each in api.stream(job_id):
        received.append(each)
        arrivals.append(time.time())
        news.set()
    return received, arrivals


async def _poll(api: Api, job_id: str, news: asyncio.Event) -> list[Json]:
    """As clients poll beside a stream: metrics, status and the events since the last, until the status is final."""
    found: list[Json] = []
    status = ""
    while status not in TERMINAL:
        await news.wait()
        news.clear()
        await api.read(job_id, "/metrics", limit=200)
        status = (await api.read(job_id))["status"]
        page = await api.read(job_id, "/events", since_seq=found[-1]["seq"] if found else 0)
        found += page["events"]
    return found


async def _read_all(api: Api, job_id: str, database_url: str, created: Json, *seen: Any) -> Finished:
    streamed, arrivals, polled = seen
    job = await api.read(job_id)
    jobs = await api.http.get("/api/prompt-learning/online/jobs")
    return Finished(
        created=created,
        job=job,
        listed=next(each for each in jobs.json() if each["job_id"] == job_id),
        streamed=streamed,
        arrivals=arrivals,
        polled=polled,
        events=await api.events(job_id),
        trials=await api.read(job_id, "/trials", limit=200),
        candidates=await api.read(job_id, "/candidates", limit=200),
        snapshots=[
            await api.read(job_id, f"/snapshots/{listed['id']}") for listed in await api.read(job_id, "/snapshots")
        ],
        artifacts=(await api.read(job_id, "/artifacts"))["artifacts"],
        curve=(await api.read(job_id, "/learning-curve"))["points"],
        metrics=(await api.read(job_id, "/metrics"))["points"],
        config=await api.read(job_id, "/config"),
        rows=await _tables(database_url, job_id),
    )


async def _tables(database_url: str, job_id: str) -> dict[str, list[Json]]:
    database = Database.open(database_url)
    connection = await database.connect()
    try:
        found = {}
        for table in TABLES:
            own = "id" if table == "jobs" else "job_id"
            rows = await connection.fetch(f"SELECT * FROM {table} WHERE {own} = $1", job_id)
            found[table] = [dict(row) for row in rows]
    finally:
        await connection.close()
        await database.close()
    for call in found["calls"]:
        call["messages"] = orjson.loads(call["messages"])
    return found
