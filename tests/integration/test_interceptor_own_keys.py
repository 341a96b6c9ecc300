"""Whose key a call of a task app is made with, and that it is seen by nobody but the provider."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from promptjobs.db import secrets
from promptjobs.db.secrets import SecretKind
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.db.vault import Vault
from promptjobs.interceptor.keyring import KEPT_SECONDS
from tests.fakes.interceptor_world import (
    PROVIDER_KEY,
    VAULT,
    Token,
    Upstream,
    World,
    make_job,
    running_upstream,
    running_world,
    streams,
)

pytestmark = pytest.mark.slow

CANARY_A = "sk-canary-a-0123456789abcdefghijklmnop"
CANARY_B = "gsk_canaryB9876543210zyxwvutsrqponmlk"


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with running_world(database) as world:
        yield world


async def leave(world: World, key: str, organisation: str = "default", vault: Vault = VAULT) -> None:
    async with writing(world.database) as connection:
        await secrets.put(connection, vault, organisation, SecretKind.PROVIDER, "openai", key)


async def take_back(world: World, organisation: str = "default") -> None:
    async with writing(world.database) as connection:
        assert await secrets.remove(connection, organisation, SecretKind.PROVIDER, "openai")


async def sent_key(world: World, token: Token) -> str:
    """The key that a call under the token arrives with at the provider."""
    status, body = await world.post(token)
    assert status == 200, body
    return world.upstream.headers[-1]["authorization"].removeprefix("Bearer ")


async def refused(world: World, token: Token) -> str:
    """The code with which a call is refused and recorded; nothing reaches the provider."""
    before = len(world.upstream.bodies)
    status, body = await world.post(token)
    assert (status, len(world.upstream.bodies)) == (400, before), body
    code: str = orjson.loads(body)["error"]["code"]
    recorded = (await world.calls(token))[-1]
    assert (recorded.error_code, recorded.cost_usd, recorded.status) == (code, 0, 400)
    return code


async def make_jobs(world: World, **use_byok: bool | None) -> dict[str, Token]:
    """A job of each organisation, and a token for it."""
    tokens = {}
    for name, wanted in use_byok.items():
        await make_job(world.connection, f"pl_{name}", organisation=name)
        await world.connection.execute(
            "UPDATE jobs SET config = jsonb_set(config::jsonb, '{use_byok}', $2::jsonb)::text WHERE id = $1",
            f"pl_{name}", orjson.dumps(wanted).decode(),
        )  # fmt: skip
        tokens[name] = await world.token(job_id=f"pl_{name}")
    return tokens


# --- whose key -------------------------------------------------------------------------------------------------------


async def test_every_organisations_calls_carry_its_own_key_or_else_the_servers(world: World) -> None:
    jobs = await make_jobs(world, a=None, b=None, c=None)
    await leave(world, CANARY_A, "a")
    await leave(world, CANARY_B, "b")
    sent = {name: await sent_key(world, token) for name, token in jobs.items()}
    assert sent == {"a": CANARY_A, "b": CANARY_B, "c": PROVIDER_KEY}
    again = {name: await sent_key(world, token) for name, token in reversed(jobs.items())}
    assert again == sent


async def test_use_byok_says_which_keys_may_be_used(world: World) -> None:
    jobs = await make_jobs(world, only=True, never=False)
    assert await refused(world, jobs["only"]) == "provider_not_configured"
    for organisation in jobs:
        await leave(world, CANARY_A, organisation)
    world.clock.seconds += KEPT_SECONDS
    assert await sent_key(world, jobs["only"]) == CANARY_A
    assert await sent_key(world, jobs["never"]) == PROVIDER_KEY


async def test_a_provider_without_a_key_of_the_servers_is_called_with_an_own_one(database: Database) -> None:
    async with running_upstream() as other, running_world(database, more={"groq": (other.url, None)}) as world:
        await make_job(world.connection, "pl_2", provider="groq", model="llama-3.1-8b-instant")
        async with writing(database) as connection:
            await secrets.put(connection, VAULT, "default", SecretKind.PROVIDER, "groq", CANARY_B)
        assert (await world.post(await world.token(job_id="pl_2")))[0] == 200
        assert other.headers[0]["authorization"] == f"Bearer {CANARY_B}"


async def test_the_callers_own_key_and_headers_go_no_further(world: World) -> None:
    await leave(world, CANARY_A)
    token = await world.token()
    async with world.openai(token) as client:
        await client.chat.completions.create(
            model="m",
            messages=[{"role": "system", "content": "Answer banking questions."}],
            extra_headers={"x-api-key": "callers", "cookie": "callers", "openai-organization": "callers"},
            extra_body={"api_base": "http://callers", "base_url": "http://callers", "headers": {"a": "callers"}},
        )
    assert world.upstream.headers[0]["authorization"] == f"Bearer {CANARY_A}"
    assert "callers" not in str(world.upstream.headers) + str(world.upstream.bodies)
    assert "env-key" not in str(world.upstream.headers)


# --- changes while a job runs ----------------------------------------------------------------------------------------


async def test_a_changed_key_is_used_within_seconds_and_a_deleted_one_no_longer(world: World) -> None:
    token = await world.token()
    assert await sent_key(world, token) == PROVIDER_KEY
    for key in (CANARY_A, CANARY_B):
        await leave(world, key)
        world.clock.seconds += KEPT_SECONDS
        assert await sent_key(world, token) == key
    await take_back(world)
    world.clock.seconds += KEPT_SECONDS - 0.01
    assert await sent_key(world, token) == CANARY_B
    world.clock.seconds += 0.01
    assert await sent_key(world, token) == PROVIDER_KEY


async def test_a_job_that_is_claimed_sees_the_keys_of_that_moment(world: World) -> None:
    """No time passes here: what another job, or this one before it was paused, has found out does not count."""
    await leave(world, CANARY_A)
    assert await sent_key(world, await world.token()) == CANARY_A
    await leave(world, CANARY_B)
    await make_job(world.connection, "pl_2")
    assert await sent_key(world, await world.token(job_id="pl_2")) == CANARY_B
    await world.connection.execute("UPDATE jobs SET epoch = epoch + 1 WHERE id = 'pl_1'")
    assert await sent_key(world, await world.token()) == CANARY_B


async def test_keys_are_looked_up_once_in_seconds_and_not_with_every_call(world: World) -> None:
    token = await world.token()
    await sent_key(world, token)
    async with world.connection.transaction():
        await world.connection.execute("LOCK TABLE secrets IN ACCESS EXCLUSIVE MODE")
        for _ in range(3):
            assert await sent_key(world, token) == PROVIDER_KEY


# --- what cannot be opened -------------------------------------------------------------------------------------------


async def test_a_key_that_was_sealed_with_another_secret_key_is_not_replaced_by_the_servers(world: World) -> None:
    await leave(world, CANARY_A, vault=Vault(b"z" * 32))
    token = await world.token()
    assert await refused(world, token) == "secret_unreadable"
    assert "PROMPTJOBS_SECRET_KEY" in ((await world.calls(token))[0].error or "")


async def test_a_row_that_was_copied_to_another_organisation_opens_nothing_there(world: World) -> None:
    jobs = await make_jobs(world, thief=None)
    await leave(world, CANARY_A)
    await world.connection.execute(
        "INSERT INTO secrets(organisation, kind, name, id, sealed) "
        "SELECT 'thief', kind, name, 'sec_2', sealed FROM secrets"
    )
    assert await refused(world, jobs["thief"]) == "secret_unreadable"


# --- who sees it -----------------------------------------------------------------------------------------------------


async def repeats_its_headers(request: web.Request) -> web.StreamResponse:
    said = f"denied to {request.headers['authorization']} and {request.headers['authorization'][7:17]}"
    return web.json_response({"error": {"message": said, "code": request.headers["authorization"]}}, status=401)


async def fails_in_its_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    error = {"error": {"message": f"no quota for {request.headers['authorization'][7:]}", "code": 429}}
    await response.write(b"data: " + orjson.dumps(error) + b"\n\n")
    await response.write_eof()
    return response


@asynccontextmanager
async def answering(upstream: Upstream, handler: object) -> AsyncIterator[None]:
    before, upstream.handler = upstream.handler, handler  # type: ignore[assignment]
    yield
    upstream.handler = before


async def test_an_own_key_is_in_no_answer_no_row_and_no_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await leave(world, CANARY_A)
    token = await world.token()
    said = []
    for handler, body in (
        (repeats_its_headers, {}),
        (repeats_its_headers, {"stream": True}),
        (fails_in_its_stream, {"stream": True}),
        (streams, {"stream": True}),
    ):
        async with answering(world.upstream, handler):
            said.append((await world.post(token, **body))[1].decode())
    assert {sent["authorization"] for sent in world.upstream.headers} == {f"Bearer {CANARY_A}"}
    tables = ("calls", "jobs", "secrets", "ledger", "events", "tokens")
    for table in tables:
        said += [row[0] for row in await world.connection.fetch(f"SELECT t::text FROM {table} t")]
    said.append(caplog.text)
    for text in said:
        assert CANARY_A not in text
        assert CANARY_A.encode().hex() not in text
        assert CANARY_A[:10] not in text


async def test_a_key_that_cannot_be_a_header_sends_nothing(world: World) -> None:
    """The routes refuse such keys; one that is in the database all the same splits no request."""
    token = await world.token()
    for key in ("a\r\nx-evil: 1", "a\nx-evil: 1", "a\x00b-evil"):
        await leave(world, key)
        world.clock.seconds += KEPT_SECONDS
        for streamed in (False, True):
            status, body = await world.post(token, stream=streamed)
            assert (status, world.upstream.bodies) == (400, []), body
            assert "evil" not in body.decode()
    calls = await world.calls(token)
    assert len(calls) == 6
    assert "evil" not in str(calls)


async def test_calls_with_an_own_key_are_metered_like_all_others(world: World) -> None:
    await leave(world, CANARY_A)
    token = await world.token()
    await sent_key(world, token)
    (call,) = await world.calls(token)
    assert call.cost_usd is not None
    spent = await world.spending()
    assert float(sum(account.settled.usd for account in spent.accounts.values())) == pytest.approx(call.cost_usd)


async def test_a_models_name_stays_inside_the_body(world: World) -> None:
    name = "m\r\nx-evil: 1\u2028"
    await make_job(world.connection, "pl_2", model=name)
    assert (await world.post(await world.token(job_id="pl_2")))[0] == 200
    assert [body["model"] for body in world.upstream.bodies] == [name]
    assert all("x-evil" not in headers for headers in world.upstream.headers)
