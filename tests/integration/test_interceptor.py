"""Calls through the interceptor: what the provider is sent, what the task app is answered, what is recorded."""

import asyncio
import math
from collections.abc import AsyncIterator

import openai
import orjson
import pytest
from aiohttp import web
from openai import OpenAI

from promptjobs.core.trial import Phase
from promptjobs.db.calls import CallRecord
from promptjobs.db.session import Database
from tests.fakes.interceptor_world import (
    COMPLETION,
    DONE,
    MESSAGES,
    PROVIDER_KEY,
    REWRITTEN,
    STREAM,
    USAGE_CHUNK,
    World,
    chunk,
    completes,
    make_job,
    running_world,
    stream_of,
    streams,
)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with running_world(database) as world:
        yield world


async def test_call_is_rewritten_forwarded_and_recorded(world: World) -> None:
    token = await world.token()
    async with world.openai(token) as client:
        reply = await client.chat.completions.create(model="anything", messages=MESSAGES)
    assert reply.choices[0].message.content == "Yes."
    assert world.upstream.bodies == [
        {"model": "gpt-4o-mini", "messages": REWRITTEN, "temperature": 0.25, "max_completion_tokens": 512}
    ]
    [call] = await world.calls(token)
    expected = CallRecord(
        token=token.digest,
        n=call.n,
        job_id="pl_1",
        key=b"k" * 16,
        candidate_id="candidate",
        seed=7,
        phase=Phase.OPTIMIZATION,
        attempt=1,
        provider="openai",
        model="gpt-4o-mini",
        streamed=False,
        status=200,
        error=None,
        messages=orjson.dumps(REWRITTEN).decode(),
        reply='{"role":"assistant","content":"Yes."}',
        finish_reason="stop",
        prompt_tokens=100,
        completion_tokens=10,
        unknown_tokens=0,
        cost_usd=call.cost_usd,
        seconds=call.seconds,
    )
    assert call == expected
    assert call.cost_usd == pytest.approx(100 * 0.15e-6 + 10 * 0.6e-6)
    assert 0 < call.seconds < 60
    assert call.reply_text == "Yes."


async def test_reply_comes_back_byte_for_byte(world: World) -> None:
    body = b'{ "choices":[ {"message":{"content":"\\u00e9"}} ],"x_extra": 1.50 }'

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    world.upstream.handler = handler
    assert await world.post(await world.token()) == (200, body)


async def test_sync_client_gets_a_stream_and_the_record_is_that_of_the_whole_reply(world: World) -> None:
    world.upstream.handler = streams
    token = await world.token()

    def read() -> str:
        with (
            OpenAI(base_url=world.url_of(token), api_key="env-key", max_retries=0) as client,
            client.chat.completions.create(model="m", messages=MESSAGES, stream=True) as events,
        ):
            return "".join(event.choices[0].delta.content or "" for event in events)

    assert await asyncio.to_thread(read) == "Yes."
    assert world.upstream.bodies[0]["stream_options"] == {"include_usage": True}
    [streamed] = await world.calls(token)
    world.upstream.handler = completes
    other = await world.token()
    await world.post(other)
    [whole] = await world.calls(other)
    assert streamed.streamed
    # Token, number and duration are each call's own.
    assert streamed == whole._replace(token=token.digest, n=streamed.n, seconds=streamed.seconds, streamed=True)


@pytest.mark.parametrize("wants_usage", [False, True])
async def test_stream_passes_byte_for_byte_but_for_the_usage_that_was_not_asked_for(
    world: World, wants_usage: bool
) -> None:
    everything = b": ping\r\n\r\n" + b"".join(STREAM) + DONE
    world.upstream.handler = stream_of([everything[:7], everything[7:300], everything[300:301], everything[301:]])
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    status, body = await world.post(await world.token(), stream=True, **options)
    assert status == 200
    assert body == (everything if wants_usage else everything.replace(USAGE_CHUNK, b""))


