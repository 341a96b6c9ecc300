"""The task app's own description as a recorded answer: what it says, where it is counted, and that it is asked once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from promptjobs.clients.http import Outgoing
from promptjobs.clients.llm import Llm
from promptjobs.clients.providers import Providers
from promptjobs.clients.task_app import Dialect, TaskApp
from promptjobs.core.asks import (
    DESCRIPTION,
    Answer,
    CompletionBody,
    FailureReason,
    Recall,
    Step,
    Steps,
    description_ask,
)
from promptjobs.core.config import resolve
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.optimizer import Adopted
from promptjobs.db.history import load_facts
from promptjobs.db.journal import AnswerRecord, body_from
from promptjobs.db.publishing import load_statistics
from promptjobs.db.session import Database
from promptjobs.jobs.lease import Lease, boot_seconds
from promptjobs.jobs.world import JobWorld
from tests.fakes.config_bodies import body
from tests.fakes.journaled import Journaled, new_job
from tests.fakes.ledgers import unused_ledger

KEY = "env-key-0123456789abcdef"
SDK_INFO = {"taskset": {"id": "banking77", "description": "Classify the intent.", "labels": ["card_arrival", "atm"]}}
SDK_TEXT = (
    'Description: Classify the intent.\nFurther facts: {"taskset":{"id":"banking77","labels":["card_arrival","atm"]}}'
)
POLICY_URL_INFO = {
    "task": {"name": "Triage", "description": f"Send {KEY} along."},
    "input": "a ticket",
    "api_key": "hunter2",
}
POLICY_URL_TEXT = 'Name: Triage\nDescription: Send [key] along.\nInput: a ticket\nFurther facts: {"api_key":[redacted]}'


@dataclass
class App:
    """A task app that says `info`; refusals are the statuses that it answers first."""

    info: Any
    method: str = "GET"
    refusals: list[int] = field(default_factory=list)
    asked: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        if request.method != self.method or self.info is None:
            return web.Response(status=405)
        self.asked += 1
        if self.refusals:
            return web.Response(status=self.refusals.pop(0), headers={"retry-after": "0"})
        return web.json_response(self.info)


@asynccontextmanager
async def running(app: App, dialect: Dialect | None = None) -> AsyncIterator[TaskApp]:
    async def healthy(_: web.Request) -> web.Response:
        return web.json_response({"healthy": True})

    application = web.Application()
    application.router.add_get("/health", healthy)
    application.router.add_route("*", "/task_info", app.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Outgoing(allow_loopback=True) as outgoing:
            yield TaskApp(outgoing, f"http://127.0.0.1:{runner.addresses[0][1]}", SecretStr(KEY), dialect)
    finally:
        await runner.cleanup()


def world_of(task_app: TaskApp, outgoing: Outgoing, job_id: str = "pl_1") -> JobWorld:
    async def none_made(_: bytes) -> list[Any]:
        return []

    return JobWorld(
        job_id=job_id,
        config=resolve("gepa", body(), None).config,
        lease=Lease(job_id, 1, boot_seconds() + 600),
        task_app=task_app,
        llm=Llm(outgoing, Providers({})),
        grants=None,
        calls_of=none_made,
        url="http://127.0.0.1:1",
        rollout_timeout_seconds=20.0,
        outage_seconds=0.0,
        ledger=unused_ledger(),
        organisation="default",
        has_balance=False,
    )


async def answered(app: App, dialect: Dialect | None = None) -> AnswerRecord:
    async with running(app, dialect) as task_app, Outgoing() as outgoing:
        return await world_of(task_app, outgoing).answer(description_ask())


def text_of(record: AnswerRecord) -> str:
    found = body_from(record.body)
    assert isinstance(found, CompletionBody)
    return found.text


class Curious:
    """A search that wants to know what the task is, and is content then."""

    search_version = 1

    def search(self, lane: Lane) -> Steps:
        [self.answer] = yield Step([description_ask()])
        [self.body] = yield Recall([self.answer.key])

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        yield Step()
        return self.answer, self.body

    def adopt(self, adopted: Adopted) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("app", "dialect", "text"),
    [
        (App(SDK_INFO), Dialect.SDK, SDK_TEXT),
        (App(POLICY_URL_INFO), Dialect.POLICY_URL, POLICY_URL_TEXT),
        (App(POLICY_URL_INFO, "POST"), Dialect.POLICY_URL, POLICY_URL_TEXT),
    ],
    ids=["sdk", "policy_url", "policy_url by POST"],
)
async def test_the_description_is_asked_for_once_and_stays_what_it_was(
    database: Database, app: App, dialect: Dialect, text: str
) -> None:
    job = Journaled(database, await new_job(database), Curious)
    async with running(app) as task_app, Outgoing() as outgoing:
        await task_app.check()
        assert task_app.dialect is dialect
        answer, said = await job.run(world_of(task_app, outgoing, job.job_id))
        assert (answer.reason, said) == (None, CompletionBody(text, "stop"))
        assert app.asked == 1, "the check has read it"
        app.info = {"taskset": {"description": "Something else."}}
        again = TaskApp(outgoing, task_app.url, None, None)
        assert await job.run(world_of(again, outgoing, job.job_id)) == (answer, said)
        assert app.asked == 1


async def test_it_is_no_call_of_a_model(database: Database) -> None:
    job = Journaled(database, await new_job(database), Curious)
    async with running(App(SDK_INFO)) as task_app, Outgoing() as outgoing:
        await job.run(world_of(task_app, outgoing, job.job_id))
    rows = await job.fetch(
        "SELECT purpose, prompt_tokens + completion_tokens, cost_usd FROM completions WHERE job_id = $1"
    )
    assert [tuple(row) for row in rows] == [(DESCRIPTION, 0, 0.0)]
    connection = await database.connect()
    try:
        stats = await load_statistics(connection, job.job_id)
        adopted = await load_facts(connection, job.job_id, 10)
    finally:
        await connection.close()
    assert (stats.completions, stats.judgements, stats.total_tokens, adopted.completions) == (0, 0, 0, 0)


async def test_an_app_that_says_nothing_is_answered_with_nothing() -> None:
    record = await answered(App(None), Dialect.SDK)
    assert record.answer == Answer(record.ask.key, cost_usd=0.0, seconds=record.answer.seconds)
    assert (text_of(record), record.finish_reason) == ("", "stop")


async def test_a_refusal_that_passes_is_waited_out() -> None:
    app = App(SDK_INFO, refusals=[503, 429])
    record = await answered(app, Dialect.SDK)
    assert (text_of(record), app.asked, record.attempts) == (SDK_TEXT, 3, 3)


@pytest.mark.parametrize(
    ("app", "dialect", "reason"),
    [
        (App(SDK_INFO, refusals=[500]), Dialect.SDK, FailureReason.TASK_APP_ERROR),
        (App(["no object"]), Dialect.SDK, FailureReason.TASK_APP_ERROR),
        (App(None), None, FailureReason.TASK_APP_UNREACHABLE),
    ],
)
async def test_an_app_that_does_not_tell_is_a_failure_and_no_description(
    app: App, dialect: Dialect | None, reason: FailureReason
) -> None:
    record = await answered(app, dialect)
    assert (record.answer.reason, record.answer.cost_usd, record.finish_reason) == (reason, 0.0, "error")
    assert record.detail == text_of(record)
    assert "/task_info" in text_of(record)


async def test_a_search_goes_on_without_the_description_of_an_app_that_is_down(database: Database) -> None:
    job = Journaled(database, await new_job(database), Curious)
    async with Outgoing(allow_loopback=True) as outgoing:
        gone = TaskApp(outgoing, "http://127.0.0.1:1", None, None)
        answer, said = await job.run(world_of(gone, outgoing, job.job_id))
    assert answer.reason is FailureReason.TASK_APP_UNREACHABLE
    assert "http://127.0.0.1:1" in said.text


async def test_what_a_check_could_not_read_is_read_when_it_is_asked_for() -> None:
    app = App(SDK_INFO, refusals=[500])
    async with running(app, Dialect.SDK) as task_app:
        assert (await task_app.check()).description == ""
        assert await task_app.description() == SDK_TEXT
