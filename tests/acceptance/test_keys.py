"""Who reaches a service: the command line makes keys, and a server that others can reach does not run without one."""

import asyncio
import json
import os
import subprocess
import sys

import httpx
import pytest

from promptjobs.db.session import Database
from tests.acceptance.client import JOBS, config
from tests.acceptance.service import SECRET_KEY, Ports, Processes

pytestmark = pytest.mark.slow

OWN_KEY = "an-operators-own-key-of-forty-characters"


async def promptjobs(database: Database, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTJOBS_")}
    variables = {"PROMPTJOBS_DATABASE_URL": database.url, "PROMPTJOBS_SECRET_KEY": SECRET_KEY, "COLUMNS": "220", **more}
    command = (sys.executable, "-m", "promptjobs", *arguments)
    return await asyncio.to_thread(
        subprocess.run, command, env=kept | variables, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - refused
@pytest.mark.slow
async def test_a_server_that_others_can_reach_does_not_run_without_a_key(database: Database, host: str) -> None:
    """It has bound the address by then, and never listened."""
    result = await promptjobs(database, "serve", "--host", host, "--port", "0", "--json")
    assert result.returncode == 2
    assert result.stdout == ""
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "there is no API key yet" in line
    assert "promptjobs keys create" in line


async def test_a_server_on_this_machine_says_that_it_needs_no_key_until_one_is_made(
    processes: Processes, database: Database, ports: Ports
) -> None:
    service = await processes.serve("--no-worker")
    assert "not needed on this machine" in service.log.read_text()
    async with httpx.AsyncClient(base_url=service.url) as http:
        body = {"algorithm": "gepa", "config_body": config(ports.closed_url), "auto_start": False}
        made = await http.post(JOBS, json=body, headers={"authorization": "Bearer what-a-client-sends-anyway"})
        assert made.status_code == 200, made.text
        assert made.json()["organisation"] == "default"
    result = await promptjobs(database, "keys", "create", "--organisation", "acme", "--name", "CI", "--json")
    key = json.loads(result.stdout)
    assert (result.returncode, key["organisation"], key["name"]) == (0, "acme", "CI")
    closed = await processes.serve("--no-worker", initial_api_key=OWN_KEY)
    assert "needed on every request" in closed.log.read_text()
    async with httpx.AsyncClient(base_url=closed.url) as http:
        path = f"{JOBS}/{made.json()['job_id']}"
        assert (await http.get(path)).status_code == 401
        assert (await http.get(path, headers={"x-api-key": key["key"]})).status_code == 404
        assert (await http.get(path, headers={"x-api-key": OWN_KEY})).status_code == 200
    for log in (service.log, closed.log):
        assert key["key"] not in log.read_text()
        assert OWN_KEY not in log.read_text()


@pytest.mark.slow
async def test_keys_are_listed_by_what_they_begin_with_and_revoked_by_their_id(database: Database) -> None:
    made = json.loads((await promptjobs(database, "keys", "create", "--for-metrics", "--json")).stdout)
    plain = await promptjobs(database, "keys", "create", "--organisation", "acme")
    assert plain.stdout.startswith("pj_")
    assert "only now" in plain.stderr
    listed = await promptjobs(database, "keys", "list")
    assert made["prefix"] in listed.stdout
    assert made["key"] not in listed.stdout
    assert plain.stdout.strip() not in listed.stdout
    only = json.loads((await promptjobs(database, "keys", "list", "--organisation", "acme", "--json")).stdout)
    assert [each["organisation"] for each in only] == ["acme"]
    assert "key" not in only[0]
    revoked = json.loads((await promptjobs(database, "keys", "revoke", made["id"], "--json")).stdout)
    assert revoked["revoked_at"] is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--organisation", "a b"), "--organisation: expected a letter or digit"),
        (("create", "--name", "x" * 201), "--name: expected at most 200 characters"),
        (("revoke", "key_nobody"), "there is no key 'key_nobody'"),
    ],
)
async def test_wrong_input_is_told_in_a_line(database: Database, arguments: tuple[str, ...], said: str) -> None:
    result = await promptjobs(database, "keys", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PROMPTJOBS_SECRET_KEY", "short", "expected 32 random bytes in base64"),
        ("PROMPTJOBS_INITIAL_API_KEY", "short", "expected 32 to 200 printable ASCII characters"),
    ],
)
async def test_a_secret_that_is_none_is_refused_at_the_start_and_not_repeated(
    database: Database, variable: str, value: str, said: str
) -> None:
    result = await promptjobs(database, "serve", "--port", "0", "--json", **{variable: value})
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert f"{value!r}" not in result.stderr
