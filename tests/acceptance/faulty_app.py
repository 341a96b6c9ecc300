"""A task app that misbehaves on command: both dialects, the replies of every era, and a script of faults per seed."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import openai
import orjson
from aiohttp import web

from tests.acceptance.client import SYSTEM, USER
from tests.acceptance.hostile import Hostility

Json = dict[str, Any]


@dataclass(frozen=True)
class Visit:
    """One rollout request. url: where the app is to reach its model. nth: of its seed, from 1."""

    request: web.Request
    body: Json
    seed: int
    url: str
    nth: int

    @property
    def baseline(self) -> list[Json]:
        """What the app says to its model, in its own words."""
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER.format(question=self.seed)}]


Talk = Callable[["FaultyApp", Visit], Awaitable[str]]
Shape = Callable[[Visit, Any, str], Json]
Fault = Callable[["FaultyApp", Visit], Awaitable[web.StreamResponse]]


class ModelRefused(Exception):
    """The app's model gave no completion."""


def mark(seed: int, reply: str) -> float:
    """The score: harder seeds need more hints. In [0, 1]; 0.1 to 1 for the baseline."""
    found = re.fullmatch(r"level (\d+)", reply)
    return min(1.0, (1 + int(found[1])) / (1 + seed % 10)) if found else 0.0


# --- how the app talks to its model ----------------------------------------------------------------------------------


async def ask(session: aiohttp.ClientSession, url: str, messages: list[Json]) -> str:
    body = {"model": "whatever", "messages": messages}
    async with session.post(f"{url}/chat/completions", json=body) as response:
        reply = await response.json(content_type=None)
        if response.status != 200:
            raise ModelRefused(f"HTTP {response.status}: {reply}")
        return str(reply["choices"][0]["message"]["content"])


async def once(app: "FaultyApp", visit: Visit) -> str:
    return await ask(app.http, visit.url, visit.baseline)


async def twice(app: "FaultyApp", visit: Visit) -> str:
    """A draft, then the same conversation again with a question about it."""
    draft = await ask(app.http, visit.url, visit.baseline)
    doubt = [{"role": "assistant", "content": draft}, {"role": "user", "content": "Are you sure?"}]
    return await ask(app.http, visit.url, [*visit.baseline, *doubt])


async def streamed(app: "FaultyApp", visit: Visit) -> str:
    """With the real client of the provider's API."""
    stream = await app.openai.with_options(base_url=visit.url).chat.completions.create(
        model="whatever",
        messages=visit.baseline,  # type: ignore[arg-type]
        stream=True,
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def not_at_all(_: "FaultyApp", __: Visit) -> str:
    """As an app does that calls its provider directly."""
    return "level 9"


def in_other_words(messages: Callable[[Visit], list[Json]]) -> Talk:
    async def talk(app: FaultyApp, visit: Visit) -> str:
        return await ask(app.http, visit.url, messages(visit))

    return talk


# --- what the app replies --------------------------------------------------------------------------------------------


def sdk_0_2(visit: Visit, score: Any, output: str) -> Json:
    step = {"obs": {}, "tool_calls": [], "reward": score, "done": True, "info": {"messages": visit.baseline}}
    path = {"env_id": "toy", "policy_id": "toy", "steps": [step], "length": 1, "inference_url": visit.url}
    metrics = {"episode_returns": [score], "mean_return": score, "num_steps": 1, "num_episodes": 1}
    return {"run_id": visit.body["run_id"], "trajectories": [path], "metrics": metrics, "ops_executed": 2}


def sdk_0_4(visit: Visit, score: Any, output: str) -> Json:
    details = {"output": output, "expected": f"level {visit.seed % 10}", "feedback": "more hints"}
    # The SDK fills in the legacy fields with their defaults.
    metrics = {"outcome_reward": score, "reward_mean": 0.0, "num_steps": 0, "episode_rewards": [], "details": details}
    trace = visit.body["trace_correlation_id"]
    return {"run_id": visit.body["run_id"], "metrics": metrics, "trace_correlation_id": trace}


def sdk_0_6(visit: Visit, score: Any, output: str) -> Json:
    details = {"output": output, "feedback": "more hints"}
    trace = visit.body["trace_correlation_id"]
    info = {"outcome_reward": score, "event_rewards": [], "details": details}
    return {"trace_correlation_id": trace, "reward_info": info, "success_status": "success", "status_detail": None}


def policy_url_results(visit: Visit, score: Any, output: str) -> Json:
    return {"results": [{"seed": visit.seed, "score": score, "output": output, "feedback": "more hints"}]}


def policy_url_scores(_: Visit, score: Any, __: str) -> Json:
    return {"scores": [score]}


# --- the app ---------------------------------------------------------------------------------------------------------


@dataclass
class FaultyApp:
    """faults: per seed, what its next rollouts get instead of an honest one. speaks: sdk or policy_url.

    key: demanded where given; then a wrong one is answered as the SDK's apps do, with the beginning of what came.
    info: what /task_info says, None where there is none; info_by: the methods that it answers.
    """

    talk: Talk = once
    shape: Shape = sdk_0_4
    speaks: str = "sdk"
    key: str | None = None
    health: int = 200
    info: Json | None = field(default_factory=lambda: {"taskset": {"id": "toy"}})
    info_by: tuple[str, ...] = ("GET",)
    faults: dict[int, Iterator[Fault]] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = asyncio.Condition()
        self._released = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()

    def fail(self, seed: int, faults: Iterable[Fault]) -> None:
        self.faults[seed] = iter(faults)

    def close_gate(self) -> None:
        """From now on rollouts wait before they are answered."""
        self._gate.clear()

    def open_gate(self) -> None:
        self._gate.set()

    async def visited(self, count: int = 1, seeds: Iterable[int] | None = None, seconds: float = 60.0) -> None:
        """Return as soon as so many rollouts (of these seeds) have come in."""
        wanted = None if seeds is None else frozenset(seeds)

        def have_come() -> bool:
            return sum(wanted is None or visit.seed in wanted for visit in self.visits) >= count

        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(have_come)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._checked])
        app.router.add_get("/health", self._health)
        app.router.add_route("*", "/task_info", self._task_info)
        app.router.add_post("/rollout", self._rollout)
        app.cleanup_ctx.append(self._session)
        app.on_shutdown.append(self._release)
        return app

    async def _session(self, _: web.Application) -> Any:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self.http,
            openai.AsyncOpenAI(base_url="http://127.0.0.1:1", api_key="any", max_retries=0) as self.openai,
        ):
            yield

    async def _release(self, _: web.Application) -> None:
        self._released.set()
        self._gate.set()

    @web.middleware
    async def _checked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        came = request.headers.get("X-API-Key", "")
        if self.key is not None and came != self.key:
            said = {"code": "unauthorised", "message": "wrong key", "got_prefix": came[:9]}
            return web.json_response({"detail": {"error": said}}, status=400)
        response: web.StreamResponse = await handler(request)
        return response

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"healthy": self.health == 200}, status=self.health)

    async def _task_info(self, request: web.Request) -> web.StreamResponse:
        if self.info is None or request.method not in self.info_by:
            raise web.HTTPNotFound
        return web.json_response(self.info)

    async def _rollout(self, request: web.Request) -> web.StreamResponse:
        visit = await self._arrived(request)
        fault = next(self.faults.get(visit.seed, iter(())), None)
        await self._gate.wait()
        if fault is not None:
            return await fault(self, visit)
        return await self.honest(visit)

    async def _arrived(self, request: web.Request) -> Visit:
        body: Json = orjson.loads(await request.read())
        if self.speaks == "policy_url":
            [seed], url = body["seeds"], body["policy_url"]
        else:
            seed, url = body["env"]["seed"], body["policy"]["config"]["inference_url"]
        nth = 1 + sum(visit.seed == seed for visit in self.visits)
        visit = Visit(request, body, seed, url, nth)
        async with self._changed:
            self.visits.append(visit)
            self._changed.notify_all()
        return visit

    async def honest(self, visit: Visit) -> web.StreamResponse:
        try:
            reply = await self.talk(self, visit)
        except (ModelRefused, aiohttp.ClientError, openai.OpenAIError) as refused:
            return web.json_response({"detail": f"no model: {refused}"}, status=500)
        return web.json_response(self.shape(visit, mark(visit.seed, reply), reply))

    async def hold(self) -> None:
        """Until the app ends."""
        await self._released.wait()


