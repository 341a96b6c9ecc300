"""Two models in one job, and its judge: what reaches which provider, at which price, and what is recorded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from promptjobs.clients.http import Outgoing
from promptjobs.clients.llm import Llm
from promptjobs.clients.providers import Providers
from promptjobs.clients.task_app import Dialect, TaskApp
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import CandidateFact, Completion, FailureReason, MetaModel, Rollout, RolloutBody, Tier
from promptjobs.core.config import GepaJobConfig, resolve
from promptjobs.core.config_sections import ProxyModelsConfig, VerifierConfig
from promptjobs.core.policies import policy_digest
from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase, Trial
from promptjobs.core.verifier import Verifier
from promptjobs.db import results
from promptjobs.db.calls import CallRecord, calls_of
from promptjobs.db.journal import AnswerRecord, Group, body_from, write_group
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors import ProviderNotConfigured
from promptjobs.jobs.lease import Lease, boot_seconds
from promptjobs.jobs.service import JobRequest
from promptjobs.jobs.world import JobWorld
from tests.fakes.config_bodies import PROMPT, body
from tests.fakes.interceptor_world import (
    BASELINE,
    CANDIDATE,
    COMPLETION,
    MESSAGES,
    REWRITTEN,
    Upstream,
    World,
    running_upstream,
    running_world,
    until,
)
from tests.fakes.recorded_jobs import job_service

pytestmark = pytest.mark.slow

HI, LO = ("openai", "gpt-4o-mini"), ("groq", "llama-3.1-8b-instant")
HI_COST = 100 * 0.15e-6 + 10 * 0.6e-6
LO_COST = 100 * 0.05e-6 + 10 * 0.08e-6
LO_KEY = "gsk-test-0123456789abcdef"
PROXY = ProxyModelsConfig(hi_provider=HI[0], hi_model=HI[1], lo_provider=LO[0], lo_model=LO[1])
JUDGE = VerifierConfig(
    reward_source="fused", backend_provider="groq", backend_model="judge", backend_event_enabled=True, weight_event=1.0,
    concurrency=2, timeout=0.05,
)  # fmt: skip


def config(**changes: Any) -> GepaJobConfig:
    """A job of hi, its price the list's; changes: of its search."""
    changed = {"policy.provider": HI[0], "policy.model": HI[1], "policy.temperature": 0.25}
    found = resolve("gepa", body(changed), None).config
    return found.model_copy(update={"gepa": found.gepa.model_copy(update=changes)})


@dataclass
class App:
    """A task app that calls its model as often as it is told, and keeps what it was sent."""

    calls: int = 1
    policies: list[dict[str, Any]] = field(default_factory=list)

    async def rollout(self, request: web.Request) -> web.Response:
        asked = orjson.loads(await request.read())
        policy = asked["policy"]["config"]
        self.policies.append(policy)
        async with aiohttp.ClientSession() as session:
            for _ in range(self.calls):
                sent = {"model": policy["model"], "messages": MESSAGES}
                async with session.post(f"{policy['inference_url']}/chat/completions", json=sent) as reply:
                    assert reply.status == 200, await reply.text()
        return web.json_response({"metrics": {"outcome_reward": 0.5}})


@asynccontextmanager
async def running_app(app: App) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_post("/rollout", app.rollout)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def lo() -> AsyncIterator[Upstream]:
    """lo's provider."""
    async with running_upstream() as upstream:
        yield upstream


@pytest.fixture
async def world(database: Database, lo: Upstream) -> AsyncIterator[World]:
    async with running_world(database, more={"groq": (lo.url, SecretStr(LO_KEY))}) as world:
        yield world


@asynccontextmanager
async def job_world(
    world: World, lo: Upstream, config: GepaJobConfig, app: App, *, admits: bool
) -> AsyncIterator[JobWorld]:
    """The world of the running job pl_1, with its config stored. admits: it tells the interceptor of its tokens."""
    await world.connection.execute("UPDATE jobs SET config = $1", config.model_dump_json())

    async def made(digest: bytes) -> list[CallRecord]:
        return (await calls_of(world.connection, [digest]))[digest]

    async with running_app(app) as url, Outgoing(allow_loopback=True) as outgoing:
        yield JobWorld(
            job_id="pl_1",
            config=config,
            lease=Lease("pl_1", 1, boot_seconds() + 600),
            task_app=TaskApp(outgoing, url, None, Dialect.SDK),
            llm=Llm(outgoing, Providers({"groq": (lo.url, SecretStr(LO_KEY))})),
            grants=world.interceptor.grants if admits else None,
            calls_of=made,
            url=world.url,
            rollout_timeout_seconds=20.0,
            outage_seconds=0.0,
            ledger=world.ledger,
            organisation="default",
            has_balance=False,
        )


