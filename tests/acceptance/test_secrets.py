"""No key and no token is shown, stored or logged."""

import base64
import re
from typing import Any

import orjson
import pytest
from nacl.public import PublicKey, SealedBox

from promptjobs.db import api_keys
from promptjobs.db.api_keys import Purpose
from promptjobs.db.models import Base
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from tests.acceptance import faulty_app, faulty_model
from tests.acceptance.client import JOBS, ROOMY, Api, Json, config
from tests.acceptance.conftest import PROVIDER_KEY
from tests.acceptance.faulty_app import FaultyApp, Visit
from tests.acceptance.faulty_model import POLICY, FaultyModel
from tests.acceptance.service import Process, Processes
from tests.fakes.canaries import Canaries
from tests.fakes.receiver import Receiver, receiving

KEY = "ek-task-app-secret-7c21"


async def all_text(database: Database) -> str:
    """Every row of every table as text."""
    connection = await database.connect()
    try:
        dumps = [
            await connection.fetchval(f"SELECT string_agg(t::text, chr(10)) FROM {table} t")
            for table in Base.metadata.tables
        ]
    finally:
        await connection.close()
    return "\n".join(dump for dump in dumps if dump)


async def everything_the_api_says(api: Api, job_id: str) -> str:
    one = f"{JOBS}/{job_id}"
    names = ("/config", "/events", "/events/stream", "/trials", "/rollouts", "/candidates", "/metrics")
    more = ("/learning-curve", "/snapshots", "/artifacts")
    said = [(await api.http.get(path)).text for path in (JOBS, one, *(one + name for name in (*names, *more)))]
    listed = await api.read(job_id, "/snapshots")
    said += [(await api.http.get(f"{one}/snapshots/{each['id']}")).text for each in listed]
    return "\n".join(said)


async def repeats_all_it_was_sent(app: FaultyApp, visit: Visit) -> Any:
    """As a debug page does: headers and body, keys and URL included."""
    page = f"headers {dict(visit.request.headers)} body {visit.body}"
    return faulty_app.web.Response(status=500, text=page)


@pytest.mark.slow
async def test_no_secret_is_shown_stored_or_logged(
    api: Api, task_app, ports, model: FaultyModel, stored: Database, shared_service: Process
):
    app: FaultyApp = await task_app(key=KEY)
    model.fail(POLICY, [faulty_model.repeats_its_key] * 2)
    body = config(ports.task_app_url, {**ROOMY, "task_app_api_key": KEY})
    job_id = await api.submit(
        {**body, "task_app_api_key": KEY},
        overrides={"task_app_api_key": KEY},
        metadata={"api_key": KEY, "note": "hello"},
        auto_start=False,
    )
    seed = (await api.read(job_id, "/config"))["resolved"]["gepa"]["front_seeds"][0]
    app.fail(seed, [repeats_all_it_was_sent] * 2)
    created = (await api.http.post(f"{JOBS}/{job_id}/start")).text
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert {visit.request.headers["X-API-Key"] for visit in app.visits} == {KEY}
    assert {asked.request.headers["Authorization"] for asked in model.asked} == {f"Bearer {PROVIDER_KEY}"}
    tokens = [visit.url.split("/v1/")[1].split("/")[0] for visit in app.visits]
    assert min(map(len, tokens)) >= 32
    dump = await all_text(stored)
    assert job_id in dump
    log = shared_service.log.read_text()
    for text in (created, await everything_the_api_says(api, job_id), dump, log):
        for secret in (KEY, PROVIDER_KEY, *tokens):
            assert secret not in text
            assert secret.encode().hex() not in text
        assert KEY[:9] not in text


async def test_the_task_app_key_is_sealed_and_forgotten_when_the_job_is_over(api: Api, ports, stored: Database):
    job_id = await api.submit(config(ports.closed_url, {"task_app_api_key": KEY}), auto_start=False)
    connection = await stored.connect()
    try:
        query = "SELECT task_app_key FROM jobs WHERE id = $1"
        stored_key = await connection.fetchval(query, job_id)
        assert stored_key.startswith("v1.")
        assert KEY not in stored_key
        await api.http.post(f"{JOBS}/{job_id}/start")
        await api.ended(job_id)
        assert await connection.fetchval(query, job_id) is None
    finally:
        await connection.close()


# --- every place where a secret can enter ----------------------------------------------------------------------------

