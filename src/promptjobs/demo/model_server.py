"""An OpenAI-compatible server for the offline models: `demo-policy`, `demo-policy-small` and `demo-reflector`."""

import argparse
import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import orjson
from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

from promptjobs.demo.policy_model import SMALL, WHOLE, answer
from promptjobs.demo.reflection_model import reflect
from promptjobs.demo.serving import run_process

POLICY_MODEL = "demo-policy"
SMALL_POLICY_MODEL = "demo-policy-small"
REFLECTION_MODEL = "demo-reflector"

_ABILITIES = {POLICY_MODEL: WHOLE, SMALL_POLICY_MODEL: SMALL}
_MODELS = (*_ABILITIES, REFLECTION_MODEL)

_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])")
_MAX_BODY_BYTES = 4 * 2**20
_TOKENS_PER_CHUNK = 8
_CREATED = 0  # a fixed time of creation keeps equal requests equal to the byte


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_TextPart] | None = None

    def plain(self) -> dict[str, str]:
        content = self.content
        text = "".join(part.text for part in content) if isinstance(content, list) else content
        return {"role": self.role, "content": text or ""}


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _CompletionRequest(BaseModel):
    model: str
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1, le=16)
    seed: int | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None


@dataclass(frozen=True, slots=True)
class _Reply:
    """One choice: its tokens, whose texts joined are the content, and why it ends."""

    tokens: tuple[str, ...]
    finish_reason: Literal["stop", "length"]


@lru_cache(maxsize=4096)
def count_tokens(text: str) -> int:
    """The number of words and punctuation marks."""
    return len(_TOKEN.findall(text))


def create_model_app(latency_seconds: float = 0.0) -> web.Application:
    """The application; every completion starts `latency_seconds` after its request."""

    async def complete(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            asked = _CompletionRequest.model_validate(orjson.loads(body))
        except orjson.JSONDecodeError as exc:
            return _error(400, f"the body is not JSON: {exc}")
        except ValidationError as exc:
            first = exc.errors()[0]
            return _error(400, first["msg"], param=".".join(map(str, first["loc"])))
        if asked.model not in _MODELS:
            return _error(404, f"there is no model {asked.model!r}", param="model", code="model_not_found")
        if latency_seconds:
            await asyncio.sleep(latency_seconds)
        head = {"id": f"chatcmpl-{hashlib.blake2b(body, digest_size=12).hexdigest()}", "created": _CREATED}
        replies = _reply(asked)
        usage = _usage(asked, replies)
        if not asked.stream:
            return _json_response(200, _completion(head, asked.model, replies, usage))
        return await _stream(
            request, head | {"object": "chat.completion.chunk", "model": asked.model}, replies, usage, asked
        )

    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", _list_models)
    return app


def _reply(asked: _CompletionRequest) -> list[_Reply]:
    messages = [message.plain() for message in asked.messages]
    ability = _ABILITIES.get(asked.model)
    if ability is not None:
        texts = [answer(messages, ability)] * asked.n
    else:
        first_seed = 0 if asked.seed is None else asked.seed
        texts = [reflect(messages, first_seed + draw) for draw in range(asked.n)]
    limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    return [_cut(text, limit) for text in texts]


def _cut(text: str, limit: int | None) -> _Reply:
    tokens = tuple(_TOKEN.findall(text))
    if limit is not None and len(tokens) > limit:
        return _Reply(tokens[:limit], "length")
    return _Reply(tokens, "stop")


def _usage(asked: _CompletionRequest, replies: Sequence[_Reply]) -> dict[str, int]:
    prompt = sum(count_tokens(message.plain()["content"]) for message in asked.messages)
    completion = sum(len(reply.tokens) for reply in replies)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _completion(head: dict[str, Any], model: str, replies: Sequence[_Reply], usage: dict[str, int]) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": "".join(reply.tokens)},
            "logprobs": None,
            "finish_reason": reply.finish_reason,
        }
        for index, reply in enumerate(replies)
    ]
    return head | {"object": "chat.completion", "model": model, "choices": choices, "usage": usage}


async def _stream(
    request: web.Request,
    head: dict[str, Any],
    replies: Sequence[_Reply],
    usage: dict[str, int],
    asked: _CompletionRequest,
) -> web.StreamResponse:
    with_usage = asked.stream_options is not None and asked.stream_options.include_usage
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for index, reply in enumerate(replies):
        for delta, finish_reason in _deltas(reply):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            chunk = head | {"choices": [choice]} | ({"usage": None} if with_usage else {})
            await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
    if with_usage:
        await response.write(b"data: " + orjson.dumps(head | {"choices": [], "usage": usage}) + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _deltas(reply: _Reply) -> list[tuple[dict[str, str], str | None]]:
    texts = [
        "".join(reply.tokens[start : start + _TOKENS_PER_CHUNK])
        for start in range(0, len(reply.tokens), _TOKENS_PER_CHUNK)
    ]
    opening: dict[str, str] = {"role": "assistant", "content": ""}
    return [(opening, None), *(({"content": text}, None) for text in texts), ({}, reply.finish_reason)]


async def _list_models(_: web.Request) -> web.Response:
    models = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "promptjobs"} for name in _MODELS]
    return _json_response(200, {"object": "list", "data": models})


def _json_response(status: int, content: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")


def _error(status: int, message: str, param: str | None = None, code: str | None = None) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return _json_response(status, {"error": error})


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the offline models of the demo, OpenAI-compatible, under /v1.")
    parser.add_argument("--port", type=int, default=0, help="0: the system picks one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="wait so long before each completion")
    arguments = parser.parse_args()
    run_process(create_model_app(arguments.latency_ms / 1000), arguments.port)


if __name__ == "__main__":
    main()
