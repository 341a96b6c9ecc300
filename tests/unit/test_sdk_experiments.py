"""Experiments by the Python clients: what is sent, and which files are read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from tests.fakes.clients import Driven
from tests.fakes.event_streams import URL

import promptjobs
from promptjobs import AsyncClient, Client
from promptjobs.sdk.experiment_files import experiment_of
from promptjobs.sdk.experiment_requests import EXPERIMENTS_PATH

EXPERIMENT = "exp_0c4d1e7a2b9f4c6d8e3f5a7b9c1d2e4f"
EXPERIMENTS = f"{URL}{EXPERIMENTS_PATH}"
ONE = f"{EXPERIMENTS}/{EXPERIMENT}"
BODY = {"name": "n", "jobs": [{"config": {"prompt_learning": {"a": 1}}}], "matrix": {"seed": [1, 2]}}


@pytest.fixture(params=[Client, AsyncClient])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(kind: Any) -> Iterator[Driven]:
    with Driven(kind, URL) as driven:
        yield driven


# --- what is sent ----------------------------------------------------------------------------------------------------


@respx.mock
def test_an_experiment_is_created_once_however_often_it_is_sent(client: Driven):
    answers = [httpx.ReadError("connection reset"), httpx.Response(200, json={"experiment_id": EXPERIMENT})]
    route = respx.post(EXPERIMENTS).mock(side_effect=answers)
    assert client.create_experiment(BODY) == {"experiment_id": EXPERIMENT}
    first, second = (call.request for call in route.calls)
    assert json.loads(first.content) == json.loads(second.content) == BODY
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    route.mock(side_effect=answers)
    client.create_experiment(BODY, idempotency_key="mine")
    assert route.calls.last.request.headers["idempotency-key"] == "mine"


@respx.mock
def test_an_estimate_sends_what_would_be_created(client: Driven):
    route = respx.post(f"{EXPERIMENTS}/estimate").respond(json={"a": 1})
    assert client.estimate_experiment(BODY) == {"a": 1}
    assert json.loads(route.calls.last.request.content) == BODY
    assert "idempotency-key" not in route.calls.last.request.headers


@respx.mock
def test_experiments_come_page_by_page(client: Driven):
    link = {"link": f'<{EXPERIMENTS}?status=running&after=exp_2>; rel="next"'}
    pages = [httpx.Response(200, json=[{"id": 1}, {"id": 2}], headers=link), httpx.Response(200, json=[{"id": 3}])]
    route = respx.get(EXPERIMENTS).mock(side_effect=pages)
    assert client.experiments(status="running") == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert [dict(call.request.url.params) for call in route.calls] == [
        {"status": "running", "limit": "200"},
        {"status": "running", "after": "exp_2", "limit": "200"},
    ]


GETS: list[tuple[str, tuple[str, ...], dict[str, Any], str, dict[str, str]]] = [
    ("experiment", (), {}, "", {}),
    ("experiment_results", (), {}, "/results", {}),
    ("experiment_results", (), {"compare": "all", "variants": 0}, "/results", {"compare": "all", "variants": "0"}),
    ("compare_jobs", ("pl_1", "pl_2"), {}, "/comparison", {"first": "pl_1", "second": "pl_2"}),
    (
        "compare_jobs",
        ("pl_1", "pl_2"),
        {"seeds": "search"},
        "/comparison",
        {"first": "pl_1", "second": "pl_2", "seeds": "search"},
    ),
]


@pytest.mark.parametrize(("name", "arguments", "options", "path", "query"), GETS)
@respx.mock
def test_what_reads_asks_at_its_path(
    client: Driven, name: str, arguments: tuple[str, ...], options: Any, path: str, query: Any
):
    route = respx.get(f"{ONE}{path}").respond(json={"a": 1})
    assert getattr(client, name)(EXPERIMENT, *arguments, **options) == {"a": 1}
    assert dict(route.calls.last.request.url.params) == query


@pytest.mark.parametrize(("form", "media_type"), [("markdown", "text/markdown"), ("csv", "text/csv")])
@respx.mock
def test_results_can_be_had_as_a_text(client: Driven, form: str, media_type: str):
    route = respx.get(f"{ONE}/results").respond(text="| ü |")
    assert client.experiment_results_text(EXPERIMENT, form, variants=1) == "| ü |"
    sent = route.calls.last.request
    assert dict(sent.url.params) == {"format": form, "variants": "1"}
    assert sent.headers["accept"] == media_type


@respx.mock
def test_experiments_are_cancelled_and_deleted(client: Driven):
    cancelled = respx.post(f"{ONE}/cancel").respond(json={"status": "cancelled"})
    assert client.cancel_experiment(EXPERIMENT, "enough") == {"status": "cancelled"}
    assert json.loads(cancelled.calls.last.request.content) == {"reason": "enough"}
    deleted = respx.delete(ONE).respond(204)
    client.delete_experiment(EXPERIMENT)
    assert deleted.called


@respx.mock
def test_what_is_not_repeatable_is_sent_once(client: Driven):
    route = respx.post(f"{ONE}/cancel").mock(side_effect=httpx.ReadError("connection reset"))
    with pytest.raises(promptjobs.ConnectionFailed):
        client.cancel_experiment(EXPERIMENT)
    assert route.call_count == 1


# --- files -----------------------------------------------------------------------------------------------------------


CONFIG = '[prompt_learning]\nalgorithm = "gepa"\n'
READ = {"prompt_learning": {"algorithm": "gepa"}}


def test_a_file_is_sent_with_the_configs_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "experiments"
    folder.mkdir()
    (tmp_path / "gepa.toml").write_text(CONFIG, encoding="utf-8")
    path = folder / "one.toml"
    path.write_text(
        """
        name = "models"
        parallelism = 4
        jobs = [{config = "../gepa.toml", label = "a"}, {config = {b = 1}}, {config_name = "saved"}]
        [matrix]
        "prompt_learning.policy.model" = ["x", "y"]
        """,
        encoding="utf-8",
    )
    expected = {
        "name": "models",
        "parallelism": 4,
        "jobs": [{"config": READ, "label": "a"}, {"config": {"b": 1}}, {"config_name": "saved"}],
        "matrix": {"prompt_learning.policy.model": ["x", "y"]},
    }
    monkeypatch.chdir(folder)
    assert experiment_of(path) == experiment_of(str(path)) == experiment_of("one.toml") == expected


def test_paths_in_a_mapping_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gepa.toml").write_text(CONFIG, encoding="utf-8")
    given = {"name": "n", "jobs": ({"config": "gepa.toml"}, {"config": tmp_path / "gepa.toml"})}
    monkeypatch.chdir(tmp_path)
    assert experiment_of(given) == {"name": "n", "jobs": [{"config": READ}, {"config": READ}]}
    assert given["jobs"][0] == {"config": "gepa.toml"}


@pytest.mark.parametrize(
    ("experiment", "config", "told"),
    [
        (None, None, "one.toml: No such file"),
        ("name = ", None, "one.toml: not valid TOML"),
        ("when = 2026-05-04", None, "one.toml: cannot be sent as JSON"),
        ('jobs = [{config = "job.toml"}]', None, "job.toml: No such file"),
        ('jobs = [{config = "job.toml"}]', "a = [", "job.toml: not valid TOML"),
    ],
)
def test_the_file_that_cannot_be_sent_is_named(tmp_path: Path, experiment: str | None, config: str | None, told: str):
    for name, content in (("one.toml", experiment), ("job.toml", config)):
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(promptjobs.ConfigFileInvalid) as raised:
        experiment_of(tmp_path / "one.toml")
    assert f"{tmp_path}/{told}" in str(raised.value)


@pytest.mark.parametrize("jobs", [3, "x", {"config": "a.toml"}, [], [3, "x", None], [{"config": None}, {"config": 3}]])
def test_what_only_the_service_can_judge_is_left_to_it(jobs: Any):
    assert experiment_of({"jobs": jobs}) == {"jobs": jobs}
    assert experiment_of({}) == {}


# --- waiting ---------------------------------------------------------------------------------------------------------


def status(name: str) -> httpx.Response:
    return httpx.Response(200, json={"experiment_id": EXPERIMENT, "status": name})


@respx.mock
def test_an_experiment_is_waited_for_through_a_restart_of_the_service(client: Driven):
    answers = [
        status("queued"),
        httpx.ConnectError("refused"),
        status("running"),
        status("paused"),
        status("completed"),
    ]
    respx.get(ONE).mock(side_effect=answers)
    assert client.wait_for_experiment(EXPERIMENT)["status"] == "completed"
    assert len(client.pauses) == 4


@respx.mock
def test_waiting_ends_in_time(client: Driven):
    respx.get(ONE).mock(side_effect=[status("running")])
    with pytest.raises(promptjobs.ExperimentWaitTimedOut, match="is still running after 0 s") as raised:
        client.wait_for_experiment(EXPERIMENT, timeout_seconds=0)
    assert (raised.value.experiment_id, raised.value.experiment_status) == (EXPERIMENT, "running")
