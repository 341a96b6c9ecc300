"""The world of a soak: a task app and a provider whose faults follow from the seed, and what they have seen and billed.

A job is known by its tag, which is in the path of its task app and in the names of its models. Whether a request meets
a fault depends on the seed, the tag and how often the same thing was asked, and not on the order of events.
"""

import asyncio
import random
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp import web

from tests.acceptance.client import SYSTEM, USER
from tests.acceptance.faulty_app import mark
from tests.acceptance.faulty_model import Asked, adds_a_hint, completion, says_level
from tests.acceptance.hostile import UNREADABLE, Hostility, breaks_off, sends

CALM = "calm"
"""A tag that begins so names a job whose world has no faults."""

TASK_APP_KEY = "task-app-secret-77aa"
PROVIDER_KEY = "sk-provider-secret-41bd"
FAULT_PROBABILITY = 0.06
LATENCY_SECONDS = (0.01, 0.08)
STALL_SECONDS = 3.0
CALL_SECONDS = 6.0
"""The task app's patience with its model: in this time it asks again, as clients of providers do by themselves."""

RETRY_SECONDS = 0.25

USD_PER_TOKEN = {"policy": (1e-3, 2e-3), "reflector": (1e-5, 2e-5)}
"""By the kind of model: for a prompt token and for a completion token. Dear, so that small caps are reached."""

Json = dict[str, Any]
TRAPS: Sequence[Hostility] = (*(trap for name, trap in UNREADABLE.items() if name != "300 MB"), breaks_off)
BAD_SCORES = ("NaN", "1e999", '"high"', "null", "true", "-3")


def answers(status: int, text: str, **headers: str) -> Hostility:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": text}}, status=status, headers=headers)

    return answer


@dataclass(frozen=True)
class Visit:
    """A rollout that the task app was asked for. secret: the token in its URL."""

    tag: str
    secret: str
    at: float


@dataclass(frozen=True)
class Request:
    """A completion that the provider was asked for, and what it was billed at; None where nothing was billed."""

    tag: str
    kind: str
    words: bytes
    at: float
    usd: float | None
    tokens: int


