"""What a URL token is worth and for how long, and that nothing that is written anywhere becomes a header."""

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from aiohttp import web
from pydantic import SecretStr

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import CandidateFact, Rollout, Tier
from promptjobs.core.policies import policy_digest
from promptjobs.core.trial import Phase
from promptjobs.db.journal import Group, write_group
from promptjobs.db.session import Database
from promptjobs.errors import ProviderNotConfigured
from promptjobs.jobs.world import JobWorld
from tests.fakes.interceptor_world import (
    BASELINE,
    CANDIDATE,
    MESSAGES,
    PROVIDER_KEY,
    World,
    make_job,
    running_upstream,
    running_world,
)
from tests.integration.test_tiers import App, answers, config, job_world

pytestmark = pytest.mark.slow

INJECTED = "\r\nx-evil: 1\r\n\r\n"


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with running_world(database) as world:
        yield world


def rollouts(count: int) -> list[Rollout]:
    digest = policy_digest(config(), Tier.HI)
    return [Rollout("candidate", seed, digest, Phase.OPTIMIZATION) for seed in range(count)]


# --- tokens ----------------------------------------------------------------------------------------------------------


async def test_every_rollout_has_a_secret_of_192_bits_of_which_only_the_hash_is_stored(world: World) -> None:
    app = App()
    async with job_world(world, world.upstream, config(), app, admits=False) as job:
        await answers(world, job, rollouts(8))
    secrets = [policy["inference_url"].split("/interceptor/v1/")[1].split("/")[0] for policy in app.policies]
    assert len(set(secrets)) == 8
    decoded = [base64.urlsafe_b64decode(secret) for secret in secrets]
    assert {len(each) * 8 for each in decoded} == {192}
    together = int.from_bytes(b"".join(decoded), "big")
    assert 600 < together.bit_count() < 936, "1536 bits, half of them set, give or take 8.5 standard deviations"
    rows = await world.connection.fetch("SELECT digest, t::text AS whole FROM tokens t")
    assert {row["digest"] for row in rows} == {hashlib.sha256(secret.encode()).digest() for secret in secrets}
    assert not any(secret in row["whole"] for row in rows for secret in secrets)


@pytest.mark.parametrize("admits", [True, False], ids=["admitted", "asked of the database"])
async def test_a_token_ends_with_its_rollout(world: World, admits: bool) -> None:
    app = App()
    async with job_world(world, world.upstream, config(), app, admits=admits) as job:
        [record] = await answers(world, job, rollouts(1))
        assert record.answer.score == 0.5
    sent = len(world.upstream.bodies)
    # Whoever is in another process learns of it within a second; here its clock stands still.
    world.clock.seconds += 0 if admits else 1
    url = f"{app.policies[0]['inference_url']}/chat/completions"
    async with world.http.post(url, json={"messages": MESSAGES}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (401, "token_revoked")
    assert len(world.upstream.bodies) == sent


async def test_a_call_belongs_to_the_tokens_job_candidate_attempt_and_epoch_whatever_it_says(world: World) -> None:
    token = await world.token("baseline")
    claimed = {"job_id": "pl_2", "candidate_id": "candidate", "attempt": 9, "epoch": 9, "user": "pl_2"}
    assert (await world.post(token, **claimed))[0] == 200
    [call] = await world.calls(token)
    assert (call.job_id, call.candidate_id, call.attempt, call.seed) == ("pl_1", "baseline", 1, 7)
    assert (await world.interceptor.grants.get(token.digest)).epoch == 1


# --- no key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("admits", [True, False], ids=["admitted", "asked of the database"])
async def test_a_rollout_whose_call_has_no_key_ends_the_job_with_the_reason(world: World, admits: bool) -> None:
    bound = config().model_copy(update={"use_byok": True})

    class Forgiving(App):
        """Says a score whatever its model has answered."""

        async def rollout(self, request: web.Request) -> web.Response:
            with suppress(AssertionError):
                await super().rollout(request)
            return web.json_response({"metrics": {"outcome_reward": 0.5}})

    app = Forgiving()
    async with job_world(world, world.upstream, bound, app, admits=admits) as job:
        with pytest.raises(ProviderNotConfigured, match=r"use_byok.*PUT /api/provider-keys/openai"):
            await _first_answer(world, job)
    assert world.upstream.bodies == []


async def _first_answer(world: World, job: JobWorld) -> None:
    base = Candidate("baseline", 0, BASELINE, "baseline")
    job.observe([CandidateFact(base), CandidateFact(Candidate("candidate", 1, CANDIDATE, "baseline", ("baseline",)))])
    [ask] = rollouts(1)
    await write_group(world.connection, "pl_1", 1, 1, Group(tokens=job.tokens([ask])))
    await job.answer(ask)


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_address_with_a_line_feed_splits_no_request(database: Database, streamed: bool) -> None:
    async with running_upstream() as other:
        providers = {"groq": (f"{other.url}{INJECTED}", SecretStr("test-key"))}
        async with running_world(database, more=providers) as world:
            await make_job(world.connection, "pl_2", provider="groq", model="llama-3.1-8b-instant")
            await world.post(await world.token(job_id="pl_2"), stream=streamed)
        assert all("x-evil" not in headers for headers in other.headers)


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
async def test_no_header_of_a_caller_is_passed_on(world: World, streamed: bool) -> None:
    token = await world.token()
    headers = {
        "authorization": "Bearer callers",
        "x-api-key": "callers",
        "cookie": "a=callers",
        "openai-organization": "callers",
        "x-forwarded-for": "callers",
        "host": "callers.test",
    }
    url = world.url_of(token, "/chat/completions")
    async with world.http.post(url, json={"messages": MESSAGES, "stream": streamed}, headers=headers) as response:
        assert response.status == 200
    [sent] = world.upstream.headers
    assert sent["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert "callers" not in str(sent)
