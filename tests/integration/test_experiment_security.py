"""What an experiment must not be good for: to learn of others, to make much of little, to keep the service busy."""

import asyncio
import csv
import io
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from promptjobs.api.app import EXPERIMENTS_PATH, JOBS_PATH, ROOT_PATH, create_app
from promptjobs.api.auth import Access
from promptjobs.api.rate_limits import RateLimits
from promptjobs.core.experiment_labels import MAX_SETTINGS
from promptjobs.db import api_keys
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.errors import RateLimited
from promptjobs.jobs.turns import Turns
from tests.fakes.config_bodies import PROMPT, body
from tests.fakes.recorded_jobs import BUDGET, job_service
from tests.fakes.served import in_process

Json = dict[str, Any]


def job(**changes: Any) -> Json:
    """changes: further fields of the job."""
    config = body({"initial_prompt": PROMPT, "gepa.rollout.budget": BUDGET})
    return {"algorithm": "gepa", "config": config} | changes


def experiment(**changes: Any) -> Json:
    return {"name": "x", "jobs": [job()]} | changes


def problem(answer: httpx.Response) -> tuple[int, str, str | None]:
    said = answer.json()
    return answer.status_code, said["code"], said.get("param")


# --- others ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peers:
    """Clients of two organisations."""

    ours: httpx.AsyncClient
    theirs: httpx.AsyncClient


@pytest.fixture
async def peers(database: Database) -> AsyncIterator[Peers]:
    access = Access(database, RateLimits(1000.0, 10), is_open_without_keys=False)
    app = create_app(database=database, service=job_service(database), access=access)
    async with writing(database) as connection:
        keys = [(await api_keys.create(connection, name, ""))[1] for name in ("default", "theirs")]
    async with in_process(app) as ours, in_process(app) as theirs:
        for client, key in zip((ours, theirs), keys, strict=True):
            client.headers["x-api-key"] = key
        yield Peers(ours, theirs)


async def test_what_a_request_names_within_is_anothers_and_as_good_as_unknown(peers: Peers) -> None:
    made = (await peers.ours.post(EXPERIMENTS_PATH, json=experiment())).json()
    own = (await peers.theirs.post(EXPERIMENTS_PATH, json=experiment(matrix={"seed": [1, 2]}))).json()
    saved = {"name": "nightly", "algorithm": "gepa", "config_body": job()["config"]}
    assert (await peers.ours.post(f"{ROOT_PATH}/configs", json=saved)).is_success
    foreign, known = made["jobs"][0]["job_id"], own["jobs"][0]["job_id"]
    unknown = {foreign: "pl_" + "0" * 32, made["id"]: "exp_" + "0" * 32, "nightly": "nobodys"}

    async def said(method: str, path: str, value: str, **more: Any) -> tuple[int, str]:
        answer = await peers.theirs.request(method, path, **more)
        text = answer.text.replace(value, "…")
        return answer.status_code, text if answer.is_success else text.partition('"request_id"')[0]

    async def asked(value: str, saved_name: str) -> list[tuple[int, str]]:
        job_id, experiment_id = (value, made["id"]) if value.startswith("pl_") else (foreign, value)
        pair = {"first": known, "second": job_id}
        warm = job(config_overrides={"prompt_learning.warm_start.job_id": job_id})
        named = [{"config_name": saved_name, "algorithm": "gepa"}]
        return [
            await said("GET", f"{EXPERIMENTS_PATH}/{own['id']}/comparison", job_id, params=pair),
            await said("GET", EXPERIMENTS_PATH, experiment_id, params={"after": experiment_id}),
            await said("GET", JOBS_PATH, experiment_id, params={"experiment_id": experiment_id}),
            await said("POST", EXPERIMENTS_PATH, job_id, json=experiment(jobs=[warm])),
            await said("POST", EXPERIMENTS_PATH, saved_name, json=experiment(jobs=named)),
        ]

    first = await asked(foreign, "nightly")
    for value in (unknown[foreign], unknown[made["id"]]):
        assert await asked(value, unknown["nightly"]) == first
    assert [status for status, _ in first] == [404, 422, 200, 422, 422]


async def test_a_key_of_another_organisation_names_another_request(peers: Peers) -> None:
    keyed = {"Idempotency-Key": "mine"}
    ours = (await peers.ours.post(EXPERIMENTS_PATH, json=experiment(), headers=keyed)).json()
    theirs = (await peers.theirs.post(EXPERIMENTS_PATH, json=experiment(), headers=keyed)).json()
    assert ours["id"] != theirs["id"]
    assert theirs["organisation"] == "theirs"