async def test_tools_pass_in_both_directions(world: World) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    opened = {"index": 0, **call, "function": {"name": "f", "arguments": ""}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    world.upstream.handler = stream_of(
        [
            chunk({"role": "assistant", "tool_calls": [opened]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}),
            chunk({}, "tool_calls"),
            DONE,
        ]
    )
    token = await world.token()
    history = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]},
               {"role": "tool", "tool_call_id": "call_1", "content": "2"}]  # fmt: skip
    sent = {"tools": tools, "tool_choice": "required", "seed": 3, "stop": ["x"], "logprobs": True}
    async with world.openai(token) as client:
        stream = await client.chat.completions.create(model="m", messages=history, stream=True, **sent)
        events = [event async for event in stream]
    assert events[0].choices[0].delta.tool_calls[0].function.name == "f"
    body = world.upstream.bodies[0]
    assert {name: body[name] for name in sent} == sent
    assert body["messages"] == [*REWRITTEN, *history[2:]]
    [record] = await world.calls(token)
    assert orjson.loads(record.reply) == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert (record.reply_text, record.finish_reason, record.cost_usd) == ("", "tool_calls", None)


SUFFIXES = [
    "",
    "/",
    "/chat/completions",
    "/v1/chat/completions",
    "/trace_1",
    "/trace_1/chat/completions",
    "/trace_1/chat/completions/",
    "/trace_1/v1/chat/completions",
    "/trace_1/chat/completions/chat/completions",
    "/trace_1/chat/completions/v1/chat/completions",
    "/trace_1/chat/completions?cid=trace_1",
    "/trace_1?cid=trace_1/chat/completions",
    "?cid=trace_1/chat/completions",
    "?cid=trace_1",
]


async def test_every_form_of_the_url_is_the_same_call(world: World) -> None:
    token = await world.token()
    for suffix in SUFFIXES:
        status, body = await world.post(token, suffix)
        assert (status, orjson.loads(body)) == (200, COMPLETION), suffix
    assert world.upstream.bodies == [world.upstream.bodies[0]] * len(SUFFIXES)
    assert len(await world.calls(token)) == len(SUFFIXES)


async def test_client_whose_base_url_has_a_query_is_served(world: World) -> None:
    token = await world.token()
    async with world.openai(token, "/trace_1?cid=trace_1") as client:
        reply = await client.chat.completions.create(model="m", messages=MESSAGES)
    assert reply.choices[0].message.content == "Yes."


async def test_models_lists_the_jobs_model(world: World) -> None:
    async with world.openai(await world.token()) as client:
        assert [model.id async for model in client.models.list()] == ["gpt-4o-mini"]


async def test_other_methods_and_endpoints_are_refused(world: World) -> None:
    token = await world.token()
    async with world.http.get(world.url_of(token, "/chat/completions")) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")
    assert (await world.post(token, "/trace_1/embeddings"))[0] == 404
    assert (await world.post(token, "/trace_1/completions"))[0] == 404
    async with world.http.post(f"{world.url}/other") as response:
        assert response.status == 404
    assert world.upstream.bodies == []


async def test_secrets_of_neither_side_reach_the_other(world: World) -> None:
    token = await world.token()
    rerouted = {"api_base": "http://evil.example", "base_url": "x", "headers": {"a": "b"}, "models": ["gpt-5-pro"]}
    async with world.openai(token) as client:
        await client.chat.completions.create(
            model="m", messages=MESSAGES, extra_body=rerouted, extra_headers={"x-api-key": "environment-key"}
        )
    [headers], [body] = world.upstream.headers, world.upstream.bodies
    assert headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert "env-key" not in str(headers)
    assert "environment-key" not in str(headers)
    assert not rerouted.keys() & body.keys()


async def test_policy_bounds_every_call(world: World) -> None:
    token = await world.token()
    await world.post(token, model="gpt-5-pro", max_tokens=100_000, temperature=0.9)
    await world.post(token, max_completion_tokens=20)
    named = ("model", "temperature", "max_completion_tokens", "max_tokens")
    assert [[body.get(name) for name in named] for body in world.upstream.bodies] == [
        ["gpt-4o-mini", 0.9, 512, None],
        ["gpt-4o-mini", 0.25, 20, None],
    ]


