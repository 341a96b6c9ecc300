"""Modules with models of their own: what each call is sent to, with which parameters, and at which price."""

from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from promptjobs.clients import pricing
from promptjobs.clients.http import Outgoing
from promptjobs.clients.llm import Llm
from promptjobs.clients.providers import Providers
from promptjobs.clients.task_app import Dialect, TaskApp
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import CandidateFact, Rollout, RolloutBody, Tier, digest
from promptjobs.core.config import GepaJobConfig, PolicyConfig, Price, resolve
from promptjobs.core.config_sections import ProxyModelsConfig
from promptjobs.core.ledger import Caps
from promptjobs.core.pipeline import calls_by_module
from promptjobs.core.policies import policy_digest
from promptjobs.core.prompt import render
from promptjobs.core.trial import Phase
from promptjobs.db.calls import CallRecord, calls_of
from promptjobs.db.journal import Group, body_from, write_group
from promptjobs.db.session import Database
from promptjobs.interceptor.terms import Terms
from promptjobs.jobs.lease import Lease, boot_seconds
from promptjobs.jobs.world import JobWorld
from tests.fakes.config_bodies import body
from tests.fakes.interceptor_world import Token, Upstream, World, running_upstream, running_world, streams
from tests.fakes.ledgers import unused_ledger
from tests.fakes.programs import MODULES, PROGRAM

pytestmark = pytest.mark.slow

BETTER = PROGRAM.with_text({"plan/system_0": "Plan well: {task}!", "solve/system_0": "Solve\nwell."})
VALUES = {"task": "count", "plan": "1. start"}
KEYS = {"groq": "gsk-test-0123456789abcdef", "openai": "sk-test-0123456789abcdef0123456789abcdef"}
PROXY = ProxyModelsConfig(
    hi_provider="openai", hi_model="gpt-4o-mini", lo_provider="groq", lo_model="llama-3.1-8b-instant"
)
SOLVER = PolicyConfig(
    provider="groq",
    model="llama-3.3-70b-versatile",
    temperature=0.75,
    max_completion_tokens=64,
    price=Price(input_usd_per_million=3.0, output_usd_per_million=5.0),
)
JOBS_COST = 100 * 0.15e-6 + 10 * 0.6e-6
SOLVERS_COST = 100 * 3e-6 + 10 * 5e-6
LO_COST = 100 * 0.05e-6 + 10 * 0.08e-6


def config(**policies: PolicyConfig) -> GepaJobConfig:
    """A job whose program plans and solves; policies: of the modules that have one of their own."""
    changed = {"policy.provider": "openai", "policy.model": "gpt-4o-mini", "policy.temperature": 0.25}
    found = resolve("gepa", body({**changed, "gepa.modules": MODULES}), None).config
    assert isinstance(found, GepaJobConfig)
    modules = tuple(
        module.model_copy(update={"policy": policies.get(module.module_id), "allowed_tools": tools})
        for module, tools in zip(found.gepa.modules, (("lookup",), None), strict=True)
    )
    search = found.gepa.model_copy(update={"modules": modules, "proxy_models": PROXY})
    return found.model_copy(update={"gepa": search})


TWO = config(solve=SOLVER)
OWNER: dict[str, Any] = {"organisation": "acme", "has_balance": True}


@pytest.fixture
async def groq() -> AsyncIterator[Upstream]:
    async with running_upstream() as upstream:
        yield upstream


@pytest.fixture
async def world(database: Database, groq: Upstream) -> AsyncIterator[World]:
    async with running_world(database, more={"groq": (groq.url, SecretStr(KEYS["groq"]))}) as world:
        await world.connection.execute("UPDATE jobs SET config = $1", TWO.model_dump_json())
        for candidate_id, template in (("baseline", PROGRAM), ("candidate", BETTER)):
            await world.connection.execute(
                "UPDATE candidates SET prompt = $1 WHERE candidate_id = $2",
                orjson.dumps(template.to_json()).decode(),
                candidate_id,
            )
        yield world


