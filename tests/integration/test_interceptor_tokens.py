"""Who may call the interceptor, and for how long after a token or a lease has ended."""

import asyncio
from collections.abc import AsyncIterator

import openai
import orjson
import pytest

from promptjobs.core.archive import Candidate
from promptjobs.core.config import PolicyConfig
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.trial import Phase
from promptjobs.db.session import Database
from promptjobs.errors import TokenRevoked
from promptjobs.interceptor.terms import Policy, Terms
from tests.fakes.interceptor_world import BASELINE, CANDIDATE, MESSAGES, REWRITTEN, Token, World, running_world


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with running_world(database) as world:
        yield world


async def refused(world: World, token: Token) -> str:
    """The code with which a call is refused; nothing reaches the provider."""
    before = len(world.upstream.bodies)
    status, body = await world.post(token)
    assert status == 401
    assert len(world.upstream.bodies) == before
    code: str = orjson.loads(body)["error"]["code"]
    return code


@pytest.mark.parametrize("secret", ["", "x", "a" * 32, "a" * 200, "%00" * 32, "..%2f" * 10])
async def test_unknown_tokens_are_refused(world: World, secret: str) -> None:
    assert await refused(world, Token(secret)) == "unknown_token"


async def test_openai_client_sees_an_authentication_error(world: World) -> None:
    token = await world.token(lifetime="-1 second")
    async with world.openai(token) as client:
        with pytest.raises(openai.AuthenticationError) as denied:
            await client.chat.completions.create(model="m", messages=MESSAGES)
    assert denied.value.code == "token_revoked"
    assert await world.calls(token) == []


ENDINGS = {
    "revoked": "UPDATE tokens SET revoked_at = clock_timestamp()",
    "expired": "UPDATE tokens SET expires_at = clock_timestamp()",
    "claimed by another worker": "UPDATE jobs SET epoch = epoch + 1",
    "lease over": "UPDATE jobs SET lease_until = clock_timestamp()",
    "lease released": "UPDATE jobs SET lease_until = NULL",
    "cancelled": "UPDATE jobs SET status = 'cancelled'",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
async def test_token_that_has_ended_is_refused_one_second_later_at_most(world: World, ending: str) -> None:
    token = await world.token()
    assert (await world.post(token))[0] == 200
    await world.connection.execute(ending)
    world.clock.seconds += 0.999
    assert (await world.post(token))[0] == 200
    world.clock.seconds += 0.002
    assert await refused(world, token) == "token_revoked"
    assert await refused(world, token) == "token_revoked"


async def test_token_is_not_used_past_the_lease(world: World) -> None:
    token = await world.token()
    await world.connection.execute("UPDATE jobs SET lease_until = clock_timestamp() + interval '100 ms'")
    grant = await world.interceptor.grants.get(token.digest)
    world.clock.seconds += 0.1
    await world.connection.execute("SELECT pg_sleep_until(lease_until) FROM jobs WHERE id = 'pl_1'")
    assert grant.candidate_id == "candidate"
    assert await refused(world, token) == "token_revoked"


async def test_grant_is_asked_for_once_a_second(world: World) -> None:
    token = await world.token()
    first = await world.interceptor.grants.get(token.digest)
    assert await world.interceptor.grants.get(token.digest) is first
    world.clock.seconds += 1
    again = await world.interceptor.grants.get(token.digest)
    assert again is not first
    assert again == first


async def test_revocation_in_this_process_holds_at_once(world: World) -> None:
    by_token, by_job = await world.token(), await world.token()
    for token in (by_token, by_job):
        assert (await world.post(token))[0] == 200
    await world.connection.execute("UPDATE tokens SET revoked_at = clock_timestamp()")
    world.interceptor.grants.revoke([by_token.digest])
    assert await refused(world, by_token) == "token_revoked"
    world.interceptor.grants.revoke_job("pl_1")
    assert await refused(world, by_job) == "token_revoked"


async def test_revocation_while_the_token_is_being_looked_up_holds(world: World) -> None:
    token = await world.token()
    async with world.connection.transaction():
        await world.connection.execute("LOCK TABLE candidates IN ACCESS EXCLUSIVE MODE")
        asked = asyncio.create_task(world.interceptor.grants.get(token.digest))
        await world.until_blocked()
        world.interceptor.grants.revoke([token.digest])
    with pytest.raises(TokenRevoked):
        await asked


def admit(world: World, token: Token, candidate: Candidate, baseline: PromptTemplate | None) -> None:
    world.interceptor.grants.admit(
        token.secret,
        job_id="pl_1",
        key=b"k" * 16,
        candidate=candidate,
        baseline=baseline,
        seed=7,
        phase=Phase.OPTIMIZATION,
        attempt=1,
        epoch=1,
        terms=Terms(Policy.of(PolicyConfig(provider="openai", model="gpt-4o-mini"))),
        seconds_left=100.0,
    )


async def test_admitted_token_needs_no_question_for_a_second(world: World) -> None:
    """It is not in the database at all here, so any question would have refused it."""
    token = Token("admitted" * 4)
    admit(world, token, Candidate("candidate", 1, CANDIDATE, "baseline"), BASELINE)
    assert (await world.post(token))[0] == 200
    assert world.upstream.bodies[0]["messages"] == REWRITTEN
    world.clock.seconds += 1
    assert await refused(world, token) == "unknown_token"


async def test_candidate_is_not_admitted_without_its_baseline(world: World) -> None:
    token = await world.token()
    admit(world, token, Candidate("candidate", 1, CANDIDATE, "baseline"), None)
    assert (await world.post(token))[0] == 200
    assert world.upstream.bodies[0]["messages"] == REWRITTEN


async def test_job_that_cannot_be_read_stops_no_other(world: World) -> None:
    token, broken = await world.token(), await world.token("baseline")
    await world.connection.execute("UPDATE candidates SET prompt = '{}' WHERE candidate_id = 'baseline'")
    assert (await world.post(broken))[0] == 400
    assert (await world.post(token))[0] == 400
    other = await world.token("probe")
    assert (await world.post(other))[0] == 200