async def test_messages_that_are_not_the_baseline_never_reach_the_provider(world: World) -> None:
    token = await world.token()
    other = [{"role": "system", "content": "Answer my questions now."}]
    async with world.openai(token) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="m", messages=other)
    assert refused.value.code == "prompt_not_matched"
    assert world.upstream.bodies == []
    [call] = await world.calls(token)
    assert (call.status, call.error_code, call.cost_usd) == (400, "prompt_not_matched", 0.0)
    assert "' questions.'" in call.error
    assert orjson.loads(call.messages) == other


async def test_probe_passes_the_task_apps_own_messages(world: World) -> None:
    token = await world.token("probe")
    await world.post(token)
    assert world.upstream.bodies[0]["messages"] == MESSAGES


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"{", 400, "invalid_call"),
        (b"[]", 400, "invalid_call"),
        (b'{"messages":[]}', 400, "invalid_call"),
        (b'{"messages":[{"role":"user","content":"x"}],"n":2}', 400, "invalid_call"),
        (b'{"messages":' + b"[" * 100 + b"]" * 100 + b"}", 400, "invalid_call"),
        (b'{"messages":[{"role":"user","content":"' + b"x" * 2**20 + b'"}]}', 413, "call_too_large"),
    ],
    ids=["not JSON", "no object", "no messages", "n=2", "deep", "large"],
)
async def test_unusable_bodies_are_refused_and_recorded(world: World, raw: bytes, status: int, code: str) -> None:
    token = await world.token()
    answered, body = await world.send(token, raw)
    assert (answered, orjson.loads(body)["error"]["code"]) == (status, code)
    [call] = await world.calls(token)
    assert (call.status, call.error_code) == (status, code)
    assert world.upstream.bodies == []


# --- what providers do ---------------------------------------------------------------------------------------------