async def test_the_same_request_at_once_makes_one_experiment(client: httpx.AsyncClient) -> None:
    keyed = {"Idempotency-Key": "once"}
    answers = await asyncio.gather(*(client.post(EXPERIMENTS_PATH, json=experiment(), headers=keyed) for _ in range(6)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len((await client.get(EXPERIMENTS_PATH)).json()) == 1


# --- much of little --------------------------------------------------------------------------------------------------


async def test_what_the_matrix_repeats_for_every_job_counts_for_every_job(client: httpx.AsyncClient) -> None:
    large = {"text": ["x" * 9_000] * 10}
    matrix = {"prompt_learning.gepa.env_config": [large], "seed": list(range(50)), "model": ["a", "b", "c", "d"]}
    answer = await client.post(EXPERIMENTS_PATH, json=experiment(matrix=matrix))
    assert problem(answer) == (422, "invalid_request", "jobs")
    assert "bytes of JSON together" in answer.json()["detail"]


@pytest.mark.slow
async def test_a_service_does_not_look_up_more_overrides_than_it_can_in_a_few_seconds(
    client: httpx.AsyncClient,
) -> None:
    many = {f"k{number}": number for number in range(150)}
    jobs = [job(config_overrides={"prompt_learning.gepa.env_config": many}) for _ in range(200)]
    answer = await client.post(EXPERIMENTS_PATH, json=experiment(jobs=jobs))
    assert problem(answer) == (422, "invalid_request", "jobs")
    assert "20000 overridden settings" in answer.json()["detail"]


async def test_an_answer_shows_no_more_settings_of_a_job_than_can_be_read(client: httpx.AsyncClient) -> None:
    names = [f"k{number}{'y' * 400}" for number in range(80)]
    values = [dict.fromkeys(names, f"{number} {'z' * 50}") for number in range(2)]
    matrix = {"seed": [1, 2], "prompt_learning.gepa.env_config": values}
    made = (await client.post(EXPERIMENTS_PATH, json=experiment(matrix=matrix))).json()
    shown = [each["settings"] for each in made["jobs"]]
    assert {len(settings) for settings in shown} == {MAX_SETTINGS + 1}
    assert [settings["seed"] for settings in shown] == [1, 1, 2, 2]
    assert shown[0]["…"].startswith("31 more (")
    assert shown[0]["…"] == shown[2]["…"] != shown[1]["…"]
    assert max(map(len, shown[0])) <= 130
    assert len({each["group"] for each in made["jobs"]}) == 2


async def test_a_matrix_is_counted_and_not_expanded(client: httpx.AsyncClient) -> None:
    matrix = {f"prompt_learning.k{number}": list(range(50)) for number in range(20)}
    answer = await client.post(EXPERIMENTS_PATH, json=experiment(matrix=matrix))
    assert problem(answer) == (422, "invalid_request", "jobs")
    matrix = {f"prompt_learning.k{number}": [0] for number in range(21)}
    assert problem(await client.post(EXPERIMENTS_PATH, json=experiment(matrix=matrix)))[0] == 422


# --- paths and texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["/etc/passwd", "job.toml", ["job.toml"], 1, True])
async def test_a_service_reads_no_file_for_a_request(client: httpx.AsyncClient, config: Any) -> None:
    answer = await client.post(EXPERIMENTS_PATH, json=experiment(jobs=[{"config": config}]))
    assert problem(answer) == (422, "invalid_request", "jobs[0].config")


HOSTILE = '=1+1|x <script>alert(1)</script> --> ]]> [a](javascript:b) "q"\r\nX-Header: y \u202e`'


async def test_names_and_labels_are_text_wherever_they_come_out(client: httpx.AsyncClient) -> None:
    sent = experiment(name=HOSTILE, jobs=[job(label=HOSTILE)], matrix={"seed": [1, 2]})
    made = (await client.post(EXPERIMENTS_PATH, json=sent)).json()
    path = f"{EXPERIMENTS_PATH}/{made['id']}"
    table = await client.get(f"{path}/results", params={"format": "csv"})
    rows = list(csv.reader(io.StringIO(table.text)))
    assert len(rows) == 3
    assert [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))] == []
    page = (await client.get(f"{path}/results", params={"format": "markdown"})).text
    bare = re.sub(r"\\[<\]]", "", page)  # a backslash makes text of what follows
    assert "<script" not in bare
    assert "](javascript" not in bare
    assert "\u202e" not in page
    assert not any(line.startswith("X-Header") for line in page.splitlines())
    for plot in ("learning-curves", "score-by-group"):
        picture = await client.get(f"{path}/plots/{plot}")
        assert picture.status_code == 200
        assert "<script" not in picture.text
        assert "x-header" not in picture.headers
        assert picture.headers["content-disposition"] == f'inline; filename="{made["id"]}.{plot}.svg"'
        assert "sandbox" in picture.headers["content-security-policy"]


CURSORS = ["0:1", "1:0", "1:2.1:2", "999:1", "1:999", "-1:1", "1:1.", "1" * 9_000, "a", "1:1\x00", "\ud7ff", "end"]


@pytest.mark.parametrize("cursor", CURSORS)
async def test_a_cursor_that_is_no_place_in_the_stream_is_refused(client: httpx.AsyncClient, cursor: str) -> None:
    made = (await client.post(EXPERIMENTS_PATH, json=experiment())).json()
    answer = await client.get(f"{EXPERIMENTS_PATH}/{made['id']}/events/stream", params={"cursor": cursor})
    assert problem(answer)[:2] == (422, "invalid_request")


# --- turns -----------------------------------------------------------------------------------------------------------


async def test_only_so_many_have_their_turn_and_only_so_many_wait() -> None:
    turns = Turns("things", at_once=1, waiting=1)
    may_end, order = asyncio.Event(), []

    async def use(name: str) -> None:
        async with turns.turn():
            order.append(name)
            await may_end.wait()

    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(use("first"))
        second = tasks.create_task(use("second"))
        third = asyncio.create_task(use("third"))
        [refused] = await asyncio.gather(third, return_exceptions=True)
        assert isinstance(refused, RateLimited)
        assert order == ["first"]
        assert not any(task.done() for task in (first, second))
        may_end.set()
    assert order == ["first", "second"]
    await use("fourth")


@pytest.mark.slow
async def test_a_crowd_that_plans_experiments_leaves_the_pool_to_others(client: httpx.AsyncClient) -> None:
    sent = experiment(matrix={"seed": list(range(20))})
    crowd = [
        asyncio.create_task(client.post(EXPERIMENTS_PATH, json=sent, headers={"Idempotency-Key": f"key {number}"}))
        for number in range(24)
    ]
    answers = await asyncio.gather(*crowd)
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert problem(refused)[:2] == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) >= 1
    made = [answer for answer in answers if answer.status_code == 200]
    assert len((await client.get(EXPERIMENTS_PATH)).json()) == len(made) >= 8
