"""Calls of limited jobs are reserved before they are made, settled or given back however they end, or refused."""

import asyncio
import math
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import openai
import orjson
import pytest
from aiohttp import web

from promptjobs.clients.pricing import most_usd
from promptjobs.core.ledger import Account, Amount, Category
from promptjobs.db.session import Database
from promptjobs.interceptor.wire import Message
from tests.fakes.interceptor_world import (
    DONE,
    MESSAGES,
    STREAM,
    Handler,
    Token,
    World,
    completes,
    make_job,
    running_world,
    stream_of,
    streams,
)

pytestmark = pytest.mark.slow

COST = Decimal("0.000021")
"""Of 100 prompt and 10 completion tokens of gpt-4o-mini."""

LIMIT = 512
"""Tokens of the completion, which the policy allows."""

PRICES = {"vllm/my-model": {"input_usd_per_million": 1.0, "output_usd_per_million": 2.0}}
NOTHING = Account()
KNOWN = Account(settled=Amount(COST, 110))


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with running_world(database, search={"max_spend_usd": 1.0, "prices": PRICES}) as world:
        yield world


@pytest.fixture
async def tight(database: Database) -> AsyncIterator[World]:
    """The cap holds one call at a time."""
    async with running_world(database, search={"max_spend_usd": 0.0005}) as world:
        yield world


def answers(body: bytes, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, content_type="application/json")

    return handler


async def breaks_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(STREAM[0])
    assert request.transport is not None
    request.transport.abort()
    return response