async def test_rate_limit_passes_with_its_headers(world: World) -> None:
    async def handler(_: web.Request) -> web.Response:
        error = {"error": {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded", "param": None}}
        return web.json_response(error, status=429, headers={"retry-after": "17"})

    world.upstream.handler = handler
    token = await world.token()
    for stream in (False, True):
        async with world.openai(token) as client:
            with pytest.raises(openai.RateLimitError) as limited:
                await client.chat.completions.create(model="m", messages=MESSAGES, stream=stream)
        assert (limited.value.code, limited.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "17")
    whole, streamed = await world.calls(token)
    assert [(c.status, c.error, c.cost_usd) for c in (whole, streamed)] == [
        (429, "upstream_error: HTTP 429: slow down", 0.0)
    ] * 2


async def test_providers_error_shows_no_key(world: World) -> None:
    async def handler(_: web.Request) -> web.Response:
        message = f"Incorrect API key provided: {PROVIDER_KEY[:7]}****{PROVIDER_KEY[-4:]}, that is {PROVIDER_KEY}"
        return web.json_response({"error": {"message": message, "code": "invalid_api_key"}}, status=401)

    world.upstream.handler = handler
    token = await world.token()
    status, body = await world.post(token)
    [call] = await world.calls(token)
    assert status == call.status == 401
    for shown in (body.decode(), call.error):
        assert PROVIDER_KEY[:7] not in shown
        assert PROVIDER_KEY[-4:] not in shown
        assert "Incorrect API key" in shown


def answers(body: bytes, content_type: str = "application/json", status: int = 200):
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, status=status)

    return handler


async def endless(request: web.Request) -> web.StreamResponse:
    """300 MB, of which nobody should read more than a few."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(300):
        await response.write(b" " * 2**20)
    return response


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("handler", "status", "code"),
    [
        (answers(b"<html>hello</html>", "text/html"), 502, "upstream_invalid_reply"),
        (answers(b'{"hello": 1}'), 502, "upstream_invalid_reply"),
        (answers(b"", status=302), 502, "upstream_invalid_reply"),
        (answers(b"<html>oops</html>", "text/html", 500), 500, "upstream_error"),
        (answers(b'{"error":{"message":"overloaded","code":529}}'), 529, "upstream_error"),
        (endless, 502, "upstream_invalid_reply"),
        (reset, 502, "upstream_interrupted"),
    ],
    ids=["html", "no choices", "redirect", "html 500", "error in 200", "300 MB", "reset"],
)
async def test_bad_replies_become_errors_in_openais_form(world: World, handler, status, code, stream: bool) -> None:
    world.upstream.handler = handler
    token = await world.token()
    answered, body = await world.post(token, stream=stream)
    assert answered == status
    assert isinstance(orjson.loads(body)["error"]["message"], str)
    [call] = await world.calls(token)
    assert (call.status, call.error_code, call.reply) == (status, code, None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("provider", "status", "code"),
    [("vllm", 503, "upstream_unreachable"), ("groq", 400, "provider_not_configured")],
    ids=["down", "without a key"],
)
async def test_provider_that_cannot_be_called(
    world: World, provider: str, status: int, code: str, stream: bool
) -> None:
    await make_job(world.connection, "pl_2", provider=provider)
    token = await world.token(job_id="pl_2")
    answered, body = await world.post(token, stream=stream)
    assert (answered, orjson.loads(body)["error"]["code"]) == (status, code)
    assert b"127.0.0.1" not in body
    [call] = await world.calls(token)
    assert (call.status, call.error_code, call.cost_usd) == (status, code, 0.0)


async def test_cost_is_unknown_where_the_price_or_the_usage_is(world: World) -> None:
    await make_job(world.connection, "pl_2", model="my-own-model")
    await make_job(
        world.connection,
        "pl_3",
        model="my-own-model",
        price={"input_usd_per_million": 1.0, "output_usd_per_million": 2.0},
    )
    unpriced, priced, silent = [await world.token(job_id=job) for job in ("pl_2", "pl_3", "pl_3")]
    await world.post(unpriced)
    await world.post(priced)
    world.upstream.handler = answers(b'{"choices":[]}')
    await world.post(silent)
    costs = [(await world.calls(token))[0].cost_usd for token in (unpriced, priced, silent)]
    assert costs == [None, pytest.approx(100e-6 + 20e-6), None]


async def test_error_in_a_stream_ends_it_for_the_client(world: World) -> None:
    error = b'data: {"error": {"message": "died, key ' + PROVIDER_KEY.encode() + b'"}}\n\n'
    world.upstream.handler = stream_of([STREAM[0], error, STREAM[1], DONE])
    token = await world.token()
    async with world.openai(token) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="died") as failed:
            [event async for event in stream]
    assert PROVIDER_KEY not in str(failed.value)
    [call] = await world.calls(token)
    assert (call.status, call.error_code, call.reply_text, call.cost_usd) == (502, "upstream_error", "Y", None)


async def test_stream_that_breaks_off_is_an_error_for_the_client(world: World) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(STREAM[0])
        assert request.transport is not None
        request.transport.abort()
        return response

    world.upstream.handler = handler
    token = await world.token()
    async with world.openai(token) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="ended before"):
            [event async for event in stream]
    [call] = await world.calls(token)
    assert (call.status, call.error_code, call.reply_text) == (502, "upstream_interrupted", "Y")


async def test_client_that_leaves_a_stream_ends_the_upstream_call(world: World) -> None:
    closed = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(STREAM[0])
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    world.upstream.handler = handler
    token = await world.token()
    async with world.openai(token) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        async for _ in stream:
            break
        await stream.close()
    await asyncio.wait_for(closed.wait(), 10)
    [call] = await world.recorded(token)
    assert (call.status, call.error_code, call.prompt_tokens, call.cost_usd) == (499, "client_disconnected", 0, None)
    assert call.reply_text.startswith("Y")


async def test_silent_provider_is_given_up(database: Database) -> None:
    release = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with running_world(database, timeout_seconds=0.2) as world:
        world.upstream.handler = silent
        token = await world.token()
        for stream in (False, True):
            status, body = await world.post(token, stream=stream)
            assert (status, orjson.loads(body)["error"]["code"]) == (504, "upstream_timeout")
        release.set()
        calls = await world.calls(token)
    assert [(c.status, c.cost_usd) for c in calls] == [(504, None)] * 2
    assert all(math.isclose(c.seconds, 0.2, abs_tol=0.5) for c in calls)
