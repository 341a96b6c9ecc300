"""Completions against a real server that behaves like a provider, and like a broken one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from promptjobs.clients.http import Outgoing
from promptjobs.clients.llm import Llm
from promptjobs.clients.pricing import Price
from promptjobs.clients.providers import Providers
from promptjobs.clients.usage import Usage
from promptjobs.core.asks import MetaModel
from promptjobs.core.prompt import Message
from promptjobs.errors import DeadlineExceeded, ProviderCallFailed, ProviderNotConfigured, Unreachable

KEY = "sk-test-0123456789abcdef"
MESSAGES = (Message("system", "Be brief."), Message("user", "Hé?"))
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def completion(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE} | more


@asynccontextmanager
async def provider(handler: Handler, name: str = "mine") -> AsyncIterator[Llm]:
    """An Llm whose provider `name` is `handler`."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    providers = Providers({name: (f"http://127.0.0.1:{runner.addresses[0][1]}/v1", SecretStr(KEY))})
    try:
        async with Outgoing(providers.targets()) as outgoing:
            yield Llm(outgoing, providers)
    finally:
        await runner.cleanup()


def answering(body: bytes | dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        payload = body if isinstance(body, bytes) else orjson.dumps(body)
        return web.Response(status=status, body=payload, headers=headers)

    return answer


async def complete(llm: Llm, name: str = "mine", model: str = "m", **more: Any) -> Any:
    options = {"seed": None, "timeout_seconds": 5.0} | more
    return await llm.complete(MetaModel(name, model, 0.7, 512), MESSAGES, **options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai", {"max_completion_tokens": 512, "seed": 3}),
        ("groq", {"max_tokens": 512, "seed": 3}),
        ("mine", {"max_tokens": 512, "seed": 3}),
        ("anthropic", {"max_tokens": 512}),
        ("google", {"max_tokens": 512}),
    ],
)
async def test_a_provider_gets_its_form_of_the_request(name, expected):
    seen: list[Any] = []

    async def note(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["Authorization"], await request.json()))
        return web.json_response(completion({"content": "yes"}))

    async with provider(note, name) as llm:
        await complete(llm, name, seed=3)
    body = {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hé?"}],
        "temperature": 0.7,
    }
    assert seen == [("/v1/chat/completions", f"Bearer {KEY}", body | expected)]


async def test_a_completion_has_its_text_usage_and_cost():
    async with provider(answering(completion({"content": "  yes\n"})), "openai") as llm:
        done = await complete(llm, "openai", "gpt-4o-mini")
    assert (done.text, done.finish_reason, done.usage) == ("  yes\n", "stop", Usage(100, 20))
    assert done.cost_usd == pytest.approx(100 * 0.15e-6 + 20 * 0.6e-6)
    assert 0 < done.seconds < 5


async def test_an_unknown_price_is_none_and_a_given_one_counts():
    async with provider(answering(completion({"content": "yes"}))) as llm:
        assert (await complete(llm)).cost_usd is None
        assert (await complete(llm, price=Price(1, 2))).cost_usd == pytest.approx(140e-6)


async def test_an_empty_text_that_was_cut_off_is_a_completion():
    cut = {"choices": [{"message": {"content": ""}, "finish_reason": "length"}], "usage": USAGE}
    async with provider(answering(cut)) as llm:
        done = await complete(llm)
    assert (done.text, done.finish_reason) == ("", "length")


async def test_nul_in_a_text_becomes_a_replacement_character():
    async with provider(answering(completion({"content": "a\x00b"}))) as llm:
        assert (await complete(llm)).text == "a\ufffdb"


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"<html><body>busy</body></html>", "HTML"),
        (b"", "empty"),
        (b"OK", "not JSON"),
        (b"[]", "no choices"),
        (b"{}", "no choices"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": [{"message": {"content": "\\ud83d"}}]}', "not JSON"),
        (b'{"choices": ' + b"[" * 100 + b"]" * 100 + b"}", "levels deep"),
        (b'{"choices": [{"message": {"content": "' + b"x" * 5_000_000 + b'"}}]}', "larger than"),
    ],
)
async def test_a_reply_that_is_no_completion_is_a_failed_call(body, cause):
    async with provider(answering(body)) as llm:
        with pytest.raises(ProviderCallFailed, match=cause) as failed:
            await complete(llm)
    assert not failed.value.retryable