CONFIGS = "/api/prompt-learning/configs"
EXPERIMENTS = "/api/experiments"
NAME = re.compile(r"\{(\w+)\}")
ONLY = {f"{EXPERIMENTS}/{{experiment_id}}/comparison": "first={first}&second={second}"}
"""Queries without which a route answers nothing."""
MORE = {
    f"{JOBS}/{{job_id}}/rollouts": ("include=calls",),
    f"{JOBS}/{{job_id}}/trials": ("include=rollouts",),
    f"{JOBS}/{{job_id}}/report": ("format=html", "format=markdown"),
    f"{EXPERIMENTS}/{{experiment_id}}/results": ("format=csv", "format=markdown&variants=50", "compare=all"),
}
"""Queries that show more than a route shows without them."""


def echoes_in_its_feedback(visit: Visit, score: Any, output: str) -> Any:
    """As a task app does that wants to be helpful: all that it was sent stands in an honest reply."""
    reply = faulty_app.sdk_0_4(visit, score, output)
    said = f"sent {visit.request.url} with {dict(visit.request.headers)} and {orjson.dumps(visit.body).decode()}"
    reply["metrics"]["details"] |= {"feedback": said, "headers": dict(visit.request.headers), "url": visit.url}
    return reply


def echoes_its_key(asked: faulty_model.Asked) -> str:
    return f"{faulty_model.adds_a_hint(asked)}\nAsked with {asked.request.headers['Authorization']}."


async def leave_secrets(api: Api, put: Canaries, receiver: Receiver) -> str:
    """A provider's key, one for task apps, a webhook, a saved config. Returns the webhook's id."""

    async def sent(method: str, path: str, body: Json, **headers: str) -> Json:
        answer = await api.http.request(method, path, json=body, headers=headers)
        assert answer.is_success, (path, answer.text)
        found: Json = answer.json()
        return found

    await sent("PUT", "/api/provider-keys/toy", {"api_key": put.put("own provider key")})
    offered = (await api.http.get("/api/v1/crypto/public-key")).json()["public_key"]
    box = SealedBox(PublicKey(base64.b64decode(offered))).encrypt(put.put("key of task apps").encode())
    ciphertext = base64.b64encode(box).decode()
    await sent("POST", "/api/v1/env-keys", {"name": "ENVIRONMENT_API_KEY", "ciphertext_b64": ciphertext})
    key = put.put("webhook secret", "whsec_" + base64.b64encode(b"the canary that signs messages").decode())
    hook = {"url": receiver.url, "secret": key}
    for _ in range(2):  # the second time it is the answer that was kept
        made = await sent("POST", "/api/webhooks", hook, **{"Idempotency-Key": "hook"})
    saved = config(
        "http://127.0.0.1:1", {"task_app_api_key": put.put("saved config"), "policy.api_key": put.put("saved policy")}
    )
    saved["api_key"] = put.put("saved top")
    await sent(
        "POST", CONFIGS, {"name": "saved", "algorithm": "gepa", "config_body": saved}, **{"Idempotency-Key": "c"}
    )
    return str(made["id"])


async def run_experiment(api: Api, put: Canaries, task_app_url: str) -> tuple[Json, str]:
    """An experiment with secrets in all of its places, when it is over; and what was answered when it was created."""
    whole = config(task_app_url, {"task_app_api_key": put.put("experiment section"), "gepa.rollout.budget": 60})
    whole |= {"task_app_api_key": put.put("experiment body"), "api_key": put.put("experiment unknown field")}
    keys = [put.put("matrix first"), put.put("matrix second")]
    sent = {
        "name": "secrets",
        "jobs": [{"config": whole, "metadata": {"password": put.put("experiment job metadata")}}],
        "matrix": {"prompt_learning.task_app_api_key": keys},
        "metadata": {"api_key": put.put("experiment metadata"), "deep": [{"secret": put.put("deep experiment")}]},
    }
    keyed = {"Idempotency-Key": "experiment"}
    answers = [await api.http.post(EXPERIMENTS, json=sent, headers=keyed) for _ in range(2)]
    answers.append(await api.http.post(f"{EXPERIMENTS}/estimate", json=sent))
    assert all(answer.is_success for answer in answers), answers[0].text
    path = f"{EXPERIMENTS}/{answers[0].json()['id']}"
    said = [answer.text for answer in answers] + [(await api.http.get(f"{path}/events/stream", timeout=120)).text]
    experiment: Json = (await api.http.get(path)).json()
    assert experiment["counts"]["succeeded"] == 2, experiment["jobs"]
    return experiment, "\n".join(said)


