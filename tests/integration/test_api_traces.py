"""Traces over HTTP: rollouts with the calls of their LLM, trials, and what meta-model and judge were asked."""

from typing import Any

import httpx
import orjson
import pytest
from pydantic import TypeAdapter

from promptjobs.api.app import JOBS_PATH
from promptjobs.api.schemas import RolloutObject, TrialObject
from promptjobs.api.trace_schemas import CompletionObject
from promptjobs.core.asks import (
    Answer,
    Completion,
    CompletionBody,
    FailureReason,
    MetaModel,
    Rollout,
    description_ask,
)
from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase
from promptjobs.db.calls import Bill, CallRecord, insert_calls
from promptjobs.db.journal import AnswerRecord, body_text
from promptjobs.db.session import Database
from tests.fakes.recorded_jobs import RunningJob, rollout, searched_job

pytestmark = pytest.mark.slow

TOKEN = bytes(range(32))
SENT = [{"role": "system", "content": "Answer with care."}, {"role": "user", "content": "Query: why?"}]


@pytest.fixture
async def job(database: Database) -> RunningJob:
    return await searched_job(database)


def at(job: RunningJob, path: str) -> str:
    return f"{JOBS_PATH}/{job.job_id}{path}"


def key_of(candidate_id: str, seed: int, draw: int = 0) -> bytes:
    return Rollout(candidate_id, seed, "policy", Phase.OPTIMIZATION, draw=draw).key


def call(job: RunningJob, key: bytes, n: int, **changes: Any) -> CallRecord:
    said = orjson.dumps({"role": "assistant", "content": f"reply {n}"}).decode()
    record = CallRecord(
        token=TOKEN, n=n, job_id=job.job_id, key=key, candidate_id="c_1", seed=1, phase="optimization", attempt=1,
        provider="groq", model="llama", streamed=False, status=200, error=None, messages=orjson.dumps(SENT).decode(),
        reply=said, finish_reason="stop", prompt_tokens=50, completion_tokens=5, unknown_tokens=0, cost_usd=0.0005,
        seconds=0.2,
    )  # fmt: skip
    return record._replace(**changes)


async def record(job: RunningJob, *calls: CallRecord) -> None:
    connection = await job.database.connect()
    try:
        for each in calls:
            await insert_calls(connection, [each], [Bill(None, 55, 1)])
    finally:
        await connection.close()


# --- rollouts and trials ---------------------------------------------------------------------------------------------


async def test_a_rollout_is_shown_with_every_call_of_its_llm(client: httpx.AsyncClient, job: RunningJob) -> None:
    key = key_of("c_1", 1)
    refused = call(job, key, 7, status=429, error="provider_error: slow down", reply=None, finish_reason=None)
    await record(job, refused, call(job, key, 3, attempt=2, streamed=True), call(job, key_of("c_1", 2), 1))
    answer = await client.get(at(job, f"/rollouts/{key.hex()}"))
    found = RolloutObject.model_validate_json(answer.content)
    assert (found.id, found.candidate_id, found.seed, found.score) == (key.hex(), "c_1", 1, 1.0)
    assert found.calls is not None
    first, second = found.calls
    assert (first.n, first.attempt, first.status, first.error) == (1, 1, 429, "provider_error: slow down")
    assert (first.reply, first.finish_reason) == (None, None)
    assert (second.n, second.attempt, second.streamed, second.tokens) == (2, 2, True, 55)
    assert second.messages == SENT
    assert second.reply == {"role": "assistant", "content": "reply 3"}


async def test_no_token_is_shown_with_a_call(client: httpx.AsyncClient, job: RunningJob) -> None:
    key = key_of("c_1", 1)
    await record(job, call(job, key, 1))
    for path in (f"/rollouts/{key.hex()}", "/rollouts?include=calls"):
        text = (await client.get(at(job, path))).text
        assert "reply 1" in text
        assert TOKEN.hex() not in text
        assert 'token"' not in text


async def test_the_list_of_rollouts_has_the_calls_where_they_are_asked_for(
    client: httpx.AsyncClient, job: RunningJob
) -> None:
    await record(job, call(job, key_of("c_1", 2), 1), call(job, key_of("c_0", 1), 1, token=bytes(32)))
    plain = (await client.get(at(job, "/rollouts"))).json()
    assert all("calls" not in each for each in plain)
    answer = await client.get(at(job, "/rollouts?include=calls&limit=4"))
    page = TypeAdapter(list[RolloutObject]).validate_json(answer.content)
    rest = (await client.get(answer.links["next"]["url"])).json()
    calls = {(each.candidate_id, each.seed): len(each.calls or ()) for each in page}
    calls |= {(each["candidate_id"], each["seed"]): len(each["calls"]) for each in rest}
    assert calls == {("c_0", 1): 1, ("c_0", 2): 0, ("c_0", 3): 0, ("c_1", 1): 0, ("c_1", 2): 1}