@dataclass
class World:
    """replicas: URLs under which the interceptor may be reached, as a load balancer knows them."""

    seed: int
    replicas: Sequence[str] = ()
    visits: list[Visit] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    is_kind: bool = False

    def __post_init__(self) -> None:
        self._times: Counter[str] = Counter()

    def forget(self) -> None:
        """What was seen and billed so far was a rehearsal."""
        self.visits.clear()
        self.requests.clear()

    def of(self, tag: str, kind: str) -> list[Request]:
        return [request for request in self.requests if (request.tag, request.kind) == (tag, kind)]

    def billed(self) -> dict[str, list[Request]]:
        """By tag, what was paid for."""
        found: dict[str, list[Request]] = defaultdict(list)
        for request in self.requests:
            if request.usd is not None:
                found[request.tag].append(request)
        return found

    def _fault(self, tag: str, what: str, choices: Sequence[tuple[str, Hostility]]) -> Hostility | None:
        self._times[f"{tag}/{what}"] += 1
        rng = random.Random(f"{self.seed}/{tag}/{what}/{self._times[f'{tag}/{what}']}")
        if self.is_kind or tag.startswith(CALM) or rng.random() >= FAULT_PROBABILITY:
            return None
        name, fault = rng.choice(choices)
        self.faults[name] += 1
        return fault

    # --- task app ----------------------------------------------------------------------------------------------------

    def task_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{tag}/health", self._health)
        app.router.add_get("/{tag}/task_info", self._task_info)
        app.router.add_post("/{tag}/rollout", self._rollout)
        app.cleanup_ctx.append(self._session)
        return app

    async def _session(self, _: web.Application) -> Any:
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as self._http:
            yield

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"healthy": True})

    async def _task_info(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"taskset": {"id": "toy"}})

    async def _rollout(self, request: web.Request) -> web.StreamResponse:
        body: Json = orjson.loads(await request.read())
        tag, seed = request.match_info["tag"], body["env"]["seed"]
        path = urlsplit(body["policy"]["config"]["inference_url"]).path
        self.visits.append(Visit(tag, path.split("/v1/")[1].split("/")[0], time.time()))
        bad = random.Random(f"{self.seed}/{tag}/{seed}").choice(BAD_SCORES).encode()
        fault = self._fault(tag, f"rollout {seed}", self._app_faults(bad))
        if fault is not None:
            return await fault(request)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER.format(question=seed)}]
        status, said = await self._ask(path, {"model": "any", "messages": messages})
        if status != 200:
            # What a retry may mend is said as such.
            return web.json_response({"detail": said[:200]}, status=503 if status in (429, 502, 503, 504) else 500)
        output = orjson.loads(said)["choices"][0]["message"]["content"]
        info = {"outcome_reward": mark(seed, output), "details": {"output": output, "feedback": "more hints"}}
        return web.json_response({"trace_correlation_id": body["trace_correlation_id"], "reward_info": info})

    def _app_faults(self, bad_score: bytes) -> Sequence[tuple[str, Hostility]]:
        return [
            ("app: 502", answers(502, "no gateway")),
            ("app: 500", answers(500, "a defect")),
            ("app: reset", _resets),
            ("app: stall", _stalls),
            ("app: trap", TRAPS[bad_score[0] % len(TRAPS)]),
            ("app: score", sends(b'{"reward_info": {"outcome_reward": ' + bad_score + b"}}")),
            ("app: no call", sends(b'{"reward_info": {"outcome_reward": 1.0}}')),
        ]

    async def _ask(self, path: str, body: Json) -> tuple[int, str]:
        """Ask the model through whatever replica answers. Returns status and text; 502 where the connection broke."""
        deadline = time.monotonic() + CALL_SECONDS
        status, said = 503, "no replica answers"
        while status == 503 and time.monotonic() < deadline:
            for url in random.sample(self.replicas, len(self.replicas)):
                try:
                    async with self._http.post(f"{url}{path}/chat/completions", json=body) as response:
                        status, said = response.status, await response.text()
                        break
                except aiohttp.ClientConnectorError:
                    continue
                except (aiohttp.ClientError, TimeoutError) as error:
                    return 502, type(error).__name__
            if status == 503:
                await asyncio.sleep(RETRY_SECONDS)
        return status, said

    # --- provider ----------------------------------------------------------------------------------------------------

    def provider(self) -> web.Application:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._complete)
        return app

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request, orjson.loads(await request.read()))
        kind, _, tag = asked.body["model"].partition("-")
        words = orjson.dumps([asked.messages, asked.body.get("seed")])
        fault = self._fault(tag, f"{kind} {zlib.crc32(words)}", _provider_faults())
        await asyncio.sleep(random.uniform(*LATENCY_SECONDS))
        if fault is not None:
            self.requests.append(Request(tag, kind, words, asked.at, None, 0))
            return await fault(request)
        reply: Callable[[Asked], str] = adds_a_hint if kind == "reflector" else says_level
        found = completion(asked, reply(asked))
        used = found["usage"]
        per_prompt, per_completion = USD_PER_TOKEN[kind]
        usd = used["prompt_tokens"] * per_prompt + used["completion_tokens"] * per_completion
        self.requests.append(Request(tag, kind, words, asked.at, usd, used["total_tokens"]))
        return web.json_response(found)


def _provider_faults() -> Sequence[tuple[str, Hostility]]:
    return [
        ("provider: 429", answers(429, "slowly", **{"retry-after": "1"})),
        ("provider: 500", answers(500, "a defect")),
        ("provider: 503", answers(503, "not now")),
        ("provider: key", answers(401, f"the key {PROVIDER_KEY} is wrong")),
        ("provider: reset", _resets),
        ("provider: trap", TRAPS[0]),
    ]


async def _resets(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _stalls(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(STALL_SECONDS)
    return web.json_response({"detail": "at last"}, status=503)
