"""The commands against a service that answers as ours does: exit codes, and what goes to stdout and stderr."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from tests.fakes.event_streams import JOB, STREAM, URL, ending, event, stream
from tests.fakes.shown_jobs import MESSAGES, job
from typer.testing import CliRunner, Result

from promptjobs.cli.app import app
from promptjobs.cli.exits import EXIT_CODES, Exit
from promptjobs.sdk.job_requests import JOBS_PATH

COMMANDS = (
    *("serve", "worker", "migrate", "demo", "balance"),
    *("run", "watch", "show", "estimate", "start", "pause", "resume", "cancel", "delete", "list"),
    *("diff", "export"),
)
JOB_URL = f"{URL}{JOBS_PATH}/{JOB}"
TIME = "2026-05-04T09:30:00+00:00"
EVENTS = [event(1, "one"), event(2, "two\u2028lines", deep={"a": [1]}), ending(3)]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200"})


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "job.toml"
    path.write_text('[prompt_learning]\nalgorithm = "gepa"\n[prompt_learning.policy]\nmodel = "m"\n')
    return str(path)


@pytest.fixture
def service():
    """Routes of a service whose job succeeds."""
    with respx.mock(assert_all_called=False) as routes:
        routes.post(f"{URL}{JOBS_PATH}").respond(json=job(status="queued", warnings=["unknown key x is ignored"]))
        routes.get(STREAM).respond(content=stream(*EVENTS))
        routes.get(JOB_URL).respond(json=job())
        routes.post(f"{JOB_URL}/cancel").respond(json=job(status="running", cancel_requested_at=TIME))
        routes.get(f"{URL}{JOBS_PATH}").respond(json=[job()])
        yield routes


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_tells_the_exit_codes(command: str):
    said = " ".join(call(command, "--help").output.split())
    assert EXIT_CODES in said


def test_exit_codes_that_are_told_are_those_that_are_used():
    told = [int(word) for word in EXIT_CODES.replace(":", " ").split() if word.isdigit()]
    assert told == [int(each) for each in Exit]


def test_run_sends_file_and_overrides_and_shows_the_result(service: respx.MockRouter, config: str):
    result = call("run", config, "--url", URL, "--set", "prompt_learning.policy.model=other", "--set", "a.b=[1, 2]")
    assert result.exit_code == 0
    sent = json.loads(service.calls[0].request.content)
    assert sent == {
        "algorithm": "gepa",
        "config_body": {"prompt_learning": {"algorithm": "gepa", "policy": {"model": "m"}}},
        "overrides": {"prompt_learning.policy.model": "other", "a.b": [1, 2]},
    }
    assert "baseline → best: 0.250 → 0.550 on 100 held-out test seeds" in result.stdout
    assert result.stderr == "warning: unknown key x is ignored\n"


@pytest.mark.parametrize("command", ["run", "watch"])
def test_json_is_the_events_as_they_came_and_the_job_last(service: respx.MockRouter, config: str, command: str):
    result = call(command, config if command == "run" else JOB, "--url", URL, "--json")
    lines = [json.loads(line) for line in result.stdout.split("\n") if line]
    assert lines == [*EVENTS, job()]


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 4)])
@pytest.mark.parametrize("command", ["run", "watch"])
def test_exit_code_is_the_jobs_outcome(service: respx.MockRouter, config: str, command: str, status: str, code: int):
    service.get(JOB_URL).respond(json=job(status=status, error="it broke" if status == "failed" else None))
    assert call(command, config if command == "run" else JOB, "--url", URL).exit_code == code


def test_showing_a_failed_job_is_a_success(service: respx.MockRouter):
    service.get(JOB_URL).respond(json=job(status="failed", error="it broke", best_snapshot=None))
    result = call("show", JOB, "--url", URL)
    assert result.exit_code == 0
    assert "it broke" in result.stdout


def test_show_list_and_cancel_have_a_json_form_of_one_line(service: respx.MockRouter):
    for arguments, expected in [
        (["show", JOB], job()),
        (["list"], [job()]),
        (["cancel", JOB, "--reason", "enough"], job(status="running", cancel_requested_at=TIME)),
    ]:
        result = call(*arguments, "--url", URL, "--json")
        assert (result.exit_code, json.loads(result.stdout), result.stdout.count("\n")) == (0, expected, 1)


def test_cancelling_tells_what_will_happen(service: respx.MockRouter):
    assert "is asked to end" in call("cancel", JOB, "--url", URL).stdout
    service.post(f"{JOB_URL}/cancel").respond(json=job(status="succeeded"))
    assert f"job {JOB} is succeeded" in call("cancel", JOB, "--url", URL).stdout


def test_detached_run_tells_how_to_come_back(service: respx.MockRouter, config: str):
    result = call("run", config, "--url", URL, "--detach")
    assert result.exit_code == 0
    assert f"promptjobs watch {JOB} --url {URL}" in result.stdout
    assert json.loads(call("run", config, "--url", URL, "--detach", "--json").stdout)["job_id"] == JOB


def test_best_prompt_is_written(service: respx.MockRouter, config: str, tmp_path: Path):
    output = tmp_path / "best.json"
    assert call("run", config, "--url", URL, "--output", str(output)).exit_code == 0
    assert json.loads(output.read_text(encoding="utf-8")) == MESSAGES


def test_the_prompts_of_a_program_are_written_by_module(service: respx.MockRouter, config: str, tmp_path: Path):
    output = tmp_path / "best.json"
    modules = [{"module_id": "plan", "messages": MESSAGES[:1]}, {"module_id": "solve", "messages": MESSAGES[1:]}]
    service.get(JOB_URL).respond(json=job(best_snapshot=job()["best_snapshot"] | {"modules": modules}))
    result = call("run", config, "--url", URL, "--output", str(output))
    assert result.exit_code == 0
    assert json.loads(output.read_text(encoding="utf-8")) == modules
    assert '"module_id": "plan"' in result.stdout


def test_file_is_left_alone_without_a_best_prompt(service: respx.MockRouter, config: str, tmp_path: Path):
    output = tmp_path / "best.json"
    output.write_text("earlier")
    service.get(JOB_URL).respond(json=job(status="failed", best_snapshot=None, best_prompt_messages=None))
    result = call("run", config, "--url", URL, "--output", str(output))
    assert (result.exit_code, output.read_text()) == (1, "earlier")
    assert "is not written" in result.stdout


def test_job_is_not_created_when_its_prompt_could_not_be_written(
    service: respx.MockRouter, config: str, tmp_path: Path
):
    result = call("run", config, "--url", URL, "--output", str(tmp_path / "none" / "best.json"))
    assert (result.exit_code, len(service.calls)) == (2, 0)


REFUSAL = httpx.Response(422, json={"code": "invalid_config", "detail": "is required", "param": "policy.provider"})


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (REFUSAL, 2, "error: policy.provider: is required (invalid_config)\n"),
        (
            httpx.ConnectError("Connection refused"),
            3,
            f"no promptjobs service can be used at {URL}: Connection refused.",
        ),
    ],
)
def test_failure_is_one_line_on_stderr(service: respx.MockRouter, config: str, answer: Any, code: int, told: str):
    service.post(f"{URL}{JOBS_PATH}").mock(side_effect=[answer] * 3)
    result = call("run", config, "--url", URL, "--json")
    assert (result.exit_code, result.stdout) == (code, "")
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(service: respx.MockRouter, config: str):
    def interrupt(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    service.get(STREAM).mock(side_effect=interrupt)
    result = call("run", config, "--url", URL)
    assert result.exit_code == 130
    assert f"promptjobs watch {JOB} --url {URL}" in result.stdout
    assert f"promptjobs cancel {JOB} --url {URL}" in result.stdout
    assert not any(each.request.url.path.endswith("/cancel") for each in service.calls)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["run"],
        ["run", "/none.toml"],
        ["list", "--limit", "0"],
        ["show", JOB, "--url", "nowhere"],
        ["serve", "--port", "70000"],
        ["serve", "--log-level", "loud"],
        ["worker"],
        ["demo", "--model", "gpt-4o-mini"],
        ["demo", "--provider", "openai", "--model", "gpt-4o-mini"],
        ["demo", "--provider", "unheard-of", "--model", "m"],
    ],
)
def test_wrong_usage_is_told_before_anything_happens(arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "PROMPTJOBS_DATABASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.output
    assert "Traceback" not in result.output


def test_missing_key_is_named(monkeypatch: pytest.MonkeyPatch):
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    assert "OPENAI_API_KEY" in call("demo", "--provider", "openai", "--model", "gpt-4o-mini").stderr


def test_setting_that_is_wrong_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROMPTJOBS_PORT", "test-secret")
    result = call("serve")
    assert result.exit_code == 2
    assert "error: PROMPTJOBS_PORT: " in result.stderr
    assert "test-secret" not in result.output


def test_database_url_that_is_none_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch):
    for url in ("mysql://user:test-secret@host/name", "postgresql://user:test-secret@127.0.0.1:1/name", "test-secret"):
        monkeypatch.setenv("PROMPTJOBS_DATABASE_URL", url)
        result = call("migrate")
        assert result.exit_code == 2
        assert "test-secret" not in result.output