# --- faults ----------------------------------------------------------------------------------------------------------


async def hangs(app: FaultyApp, _: Visit) -> web.StreamResponse:
    await app.hold()
    return web.Response(status=503)


async def resets(_: FaultyApp, visit: Visit) -> web.StreamResponse:
    assert visit.request.transport is not None
    visit.request.transport.abort()
    return web.Response()


def refuses(status: int) -> Fault:
    async def refuse(_: FaultyApp, __: Visit) -> web.StreamResponse:
        return web.json_response({"detail": "something broke here"}, status=status)

    return refuse


def sends(body: bytes, content_type: str = "application/json") -> Fault:
    """An honest rollout with another reply."""

    async def send(app: FaultyApp, visit: Visit) -> web.StreamResponse:
        await app.talk(app, visit)
        return web.Response(body=body, content_type=content_type)

    return send


def scores(literal: str) -> Fault:
    """An honest rollout whose score stands in the reply as this JSON text, valid or not."""

    async def send(app: FaultyApp, visit: Visit) -> web.StreamResponse:
        reply = await app.talk(app, visit)
        body = orjson.dumps(app.shape(visit, "@", reply)).replace(b'"@"', literal.encode())
        return web.Response(body=body, content_type="application/json")

    return send


def is_hostile(hostility: Hostility) -> Fault:
    """An honest rollout with a reply that is a trap."""

    async def send(app: FaultyApp, visit: Visit) -> web.StreamResponse:
        await app.talk(app, visit)
        return await hostility(visit.request)

    return send


def of_another_seed(by: int) -> Fault:
    """A reply that says it is for another seed."""

    async def send(app: FaultyApp, visit: Visit) -> web.StreamResponse:
        reply = await app.talk(app, visit)
        return web.json_response({**app.shape(visit, mark(visit.seed, reply), reply), "seed": visit.seed + by})

    return send


def talks(talk: Talk) -> Fault:
    """An honest rollout but for how the model is asked."""

    async def send(app: FaultyApp, visit: Visit) -> web.StreamResponse:
        try:
            reply = await talk(app, visit)
        except ModelRefused as refused:
            return web.json_response({"detail": f"no model: {refused}"}, status=500)
        return web.json_response(app.shape(visit, mark(visit.seed, reply), reply))

    return send


NO_SCORES: Mapping[str, str] = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "1e999": "1e999",
    '"high"': "'high'",
    "null": "None",
    "true": "True",
    "-3": "-3",
}
"""JSON texts that are no number in [0, 1], and how the service shows each."""