@pytest.mark.parametrize("message", [{"content": None}, {"tool_calls": [{}], "content": None}, {"content": ["x"]}, {}])
async def test_a_reply_without_text_keeps_what_it_cost(message):
    async with provider(answering(completion(message))) as llm:
        with pytest.raises(ProviderCallFailed, match="no text") as failed:
            await complete(llm, price=Price(1, 2))
    assert (failed.value.prompt_tokens, failed.value.completion_tokens) == (100, 20)
    assert failed.value.cost_usd == pytest.approx(140e-6)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (400, False),
        (401, False),
        (404, False),
        (429, True),
        (500, False),
        (502, True),
        (503, True),
        (504, True),
        (302, False),
    ],
)
async def test_a_status_says_whether_a_retry_may_help(status, retryable):
    refusal = answering({"error": {"message": "no"}}, status, {"Retry-After": "7"})
    async with provider(refusal) as llm:
        with pytest.raises(ProviderCallFailed, match=f"HTTP {status}") as failed:
            await complete(llm)
    error = failed.value
    assert (error.provider, error.upstream_status, error.retryable) == ("mine", status, retryable)
    assert error.retry_after_seconds == 7
    assert error.cost_usd == (0.0 if status >= 400 else None)


async def test_an_exhausted_quota_is_not_worth_a_retry():
    async with provider(answering({"error": {"code": "insufficient_quota"}}, 429)) as llm:
        with pytest.raises(ProviderCallFailed) as failed:
            await complete(llm)
    assert not failed.value.retryable


async def test_an_error_in_a_successful_reply_has_the_upstreams_status():
    async with provider(answering({"error": {"code": 503, "message": "overloaded"}})) as llm:
        with pytest.raises(ProviderCallFailed, match="overloaded") as failed:
            await complete(llm)
    assert (failed.value.upstream_status, failed.value.retryable) == (503, True)


async def test_an_error_in_a_successful_reply_has_cost_what_it_says_or_nobody_knows():
    error = {"error": {"code": 502, "message": "cut off"}}
    async with provider(answering(error | {"usage": USAGE})) as llm:
        with pytest.raises(ProviderCallFailed) as failed:
            await complete(llm, price=Price(1, 2))
    assert (failed.value.prompt_tokens, failed.value.cost_usd) == (100, pytest.approx(140e-6))
    async with provider(answering(error)) as llm:
        with pytest.raises(ProviderCallFailed) as failed:
            await complete(llm, price=Price(0, 0))
    assert failed.value.cost_usd is None


async def test_a_refused_key_is_not_repeated():
    async with provider(answering({"error": {"message": f"Incorrect API key provided: {KEY[:12]}***"}}, 401)) as llm:
        with pytest.raises(ProviderCallFailed) as failed:
            await complete(llm)
    assert KEY[:6] not in str(failed.value)
    assert KEY[:6] not in repr(failed.value.facts)


async def test_an_unknown_provider_is_refused_before_any_call():
    async with provider(answering({})) as llm:
        with pytest.raises(ProviderNotConfigured):
            await complete(llm, "nobody")


async def test_a_provider_that_is_down_is_unreachable():
    providers = Providers({"mine": ("http://127.0.0.1:1/v1", None)})
    async with Outgoing(providers.targets()) as outgoing:
        with pytest.raises(Unreachable):
            await complete(Llm(outgoing, providers))


async def test_a_slow_provider_ends_at_the_deadline():
    async def stall(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with provider(stall) as llm:
        with pytest.raises(DeadlineExceeded):
            await complete(llm, timeout_seconds=0.2)