async def answers(world: World, job: JobWorld, asks: list[Rollout]) -> list[AnswerRecord]:
    """The asks answered as a run has them answered: the candidates and tokens are committed first, then the answers."""
    base = Candidate("baseline", 0, BASELINE, "baseline")
    job.observe([CandidateFact(base), CandidateFact(Candidate("candidate", 1, CANDIDATE, "baseline", ("baseline",)))])
    assert await write_group(world.connection, "pl_1", 1, 1, Group(tokens=job.tokens(asks))) == 0
    records = [await job.answer(ask) for ask in asks]
    group = Group(answers=list(enumerate(records)))
    assert await write_group(world.connection, "pl_1", 1, 2, group) == 0
    return records


def rollout(config: GepaJobConfig, tier: Tier) -> Rollout:
    return Rollout("candidate", 7, policy_digest(config, tier), Phase.OPTIMIZATION, tier=tier)


# --- two models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("admits", [True, False], ids=["admitted", "asked of the database"])
async def test_each_tier_reaches_its_own_provider_with_its_own_model_and_price(
    world: World, lo: Upstream, admits: bool
) -> None:
    two, app = config(proxy_models=PROXY), App()
    asks = [rollout(two, tier) for tier in (Tier.HI, Tier.LO, Tier.HI)]
    async with job_world(world, lo, two, app, admits=admits) as job:
        records = await answers(world, job, asks[:2])
    assert [(policy["provider"], policy["model"]) for policy in app.policies] == [HI, LO]
    parameters = {"messages": REWRITTEN, "temperature": 0.25}
    assert world.upstream.bodies == [{"model": HI[1], "max_completion_tokens": 512, **parameters}]
    assert lo.bodies == [{"model": LO[1], "max_tokens": 512, **parameters}]
    assert lo.headers[0]["authorization"] == f"Bearer {LO_KEY}"
    assert asks[0].key != asks[1].key
    assert [record.answer.cost_usd for record in records] == pytest.approx([HI_COST, LO_COST])
    rows = await world.connection.fetch("SELECT key, tier, score FROM rollouts ORDER BY n")
    assert [tuple(row) for row in rows] == [(asks[0].key, "hi", 0.5), (asks[1].key, "lo", 0.5)]
    rows = await world.connection.fetch("SELECT provider, model FROM calls WHERE key = $1", asks[1].key)
    assert [tuple(row) for row in rows] == [LO]


async def test_a_trial_shows_the_rollouts_of_the_model_that_it_measured_also_where_a_judge_has_scored_them(
    world: World, lo: Upstream
) -> None:
    two = config(proxy_models=PROXY)
    hi, cheap = rollout(two, Tier.HI), rollout(two, Tier.LO)
    async with job_world(world, lo, two, App(), admits=True) as job:
        await answers(world, job, [hi, cheap])
    trials = [
        Trial(n, "candidate", Phase.OPTIMIZATION, False, (7, 8), (score, None)) for n, score in [(1, 0.5), (2, 0.9)]
    ]
    async with reading(world.database) as connection:
        found = await results.read_trial_rollouts(connection, "pl_1", trials)
        every = await results.read_rollouts(connection, "pl_1", results.RolloutFilter(10))
    assert [[each.key for each in rollouts] for rollouts in found] == [[hi.key], [hi.key]]
    assert {each.key: each.tier for each in every} == {hi.key: "hi", cheap.key: "lo"}