async def token_of(world: World, tier: Tier, *, admitted: bool) -> Token:
    """A token of the tier. admitted: the interceptor is told of it, else it has to ask the database."""
    token = await world.token()
    await world.connection.execute("UPDATE tokens SET tier = $1 WHERE digest = $2", tier, token.digest)
    if admitted:
        world.interceptor.grants.admit(
            token.secret,
            job_id="pl_1",
            key=b"k" * 16,
            candidate=Candidate("candidate", 1, BETTER, "baseline"),
            baseline=PROGRAM,
            seed=7,
            phase=Phase.OPTIMIZATION,
            attempt=1,
            epoch=1,
            terms=Terms.of(TWO, tier, organisation="default", has_balance=False),
            seconds_left=100.0,
        )
    return token


def said(module: str, **more: Any) -> dict[str, Any]:
    return {"messages": [message.to_json() for message in render(PROGRAM.part(module), VALUES)], **more}


def sent(module: str) -> list[dict[str, str]]:
    held = {name: value for name, value in VALUES.items() if module == "solve" or name == "task"}
    return [message.to_json() for message in render(BETTER.part(module), held)]


@pytest.mark.parametrize("admitted", [True, False], ids=["admitted", "asked of the database"])
async def test_each_call_goes_to_the_provider_of_its_module_with_its_parameters_and_price(
    world: World, groq: Upstream, admitted: bool
) -> None:
    token = await token_of(world, Tier.HI, admitted=admitted)
    for module in ("solve", "plan"):
        status, raw = await world.post(token, **said(module, model="whatever the task app was told"))
        assert status == 200, raw
    plan = {"model": "gpt-4o-mini", "temperature": 0.25, "max_completion_tokens": 512, "messages": sent("plan")}
    solve = {"model": SOLVER.model, "temperature": 0.75, "max_tokens": 64, "messages": sent("solve")}
    assert (world.upstream.bodies, groq.bodies) == ([plan], [solve])
    assert world.upstream.headers[0]["authorization"] == f"Bearer {KEYS['openai']}"
    assert groq.headers[0]["authorization"] == f"Bearer {KEYS['groq']}"
    recorded = {(call.provider, call.model): call.cost_usd for call in await world.calls(token)}
    assert recorded == {
        ("openai", "gpt-4o-mini"): pytest.approx(JOBS_COST),
        ("groq", SOLVER.model): pytest.approx(SOLVERS_COST),
    }


@pytest.mark.parametrize("admitted", [True, False], ids=["admitted", "asked of the database"])
async def test_under_the_stand_in_every_module_is_answered_by_it(world: World, groq: Upstream, admitted: bool) -> None:
    token = await token_of(world, Tier.LO, admitted=admitted)
    for module in ("plan", "solve"):
        assert (await world.post(token, **said(module)))[0] == 200
    assert world.upstream.bodies == []
    own = [(each["model"], each["temperature"], each["max_tokens"]) for each in groq.bodies]
    assert own == [(PROXY.lo_model, 0.25, 512), (PROXY.lo_model, 0.75, 64)]
    assert [call.cost_usd for call in await world.calls(token)] == pytest.approx([LO_COST, LO_COST])


async def test_a_caller_may_ask_for_less_than_its_modules_limit_and_for_another_temperature(
    world: World, groq: Upstream
) -> None:
    token = await world.token()
    for limit in (7, 10**6):
        for module in ("plan", "solve"):
            assert (await world.post(token, **said(module, max_tokens=limit, temperature=0)))[0] == 200
    assert [each["max_completion_tokens"] for each in world.upstream.bodies] == [7, 512]
    assert [each["max_tokens"] for each in groq.bodies] == [7, 64]
    assert {each["temperature"] for each in (*world.upstream.bodies, *groq.bodies)} == {0}


async def test_a_streamed_call_is_recorded_with_its_modules_model(world: World, groq: Upstream) -> None:
    groq.handler = streams
    token = await world.token()
    assert (await world.post(token, **said("solve", stream=True)))[0] == 200
    [call] = await world.calls(token)
    assert (call.provider, call.model, call.streamed) == ("groq", SOLVER.model, True)
    assert call.cost_usd == pytest.approx(SOLVERS_COST)


