"""A provider with two toy models, scriptable faults, and a memory of every request."""

import asyncio
import re
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.acceptance.hostile import Hostility

POLICY, REFLECTOR = "policy", "reflector"
FENCE = re.compile(r"^(`{3,})\n(.*?)\n\1$", re.DOTALL | re.MULTILINE)
HINT = re.compile(r"^- hint", re.MULTILINE)

Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One request as it came in. at: when, in seconds of the machine's clock, which is also the database's."""

    request: web.Request
    body: Json
    at: float = field(default_factory=time.time)

    @property
    def messages(self) -> list[Json]:
        found: list[Json] = self.body["messages"]
        return found

    @property
    def system(self) -> str:
        return next((message["content"] for message in self.messages if message["role"] == "system"), "")


Fault = Callable[[Asked], Awaitable[web.StreamResponse]]
Reply = Callable[[Asked], str]


def says_level(asked: Asked) -> str:
    """The policy's only skill: it counts the hints of its instructions."""
    return f"level {len(HINT.findall(asked.system))}"


def adds_a_hint(asked: Asked) -> str:
    """The reflector's only idea; different evidence words it differently."""
    prompt = asked.messages[-1]["content"]
    found = FENCE.search(prompt)
    current = found[2] if found else ""
    number = zlib.crc32(f"{prompt}{asked.body.get('seed')}".encode()) % 10_000
    return f"```\n{current}\n- hint {number}\n```"


@dataclass
class FaultyModel:
    """An OpenAI-compatible server. replies: what models say that do not count hints. faults: per model, what the next
    requests get instead of an answer.
    """

    latency_seconds: float = 0.0
    replies: dict[str, Reply] = field(default_factory=lambda: {REFLECTOR: adds_a_hint})
    faults: dict[str, Iterator[Fault]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = asyncio.Condition()
        self._gates: dict[str, asyncio.Event] = {}

    def fail(self, model: str, faults: Iterable[Fault]) -> None:
        self.faults[model] = iter(faults)

    def close_gate(self, model: str) -> None:
        """From now on requests to this model wait before they are answered."""
        self._gates[model] = asyncio.Event()

    def open_gate(self, model: str) -> None:
        self._gates.pop(model).set()

    def of(self, model: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.body["model"] == model]

    async def was_asked(self, model: str, count: int = 1, seconds: float = 60.0) -> None:
        """Return as soon as so many requests to this model have come in."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: len(self.of(model)) >= count)

    def repeated(self) -> int:
        """How many requests were made again although they had been made before: the same words to the same model."""
        counts = Counter(
            orjson.dumps([asked.body["model"], asked.messages, asked.body.get("seed")]) for asked in self.asked
        )
        return sum(count - 1 for count in counts.values())

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.on_shutdown.append(self._release)
        return app

    async def _release(self, _: web.Application) -> None:
        for model in list(self._gates):
            self.open_gate(model)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request, orjson.loads(await request.read()))
        async with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
        model = asked.body["model"]
        if model in self._gates:
            await self._gates[model].wait()
        fault = next(self.faults.get(model, iter(())), None)
        if fault is not None:
            return await fault(asked)
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        text = self.replies.get(model, says_level)(asked)
        if asked.body.get("stream"):
            return await _stream(asked, text)
        return web.json_response(completion(asked, text))


def usage(asked: Asked, text: str) -> dict[str, int]:
    prompt = sum(len(str(message["content"]).split()) for message in asked.messages)
    words = len(text.split())
    return {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}


def completion(asked: Asked, text: str) -> Json:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    head = {"id": "chatcmpl-toy", "object": "chat.completion", "created": 0, "model": asked.body["model"]}
    return {**head, "choices": [choice], "usage": usage(asked, text)}


async def _stream(asked: Asked, text: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(asked.request)
    head = {"id": "chatcmpl-toy", "object": "chat.completion.chunk", "created": 0, "model": asked.body["model"]}
    for word in re.findall(r"\S+\s*", text):
        choice = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
        await _write(response, {**head, "choices": [choice]})
    await _write(response, {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if (asked.body.get("stream_options") or {}).get("include_usage"):
        await _write(response, {**head, "choices": [], "usage": usage(asked, text)})
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, chunk: Json) -> None:
    await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")


# --- faults ----------------------------------------------------------------------------------------------------------


def refuses(status: int, body: bytes = b'{"error": {"message": "not now"}}', **headers: str) -> Fault:
    async def refuse(_: Asked) -> web.StreamResponse:
        return web.Response(status=status, body=body, content_type="application/json", headers=headers)

    return refuse


def sends(body: bytes, content_type: str = "application/json") -> Fault:
    async def send(_: Asked) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type)

    return send


def is_hostile(hostility: Hostility) -> Fault:
    async def reply(asked: Asked) -> web.StreamResponse:
        return await hostility(asked.request)

    return reply


async def repeats_its_key(asked: Asked) -> web.StreamResponse:
    """As some providers do in their refusals."""
    said = f"the key {asked.request.headers.get('Authorization')} is wrong"
    return web.json_response({"error": {"message": said, "code": "invalid_api_key"}}, status=401)


async def resets(asked: Asked) -> web.StreamResponse:
    assert asked.request.transport is not None
    asked.request.transport.abort()
    return web.Response()
