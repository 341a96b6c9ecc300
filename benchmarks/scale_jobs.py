"""The jobs of the scale benchmark, and a client that posts, watches and cancels them.

A job is one batch of rollouts: the baseline on a long list of front seeds (`acceptance = "full"`), with room for one
proposal after it. So its slots are full all the time and the search itself costs little: what is measured is the path
of a rollout. What the turns of a search cost is measured by `journal.py`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from scale_upstream import SYSTEM, USER

JOBS = "/api/prompt-learning/online/jobs"
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
END_SECONDS = 60.0
MOST_SEEDS = 9_000
"""A list of seeds holds 10,000."""

Json = dict[str, Any]


def job_body(task_app_url: str, *, seeds: int, concurrent: int, auto_start: bool = True) -> Json:
    """A job of `seeds` rollouts and a few more, of which `concurrent` are under way at a time."""
    prompt = {
        "messages": [
            {"role": "system", "pattern": SYSTEM, "order": 0},
            {"role": "user", "pattern": USER, "order": 1},
        ],
        "wildcards": {"question": "REQUIRED"},
    }
    gepa = {
        "acceptance": "full",
        "lanes": 1,
        "rollout": {"budget": 2 * seeds + 2, "max_concurrent": concurrent, "minibatch_size": 1},
        "evaluation": {"train_seeds": [0, 1, 2], "validation_seeds": {"start": 10, "end": 10 + seeds}},
        "archive": {"pareto_source": "validation", "pareto_set_size": seeds},
        "population": {"initial_size": 1, "num_generations": 1, "children_per_generation": 1},
    }
    section = {
        "algorithm": "gepa",
        "task_app_url": task_app_url,
        "task_app_dialect": "sdk",
        "policy": {"provider": "toy", "model": "policy"},
        "initial_prompt": prompt,
        "gepa": gepa,
    }
    return {"algorithm": "gepa", "config_body": {"prompt_learning": section}, "auto_start": auto_start}


class Api:
    """The service at one or several addresses, which are taken in turn."""

    def __init__(self, http: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        self.http, self.urls = http, tuple(urls)
        self._calls = 0

    @staticmethod
    @asynccontextmanager
    async def at(*urls: str) -> AsyncIterator["Api"]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as http:
            yield Api(http, urls)

    async def call(self, method: str, path: str, json: Json | None = None) -> tuple[Any, float]:
        """What came, and the seconds that it took. Raises RuntimeError for anything but 2xx."""
        url = self.urls[self._calls % len(self.urls)]
        self._calls += 1
        started = time.perf_counter()
        async with self.http.request(method, f"{url}{path}", json=json) as response:
            body = await response.read()
            took = time.perf_counter() - started
            if not 200 <= response.status < 300:
                raise RuntimeError(f"{method} {path}: {response.status} {body[:500]!r}")
            return (await response.json()), took

    async def create(self, body: Json) -> str:
        job, _ = await self.call("POST", JOBS, body)
        return str(job["job_id"])

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs, and return when all have ended. Raises RuntimeError for one that failed or does not end."""
        for job_id in job_ids:
            await self.call("POST", f"{JOBS}/{job_id}/cancel", {})
        await self.ended(job_ids)

    async def ended(self, job_ids: Sequence[str], seconds: float = END_SECONDS) -> None:
        left, until = list(job_ids), time.perf_counter() + seconds
        while left:
            job, _ = await self.call("GET", f"{JOBS}/{left[-1]}")
            if job["status"] == "failed":
                raise RuntimeError(f"job {left[-1]} failed: {job.get('error')}")
            if job["status"] in TERMINAL:
                left.pop()
            elif time.perf_counter() > until:
                raise RuntimeError(f"job {left[-1]} is still {job['status']} after {seconds:g} s")
            else:
                await asyncio.sleep(0.1)