@pytest.mark.parametrize("tools", [[{"type": "function", "function": {"name": "delete"}}], "lookup", [5]])
async def test_tools_are_passed_on_as_they_are_where_the_module_has_no_limit(
    world: World, groq: Upstream, tools: Any
) -> None:
    assert (await world.post(await world.token(), **said("solve", tools=tools)))[0] == 200
    assert groq.bodies[0]["tools"] == tools


@pytest.mark.parametrize(
    ("more", "code", "model"),
    [
        ({"messages": [{"role": "user", "content": "Hello"}]}, "prompt_not_matched", "gpt-4o-mini"),
        (said("plan", tools=[{"type": "web_search"}]), "tool_not_allowed", "gpt-4o-mini"),
        (said("solve", max_tokens=0), "invalid_call", "gpt-4o-mini"),
    ],
)
async def test_a_refused_call_reaches_no_provider_and_is_recorded(
    world: World, groq: Upstream, more: dict[str, Any], code: str, model: str
) -> None:
    token = await world.token()
    status, raw = await world.post(token, **more)
    assert (status, orjson.loads(raw)["error"]["code"]) == (400, code)
    [call] = await world.calls(token)
    assert (call.error_code, call.model, call.cost_usd) == (code, model, 0.0)
    assert world.upstream.bodies == groq.bodies == []


async def test_a_module_whose_provider_is_not_configured_fails_alone(world: World) -> None:
    other = config(solve=SOLVER.model_copy(update={"provider": "mistral"}))
    await world.connection.execute("UPDATE jobs SET config = $1", other.model_dump_json())
    token = await world.token()
    status, raw = await world.post(token, **said("solve"))
    assert (status, orjson.loads(raw)["error"]["code"]) == (400, "provider_not_configured")
    assert (await world.post(token, **said("plan")))[0] == 200
    assert [(call.provider, call.status) for call in await world.calls(token)] == [("mistral", 400), ("openai", 200)]


async def test_all_models_are_listed_the_jobs_first(world: World) -> None:
    async with world.openai(await world.token()) as client:
        listed = await client.models.list()
    assert [(each.id, each.owned_by) for each in listed.data] == [("gpt-4o-mini", "openai"), (SOLVER.model, "groq")]


async def plays_both(request: web.Request) -> web.Response:
    """A rollout whose program plans and solves."""
    url = orjson.loads(await request.read())["policy"]["config"]["inference_url"]
    async with aiohttp.ClientSession() as session:
        for module in ("plan", "solve"):
            async with session.post(f"{url}/chat/completions", json=said(module)) as reply:
                assert reply.status == 200, await reply.text()
    return web.json_response({"metrics": {"outcome_reward": 0.5}})


async def test_a_rollout_costs_what_its_modules_cost_and_keeps_what_each_of_them_said(world: World) -> None:
    application = web.Application()
    application.router.add_post("/rollout", plays_both)
    ask = Rollout("candidate", 7, policy_digest(TWO), Phase.OPTIMIZATION)

    async def made(digest: bytes) -> list[CallRecord]:
        return (await calls_of(world.connection, [digest]))[digest]

    async with TestServer(application) as app, Outgoing(allow_loopback=True) as outgoing:
        job = JobWorld(
            job_id="pl_1",
            config=TWO,
            lease=Lease("pl_1", 1, boot_seconds() + 600),
            task_app=TaskApp(outgoing, str(app.make_url("")), None, Dialect.SDK),
            llm=Llm(outgoing, Providers({})),
            grants=world.interceptor.grants,
            calls_of=made,
            url=world.url,
            rollout_timeout_seconds=20.0,
            outage_seconds=0.0,
            ledger=unused_ledger(),
            organisation="default",
            has_balance=False,
        )
        base = Candidate("baseline", 0, PROGRAM, "baseline")
        job.observe([CandidateFact(base), CandidateFact(Candidate("candidate", 1, BETTER, "baseline"))])
        await write_group(world.connection, "pl_1", 1, 1, Group(tokens=job.tokens([ask])))
        record = await job.answer(ask)
    assert record.answer.cost_usd == pytest.approx(JOBS_COST + SOLVERS_COST)
    told = body_from(record.body)
    assert isinstance(told, RolloutBody)
    assert set(calls_by_module(BETTER, told)) == {"plan", "solve"}
    assert [[message.to_json() for message in call.messages] for call in told.calls] == [sent("plan"), sent("solve")]


