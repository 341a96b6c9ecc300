"""Which service a command talks to, with which key; and what each failure of it ends the command with."""

from typing import Any

import httpx
import pytest
import respx
from tests.fakes.event_streams import JOB, URL
from tests.fakes.shown_jobs import job
from typer.testing import CliRunner, Result

from promptjobs.cli.app import app
from promptjobs.cli.remote import service_at
from promptjobs.errors import OptionInvalid
from promptjobs.sdk.job_requests import JOBS_PATH

JOB_URL = f"{URL}{JOBS_PATH}/{JOB}"
COMMANDS = (
    "run",
    "watch",
    "show",
    "list",
    "estimate",
    "start",
    "pause",
    "resume",
    "cancel",
    "delete",
    "diff",
    "export",
)


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200", **environment})


PROBLEM = {"code": "invalid_config", "detail": "policy.model: is required", "param": "policy.model", "status": 422}


@pytest.mark.parametrize(
    ("answer", "exit_code", "told"),
    [
        (httpx.Response(422, json=PROBLEM), 2, "error: policy.model: is required (invalid_config)"),
        (httpx.Response(422, json=PROBLEM | {"detail": "wrong"}), 2, "error: policy.model: wrong (invalid_config)"),
        (httpx.Response(409, json={"code": "job_conflict", "detail": "it is over"}), 2, "it is over"),
        (httpx.Response(401, json={"code": "missing_api_key", "detail": "send a key"}), 2, "--api-key or PROMPTJOBS_A"),
        (httpx.Response(401, json={"code": "invalid_api_key", "detail": "no"}), 2, "error: no (invalid_api_key)"),
        (httpx.Response(404, text="<html>"), 3, "HTTP 404, which is no answer of promptjobs"),
        (httpx.Response(404, json={"code": "not_found", "detail": "nothing is here"}), 2, "older version"),
        (httpx.Response(404, json={"code": "job_not_found", "detail": "no job 'exp_1'"}), 2, "id of an experiment"),
        (httpx.Response(500, json={"code": "internal_error", "detail": "a defect"}), 3, "a defect"),
        (httpx.Response(200, text="<html>"), 3, "no JSON"),
        (httpx.Response(200, json=[1]), 3, "no object"),
        (httpx.ConnectError("[Errno 111] Connection refused"), 3, f"{URL}: Connection refused. Start one with"),
        (httpx.ReadTimeout(""), 3, "ReadTimeout"),
    ],
)
@respx.mock
def test_each_failure_is_one_line_and_has_its_exit_code(answer: Any, exit_code: int, told: str):
    respx.post(f"{JOB_URL}/start").mock(side_effect=[answer])
    result = call("start", JOB, "--url", URL)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (exit_code, "", 1)
    assert told in result.stderr


@respx.mock
def test_address_and_key_are_those_of_options_or_environment():
    route = respx.get(JOB_URL).respond(json=job())
    for arguments, environment in (
        (["--url", URL, "--api-key", "test-key"], {"PROMPTJOBS_URL": "http://other.test", "PROMPTJOBS_API_KEY": "no"}),
        ([], {"PROMPTJOBS_URL": URL, "PROMPTJOBS_API_KEY": "test-key"}),
    ):
        assert call("show", JOB, *arguments, **environment).exit_code == 0
        assert route.calls.last.request.headers["x-api-key"] == "test-key"
    assert call("show", JOB, "--url", URL, PROMPTJOBS_API_KEY="").exit_code == 0
    assert "x-api-key" not in route.calls.last.request.headers


@pytest.mark.parametrize("command", COMMANDS)
def test_the_key_is_shown_nowhere(command: str):
    assert "test-secret" not in call(command, "--help", PROMPTJOBS_API_KEY="test-secret").output
    arguments = {"list": [], "diff": [JOB, JOB], "run": ["pyproject.toml"], "estimate": ["pyproject.toml"]}
    wrong = call(command, *arguments.get(command, [JOB]), "--url", URL, "--api-key", "test-secret\n")
    assert (wrong.exit_code, "test-secret" in wrong.output) == (2, False)
    assert "--api-key: expected visible ASCII characters" in wrong.stderr


@respx.mock
def test_commands_that_are_told_carry_the_key_by_its_name():
    respx.get(JOB_URL).respond(json=job())
    told = call("show", JOB, "--url", URL, "--api-key", "test-secret").stdout
    assert 'curl -H "X-API-Key: $PROMPTJOBS_API_KEY" $JOB/trials' in told
    assert "test-secret" not in told


@pytest.mark.parametrize("url", ["ftp://host", "host:8700", "http://", "http://a b", "http://a:99999", "http://u:p@a"])
def test_address_that_is_none_is_refused(url: str):
    with pytest.raises(OptionInvalid, match="--url"):
        service_at(url, None)
