"""A server and a worker as an operator watches them: metrics of both, spans at a collector, logs as JSON."""

import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from promptjobs.db.session import Database
from tests.acceptance.client import JOBS, Api, Json, config
from tests.acceptance.conftest import PROVIDER_KEY
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import FaultyModel
from tests.acceptance.runs import connected
from tests.acceptance.service import Ports, Processes, settings
from tests.fakes.span_collector import Collector, attributes, running_collector

pytestmark = pytest.mark.slow

TASK_APP_KEY = "canary-task-app-key-0123456789"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def scraped(url: str) -> Counter[tuple[str, str]]:
    """Samples summed up by name and by one label that tells them apart."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{url}/metrics")
    assert answer.status_code == 200
    found: Counter[tuple[str, str]] = Counter()
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            names = ("status", "outcome", "category", "phase")
            label = next((sample.labels[name] for name in names if name in sample.labels), "")
            found[sample.name, label] += sample.value  # type: ignore[assignment]
    return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture
async def watched(database: Database, ports: Ports, tmp_path: Path, collector: Collector) -> AsyncIterator[Processes]:
    """Processes that log as JSON, all they can, and send spans."""
    variables = settings(
        database.url, ports, lease_seconds=2, log_format="json", log_level="debug", provider_toy_api_key=PROVIDER_KEY
    )
    started = Processes({**variables, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, tmp_path)
    try:
        yield started
    finally:
        started.end()


async def test_what_is_told_of_a_job_is_what_it_did(
    watched: Processes, database: Database, task_app, ports: Ports, model: FaultyModel, collector: Collector
):
    app: FaultyApp = await task_app()
    port = free_port()
    server = await watched.serve("--no-worker")
    worker = await watched.work(public_url=server.url, metrics_port=port)
    async with Api.at(server.url) as api:
        job_id = await api.submit(config(ports.task_app_url), task_app_api_key=TASK_APP_KEY)
        assert (await api.ended(job_id))["status"] == "succeeded"
        of_server, of_worker = await scraped(server.url), await scraped(f"http://127.0.0.1:{port}")
    await worker.terminate()
    await server.terminate()
    spans = collector.spans
    async with connected(database) as connection:
        calls = await connection.fetchval("SELECT count(*) FROM calls")
        rollouts = await connection.fetchval("SELECT count(*) FROM rollouts WHERE reason IS NULL")
        tokens = await connection.fetchval("SELECT sum(prompt_tokens + completion_tokens) FROM calls")
    assert len(app.visits) >= rollouts > 0

    assert of_server["promptjobs_calls_total", "ok"] == calls > 0
    tokens_told = sum(count for (name, _), count in of_server.items() if name == "promptjobs_tokens_total")
    assert tokens_told == tokens
    assert sum(count for (name, _), count in of_worker.items() if name == "promptjobs_rollouts_total") == rollouts
    assert of_server["promptjobs_rollouts_total", "ok"] == 0
    assert of_server["promptjobs_jobs", "succeeded"] == 1
    assert of_server["promptjobs_http_requests_total", "200"] >= 3
    completions = of_worker["promptjobs_calls_total", "ok"]
    assert completions > 0

    told = Counter(attributes(span)["promptjobs.category"] == "proposal" for span in spans)
    assert told == {False: calls, True: completions}
    assert {attributes(span)["promptjobs.job_id"] for span in spans} == {job_id}
    assert model.asked

    for process in (server, worker):
        check_log(process.log.read_text())
    requests = [line for line in lines(server.log.read_text()) if line["logger"] == "promptjobs.api.access_log"]
    created = next(line for line in requests if line["fields"]["method"] == "POST")
    assert created["request_id"].startswith("req_")
    assert created["level"] == "debug"
    assert (
        created["fields"].items() >= {"method": "POST", "route": JOBS, "status": 200, "organisation": "default"}.items()
    )


def lines(log: str) -> list[Json]:
    """Of a process's standard error; what is no JSON are the words of the command line."""
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def check_log(log: str) -> None:
    found = lines(log)
    assert found
    for line in found:
        assert {"time", "level", "logger", "message"} <= set(line)
        assert set(line) <= {"time", "level", "logger", "message", "request_id", "job_id", "fields", "trace"}
    for secret in (TASK_APP_KEY, PROVIDER_KEY):
        assert secret not in log
