"""The commands that estimate, start, pause, resume and delete jobs, against a service that answers as ours does."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from rich.console import Console
from tests.fakes.event_streams import JOB, STREAM, URL, ending, event, stream
from tests.fakes.shown_jobs import job
from typer.testing import CliRunner, Result

from promptjobs.api.job_schemas import EstimateObject
from promptjobs.cli.app import app
from promptjobs.cli.estimate import print_estimate
from promptjobs.sdk.job_requests import JOBS_PATH

JOB_URL = f"{URL}{JOBS_PATH}/{JOB}"
TIME = "2026-05-04T09:30:00+00:00"
TO_END = "is asked to end; its worker publishes the best it has"
TO_PAUSE = "is asked to pause; what is under way is finished first"
NOT_ASKED = {"cancel_requested_at": None, "pause_requested_at": None}
CATEGORIES = ("bootstrap", "policy", "validation", "test", "proposal", "judge")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200"})


def standing(status: str, **changes: Any) -> dict[str, Any]:
    return job(status=status, **{**NOT_ASKED, **changes})


def figures(expected: float | None, at_most: float | None) -> dict[str, Any]:
    """Three quarters for the policy, the rest for proposals; everything else is none."""

    def part(of: float, kind: type) -> dict[str, Any]:
        return {
            "expected": None if expected is None else kind(expected * of),
            "at_most": None if at_most is None else kind(at_most * of),
        }

    kind = float if expected is None or isinstance(expected, float) else int
    shares = {name: part({"policy": 0.75, "proposal": 0.25}.get(name, 0), kind) for name in CATEGORIES}
    return {"expected": expected, "at_most": at_most, "by_category": shares}


def estimate(**changes: Any) -> dict[str, Any]:
    whole = {
        "rollouts": {"bootstrap": 0, "optimization": 600, "validation": 0, "test": 40, "total": 640},
        "calls": figures(400, 800),
        "tokens": figures(1_000_000, 4_000_000),
        "cost_usd": figures(0.5, 2.0),
        "assumptions": ["nothing fails"],
        "unpriced_models": [],
        "caps": {},
        "stopped_by": None,
    }
    EstimateObject.model_validate_json(json.dumps(whole | changes))
    return whole | changes


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "job.toml"
    path.write_text('[prompt_learning]\nalgorithm = "gepa"\n[prompt_learning.policy]\nmodel = "m"\n')
    return str(path)


@pytest.fixture
def service():
    with respx.mock(assert_all_called=False) as routes:
        yield routes


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        ("start", standing("queued"), "waits for a worker"),
        ("start", standing("running"), "is running"),
        ("pause", standing("paused"), "is paused until `promptjobs resume`"),
        ("pause", standing("running", pause_requested_at=TIME), TO_PAUSE),
        ("pause", standing("pending"), "waits for its start"),
        ("resume", standing("queued"), "waits for a worker"),
        ("resume", standing("running"), "is running"),
        ("cancel", standing("running", cancel_requested_at=TIME), TO_END),
        ("cancel", standing("queued", cancel_requested_at=TIME), TO_END),
        ("cancel", standing("cancelled", cancel_requested_at=TIME), "is cancelled"),
    ],
)
def test_a_command_tells_how_the_job_stands_now(
    service: respx.MockRouter, name: str, answer: dict[str, Any], told: str
):
    route = service.post(f"{JOB_URL}/{name}").respond(json=answer)
    result = call(name, JOB, "--url", URL)
    assert (result.exit_code, result.stdout) == (0, f"job {JOB} {told}\n")
    as_json = call(name, JOB, "--url", URL, "--json")
    assert (as_json.exit_code, json.loads(as_json.stdout), as_json.stdout.count("\n")) == (0, answer, 1)
    assert route.call_count == 2


def test_a_deleted_job_is_told(service: respx.MockRouter):
    service.delete(JOB_URL).respond(204)
    result = call("delete", JOB, "--url", URL)
    assert (result.exit_code, result.stdout) == (0, f"job {JOB} is deleted\n")
    result = call("delete", JOB, "--url", URL, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"job_id": JOB, "deleted": True})


CONFLICT = httpx.Response(409, json={"code": "job_conflict", "detail": f"job {JOB!r} is running: it cannot be deleted"})
GONE = httpx.Response(404, json={"code": "job_not_found", "detail": f"there is no job {JOB!r}"})
EMPTY = httpx.Response(402, json={"code": "balance_empty", "detail": "organisation 'default' has 0 USD left"})


@pytest.mark.parametrize(
    ("name", "answer", "code", "told"),
    [
        ("delete", CONFLICT, 2, "it cannot be deleted (job_conflict)"),
        ("delete", httpx.Response(200, text="<html>"), 3, "no answer of promptjobs"),
        ("pause", GONE, 2, "there is no job"),
        ("resume", EMPTY, 2, "0 USD left (balance_empty)"),
        ("start", httpx.ConnectError("Connection refused"), 3, "Connection refused"),
    ],
)
def test_a_refused_command_is_one_line_on_stderr(
    service: respx.MockRouter, name: str, answer: Any, code: int, told: str
):
    route = service.delete(JOB_URL) if name == "delete" else service.post(f"{JOB_URL}/{name}")
    route.mock(side_effect=[answer])
    result = call(name, JOB, "--url", URL)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (code, "", 1)
    assert told in result.stderr


def test_a_job_that_is_not_to_start_is_created_and_left(service: respx.MockRouter, config: str):
    route = service.post(f"{URL}{JOBS_PATH}").respond(json=standing("pending"))
    result = call("run", config, "--url", URL, "--no-start")
    assert result.exit_code == 0
    assert json.loads(route.calls.last.request.content)["auto_start"] is False
    assert f"promptjobs start {JOB} --url {URL}" in result.stdout
    result = call("run", config, "--url", URL, "--no-start", "--json")
    assert json.loads(result.stdout) == standing("pending")


@pytest.mark.parametrize("option", ["--no-start", "--detach"])
def test_a_prompt_cannot_be_written_by_a_run_that_is_not_waited_for(config: str, tmp_path: Path, option: str):
    result = call("run", config, option, "--output", str(tmp_path / "best.json"))
    assert result.exit_code == 2
    assert "--output" in result.stderr


def test_a_paused_job_is_said_to_be_so_and_waited_for(service: respx.MockRouter):
    kinds = ("pause.requested", "paused", "resumed")
    messages = ("A pause was requested", "The job was paused", "The job goes on")
    events = [
        event(seq, message) | {"type": f"prompt.learning.{kind}"}
        for seq, (kind, message) in enumerate(zip(kinds, messages, strict=True), 1)
    ]
    service.get(STREAM).respond(content=stream(*events, ending(4)))
    service.get(JOB_URL).respond(json=job())
    result = call("watch", JOB, "--url", URL)
    assert result.exit_code == 0
    places = [result.stdout.index(message) for message in messages]
    assert places == sorted(places)


# --- estimates -------------------------------------------------------------------------------------------------------


def printed(found: dict[str, Any]) -> str:
    said = StringIO()
    print_estimate(Console(width=200, file=said), found)
    return said.getvalue()


def test_an_estimate_sends_what_a_run_would(service: respx.MockRouter, config: str):
    route = service.post(f"{URL}{JOBS_PATH}/estimate").respond(json=estimate())
    arguments = ("estimate", config, "--url", URL, "--set", "a.b=[1]")
    assert call(*arguments).exit_code == 0
    assert json.loads(route.calls.last.request.content) == {
        "algorithm": "gepa",
        "config_body": {"prompt_learning": {"algorithm": "gepa", "policy": {"model": "m"}}},
        "overrides": {"a.b": [1]},
    }
    assert json.loads(call(*arguments, "--json").stdout) == estimate()


def test_an_estimate_is_a_table_of_what_is_expected_and_at_most():
    said = printed(estimate())
    assert "640 rollouts (optimization 600, test 40)" in said
    rows = {line[:20].strip(): line[20:].split() for line in said.splitlines()}
    assert rows["search rollouts"] == ["300", "600", "750,000", "3,000,000", "$0.3750", "$1.50"]
    assert rows["proposals"] == ["100", "200", "250,000", "1,000,000", "$0.1250", "$0.5000"]
    assert rows["in all"] == ["400", "800", "1,000,000", "4,000,000", "$0.5000", "$2.00"]
    assert "judge" not in rows
    assert "Nothing limits what it may spend" in said
    assert "Assumed: nothing fails" in said


def test_an_estimate_tells_which_limit_would_end_the_job_and_what_has_no_price():
    caps = {"cost_budget": 0.25, "token_budget": 5_000_000}
    said = printed(
        estimate(cost_usd=figures(None, None), unpriced_models=["groq/m"], caps=caps, stopped_by="cost_budget")
    )
    assert "No price is known of groq/m" in said
    assert "The limit on cost of $0.2500 is expected to end the job early (cost_budget)" in said
    assert "Never passed: the limit on tokens of 5,000,000" in said
    assert "unknown" in said


@pytest.mark.parametrize("arguments", [["estimate"], ["estimate", "/none.toml"], ["pause"], ["delete"], ["balance"]])
def test_wrong_usage_is_told_before_anything_happens(arguments: list[str]):
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
