"""The demo's task app: labels one ticket per rollout through the inference URL that it is given, and scores it."""

import argparse
import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel, Field, ValidationError

from promptjobs.demo.dataset import Dataset, Split, Ticket, load_dataset
from promptjobs.demo.programs import (
    TICKETS_ENV,
    Call,
    Messages,
    Program,
    run_program,
    tickets_program,
    triage_program,
)
from promptjobs.demo.review import Review, review, review_triage
from promptjobs.demo.serving import run_process
from promptjobs.errors import InvalidRequest, PromptjobsError, WorldError

TASK_APP_ID = TICKETS_ENV
COUNTED_ENV = "banking77"
"""The environment of configs that count seeds from 0 through the whole data, whatever split a ticket is in."""

_NAME = "Support tickets of a bank"
_DESCRIPTION = "A message that a customer wrote to the support desk of a bank gets one label."
_MAX_REQUEST_BYTES = 2**20
_MAX_REPLY_BYTES = 2**20
_COMPLETIONS = "/chat/completions"

_Session = web.AppKey("session", aiohttp.ClientSession)


class _Env(BaseModel):
    seed: int
    env_name: str = TICKETS_ENV


class _PolicyConfig(BaseModel):
    model: str
    inference_url: str = Field(pattern=r"^https?://")
    temperature: float = 0.0
    max_completion_tokens: int | None = Field(default=None, ge=1)
    api_key: str | None = None
    trace_correlation_id: str | None = None


class _Policy(BaseModel):
    config: _PolicyConfig


class _RolloutRequest(BaseModel):
    """What every era of the dialect sends; newer clients leave `run_id` out, older ones the correlation id."""

    run_id: str | None = None
    trace_correlation_id: str | None = None
    env: _Env
    policy: _Policy

    @property
    def correlation_id(self) -> str | None:
        if self.trace_correlation_id is not None:
            return self.trace_correlation_id
        return self.policy.config.trace_correlation_id


def create_task_app(
    dataset: Dataset | None = None, api_key: str | None = None, model_timeout_seconds: float = 60.0
) -> web.Application:
    """The task app over `dataset` (the demo's own by default).

    api_key: demanded on every route but `/` where given. model_timeout_seconds: deadline of one call to the model; a
    call that fails or runs late is answered with 502, never with a score.
    """
    data = load_dataset() if dataset is None else dataset
    single, triage = tickets_program(data.labels), triage_program(data.labels)

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"healthy": True, "auth": {"required": api_key is not None, "expected_prefix": None}})

    async def task_info(request: web.Request) -> web.Response:
        seeds = [_parse_seed(text) for text in request.query.getall("seed", [])]
        if not seeds:
            about = {"taskset": _taskset(data), "programs": [_describe_program(one) for one in (single, triage)]}
            return web.json_response(_describe(data) | about)
        instances = [_describe(data) | {"dataset": _instance(data.ticket(seed))} for seed in seeds]
        return web.json_response(instances[0] if len(instances) == 1 else instances)

    async def rollout(request: web.Request) -> web.Response:
        asked = _parse_rollout(await request.read())
        ticket = _ticket(data, asked.env)
        key = asked.policy.config.api_key or request.headers.get("X-API-Key")

        async def ask(messages: Messages) -> tuple[str, dict[str, Any]]:
            return await _complete(request.app[_Session], asked.policy.config, messages, key)

        program = triage if asked.env.env_name == triage.env_name else single
        calls = await run_program(program, ticket, ask)
        answer = calls[-1].reply
        if program is triage:
            verdict = review_triage(data, ticket, calls[0].reply, answer)
        else:
            verdict = review(data, ticket, answer)
        return web.json_response(_rollout_response(asked, ticket, calls, verdict), dumps=_dumps)

    app = web.Application(client_max_size=_MAX_REQUEST_BYTES, middlewares=[_render_errors, _check_key(api_key)])
    app.cleanup_ctx.append(_open_session(model_timeout_seconds))
    app.router.add_get("/", _root)
    app.router.add_get("/health", health)
    app.router.add_get("/task_info", task_info)
    app.router.add_post("/rollout", rollout)
    return app


def completions_url(inference_url: str) -> str:
    """The address to post to: `/chat/completions` is appended where the path lacks it; the query stays."""
    parts = urlsplit(inference_url)
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if path.endswith(_COMPLETIONS) else path + _COMPLETIONS))


def _open_session(timeout_seconds: float) -> Callable[[web.Application], AsyncIterator[None]]:
    async def open_session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        ) as session:
            app[_Session] = session
            yield

    return open_session


@web.middleware
async def _render_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except PromptjobsError as exc:
        return web.json_response({"detail": str(exc), "code": exc.code}, status=exc.status)


def _check_key(api_key: str | None) -> Middleware:
    @web.middleware
    async def check_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api_key is None or request.path == "/" or _offers_key(request, api_key):
            return await handler(request)
        error = {"code": "unauthorised", "message": "The API key is missing or wrong."}
        return web.json_response({"detail": {"error": error}}, status=400)

    return check_key


def _offers_key(request: web.Request, api_key: str) -> bool:
    """Whether X-API-Key, the list X-API-Keys, or the bearer token holds the key."""
    offered = [request.headers.get("X-API-Key", ""), *request.headers.get("X-API-Keys", "").split(",")]
    offered.append(request.headers.get("Authorization", "").removeprefix("Bearer "))
    return any(hmac.compare_digest(key.strip().encode(), api_key.encode()) for key in offered)