def refused_experiments(job: Json, spaced: str, shown: str) -> list[Json]:
    """spaced: a secret that is no key. shown: one that is part of an address."""
    one = {"config": job}
    key = "task_app_api_key"
    matrices: list[Json] = [
        {f"prompt_learning.{key}": [f" {spaced}"]},
        {"prompt_learning": [{key: [spaced]}]},
        {"prompt_learning.policy.api_key": [spaced, f"{spaced}2"]},
        {"prompt_learning.policy": [{"api_key": spaced}]},
        {"algorithm": [{"api_key": spaced}]},
        {"model": [{"api_key": spaced}]},
        {"prompt_learning.task_app_url": [f"http://user:{shown}@127.0.0.1:1"]},
    ]
    overrides: list[Json] = [
        {key: {"value": spaced}},
        {key: f" {spaced}"},
        {f"prompt_learning.gepa.{key}": [spaced]},
        {key: spaced.strip(" ."), f"prompt_learning.{key}": f"{spaced.strip(' .')}2"},
        {"algorithm": {"api_key": spaced}},
    ]
    bodies: list[Json] = [{"jobs": [one], "matrix": matrix} for matrix in matrices]
    bodies += [{"jobs": [{**one, "config_overrides": each}]} for each in overrides]
    return [*bodies, {"jobs": [{**one, "label": [spaced]}]}, {"jobs": [{"config": spaced}]}, {"jobs": spaced}]


async def refusals(api: Api, put: Canaries, task_app_url: str) -> str:
    """What is said about secrets in places where they cannot stand."""
    spaced, shown = put.put("key with spaces") + " .", put.put("userinfo")
    job = config(task_app_url)
    bodies: list[tuple[str, str, Json]] = [
        ("PUT", "/api/provider-keys/toy", {"api_key": spaced}),
        ("PUT", "/api/provider-keys/toy", {"api_key": [spaced]}),
        ("PUT", "/api/provider-keys/toy", {"api_key": {"value": spaced}}),
        ("PUT", "/api/provider-keys/nobody", {"api_key": spaced}),
        ("POST", "/api/v1/env-keys", {"name": "ENVIRONMENT_API_KEY", "ciphertext_b64": put.put("no box")}),
        ("POST", "/api/v1/env-keys", {"name": 1, "ciphertext_b64": [spaced]}),
        ("POST", "/api/webhooks", {"url": f"https://user:{shown}@hooks.example.com/"}),
        ("POST", "/api/webhooks", {"url": "https://hooks.example.com/", "secret": spaced}),
        ("POST", "/api/webhooks", {"url": "https://hooks.example.com/", "secret": [spaced]}),
        ("POST", JOBS, {"algorithm": "gepa", "config_body": job, "overrides": {"task_app_api_key": [spaced]}}),
        ("POST", JOBS, {"algorithm": "gepa", "config_body": job, "overrides": {"task_app_api_key": f" {spaced}"}}),
        ("POST", JOBS, {"algorithm": "gepa", "config_body": config(f"http://user:{shown}@127.0.0.1:1")}),
        ("POST", JOBS, {"algorithm": "none", "config_body": {"task_app_api_key": spaced, "api_key": spaced}}),
        *(("POST", EXPERIMENTS, {"name": "x", **each}) for each in refused_experiments(job, spaced, shown)),
    ]
    said = []
    for number, (method, path, body) in enumerate(bodies):
        answer = await api.http.request(method, path, json=body, headers={"Idempotency-Key": f"refused {number}"})
        assert answer.is_client_error, (path, body, answer.text)
        said.append(answer.text)
    cut = b'{"task_app_api_key": "%s", "overrides": {' % spaced.encode()
    said.append((await api.http.post(JOBS, content=cut, headers={"content-type": "application/json"})).text)
    wrong = put.put("unknown key", "pj_wrong.but.long.enough.to.be.one.00000")
    for headers in ({"X-API-Key": wrong}, {"X-API-Key": "", "Authorization": f"Bearer {wrong}"}):
        answer = await api.http.get(JOBS, headers=headers, params={"api_key": wrong})
        assert answer.status_code == 401
        said.append(answer.text)
    return "\n".join(said)


