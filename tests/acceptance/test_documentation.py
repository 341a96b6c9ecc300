"""The task app that the documentation shows is one: a job runs on it."""

import importlib.util
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.acceptance.client import Api, config
from tests.acceptance.faulty_model import FaultyModel
from tests.acceptance.service import Ports

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "task_app.py"


@pytest.fixture
def example(ports: Ports) -> Iterator[None]:
    spec = importlib.util.spec_from_file_location("documented_task_app", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = ThreadingHTTPServer(("127.0.0.1", 0), module.Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = ports.task_app.dup()
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    yield
    server.shutdown()
    serving.join()
    server.server_close()


async def test_a_job_runs_on_the_documented_task_app(api: Api, ports: Ports, model: FaultyModel, example: None) -> None:
    job = await api.ended(
        await api.submit(
            config(
                ports.task_app_url,
                {
                    "initial_prompt": None,
                    "gepa.rollout.budget": 90,
                    "gepa.evaluation.train_seeds": list(range(20)),
                    "gepa.evaluation.validation_seeds": list(range(20, 30)),
                    "gepa.evaluation.test_pool": list(range(30, 40)),
                },
            )
        )
    )
    assert job["status"] == "succeeded", job["error"]
    assert job["metadata"]["stats"]["failed_rollouts"] == 0
    [system, user] = job["best_prompt_messages"]
    assert "card_not_working, pending_transfer, refund_not_received" in system["content"]
    assert user == {"role": "user", "content": "Message: {input}"}
