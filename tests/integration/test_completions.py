"""Completions and what is paid for them: a real provider on loopback, a real ledger in Postgres."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import asyncpg
import orjson
import pytest
from aiohttp import web

from promptjobs.clients.http import Outgoing
from promptjobs.clients.llm import Llm
from promptjobs.clients.providers import Providers
from promptjobs.core.asks import Completion, FailureReason, MetaModel
from promptjobs.core.config import resolve
from promptjobs.core.ledger import Account, Amount, Caps, Category
from promptjobs.core.prompt import Message
from promptjobs.core.verifier import PURPOSE as JUDGE
from promptjobs.db.ledger import Ledger, Settlement, Spending, read_spending
from promptjobs.db.session import Database
from promptjobs.errors import BudgetExhausted, LeaseLost, ProviderNotConfigured
from promptjobs.jobs.completions import Completions
from promptjobs.jobs.lease import Lease, boot_seconds
from promptjobs.jobs.purse import Purse
from tests.fakes.config_bodies import body
from tests.fakes.journaled import new_job
from tests.fakes.ledgers import open_accounts, running_ledger

pytestmark = pytest.mark.slow

USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
PRICE = {"input_usd_per_million": 1.0, "output_usd_per_million": 10.0}
COST = Decimal("0.002")
"""Of one call with USAGE at PRICE."""

MOST_TOKENS = 500
PATIENCE_SECONDS = 0.5
OUT_OF_PATIENCE = 10
"""After so many attempts to connect the ledger's patience is over."""
ROOMY = {"termination_config.max_cost_usd": 1.0}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def says(text: str = "better", **more: Any) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": [{"message": {"content": text}}], "usage": USAGE} | more)

    return answer


def refuses(status: int) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no"}}, status=status, headers={"Retry-After": "0"})

    return refuse


async def has_no_text(request: web.Request) -> web.StreamResponse:
    return web.json_response({"choices": [{"message": {"tool_calls": []}}], "usage": USAGE})


