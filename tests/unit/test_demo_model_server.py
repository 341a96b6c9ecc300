"""The offline models behind an OpenAI-compatible server, read by the real OpenAI client."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest

from promptjobs.demo.model_server import count_tokens, create_model_app
from promptjobs.demo.policy_model import SMALL, WHOLE, answer
from promptjobs.demo.serving import serving

MESSAGES = [
    {"role": "system", "content": "Labels: red_box, blue_box. Explain your choice.\nred_box: horses."},
    {"role": "user", "content": "Message: two horses"},
]
REPLY = "I think this is about: two horses. It looks like a case of red box (red_box)."


@pytest.fixture
async def server() -> AsyncIterator[str]:
    async with serving(create_model_app()) as url:
        yield url


@pytest.fixture
async def client(server: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="test-key", max_retries=0) as opened:
        yield opened


async def test_all_models_are_listed(client):
    listed = [model.id async for model in client.models.list()]
    assert listed == ["demo-policy", "demo-policy-small", "demo-reflector"]


async def test_the_small_model_answers_by_its_own_ability(client):
    messages = [
        {"role": "system", "content": "Labels: red_box, blue_box. " + "Be kind to everyone. " * 60},
        MESSAGES[1],
    ]
    for name, ability in (("demo-policy", WHOLE), ("demo-policy-small", SMALL)):
        completion = await client.chat.completions.create(model=name, messages=messages)
        assert completion.model == name
        assert completion.choices[0].message.content == answer(messages, ability)


async def test_a_completion_has_text_and_usage(client):
    completion = await client.chat.completions.create(model="demo-policy", messages=MESSAGES)
    assert completion.choices[0].message.content == REPLY
    assert completion.choices[0].finish_reason == "stop"
    prompt_tokens = sum(count_tokens(message["content"]) for message in MESSAGES)
    assert completion.usage.prompt_tokens == prompt_tokens
    assert completion.usage.completion_tokens == count_tokens(REPLY) == 21
    assert completion.usage.total_tokens == prompt_tokens + 21


@pytest.mark.parametrize("max_tokens", [None, 5])
async def test_streaming_and_not_streaming_agree(client, max_tokens):
    asked = {"model": "demo-policy", "messages": MESSAGES, "max_completion_tokens": max_tokens or openai.omit}
    whole = await client.chat.completions.create(**asked)
    stream = await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert choices[-1].finish_reason == whole.choices[0].finish_reason == ("length" if max_tokens else "stop")
    assert [chunk.usage for chunk in chunks if chunk.usage] == [whole.usage]


async def test_without_include_usage_the_stream_has_none(client):
    stream = await client.chat.completions.create(model="demo-policy", messages=MESSAGES, stream=True)
    assert [chunk.usage async for chunk in stream if chunk.usage] == []


async def test_too_few_tokens_cut_the_reply_and_say_so(client):
    completion = await client.chat.completions.create(model="demo-policy", messages=MESSAGES, max_tokens=4)
    assert completion.choices[0].message.content == "I think this is"
    assert completion.choices[0].finish_reason == "length"


async def test_equal_requests_get_equal_bytes(server):
    body = {"model": "demo-reflector", "messages": MESSAGES, "seed": 3}
    async with aiohttp.ClientSession() as session:
        responses = [await session.post(f"{server}/v1/chat/completions", json=body) for _ in range(2)]
        first, second = [await response.read() for response in responses]
    assert first == second


async def test_the_reflector_draws_by_seed_and_by_choice(client):
    told = "The correct label is red_box. House rule for red_box: anything with horses, donkeys or mules."
    text = f"Current text:\n```\nLabels: red_box, blue_box.\n```\n## Input\na horse\n## Feedback\n{told}\nScore: 0"
    asked = {"model": "demo-reflector", "messages": [{"role": "user", "content": text}]}
    several = await client.chat.completions.create(**asked, seed=1, n=16)
    drawn = [choice.message.content for choice in several.choices]
    assert len(set(drawn)) > 1
    one = await client.chat.completions.create(**asked, seed=4)
    assert one.choices[0].message.content == drawn[3]


async def test_latency_delays_a_completion():
    async with serving(create_model_app(latency_seconds=0.05)) as url, aiohttp.ClientSession() as session:
        loop = asyncio.get_running_loop()
        started = loop.time()
        body = {"model": "demo-policy", "messages": MESSAGES}
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
        assert loop.time() - started >= 0.05


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (b"{", 400, None, None),
        (b"[]", 400, "", None),
        (b'{"model": "demo-policy"}', 400, "messages", None),
        (b'{"model": "demo-policy", "messages": []}', 400, "messages", None),
        (b'{"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]}', 404, "model", "model_not_found"),
    ],
)
async def test_a_request_that_cannot_be_served_gets_an_openai_error(server, body, status, param, code):
    async with aiohttp.ClientSession() as session, session.post(f"{server}/v1/chat/completions", data=body) as response:
        assert response.status == status
        error = (await response.json())["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert error["message"]


async def test_content_in_parts_is_joined(client):
    parts = [{"type": "text", "text": "Message: two "}, {"type": "text", "text": "horses"}]
    messages = [MESSAGES[0], {"role": "user", "content": parts}]
    completion = await client.chat.completions.create(model="demo-policy", messages=messages)
    assert completion.choices[0].message.content == REPLY


@pytest.mark.slow
@pytest.mark.parametrize(("module", "path"), [("model_server", "/v1/models"), ("task_app", "/health")])
async def test_each_server_runs_as_a_process_that_prints_its_url_and_ends_when_told(module, path):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"promptjobs.demo.{module}", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = json.loads(await process.stdout.readline())["url"]
        async with aiohttp.ClientSession() as session, session.get(f"{url}{path}") as response:
            assert response.status == 200
    finally:
        process.terminate()
        assert await process.wait() == 0
