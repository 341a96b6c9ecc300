"""A service to be fuzzed: two organisations that are strangers to each other, each with jobs, with experiments and with
what belongs to them.

Nobody runs its jobs, and what it may dial is on this machine: whatever is sent to it, nothing leaves.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from sqlalchemy import select, update

from promptjobs.db import api_keys
from promptjobs.db.api_keys import Purpose
from promptjobs.db.jobs import JobStatus
from promptjobs.db.models import Job
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from tests.acceptance.client import JOBS
from tests.acceptance.service import SERVE, end, launch
from tests.fakes.gathered_experiments import gathered
from tests.fakes.recorded_jobs import created_job, post_body
from tests.fakes.recorded_searches import recorded_search

ORGANISATIONS = ("first", "second")

SEARCHES = ("one_lane_train", "mipro_one_lane_fixed")
"""Golden scenarios of which both organisations have a published job."""

CONFIGS = "/api/prompt-learning/configs"
EXPERIMENTS = "/api/experiments"


@dataclass(frozen=True)
class Target:
    """A running service. keys: by organisation, and `operator`, whose key is for the metrics."""

    url: str
    keys: dict[str, str]
    log: Path

    def write_identities(self, path: Path) -> None:
        """As Web Fuzzing Commons describes identities."""
        entries = [
            {"name": name, "fixedHeaders": [{"name": "X-API-Key", "value": self.keys[name]}]} for name in ORGANISATIONS
        ]
        path.write_text(json.dumps({"auth": entries}))


@contextmanager
def serving(database_url: str, folder: Path) -> Iterator[Target]:
    """A service without a worker on an empty database. folder: of its log."""
    variables = {
        "PROMPTJOBS_DATABASE_URL": database_url,
        "PROMPTJOBS_DATA_DIR": str(folder),
        "PROMPTJOBS_ALLOWED_TARGETS": "127.0.0.1:9",
        "PROMPTJOBS_REQUESTS_PER_SECOND": "100000",
        "GROQ_API_KEY": "test-key",
    }
    keys = asyncio.run(_furnish(database_url))
    log = folder / "service.log"
    process = launch((*SERVE, "--no-worker"), variables, log)
    try:
        with httpx.Client(base_url=process.url, timeout=30) as http:
            for organisation in ORGANISATIONS:
                _furnish_by_api(http, keys[organisation])
        yield Target(process.url, keys, log)
    finally:
        end(process.popen)


async def _furnish(database_url: str) -> dict[str, str]:
    """Jobs of every kind for both organisations. Returns the keys."""
    database = Database.open(database_url)
    try:
        for organisation in ORGANISATIONS:
            for name in SEARCHES:
                await (await recorded_search(database, name)).publish()
            await recorded_search(database, SEARCHES[0], turns=20)
            async with writing(database) as connection:
                await connection.execute(
                    update(Job).values(organisation=organisation).where(Job.organisation == "default")
                )
        for organisation in ORGANISATIONS:
            await created_job(database, organisation, auto_start=False)
            async with reading(database) as connection:
                over = select(Job.id).where(Job.organisation == organisation, Job.status == JobStatus.SUCCEEDED)
                published = (await connection.execute(over)).scalars().all()
            await gathered(database, organisation, published)
        async with writing(database) as connection:
            owners = [(name, Purpose.API) for name in ORGANISATIONS] + [("operator", Purpose.METRICS)]
            return {name: (await api_keys.create(connection, name, name, purpose))[1] for name, purpose in owners}
    finally:
        await database.close()


def _furnish_by_api(http: httpx.Client, key: str) -> None:
    headers = {"X-API-Key": key}
    saved = post_body()
    for path, body in (
        (CONFIGS, {"name": "nightly", "algorithm": "gepa", "config_body": saved["config_body"]}),
        ("/api/webhooks", {"url": "http://127.0.0.1:9/hook"}),
        (EXPERIMENTS, {"name": "seeds", "jobs": [{"config_name": "nightly"}], "matrix": {"seed": [1, 2]}}),
        (EXPERIMENTS, {"name": "over", "jobs": [{"config_name": "nightly"}]}),
    ):
        response = http.post(path, json=body, headers=headers)
        assert response.is_success, response.text
    over = http.get(EXPERIMENTS, headers=headers).json()[0]
    assert http.post(f"{EXPERIMENTS}/{over['id']}/cancel", headers=headers).json()["status"] == "cancelled"
    response = http.put("/api/provider-keys/groq", json={"api_key": "test-key"}, headers=headers)
    assert response.is_success, response.text
    assert http.get(JOBS, headers=headers).json()