async def sends_html(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>")


async def hangs_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def stalls(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


def ask(purpose: str = "reflection", provider: str = "mine", *, draw: int = 0, timeout: float = 20.0) -> Completion:
    model = MetaModel(provider, "m", 0.5, MOST_TOKENS)
    return Completion(purpose, model, (Message("user", "Write a better prompt."),), draw, timeout)


@dataclass
class World:
    """A job's completions. handlers: what the provider does with the next requests; the last one stays."""

    database: Database
    job_id: str
    completions: Completions
    lease: Lease
    ledger: Ledger
    handlers: list[Handler]
    connection: asyncpg.Connection
    is_down: bool = False
    requests: list[Any] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    refused_connections: int = 0
    is_out_of_patience: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(orjson.loads(await request.read()))
        self.arrived.set()
        handler = self.handlers.pop(0) if len(self.handlers) > 1 else self.handlers[0]
        return await handler(request)  # type: ignore[arg-type]

    async def connect(self) -> asyncpg.Connection:
        if self.is_down:
            self.refused_connections += 1
            if self.refused_connections == OUT_OF_PATIENCE:
                self.is_out_of_patience.set()
            raise OSError("the database is down")
        return await self.database.connect()

    async def spending(self) -> Spending:
        """With every settlement that has been queued until now."""
        await self.ledger.settle(Settlement(self.job_id, Category.TEST, None, Amount(), calls=0))
        return await read_spending(self.connection, self.job_id)

    async def account(self, category: Category = Category.PROPOSAL) -> Account:
        return (await self.spending()).accounts[category]

    async def calls(self, category: Category = Category.PROPOSAL) -> int:
        return (await self.spending()).calls[category]


@asynccontextmanager
async def running(
    database: Database, *handlers: Handler, limits: dict[str, Any] | None = None, balance: Decimal | None = None
) -> AsyncIterator[World]:
    """limits: of the job's config."""
    prices = {f"{provider}/m": PRICE for provider in ("mine", "down", "nobody")}
    config = resolve("gepa", body({"prices": prices, **(limits or {})}), None).config
    job_id = await new_job(database)
    connection = await database.connect()
    await open_accounts(connection, job_id)
    if balance is not None:
        await connection.execute("INSERT INTO balances(organisation, usd) VALUES ('default', $1)", balance)
    world = World(database, job_id, None, None, None, list(handlers), connection)  # type: ignore[arg-type]
    runner = web.ServerRunner(web.Server(world.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    providers = Providers({"mine": (base, None), "down": ("http://127.0.0.1:1/v1", None)})
    world.lease = Lease(job_id, 1, boot_seconds() + 600)
    try:
        async with (
            Outgoing(providers.targets()) as outgoing,
            running_ledger(world.connect, PATIENCE_SECONDS) as world.ledger,
        ):
            purse = Purse(world.ledger, job_id, "default", Caps.of(config), balance is not None)
            world.completions = Completions(
                config=config, lease=world.lease, llm=Llm(outgoing, providers), purse=purse, outage_seconds=0.0
            )
            yield world
    finally:
        await runner.cleanup()
        await connection.close()


@pytest.fixture(params=[{}, ROOMY], ids=["without a limit", "with a limit"])
def limits(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


# --- what is settled -------------------------------------------------------------------------------------------------


async def test_a_reply_is_paid_to_the_last_digit(database: Database, limits: dict[str, Any]) -> None:
    async with running(database, says(), limits=limits) as world:
        record = await world.completions.answer(ask())
        assert not record.answer.is_failure
        assert record.answer.cost_usd == pytest.approx(float(COST))
        assert await world.account() == Account(settled=Amount(COST, 1_100))
        assert await world.calls() == 1


async def test_a_judges_call_is_the_judges(database: Database) -> None:
    async with running(database, says(), limits=ROOMY) as world:
        await world.completions.answer(ask(JUDGE))
        assert (await world.account(Category.JUDGE)).settled == Amount(COST, 1_100)
        assert await world.account(Category.PROPOSAL) == Account()


async def test_an_attempt_that_was_refused_is_free_and_the_next_one_is_paid(
    database: Database, limits: dict[str, Any]
) -> None:
    async with running(database, refuses(429), refuses(503), says(), limits=limits) as world:
        record = await world.completions.answer(ask())
        assert record.attempts == 3
        assert await world.account() == Account(settled=Amount(COST, 1_100))
        assert await world.calls() == 3


async def test_every_attempt_that_was_billed_is_paid(database: Database, limits: dict[str, Any]) -> None:
    """Also one without a text, which is a failure."""
    async with running(database, has_no_text, limits=limits) as world:
        record = await world.completions.answer(ask())
        assert record.answer.reason is FailureReason.PROVIDER_ERROR
        assert record.answer.cost_usd == pytest.approx(float(COST))
        assert await world.account() == Account(settled=Amount(COST, 1_100))


@pytest.mark.parametrize(
    ("handler", "seconds", "reason"),
    [
        (says(usage=None), 20.0, None),
        (sends_html, 20.0, FailureReason.PROVIDER_ERROR),
        (stalls, 0.1, FailureReason.PROVIDER_TIMEOUT),
    ],
    ids=["no usage", "HTML", "no reply"],
)
async def test_what_may_have_been_charged_counts_as_all_that_was_reserved(
    database: Database, handler: Handler, seconds: float, reason: FailureReason | None
) -> None:
    async with running(database, handler, limits=ROOMY) as world:
        record = await world.completions.answer(ask(timeout=seconds))
        assert record.answer.reason is reason
        account = await world.account()
        assert (account.settled, account.held) == (Amount(), Amount())
        most = record.attempts * MOST_TOKENS
        assert account.unsettled.tokens > most
        assert account.unsettled.usd >= most * Decimal("0.00001")
        assert await world.calls() == record.attempts == len(world.requests)


async def test_without_a_limit_a_call_of_unknown_cost_is_counted_as_such(database: Database) -> None:
    async with running(database, says(usage=None)) as world:
        await world.completions.answer(ask())
        spending = await world.spending()
        assert spending.accounts[Category.PROPOSAL] == Account()
        assert (spending.calls[Category.PROPOSAL], spending.unpriced[Category.PROPOSAL]) == (1, 1)


async def test_a_provider_that_is_down_has_charged_nothing(database: Database, limits: dict[str, Any]) -> None:
    async with running(database, says(), limits=limits) as world:
        record = await world.completions.answer(ask(provider="down"))
        assert record.answer.is_failure
        spending = await world.spending()
        assert spending.accounts[Category.PROPOSAL] == Account()
        assert (spending.calls[Category.PROPOSAL], spending.unpriced[Category.PROPOSAL]) == (0, 0)


async def test_a_connection_that_breaks_in_mid_call_may_have_been_charged(database: Database) -> None:
    async with running(database, hangs_up, says(), limits=ROOMY) as world:
        record = await world.completions.answer(ask())
        account = await world.account()
        assert (record.attempts, account.settled) == (2, Amount(COST, 1_100))
        assert account.unsettled.tokens > MOST_TOKENS
        assert account.held == Amount()


async def test_a_provider_without_a_key_is_asked_nothing_and_nothing_stays_reserved(database: Database) -> None:
    async with running(database, says(), limits=ROOMY) as world:
        with pytest.raises(ProviderNotConfigured):
            await world.completions.answer(ask(provider="nobody"))
        assert await world.account() == Account()


async def test_a_call_that_is_cancelled_counts_as_all_that_was_reserved(database: Database) -> None:
    async with running(database, stalls, limits=ROOMY) as world:
        asking = asyncio.create_task(world.completions.answer(ask()))
        await world.arrived.wait()
        held = (await world.account()).held
        assert held.tokens > MOST_TOKENS
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await world.account() == Account(unsettled=held)
        assert await world.calls() == 1


async def test_a_cancellation_does_not_wait_for_a_database_that_is_down(database: Database) -> None:
    async with running(database, stalls, limits=ROOMY) as world:
        asking = asyncio.create_task(world.completions.answer(ask()))
        await world.arrived.wait()
        await cut_off(world)
        asking.cancel()
        async with asyncio.timeout(0.4):
            with pytest.raises(asyncio.CancelledError):
                await asking
        world.is_down = False
        assert (await settled_at_last(world)).unsettled.tokens > MOST_TOKENS


async def test_an_answer_is_not_lost_because_the_ledger_cannot_be_reached(database: Database) -> None:
    """What it has cost is written when the database is back."""
    opened = asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        await opened.wait()
        return await says()(request)

    async with running(database, waits, limits=ROOMY) as world:
        asking = asyncio.create_task(world.completions.answer(ask()))
        await world.arrived.wait()
        await cut_off(world)
        opened.set()
        assert not (await asking).answer.is_failure
        world.is_down = False
        assert await settled_at_last(world) == Account(settled=Amount(COST, 1_100))


@pytest.mark.slow
async def test_an_attempt_waits_out_an_outage_of_the_database(database: Database) -> None:
    async with running(database, says(), limits=ROOMY) as world:
        await cut_off(world)
        asking = asyncio.create_task(world.completions.answer(ask()))
        await world.is_out_of_patience.wait()
        assert world.requests == []
        world.is_down = False
        record = await asking
        assert (record.answer.is_failure, record.attempts, len(world.requests)) == (False, 1, 1)
        assert await world.account() == Account(settled=Amount(COST, 1_100))


@pytest.mark.slow
async def test_no_attempt_is_made_when_the_lease_is_lost_in_an_outage(database: Database) -> None:
    async with running(database, says(), limits=ROOMY) as world:
        await cut_off(world)
        asking = asyncio.create_task(world.completions.answer(ask()))
        await world.is_out_of_patience.wait()
        world.lease.until = 0.0
        with pytest.raises(LeaseLost):
            await asking
        world.is_down = False
        assert world.requests == []
        assert await settled_at_last(world) == Account()


async def cut_off(world: World) -> None:
    """The ledger loses its connection, and gets no other."""
    world.is_down = True
    await world.connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def settled_at_last(world: World) -> Account:
    async with asyncio.timeout(10):
        await world.ledger.groups.wait_up()
    return await world.account()


# --- what a cap does not hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "cap"),
    [
        ({"termination_config.max_cost_usd": 0.001}, "cost_budget"),
        ({"termination_config.max_proposal_cost_usd": 0.001}, "proposal_cost_budget"),
        ({"termination_config.max_total_tokens": MOST_TOKENS}, "token_budget"),
    ],
)
async def test_an_attempt_that_a_cap_does_not_hold_is_not_made(
    database: Database, limits: dict[str, Any], cap: str
) -> None:
    async with running(database, says(), limits=limits) as world:
        with pytest.raises(BudgetExhausted) as refused:
            await world.completions.answer(ask())
        assert refused.value.cap == cap
        assert world.requests == []
        assert await world.account() == Account()
        assert await world.calls() == 0


async def test_an_attempt_that_the_balance_does_not_hold_is_not_made(database: Database) -> None:
    async with running(database, says(), balance=Decimal("0.001")) as world:
        with pytest.raises(BudgetExhausted) as refused:
            await world.completions.answer(ask())
        assert (refused.value.cap, world.requests) == ("balance_empty", [])


async def test_the_judge_is_not_under_the_proposals_cap(database: Database) -> None:
    async with running(database, says(), limits={"termination_config.max_proposal_cost_usd": 0.001}) as world:
        assert not (await world.completions.answer(ask(JUDGE))).answer.is_failure


async def test_a_second_attempt_is_refused_where_the_first_has_used_up_the_cap(database: Database) -> None:
    """The first one may have been charged; nobody knows."""
    async with running(database, hangs_up, says(), limits={"termination_config.max_cost_usd": 0.006}) as world:
        with pytest.raises(BudgetExhausted):
            await world.completions.answer(ask())
        assert len(world.requests) == 1
        assert (await world.account()).held == Amount()


async def test_a_model_without_a_price_is_not_called_under_a_limit_in_usd(database: Database) -> None:
    limits = {"prices": {}, "termination_config.max_cost_usd": 1.0}
    async with running(database, says(), limits=limits) as world:
        with pytest.raises(BudgetExhausted, match="the price of mine/m is not known"):
            await world.completions.answer(ask())
        assert world.requests == []


async def test_a_limit_on_tokens_needs_no_price(database: Database) -> None:
    limits = {"prices": {}, "termination_config.max_total_tokens": 10_000}
    async with running(database, says(), limits=limits) as world:
        assert not (await world.completions.answer(ask())).answer.is_failure
        spending = await world.spending()
        assert spending.accounts[Category.PROPOSAL].held == Amount()
        assert spending.unpriced[Category.PROPOSAL] == 1


async def test_an_attempt_waits_for_what_others_hold_and_may_give_back(database: Database) -> None:
    """The cap holds one call under way; when that has turned out to be cheap, it holds another."""
    opened = asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        await opened.wait()
        return await says()(request)

    async with running(database, waits, says(), limits={"termination_config.max_cost_usd": 0.01}) as world:
        first = asyncio.create_task(world.completions.answer(ask()))
        await world.arrived.wait()
        second = asyncio.create_task(world.completions.answer(ask(draw=1)))
        await world.account()
        assert len(world.requests) == 1
        opened.set()
        assert not (await first).answer.is_failure
        assert not (await second).answer.is_failure
        assert await world.account() == Account(settled=Amount(2 * COST, 2_200))


async def test_a_lease_that_is_lost_while_an_attempt_waits_for_money_lets_it_not_go_out(database: Database) -> None:
    opened = asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        await opened.wait()
        return await says()(request)

    async with running(database, waits, says(), limits={"termination_config.max_cost_usd": 0.01}) as world:
        first = asyncio.create_task(world.completions.answer(ask()))
        await world.arrived.wait()
        second = asyncio.create_task(world.completions.answer(ask(draw=1)))
        await world.account()
        world.lease.until = 0.0
        opened.set()
        await first
        with pytest.raises(LeaseLost):
            await second
        assert len(world.requests) == 1
        assert await world.account() == Account(settled=Amount(COST, 1_100))


@pytest.mark.parametrize("concurrency", [1, 32])
async def test_the_provider_is_never_owed_more_than_the_cap(database: Database, concurrency: int) -> None:
    cap, asked = Decimal("0.05"), 40
    async with running(database, says(), limits={"termination_config.max_cost_usd": float(cap)}) as world:
        gate = asyncio.Semaphore(concurrency)

        async def one(draw: int) -> bool:
            async with gate:
                try:
                    return not (await world.completions.answer(ask(secrets.token_hex(4), draw=draw))).answer.is_failure
                except BudgetExhausted:
                    return False

        answered = await asyncio.gather(*(one(draw) for draw in range(asked)))
        owed = len(world.requests) * COST
        assert Decimal("0.04") <= owed <= cap
        assert sum(answered) == len(world.requests)
        assert await world.account() == Account(settled=Amount(owed, 1_100 * len(world.requests)))
