"""What a job may spend is never passed, at any concurrency and across kills, as the provider itself counts it."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aiohttp import web

from promptjobs.core.ledger import Category
from promptjobs.db import balances
from promptjobs.db.ledger import Spending, read_spending
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from tests.acceptance import mipro_jobs
from tests.acceptance.client import Api, Json, config
from tests.acceptance.faulty_model import HINT, POLICY, REFLECTOR, Asked, FaultyModel
from tests.acceptance.runs import connected
from tests.acceptance.service import Ports, Process, Processes, serving_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

USD_PER_PROMPT_TOKEN, USD_PER_COMPLETION_TOKEN = Decimal("0.00001"), Decimal("0.0001")
PRICE = {"input_usd_per_million": 10.0, "output_usd_per_million": 100.0}
REPLY_TOKENS = {POLICY: 12, REFLECTOR: 96}
"""What a reply is said to have used: nearly all that it may."""

DEAR: Mapping[str, Any] = {
    "prices": {f"toy/{POLICY}": PRICE, f"toy/{REFLECTOR}": PRICE},
    "policy": {"provider": "toy", "model": POLICY, "max_completion_tokens": 16},
    "gepa.mutation": {"llm_provider": "toy", "llm_model": REFLECTOR, "llm_max_tokens": 128},
    "gepa.population": {"initial_size": 5, "num_generations": 10_000, "patience_generations": 10_000},
    "gepa.evaluation": {"train_seeds": list(range(60)), "validation_seeds": list(range(100, 105))},
}
"""A search that nothing but money ends."""


@dataclass(frozen=True)
class Limit:
    """usd, tokens: what the provider may be owed in these categories; a finish reason says which limit it was."""

    changes: Mapping[str, Any]
    reason: str
    usd: Decimal | None = None
    tokens: int | None = None
    models: tuple[str, ...] = (POLICY, REFLECTOR)
    balance: Decimal | None = None


LIMITS = [
    Limit({"termination_config.max_cost_usd": 0.6}, "cost_budget", Decimal("0.6")),
    Limit({"termination_config.max_rollout_cost_usd": 0.5}, "rollout_cost_budget", Decimal("0.5"), models=(POLICY,)),
    Limit(
        {"termination_config.max_proposal_cost_usd": 0.3}, "proposal_cost_budget", Decimal("0.3"), models=(REFLECTOR,)
    ),
    Limit({"termination_config.max_total_tokens": 30_000}, "token_budget", tokens=30_000),
    Limit({}, "balance_empty", Decimal("0.5"), balance=Decimal("0.5")),
]


@dataclass
class DearModel(FaultyModel):
    """A provider that counts what it is owed, from the moment a request comes in. tells: its replies say the same."""

    tells: bool = True
    owed: list[tuple[str, int, int]] = field(default_factory=list)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        prompt = sum(len(message["content"].encode()) for message in body["messages"]) // 2
        completion = REPLY_TOKENS[body["model"]]
        self.owed.append((body["model"], prompt, completion))
        response = await super()._complete(request)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return web.json_response(orjson.loads(response.body) | {"usage": usage if self.tells else None})

    def usd(self, *models: str) -> Decimal:
        return sum(
            (
                prompt * USD_PER_PROMPT_TOKEN + completion * USD_PER_COMPLETION_TOKEN
                for model, prompt, completion in self.owed
                if model in models
            ),
            Decimal(0),
        )

    def tokens(self, *models: str) -> int:
        return sum(prompt + completion for model, prompt, completion in self.owed if model in models)


def says_level_up_to_five(asked: Asked) -> str:
    """Half of the seeds always leave something to learn."""
    return f"level {min(5, len(HINT.findall(asked.system)))}"


@pytest.fixture
async def model(ports: Ports) -> AsyncIterator[DearModel]:
    model = DearModel(latency_seconds=0.005)
    model.replies[POLICY] = says_level_up_to_five
    async with serving_on(model.app(), ports.model):
        yield model


def search(task_app_url: str, limit: Limit, concurrency: int) -> Json:
    lanes = {"gepa.lanes": min(concurrency, 8)}
    rollout = {"gepa.rollout": {"budget": 5_000, "max_concurrent": concurrency, "minibatch_size": 4}}
    return config(task_app_url, {**DEAR, **lanes, **rollout, **limit.changes})


async def spending_of(database: Database, job_id: str) -> Spending:
    async with connected(database) as connection:
        return await read_spending(connection, job_id)


async def give(database: Database, limit: Limit) -> None:
    async with writing(database) as connection:
        if limit.balance is not None:
            await balances.put(connection, balances.DEFAULT_ORGANISATION, limit.balance)


def total(spending: Spending, kind: str) -> tuple[Decimal, int]:
    accounts = [getattr(spending.accounts[category], kind) for category in Category]
    return sum((account.usd for account in accounts), Decimal(0)), sum(account.tokens for account in accounts)


def assert_within(limit: Limit, model: DearModel) -> None:
    if limit.usd is not None:
        assert model.usd(*limit.models) <= limit.usd
    if limit.tokens is not None:
        assert model.tokens(*limit.models) <= limit.tokens


def assert_ended_by(limit: Limit, job: Json) -> None:
    assert (job["status"], job["finish_reason"]) == ("succeeded", limit.reason), job["error"]
    assert job["best_snapshot_id"] is not None
    assert job["metadata"]["prompt_best_snapshot"]["best_prompt_messages"]


@pytest.mark.parametrize("concurrency", [1, 32])
@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.reason)
async def test_the_provider_is_never_owed_more_than_the_limit_and_the_best_prompt_is_published(
    processes: Processes, database: Database, task_app, ports, model: DearModel, limit: Limit, concurrency: int
):
    await task_app()
    await give(database, limit)
    service = await processes.serve()
    async with Api.at(service.url) as api:
        job_id = await api.submit(search(ports.task_app_url, limit, concurrency))
        job = await api.ended(job_id, seconds=250)
    assert_ended_by(limit, job)
    assert_within(limit, model)
    everything = (model.usd(POLICY, REFLECTOR), model.tokens(POLICY, REFLECTOR))
    spending = await spending_of(database, job_id)
    assert total(spending, "settled") == everything
    assert total(spending, "held") == total(spending, "unsettled") == (0, 0)
    assert sum(spending.calls.values()) == len(model.owed)
    assert spending.accounts[Category.PROPOSAL].settled.usd == model.usd(REFLECTOR)
    async with connected(database) as connection:
        assert await connection.fetchval("SELECT count(*) FROM holds") == 0
        left = await connection.fetchval("SELECT usd FROM balances")
    if limit.balance is not None:
        assert left == limit.balance - everything[0]
    print(f"{limit.reason} at {concurrency}: owed {everything}, {len(model.owed)} calls")


@pytest.mark.parametrize("limit", [LIMITS[0], LIMITS[-1]], ids=lambda limit: limit.reason)
async def test_a_mipro_search_keeps_to_its_limit_too(
    processes: Processes, database: Database, task_app, ports, model: DearModel, limit: Limit
):
    await task_app()
    await give(database, limit)
    dear = {name: value for name, value in DEAR.items() if not name.startswith("gepa.")}
    endless = {"mipro.rollout_budget": 5_000, "mipro.num_iterations": 100, "mipro.max_concurrent": 32}
    meta = {"mipro.meta": {"provider": "toy", "model": REFLECTOR, "max_tokens": 128}}
    service = await processes.serve()
    async with Api.at(service.url) as api:
        body = mipro_jobs.config(ports.task_app_url, {**dear, **endless, **meta, **limit.changes})
        job_id = await mipro_jobs.submit(api, body)
        job = await api.ended(job_id, seconds=250)
    assert_ended_by(limit, job)
    assert_within(limit, model)
    spending = await spending_of(database, job_id)
    assert total(spending, "settled") == (model.usd(POLICY, REFLECTOR), model.tokens(POLICY, REFLECTOR))
    assert total(spending, "held") == total(spending, "unsettled") == (0, 0)
    print(f"{limit.reason}: owed {model.usd(POLICY, REFLECTOR)}, {len(model.owed)} calls")


async def test_a_provider_that_does_not_say_what_was_used_is_taken_to_have_used_all_that_it_may(
    processes: Processes, database: Database, task_app, ports, model: DearModel
):
    limit = Limit({"termination_config.max_cost_usd": 1.0}, "cost_budget", Decimal("1.0"))
    model.tells = False
    await task_app()
    service = await processes.serve()
    async with Api.at(service.url) as api:
        job_id = await api.submit(search(ports.task_app_url, limit, 8))
        job = await api.ended(job_id, seconds=250)
    assert_ended_by(limit, job)
    assert_within(limit, model)
    spending = await spending_of(database, job_id)
    assert total(spending, "settled") == total(spending, "held") == (0, 0)
    assert model.usd(POLICY, REFLECTOR) <= total(spending, "unsettled")[0] <= limit.usd


async def test_kills_do_not_let_a_job_spend_more_than_its_limit(
    processes: Processes, database: Database, task_app, ports, model: DearModel
):
    limit = Limit({"termination_config.max_cost_usd": 0.8}, "cost_budget", Decimal("0.8"))
    app = await task_app()
    service: Process = await processes.serve()
    async with Api.at(service.url) as api:
        job_id = await api.submit(search(ports.task_app_url, limit, 8))
    for visits in (30, 90):
        await app.visited(visits)
        service.kill()
        service = await processes.serve()
    async with Api.at(service.url) as api:
        job = await api.ended(job_id, seconds=250)
    assert_ended_by(limit, job)
    assert_within(limit, model)
    spending = await spending_of(database, job_id)
    settled, held, unsettled = (total(spending, kind)[0] for kind in ("settled", "held", "unsettled"))
    assert settled <= model.usd(POLICY, REFLECTOR) <= settled + held + unsettled <= limit.usd