async def test_the_price_that_was_given_for_the_policy_is_not_los(world: World, lo: Upstream) -> None:
    changed = {"policy.provider": HI[0], "policy.model": HI[1]}
    price = {"policy.price.input_usd_per_million": 1.0, "policy.price.output_usd_per_million": 2.0}
    found = resolve("gepa", body({**changed, **price}), None).config
    two = found.model_copy(update={"gepa": found.gepa.model_copy(update={"proxy_models": PROXY})})
    async with job_world(world, lo, two, App(), admits=True) as job:
        records = await answers(world, job, [rollout(two, tier) for tier in Tier])
    assert [record.answer.cost_usd for record in records] == pytest.approx([100 * 1e-6 + 10 * 2e-6, LO_COST])


async def test_a_token_of_a_tier_that_the_job_has_not_is_refused(world: World) -> None:
    token = await world.token()
    await world.connection.execute("UPDATE tokens SET tier = 'lo'")
    status, reply = await world.post(token)
    assert (status, orjson.loads(reply)["error"]["code"]) == (400, "call_refused")
    assert world.upstream.bodies == []


def test_a_job_without_a_stand_in_has_the_policy_it_had() -> None:
    assert policy_digest(config()) == policy_digest(config(proxy_models=PROXY))
    assert policy_digest(config(proxy_models=PROXY), Tier.LO) != policy_digest(config())
    with pytest.raises(ValueError, match="no stand-in"):
        policy_digest(config(), Tier.LO)


SECTIONS = {
    "gepa.verifier": {
        "enabled": True, "reward_source": "fused", "backend_provider": "openai", "backend_model": "gpt-4o-mini",
        "weight_outcome": 1.0,
    },
    "gepa.proxy_models": {
        "hi_provider": "groq", "hi_model": "llama-3.1-8b-instant", "lo_provider": "openai", "lo_model": "gpt-4o-mini",
    },
}  # fmt: skip


@pytest.mark.parametrize("section", SECTIONS)
async def test_a_job_that_would_call_a_provider_without_a_key_is_refused(database: Database, section: str) -> None:
    changed = body({section: SECTIONS[section], "initial_prompt": PROMPT})
    with pytest.raises(ProviderNotConfigured, match="openai"):
        await job_service(database).create(JobRequest("gepa", changed), "default")


# --- the judge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verifier", "kept"), [(JUDGE, 3), (None, 0)])
async def test_calls_are_kept_where_a_judge_is_to_see_them(
    world: World, lo: Upstream, verifier: VerifierConfig | None, kept: int
) -> None:
    judged = config(verifier=verifier)
    async with job_world(world, lo, judged, App(calls=3), admits=True) as job:
        [record] = await answers(world, job, [rollout(judged, Tier.HI)])
    found = body_from(record.body)
    assert isinstance(found, RolloutBody)
    assert [call.reply for call in found.calls] == ["Yes."] * kept
    assert all(call.messages == found.messages for call in found.calls)


async def test_no_more_judgements_are_under_way_than_the_config_allows(world: World, lo: Upstream) -> None:
    """What else is asked of a meta-model passes those that wait; when it is back, all that could go out has."""
    verifier = Verifier.of(JUDGE.model_copy(update={"timeout": 20.0}))
    assert verifier is not None
    under_way, opened = 0, asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        nonlocal under_way
        if lo.bodies[-1]["model"] == verifier.model.model:
            under_way += 1
            await opened.wait()
            under_way -= 1
        return web.json_response(COMPLETION)

    lo.handler = handler
    outputs = [RolloutBody((), f"output {n}", "") for n in range(8)]
    asks = [question for output in outputs for question in verifier.case(output).questions]
    async with job_world(world, lo, config(verifier=JUDGE), App(), admits=False) as job:
        judging = asyncio.gather(*map(job.answer, asks))
        await until(lambda: under_way == JUDGE.concurrency)
        passing = await job.answer(Completion("reflection", MetaModel("groq", "writer"), (Message("user", "write"),)))
        assert (passing.answer.is_failure, under_way) == (False, JUDGE.concurrency)
        opened.set()
        assert not any(record.answer.is_failure for record in await judging)


async def test_a_judge_has_its_own_deadline(world: World, lo: Upstream) -> None:
    async def handler(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    lo.handler = handler
    verifier = Verifier.of(JUDGE)
    assert verifier is not None
    [ask] = verifier.case(RolloutBody((), "output", "")).questions
    async with job_world(world, lo, config(verifier=JUDGE), App(), admits=False) as job:
        record = await job.answer(ask)
    assert record.answer.reason is FailureReason.PROVIDER_TIMEOUT
