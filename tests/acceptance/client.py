"""A client of the service's API as tests need it: jobs posted, followed by their event streams, and read."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from copy import deepcopy
from typing import Any

import httpx

from tests.fakes.config_bodies import body
from tests.fakes.served import Received, receive

JOBS = "/api/prompt-learning/online/jobs"
TERMINAL = ("succeeded", "failed", "cancelled")
Json = dict[str, Any]

SYSTEM = "You answer questions.\nHints: none."
USER = "Question: {question}"
PROMPT = {
    "id": "toy",
    "name": "Toy",
    "messages": [
        {"role": "system", "pattern": SYSTEM, "order": 0},
        {"role": "user", "pattern": USER, "order": 1},
    ],
    "wildcards": {"question": "REQUIRED"},
}

SMALL: Mapping[str, Any] = {
    "policy": {"provider": "toy", "model": "policy"},
    "initial_prompt": PROMPT,
    "gepa.rng_seed": 1,
    "gepa.lanes": 4,
    "gepa.mutation": {"llm_provider": "toy", "llm_model": "reflector"},
    "gepa.rollout": {"budget": 90, "max_concurrent": 8, "minibatch_size": 4},
    "gepa.evaluation": {
        "train_seeds": list(range(20)),
        "validation_seeds": list(range(100, 105)),
        "test_pool": list(range(200, 208)),
    },
    "gepa.archive": {"pareto_set_size": 8},
}
"""A job of about a hundred rollouts with the toy task app and models."""

ROOMY = {
    "gepa.acceptance": "full",
    "gepa.evaluation": {"train_seeds": list(range(60)), "validation_seeds": list(range(100, 105))},
    "gepa.archive": {"pareto_set_size": 40},
    "gepa.rollout": {"budget": 220, "max_concurrent": 12, "minibatch_size": 4},
}
"""A front of 40 seeds, all of them asked of the baseline: some may fail without it being refused."""


def config(task_app_url: str, changes: Mapping[str, Any] | None = None) -> Json:
    """The config body of a small job, with values set at paths below `prompt_learning`; None removes one."""
    whole = body(deepcopy({**SMALL, "task_app_url": task_app_url, **(changes or {})}))
    section = whole["prompt_learning"]
    for path in [path for path, value in (changes or {}).items() if value is None]:
        *tables, last = path.split(".")
        target = section
        for table in tables:
            target = target[table]
        del target[last]
    return whole


class Api:
    """The API at one address. posted: the jobs that were created through this client."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.posted: list[str] = []

    @staticmethod
    @asynccontextmanager
    async def at(url: str) -> AsyncIterator["Api"]:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            yield Api(http)

    async def create(self, config_body: Json, **more: Any) -> httpx.Response:
        response = await self.http.post(JOBS, json={"algorithm": "gepa", "config_body": config_body, **more})
        if response.status_code == 200:
            self.posted.append(response.json()["job_id"])
        return response

    async def submit(self, config_body: Json, **more: Any) -> str:
        """The id of a job that was accepted."""
        response = await self.create(config_body, **more)
        assert response.status_code == 200, response.text
        return str(response.json()["job_id"])

    async def read(self, job_id: str, path: str = "", **query: Any) -> Any:
        response = await self.http.get(f"{JOBS}/{job_id}{path}", params=query)
        assert response.status_code == 200, response.text
        return response.json()

    async def read_list(self, **query: Any) -> list[Json]:
        response = await self.http.get(JOBS, params=query)
        assert response.status_code == 200, response.text
        found: list[Json] = response.json()
        return found

    async def cancel(self, job_id: str, reason: str | None = None) -> Json:
        response = await self.http.post(f"{JOBS}/{job_id}/cancel", json={"reason": reason} if reason else {})
        assert response.status_code == 200, response.text
        found: Json = response.json()
        return found

    async def events(self, job_id: str) -> list[Json]:
        """All events, by polling page after page."""
        found: list[Json] = []
        has_more = True
        while has_more:
            page = await self.read(job_id, "/events", since_seq=found[-1]["seq"] if found else 0, limit=100)
            found += page["events"]
            has_more = page["has_more"]
        return found

    async def rollouts(self, job_id: str) -> list[Json]:
        """All rollouts, page after page."""
        found: list[Json] = await self.read(job_id, "/rollouts", limit=200)
        while page := await self.read(job_id, "/rollouts", limit=200, after=found[-1]["id"]):
            found += page
        return found

    async def stream(self, job_id: str, since_seq: int = 0) -> AsyncIterator[Received]:
        """The events after `since_seq`, until the stream ends."""
        url = f"{JOBS}/{job_id}/events/stream"
        async with self.http.stream("GET", url, params={"since_seq": since_seq}, timeout=60) as response:
            assert response.status_code in (200, 204), response.status_code
            async with aclosing(receive(response)) as received:
                async for each in received:
                    yield each

    async def heard(self, job_id: str, event_type: str, seconds: float = 60.0, since_seq: int = 0) -> Json:
        """The first event of a type behind number since_seq, as soon as it is there."""
        async with asyncio.timeout(seconds), aclosing(self.stream(job_id, since_seq)) as stream:
            async for received in stream:
                if received.event["type"] == event_type:
                    return received.event
        raise AssertionError(f"the stream of {job_id} ended without {event_type}")

    async def ended(self, job_id: str, seconds: float = 60.0) -> Json:
        """The job as it is once its stream has ended."""
        async with asyncio.timeout(seconds):
            async for _ in self.stream(job_id):
                pass
            job: Json = await self.read(job_id)
        assert job["status"] in TERMINAL, job
        return job

    async def leave_nothing_running(self) -> None:
        """Cancel what a test has left behind, so that it does not call the next test's apps."""
        for job_id in self.posted:
            if (await self.read(job_id))["status"] not in TERMINAL:
                await self.cancel(job_id)
                await self.ended(job_id)