async def test_pages_with_calls_are_shorter(client: httpx.AsyncClient, job: RunningJob) -> None:
    await job.write(answers=[rollout("c_1", seed, 1.0) for seed in range(100, 160)])
    assert len((await client.get(at(job, "/rollouts?include=calls&limit=200"))).json()) == 50
    assert len((await client.get(at(job, "/rollouts?limit=200"))).json()) == 66


async def test_a_trial_names_its_rollouts(client: httpx.AsyncClient, job: RunningJob) -> None:
    trial = TrialObject.model_validate_json((await client.get(at(job, "/trials/1"))).content)
    assert (trial.n, trial.scores) == (1, [0.0, 0.5, None])
    assert trial.rollouts is not None
    for each in trial.rollouts:
        shown = (await client.get(at(job, f"/rollouts/{each.id}"))).json()
        assert (shown["seed"], shown["score"], shown["draw"]) == (each.seed, each.score, each.draw)
    listed = (await client.get(at(job, "/trials"))).json()
    assert TrialObject.model_validate(listed[0]) == trial


ABSENT = {
    "/trials/99": "trial_not_found",
    "/trials/x": "invalid_request",
    "/trials/99999999999": "invalid_request",
    f"/rollouts/{'0' * 32}": "rollout_not_found",
    f"/rollouts/{'A' * 32}": "rollout_not_found",
    "/rollouts/%00": "rollout_not_found",
    "/completions?after=-1": "invalid_request",
    "/completions?purpose=%00": "invalid_request",
}


async def test_what_is_not_there_is_not_found(client: httpx.AsyncClient, job: RunningJob) -> None:
    for path, code in ABSENT.items():
        answer = await client.get(at(job, path))
        assert (answer.status_code, answer.json()["code"]) == (422 if code == "invalid_request" else 404, code)


async def test_another_jobs_traces_are_not_found(client: httpx.AsyncClient, database: Database) -> None:
    one, other = await searched_job(database), await searched_job(database)
    key = key_of("c_9", 5)
    await one.write(answers=[rollout("c_9", 5, 1.0)])
    await record(one, call(one, key_of("c_1", 1), 1))
    assert (await client.get(at(one, f"/rollouts/{key.hex()}"))).status_code == 200
    assert (await client.get(at(other, f"/rollouts/{key.hex()}"))).status_code == 404
    shared = await client.get(at(other, f"/rollouts/{key_of('c_1', 1).hex()}"))
    assert (shared.status_code, shared.json()["calls"]) == (200, [])


# --- completions -----------------------------------------------------------------------------------------------------


def completion(purpose: str, text: str, reason: FailureReason | None = None) -> AnswerRecord:
    model = MetaModel("groq", "large", 0.7, 512)
    ask = Completion(purpose, model, (Message("user", f"please {text}"),))
    answer = Answer(ask.key, None, reason, prompt_tokens=20, completion_tokens=4, cost_usd=0.002, seconds=1.5)
    body = body_text(CompletionBody(text, "error" if reason else "stop"))
    detail = None if reason is None else text
    return AnswerRecord(ask, answer, body, detail, finish_reason="error" if reason else "stop")


async def test_calls_of_meta_model_and_judge_are_listed(client: httpx.AsyncClient, job: RunningJob) -> None:
    asked = description_ask()
    told = AnswerRecord(asked, Answer(asked.key), body_text(CompletionBody("a task", "stop")), finish_reason="stop")
    failed = completion("judge", "status 500", FailureReason.PROVIDER_ERROR)
    await job.write(answers=[completion("reflection", "one"), told, failed, completion("reflection", "two")])
    found, url = [], at(job, "/completions?limit=1")
    while url:
        answer = await client.get(url)
        found += TypeAdapter(list[CompletionObject]).validate_json(answer.content)
        url = answer.links.get("next", {}).get("url")
    assert [(c.purpose, c.text, c.reason) for c in found] == [
        ("reflection", "one", None),
        ("judge", None, "provider_error"),
        ("reflection", "two", None),
    ]
    assert found[1].detail == "status 500"
    assert (found[0].tokens, found[0].cost_usd, found[0].seconds, found[0].attempts) == (24, 0.002, 1.5, 1)
    assert found[0].request == {
        "messages": [{"role": "user", "content": "please one"}],
        "parameters": {"provider": "groq", "model": "large", "temperature": 0.7, "max_tokens": 512},
    }
    only = (await client.get(at(job, "/completions?purpose=judge"))).json()
    assert [each["purpose"] for each in only] == ["judge"]