async def _root(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok", "service": TASK_APP_ID})


def _ticket(dataset: Dataset, env: _Env) -> Ticket:
    """The ticket that is asked for. Raises InvalidRequest."""
    if env.env_name == COUNTED_ENV and env.seed not in dataset.tickets and 0 <= env.seed < len(dataset.tickets):
        return list(dataset.tickets.values())[env.seed]
    return dataset.ticket(env.seed)


def _parse_seed(text: str) -> int:
    try:
        return int(text)
    except ValueError as exc:
        raise InvalidRequest(f"a seed is a whole number, got {text[:40]!r}", "seed") from exc


def _parse_rollout(body: bytes) -> _RolloutRequest:
    try:
        return _RolloutRequest.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        raise InvalidRequest(first["msg"], ".".join(map(str, first["loc"]))) from exc


async def _complete(
    session: aiohttp.ClientSession, config: _PolicyConfig, messages: Messages, key: str | None
) -> tuple[str, dict[str, Any]]:
    """Ask the model; returns the content of its reply and the usage that it reports. Any failure is a WorldError."""
    body: dict[str, Any] = {"model": config.model, "messages": messages, "temperature": config.temperature}
    if config.max_completion_tokens is not None:
        body["max_completion_tokens"] = config.max_completion_tokens
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers |= {"X-API-Key": key, "Authorization": f"Bearer {key}"}
    try:
        url = completions_url(config.inference_url)
        async with session.post(url, data=orjson.dumps(body), headers=headers) as response:
            if response.status != 200:
                raise WorldError(f"the model answered HTTP {response.status}")
            return _parse_completion(await _read_capped(response))
    except TimeoutError as exc:
        raise WorldError("the model did not answer in time") from exc
    except aiohttp.ClientError as exc:
        raise WorldError(f"the model cannot be reached: {type(exc).__name__}") from exc


async def _read_capped(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > _MAX_REPLY_BYTES:
            raise WorldError(f"the model's reply is larger than {_MAX_REPLY_BYTES} bytes")
    return bytes(content)


def _parse_completion(body: bytes) -> tuple[str, dict[str, Any]]:
    try:
        reply = orjson.loads(body)
        content, usage = reply["choices"][0]["message"]["content"], reply.get("usage")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as exc:
        raise WorldError("the model's reply is not a chat completion") from exc
    if not isinstance(content, str):
        raise WorldError("the model's reply holds no text")
    return content, usage if isinstance(usage, dict) else {}


def _describe(dataset: Dataset) -> dict[str, Any]:
    return {
        "task": {"id": TASK_APP_ID, "name": _NAME, "description": _DESCRIPTION, "version": "1.0.0"},
        "environment": TASK_APP_ID,
        "dataset": {"id": TASK_APP_ID, "splits": [str(split) for split in Split]},
        "inference": {"supports_proxy": True, "tool": None},
        "limits": {"max_turns": 1},
        "task_metadata": {"labels": list(dataset.labels), "score": "1 for exactly the right label, else 0"},
    }


def _describe_program(program: Program) -> dict[str, Any]:
    stages = [{"stage_id": step.name, "description": step.does, "input": step.user} for step in program.steps]
    names = [step.name for step in program.steps]
    edges = [[before, after] for before, after in pairwise(names)]
    return {"env_name": program.env_name, "description": program.description, "stages": stages, "edges": edges}


def _taskset(dataset: Dataset) -> dict[str, Any]:
    splits = {
        str(split): {"first": seeds[0], "last": seeds[-1], "count": len(seeds)}
        for split in Split
        if (seeds := dataset.seeds(split))
    }
    return {"id": TASK_APP_ID, "name": _NAME, "splits": splits, "labels": list(dataset.labels)}


def _instance(ticket: Ticket) -> dict[str, Any]:
    return {"id": TASK_APP_ID, "split": str(ticket.split), "seed": ticket.seed, "message": ticket.message}


def _rollout_response(asked: _RolloutRequest, ticket: Ticket, calls: Sequence[Call], verdict: Review) -> dict[str, Any]:
    correlation_id = asked.correlation_id
    events = [
        {
            "type": "lm_call",
            "llm_request": {"messages": call.messages},
            "llm_response": {"message": {"role": "assistant", "content": call.reply}, "usage": call.usage},
            "correlation_id": correlation_id,
        }
        for call in calls
    ]
    return {
        "run_id": asked.run_id,
        "trace_correlation_id": correlation_id,
        "inference_url": asked.policy.config.inference_url,
        "metrics": {
            "outcome_reward": verdict.score,
            "event_rewards": [verdict.score],
            "outcome_objectives": {"reward": verdict.score},
            "details": {
                "seed": asked.env.seed,
                "message": ticket.message,
                **{call.step: call.reply for call in calls[:-1]},
                "output": calls[-1].reply,
                "expected": ticket.label,
                "feedback": verdict.feedback,
            },
        },
        "trace": {
            "schema_version": "3.0",
            "event_history": events,
            "markov_blanket_message_history": [],
            "metadata": {"session_id": asked.run_id, "trace_correlation_id": correlation_id},
        },
        "pipeline_metadata": {"trace_correlation_id": correlation_id},
    }


def _dumps(content: Any) -> str:
    return orjson.dumps(content).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the demo's task app.")
    parser.add_argument("--port", type=int, default=0, help="0: the system picks one")
    parser.add_argument("--api-key", default=None, help="demand this key in X-API-Key")
    arguments = parser.parse_args()
    run_process(create_task_app(api_key=arguments.api_key), arguments.port)


if __name__ == "__main__":
    main()