# --- terms, as they are stored ---------------------------------------------------------------------------------------


def as_mipro(stored: dict[str, Any]) -> dict[str, Any]:
    return {**stored, "algorithm": "mipro", "mipro": stored.pop("gepa")}


def by_a_newer_version(stored: dict[str, Any]) -> dict[str, Any]:
    for policy in (stored["policy"], stored["gepa"]["modules"][1]["policy"]):
        policy["mood"] = "good"
    return stored


@pytest.mark.parametrize("tier", Tier)
@pytest.mark.parametrize("changed", [lambda stored: stored, as_mipro, by_a_newer_version])
def test_what_is_read_from_the_database_is_what_a_worker_tells(changed: Callable[[Any], Any], tier: Tier) -> None:
    text = orjson.dumps(changed(orjson.loads(TWO.model_dump_json()))).decode()
    assert Terms.stored(text, tier, **OWNER) == Terms.of(TWO, tier, **OWNER)


@pytest.mark.parametrize("tier", Tier)
def test_caps_and_prices_are_read_from_the_database_as_a_worker_tells_them(tier: Tier) -> None:
    prices = {
        "groq/llama-3.1-8b-instant": Price(input_usd_per_million=1.0, output_usd_per_million=2.0),
        "groq/llama-3.3-70b-versatile": Price(input_usd_per_million=7.0, output_usd_per_million=7.0),
    }
    caps = {"max_total_tokens": 9000, "max_spend_usd": 2.5, "max_rollout_spend_usd": 2.0, "max_proposal_spend_usd": 0.1}
    limited = TWO.model_copy(update={"gepa": TWO.gepa.model_copy(update={"prices": prices, **caps})})
    told = Terms.of(limited, tier, **OWNER)
    assert Terms.stored(limited.model_dump_json(), tier, **OWNER) == told
    assert told.caps == Caps(Decimal("2.5"), Decimal(2), Decimal("0.1"), 9000)
    assert told.policy_for("solve").price == (pricing.Price(3.0, 5.0) if tier is Tier.HI else pricing.Price(1.0, 2.0))


def test_token_limit_of_mipro_is_a_cap_where_it_is_enforced() -> None:
    for enforced, expected in ((True, 500), (False, 9000)):
        search = {"max_total_tokens": 9000, "max_token_limit": 500, "enforce_token_limit": enforced}
        stored = as_mipro(orjson.loads(TWO.model_dump_json()))
        stored["mipro"].update(search)
        assert Terms.stored(orjson.dumps(stored).decode(), Tier.HI, **OWNER).caps == Caps(tokens=expected)


def test_modules_that_were_stored_before_they_had_policies_have_the_jobs() -> None:
    stored = orjson.loads(TWO.model_dump_json())
    for module in stored["gepa"]["modules"]:
        del module["policy"]
    assert Terms.stored(orjson.dumps(stored).decode(), Tier.HI, **OWNER) == Terms.of(config(), Tier.HI, **OWNER)


def test_rollouts_under_other_policies_of_modules_are_other_rollouts() -> None:
    plain = config()
    parts = plain.policy.model_dump(mode="json"), plain.task_app.model_dump(mode="json")
    assert policy_digest(plain) == digest(*parts).hex(), "as before modules had policies"
    others = [TWO, config(plan=SOLVER), config(solve=SOLVER.model_copy(update={"temperature": 0.5}))]
    for tier in Tier:
        assert len({policy_digest(each, tier) for each in (plain, *others)}) == 4
