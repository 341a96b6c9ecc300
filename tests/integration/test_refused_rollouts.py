"""A rollout whose call a cap does not hold is no answer, whatever the task app makes of the refusal."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from promptjobs.clients.http import Outgoing
from promptjobs.clients.llm import Llm
from promptjobs.clients.providers import Providers
from promptjobs.clients.task_app import Dialect, TaskApp
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import CandidateFact, Rollout
from promptjobs.core.config import JobConfig, resolve
from promptjobs.core.ledger import Amount, Category
from promptjobs.core.policies import policy_digest
from promptjobs.core.trial import Phase
from promptjobs.db.calls import CallRecord, calls_of
from promptjobs.db.journal import Group, write_group
from promptjobs.db.session import Database
from promptjobs.errors import BudgetExhausted
from promptjobs.jobs.lease import Lease, boot_seconds
from promptjobs.jobs.world import JobWorld
from tests.fakes.config_bodies import body
from tests.fakes.interceptor_world import BASELINE, CANDIDATE, MESSAGES, World, running_world

USED = 110
"""Tokens of one call of the world's provider."""


def config(**limits: object) -> JobConfig:
    """limits: in termination_config."""
    policy = {"policy": {"provider": "openai", "model": "gpt-4o-mini", "max_completion_tokens": 50}}
    return resolve("gepa", body({**policy, "termination_config": limits}), None).config


@dataclass
class App:
    """A task app that calls its model so often, one call after the other, and gives a score whatever it is told."""

    calls: int = 1
    statuses: list[int] = field(default_factory=list)

    async def rollout(self, request: web.Request) -> web.Response:
        policy = orjson.loads(await request.read())["policy"]["config"]
        async with aiohttp.ClientSession() as session:
            for _ in range(self.calls):
                sent = {"model": policy["model"], "messages": MESSAGES}
                async with session.post(f"{policy['inference_url']}/chat/completions", json=sent) as reply:
                    self.statuses.append(reply.status)
        return web.json_response({"metrics": {"outcome_reward": 0.5}})


@asynccontextmanager
async def job_world(
    database: Database, config: JobConfig, app: App, *, has_balance: bool = False
) -> AsyncIterator[tuple[World, JobWorld]]:
    """The world of the running job pl_1, with its config stored."""
    application = web.Application()
    application.router.add_post("/rollout", app.rollout)
    async with (
        running_world(database) as world,
        TestServer(application) as server,
        Outgoing(allow_loopback=True) as outgoing,
    ):
        await world.connection.execute("UPDATE jobs SET config = $1", config.model_dump_json())

        one_at_a_time = asyncio.Lock()

        async def made(digest: bytes) -> list[CallRecord]:
            async with one_at_a_time:
                return (await calls_of(world.connection, [digest]))[digest]

        job = JobWorld(
            job_id="pl_1",
            config=config,
            lease=Lease("pl_1", 1, boot_seconds() + 600),
            task_app=TaskApp(outgoing, str(server.make_url("")), None, Dialect.SDK),
            llm=Llm(outgoing, Providers({})),
            grants=world.interceptor.grants,
            calls_of=made,
            url=world.url,
            rollout_timeout_seconds=20.0,
            outage_seconds=0.0,
            ledger=world.ledger,
            organisation="default",
            has_balance=has_balance,
        )
        base = Candidate("baseline", 0, BASELINE, "baseline")
        job.observe([CandidateFact(base), CandidateFact(Candidate("candidate", 1, CANDIDATE, "baseline"))])
        yield world, job


async def asked(world: World, job: JobWorld, seeds: range) -> list[Rollout]:
    """Rollouts whose tokens are committed, as a turn commits them."""
    asks = [Rollout("candidate", seed, policy_digest(job.config), Phase.OPTIMIZATION) for seed in seeds]
    assert await write_group(world.connection, "pl_1", 1, 1, Group(tokens=job.tokens(asks))) == 0
    return asks


async def test_a_rollout_whose_only_call_was_refused_ends_with_the_cap(database: Database) -> None:
    app = App()
    async with job_world(database, config(max_total_tokens=60), app) as (world, job):
        [ask] = await asked(world, job, range(1))
        with pytest.raises(BudgetExhausted) as refused:
            await job.answer(ask)
        spending = await world.spending()
        bodies = world.upstream.bodies
    assert refused.value.cap == "token_budget"
    assert refused.value.words.startswith("the job's limit of 60 tokens does not hold a call of up to ")
    assert (app.statuses, bodies) == ([402], [])
    assert spending.calls[Category.POLICY] == 0
    assert spending.accounts[Category.POLICY].taken == Amount()


async def test_a_score_that_came_in_spite_of_a_refused_call_is_no_answer(database: Database) -> None:
    """The first call was answered and is paid; the second was not held by the cap, and the app went on without it."""
    app = App(calls=2)
    async with job_world(database, config(max_total_tokens=300), app) as (world, job):
        [ask] = await asked(world, job, range(1))
        with pytest.raises(BudgetExhausted):
            await job.answer(ask)
        spending = await world.spending()
        rows = await world.connection.fetchval("SELECT count(*) FROM rollouts")
    assert app.statuses == [200, 402]
    assert (spending.accounts[Category.POLICY].settled.tokens, rows) == (USED, 0)
    assert spending.accounts[Category.POLICY].held == Amount()


async def test_rollouts_at_the_same_time_never_pass_the_cap_together(database: Database) -> None:
    app, limit = App(), 2_000
    async with job_world(database, config(max_total_tokens=limit), app) as (world, job):
        asks = await asked(world, job, range(40))
        outcomes = await asyncio.gather(*map(job.answer, asks), return_exceptions=True)
        spending = await world.spending()
        calls = len(world.upstream.bodies)
    answered = [each for each in outcomes if not isinstance(each, BaseException)]
    refused = [each for each in outcomes if isinstance(each, BaseException)]
    assert all(isinstance(each, BudgetExhausted) for each in refused)
    assert len(answered) == calls == spending.calls[Category.POLICY]
    assert limit - 3 * USED < USED * calls <= limit
    assert spending.accounts[Category.POLICY].taken == spending.accounts[Category.POLICY].settled


async def test_the_organisations_balance_holds_for_rollouts(database: Database) -> None:
    app = App()
    connection = await database.connect()
    await connection.execute("INSERT INTO balances(organisation, usd) VALUES ('default', $1)", Decimal("0.00001"))
    await connection.close()
    async with job_world(database, config(), app, has_balance=True) as (world, job):
        [ask] = await asked(world, job, range(1))
        with pytest.raises(BudgetExhausted) as refused:
            await job.answer(ask)
    assert refused.value.cap == "balance_empty"
    assert world.upstream.bodies == []