async def walked(api: Api, ids: Json, metrics_key: str) -> Json:
    """What every GET route of the description answers, by its path. ids: of the path's parameters."""
    described = (await api.http.get("/openapi.json")).json()
    found: Json = {}
    for path, methods in described["paths"].items():
        if "get" not in methods:
            continue
        named = ids | ({"plot": "score-by-group"} if path.startswith(EXPERIMENTS) else {})
        for query in (ONLY.get(path, "limit=200"), *MORE.get(path, ())):
            headers = {"X-API-Key": metrics_key} if path == "/metrics" else {}
            filled = NAME.sub(lambda name, named=named: str(named[name[1]]), path)
            answer = await api.http.get(f"{filled}?{query.format(**ids)}", headers=headers)
            assert answer.status_code == 200, (path, answer.text)
            found[f"{path}?{query}"] = f"{answer.headers} {answer.text}"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_no_secret_comes_out_wherever_it_was_put_in(
    processes: Processes, task_app, ports, model: FaultyModel, database: Database, log_format: str
):
    put = Canaries()
    app: FaultyApp = await task_app(shape=echoes_in_its_feedback)
    model.replies[faulty_model.REFLECTOR] = echoes_its_key
    model.fail(POLICY, [faulty_model.repeats_its_key] * 2)
    secret_key = b"the canary that seals all others"
    initial = put.put("initial API key", "canary.initial.key.of.an.operator.who.types.it")
    async with receiving() as receiver:
        service = await processes.serve(
            log_level="debug",
            log_format=log_format,
            allowed_targets=f"{ports.allowed},127.0.0.1:{receiver.port}",
            provider_toy_api_key=put.put("servers provider key"),
            secret_key=base64.b64encode(secret_key).decode(),
            initial_api_key=initial,
        )
        put.put("secret key", secret_key.decode())
        async with writing(database) as connection:
            _, metrics_key = await api_keys.create(connection, "default", "", Purpose.METRICS)
            _, made = await api_keys.create(connection, "default", "")
        put.put("metrics key", metrics_key), put.put("API key", made)
        async with Api.at(service.url) as api:
            api.http.headers["Authorization"] = f"Bearer {initial}"
            api.http.headers["X-API-Key"] = made
            webhook_id = await leave_secrets(api, put, receiver)
            refused = await refusals(api, put, ports.task_app_url)
            body = config(
                ports.task_app_url,
                {**ROOMY, "task_app_api_key": put.put("section"), "policy.api_key": put.put("policy")},
            )
            metadata = {"api_key": put.put("metadata"), "deep": [{"password": put.put("deep metadata")}], "team": "a"}
            keyed = {"Idempotency-Key": "job"}
            sent = {
                "algorithm": "gepa",
                "config_body": {**body, "task_app_api_key": put.put("body"), "api_key": put.put("unknown field")},
                "overrides": {"task_app_api_key": put.put("overrides")},
                "metadata": metadata,
                "auto_start": False,
            }
            created = [(await api.http.post(JOBS, json=sent, headers=keyed)) for _ in range(2)]
            job_id = created[0].json()["job_id"]
            seed = (await api.read(job_id, "/config"))["resolved"]["gepa"]["front_seeds"][0]
            app.fail(seed, [repeats_all_it_was_sent] * 2)
            await api.http.post(f"{JOBS}/{job_id}/start")
            job = await api.ended(job_id)
            assert job["status"] == "succeeded", job["error"]
            forked = await api.http.post(
                f"{JOBS}/{job_id}/fork", json={"task_app_api_key": put.put("fork"), "auto_start": False}, headers=keyed
            )
            assert forked.is_success, forked.text
            experiment, told_of_experiment = await run_experiment(api, put, ports.task_app_url)
            [delivered] = (await receiver.count(1))[:1]
            tokens = {visit.url.split("/v1/")[1].split("/")[0] for visit in app.visits}
            for number, token in enumerate(sorted(tokens)):
                put.put(f"token {number}", token)
            ids = {
                "job_id": job_id,
                "snapshot_id": job["best_snapshot_id"],
                "candidate_id": (await api.read(job_id, "/candidates"))[0]["candidate_id"],
                "n": 1,
                "rollout_id": (await api.read(job_id, "/rollouts"))[0]["id"],
                "webhook_id": webhook_id,
                "delivery_id": delivered.id,
                "name": "saved",
                "plot": "learning-curve",
                "experiment_id": experiment["id"],
                "first": experiment["jobs"][0]["job_id"],
                "second": experiment["jobs"][1]["job_id"],
            }
            texts = await walked(api, ids, metrics_key)
            fork_id = forked.json()["job_id"]
            texts |= {
                f"fork {path}": (await api.http.get(f"{JOBS}/{fork_id}{path}")).text
                for path in ("", "/config", "/events")
            }
    # The keys with which the service calls others have to be right, or nothing was looked for.
    right = {put.secrets[place] for place in ("overrides", "matrix first", "matrix second")}
    assert {visit.request.headers["X-API-Key"] for visit in app.visits} == right
    assert {asked.request.headers["Authorization"] for asked in model.asked} == {
        f"Bearer {put.secrets['own provider key']}"
    }
    assert put.found_in({"the app": "".join(str(dict(visit.request.headers)) for visit in app.visits)})
    texts |= {
        "refusals": refused,
        "created": "".join(answer.text for answer in created),
        "forked": forked.text,
        "experiment": told_of_experiment,
        "messages": "".join(f"{received.headers} {received.body.decode()}" for received in receiver.received),
        "database": await all_text(database),
        "log": service.log.read_text(),
    }
    assert put.found_in(texts) == []