async def resets(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Gate:
    """Answers when it is opened; `entered` is set by the first call."""

    def __init__(self, handler: Handler = completes) -> None:
        self.handler, self.entered, self.opened = handler, asyncio.Event(), asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.entered.set()
        await self.opened.wait()
        return await self.handler(request)


async def policy(world: World) -> Account:
    return (await world.spending()).accounts[Category.POLICY]


async def held_now(world: World) -> Amount:
    return (await policy(world)).held


async def assert_settled(world: World, expected: Account, calls: int = 1, job_id: str = "pl_1") -> None:
    """What the account has come to; `unsettled` of `expected` only says whether there is something."""
    spending = await world.spending(job_id)
    account = spending.accounts[Category.POLICY]
    assert (account.settled, account.held) == (expected.settled, Amount()), job_id
    assert bool(account.unsettled.usd) == bool(account.unsettled.tokens) == bool(expected.unsettled.usd), job_id
    assert spending.calls[Category.POLICY] == calls
    assert await world.connection.fetchval("SELECT count(*) FROM holds") == 0


async def test_call_is_reserved_at_the_most_that_it_can_cost(world: World) -> None:
    world.upstream.handler = gate = Gate()
    call = asyncio.create_task(world.post(await world.token(), max_tokens=100))
    await gate.entered.wait()
    held = await held_now(world)
    size = len(orjson.dumps(world.upstream.bodies[0]))
    assert held.tokens == size + 8 * len(MESSAGES) + 100
    worst = most_usd("openai", "gpt-4o-mini", size + 8 * len(MESSAGES), 100)
    assert worst is not None
    assert math.isclose(held.usd, worst, rel_tol=1e-6)
    gate.opened.set()
    assert (await call)[0] == 200
    await assert_settled(world, KNOWN)


UNSETTLED = Account(unsettled=Amount(Decimal(1), 1))
NO_USAGE = orjson.dumps({"choices": [{"message": {"role": "assistant", "content": "Yes."}}]})
BY_TOTAL = orjson.dumps({"choices": [], "usage": {"total_tokens": 110}})


ENDINGS: dict[str, tuple[Handler, bool, Account]] = {
    "answered": (completes, False, KNOWN),
    "streamed": (streams, True, KNOWN),
    "500": (answers(b'{"error": "no"}', 500), False, NOTHING),
    "429 for a stream": (answers(b'{"error": "no"}', 429), True, NOTHING),
    "redirect": (answers(b"", 302), False, NOTHING),
    "no JSON": (answers(b"hello"), False, UNSETTLED),
    "no JSON for a stream": (answers(b"hello"), True, UNSETTLED),
    "no usage": (answers(NO_USAGE), False, UNSETTLED),
    "no usage in a stream": (stream_of([*STREAM[:3], DONE]), True, UNSETTLED),
    "reset": (resets, False, UNSETTLED),
    "stream broken": (breaks_off, True, UNSETTLED),
    "error in a stream": (stream_of([STREAM[0], b'data: {"error": {"message": "died"}}\n\n']), True, UNSETTLED),
    "empty stream": (stream_of([DONE]), True, UNSETTLED),
    "a total alone": (answers(BY_TOTAL), False, Account(settled=Amount(Decimal("0.000066"), 110))),
}


async def test_nothing_stays_held_however_the_call_ends(world: World) -> None:
    for ending, (handler, stream, expected) in ENDINGS.items():
        await make_job(world.connection, ending, search={"max_spend_usd": 1.0})
        world.upstream.handler = handler
        await world.post(await world.token(job_id=ending), stream=stream)
        await assert_settled(world, expected, job_id=ending)


async def test_call_that_reaches_no_provider_costs_nothing(world: World) -> None:
    search = {"max_spend_usd": 1.0, "prices": PRICES}
    await make_job(world.connection, "pl_2", search=search, provider="vllm", model="my-model")
    await make_job(world.connection, "pl_3", search=search, provider="groq", model="llama-3.1-8b-instant")
    for job_id in ("pl_2", "pl_3"):
        for stream in (False, True):
            await world.post(await world.token(job_id=job_id), stream=stream)
        spending = await world.spending(job_id)
        assert spending.accounts[Category.POLICY] == NOTHING
        assert spending.calls[Category.POLICY] == 0
    assert await world.connection.fetchval("SELECT count(*) FROM holds") == 0


async def test_hold_of_a_call_that_took_too_long_stands_for_it(database: Database) -> None:
    async with running_world(database, search={"max_spend_usd": 1.0}, timeout_seconds=0.2) as world:
        world.upstream.handler = gate = Gate()
        token = await world.token()
        answered = await asyncio.gather(*(world.post(token, stream=stream) for stream in (False, True)))
        assert [status for status, _ in answered] == [504, 504]
        gate.opened.set()
        await assert_settled(world, UNSETTLED, calls=2)


async def test_hold_of_a_stream_that_the_task_app_left_stands_for_it(world: World) -> None:
    more = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(STREAM[0])
        await more.wait()
        return response

    world.upstream.handler = handler
    token = await world.token()
    async with world.openai(token) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        await anext(aiter(stream))
        await stream.close()
    [call] = await world.recorded(token)
    more.set()
    assert call.status == 499
    await assert_settled(world, UNSETTLED)


@pytest.mark.parametrize("stream", [False, True])
async def test_hold_of_a_call_that_a_shutdown_cuts_off_stands_for_it(world: World, stream: bool) -> None:
    world.upstream.handler = gate = Gate()
    token = await world.token()
    call = asyncio.create_task(called_directly(world, token, stream=stream))
    await gate.entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    [record] = await world.recorded(token)
    gate.opened.set()
    assert (record.status, record.error_code) == (503, "interrupted")
    await assert_settled(world, UNSETTLED)


async def test_call_that_is_cut_off_while_it_is_reserved_gives_it_back(world: World) -> None:
    token = await world.token()
    await world.interceptor.grants.get(token.digest)
    async with world.connection.transaction():
        await world.connection.execute("LOCK TABLE ledger IN EXCLUSIVE MODE")
        call = asyncio.create_task(called_directly(world, token))
        await world.until_blocked()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert (await world.post(token))[0] == 200
    await assert_settled(world, KNOWN)
    assert len(world.upstream.bodies) == 1


async def called_directly(world: World, token: Token, **body: Any) -> list[Message]:
    """The messages that the interceptor sends for a call which no server stands before."""
    sent: list[Message] = []
    raw = orjson.dumps({"messages": MESSAGES, **body})
    received = iter([{"type": "http.request", "body": raw}])

    async def receive() -> Message:
        for message in received:
            return message
        return await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        sent.append(message)

    path = f"/interceptor/v1/{token.secret}/chat/completions"
    await world.interceptor({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)
    return sent


async def test_call_that_the_cap_does_not_hold_is_never_made(database: Database) -> None:
    async with running_world(database, search={"max_rollout_spend_usd": 0.0001}) as world:
        token = await world.token(phase="validation")
        async with world.openai(token) as client:
            for stream in (False, True):
                with pytest.raises(openai.APIStatusError) as refused:
                    await client.chat.completions.create(model="m", messages=MESSAGES, stream=stream)
                assert (refused.value.status_code, refused.value.code) == (402, "budget_exhausted")
        assert world.upstream.bodies == []
        call, _ = await world.calls(token)
        words = "rollout_cost_budget: the limit on rollouts of 0.000100000000 USD does not hold a call of up to "
        assert (call.status, call.cost_usd) == (402, 0.0)
        assert call.error is not None
        assert call.error.startswith(f"budget_exhausted: {words}")
        spending = await world.spending()
        assert spending.accounts[Category.VALIDATION] == NOTHING
        assert spending.calls[Category.VALIDATION] == 0


async def test_calls_wait_for_one_another_rather_than_pass_the_cap(tight: World) -> None:
    tight.upstream.handler = gate = Gate()
    calls = [asyncio.create_task(tight.post(await tight.token())) for _ in range(3)]
    await gate.entered.wait()
    held = await held_now(tight)
    assert Decimal("0.00025") < held.usd < Decimal("0.0005")
    assert len(tight.upstream.bodies) == 1
    gate.opened.set()
    assert [(await call)[0] for call in calls] == [200] * 3
    await assert_settled(tight, Account(settled=Amount(3 * COST, 330)), calls=3)


async def test_call_whose_task_app_leaves_while_it_waits_is_given_up(tight: World) -> None:
    tight.upstream.handler = gate = Gate()
    first = asyncio.create_task(tight.post(await tight.token()))
    await gate.entered.wait()
    left = asyncio.Event()
    body = [{"type": "http.request", "body": orjson.dumps({"messages": MESSAGES}), "more_body": False}]
    token = await tight.token()

    async def receive() -> Message:
        if body:
            return body.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/interceptor/v1/{token.secret}/chat/completions",
        "headers": [],
    }
    waiting = asyncio.create_task(tight.interceptor(scope, receive, send))
    left.set()
    async with asyncio.timeout(10):
        await waiting
    gate.opened.set()
    assert (await first)[0] == 200
    assert len(tight.upstream.bodies) == 1
    await assert_settled(tight, Account(settled=Amount(COST, 110)), calls=1)


async def test_calls_that_nobody_can_pay_for_end_the_waiting(tight: World) -> None:
    tight.upstream.handler = answers(NO_USAGE)
    token = await tight.token()
    assert (await tight.post(token))[0] == 200
    status, body = await tight.post(token)
    assert (status, orjson.loads(body)["error"]["code"]) == (402, "budget_exhausted")
    assert len(tight.upstream.bodies) == 1


async def test_call_whose_token_ends_while_it_waits_is_not_made(tight: World) -> None:
    tight.upstream.handler = gate = Gate()
    first = asyncio.create_task(tight.post(await tight.token()))
    await gate.entered.wait()
    token = await tight.token()
    await tight.interceptor.grants.get(token.digest)
    waiting = asyncio.create_task(tight.post(token))
    # The lease is lost. What this process knows of the token is good for a second, by the world's clock.
    await tight.connection.execute("UPDATE tokens SET revoked_at = clock_timestamp() WHERE digest = $1", token.digest)
    async with tight.connection.transaction():
        await tight.connection.execute("LOCK TABLE ledger IN EXCLUSIVE MODE")
        await tight.until_blocked()
        tight.clock.seconds += 1
        gate.opened.set()
    assert (await first)[0] == 200
    status, body = await waiting
    assert (status, orjson.loads(body)["error"]["code"]) == (401, "token_revoked")
    assert len(tight.upstream.bodies) == 1
    await tight.post(await tight.token())
    await assert_settled(tight, Account(settled=Amount(2 * COST, 220)), calls=2)


async def test_balance_limits_every_job_of_its_organisation(database: Database) -> None:
    async with running_world(database) as world:
        free = await world.token()
        assert (await world.post(free))[0] == 200
        await world.connection.execute("INSERT INTO balances(organisation, usd) VALUES ('default', 0.00034)")
        await make_job(world.connection, "pl_2", organisation="acme")
        world.clock.seconds += 1
        assert (await world.post(free))[0] == 200
        status, body = await world.post(free)
        assert (status, b"the organisation's balance of 0.00031" in body) == (402, True)
        assert (await world.post(await world.token(job_id="pl_2")))[0] == 200
        balance = await world.connection.fetchrow("SELECT usd, held_usd FROM balances")
        assert tuple(balance) == (Decimal("0.00034") - COST, 0)


async def test_balance_refuses_a_model_without_a_price(database: Database) -> None:
    async with running_world(database) as world:
        await make_job(world.connection, "pl_2", model="my-own-model")
        await world.connection.execute("INSERT INTO balances(organisation, usd) VALUES ('default', 5)")
        token = await world.token(job_id="pl_2")
        assert (await world.post(token))[0] == 402
        [call] = await world.calls(token)
        assert call.error == "budget_exhausted: balance_empty: the price of openai/my-own-model is not known"
        assert world.upstream.bodies == []


async def test_tokens_are_capped_without_a_price(database: Database) -> None:
    async with running_world(database) as world:
        await make_job(world.connection, "pl_2", search={"max_total_tokens": 900}, model="my-own-model")
        token = await world.token(job_id="pl_2")
        assert (await world.post(token))[0] == 200
        spending = await world.spending("pl_2")
        assert spending.accounts[Category.POLICY] == Account(settled=Amount(tokens=110))
        assert spending.unpriced[Category.POLICY] == 1
        assert (await world.post(token))[0] == 200
        world.upstream.handler = answers(NO_USAGE)
        assert (await world.post(token, max_tokens=1))[0] == 200
        assert (await world.spending("pl_2")).accounts[Category.POLICY].unsettled.tokens > 0
        assert (await world.post(token))[0] == 402


async def test_job_without_limits_is_settled_without_a_hold(database: Database) -> None:
    async with running_world(database) as world:
        world.upstream.handler = gate = Gate()
        call = asyncio.create_task(world.post(await world.token(phase="test")))
        await gate.entered.wait()
        assert await world.connection.fetchval("SELECT count(*) FROM holds") == 0
        gate.opened.set()
        await call
        world.upstream.handler = answers(NO_USAGE)
        await world.post(await world.token(phase="test"))
        spending = await world.spending()
        assert spending.accounts[Category.TEST] == KNOWN
        assert (spending.calls[Category.TEST], spending.unpriced[Category.TEST]) == (2, 1)


async def test_ledger_agrees_with_the_calls(world: World) -> None:
    """Costs of floats, summed exactly."""
    tokens = [await world.token(phase=phase) for phase in ("bootstrap", "optimization", "validation", "test")]
    await asyncio.gather(*(world.post(token, user=str(n)) for n in range(8) for token in tokens))
    spending = await world.spending()
    sums = "SELECT phase, sum(round(cost_usd::numeric, 12)), count(*) FROM calls GROUP BY phase"
    for phase, usd, count in await world.connection.fetch(sums):
        category = Category.POLICY if phase == "optimization" else Category(phase)
        assert spending.accounts[category].settled == Amount(usd, 110 * 8)
        assert spending.calls[category] == count == 8
