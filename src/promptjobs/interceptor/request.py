"""Reads a task app's call and puts the job's policy in force. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from promptjobs.clients.json_reply import read_json
from promptjobs.clients.pricing import Price
from promptjobs.core.config import PolicyConfig
from promptjobs.errors import CallInvalid, InvalidReply, ToolNotAllowed
from promptjobs.interceptor.rewrite import JsonObject

MAX_BODY_BYTES = 2**20

LIMITS = ("max_tokens", "max_completion_tokens")
"""The two names of the limit on a completion; each provider is sent the one that it knows."""

OTHER_MODELS = ("models", "route", "fallbacks")
"""Fields by which routers are told to use another model."""

CALLER_RUNS = ("function", "custom")
"""Types of tools that have names of the caller's."""

NO_TOOLS: Mapping[str, tuple[str, ...]] = MappingProxyType({})
"""Where no module's tools are limited."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The job's model and its parameters. price: None where the price list decides.

    tools: names of those that a module's calls may carry, for modules where that is limited.
    """

    provider: str
    model: str
    temperature: float
    max_completion_tokens: int
    price: Price | None = None
    tools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def of(config: PolicyConfig, tools: Mapping[str, tuple[str, ...]] = NO_TOOLS) -> "Policy":
        given = config.price
        price = None if given is None else Price(given.input_usd_per_million, given.output_usd_per_million)
        return Policy(config.provider, config.model, config.temperature, config.max_completion_tokens, price, tools)


@dataclass(frozen=True, slots=True)
class Request:
    """A call that may be carried out. body: with the policy in force. wants_usage: of a stream's caller."""

    body: JsonObject
    messages: list[JsonObject]
    streamed: bool
    wants_usage: bool


def read_request(raw: bytes, policy: Policy) -> Request:
    """The call as it is to be made: always the policy's model, never more tokens than the policy allows.

    The policy's temperature stands in where the caller gives none. Everything else is passed on. Raises CallInvalid.
    """
    try:
        body = read_json(raw, "the caller")
    except InvalidReply as exc:
        raise CallInvalid(f"the body cannot be read: {exc.cause}") from exc
    if not isinstance(body, dict):
        raise CallInvalid("the body must be an object")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise CallInvalid("must be a list of at least one message", "messages")
    for index, message in enumerate(messages):
        _check_message(index, message)
    _check_single(body.get("n"))
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise CallInvalid("must be true or false", "stream")
    options = body.get("stream_options")
    wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    _apply(policy, body)
    return Request(body, messages, stream is True, wants_usage)


def check_tools(body: JsonObject, module: str, policy: Policy) -> None:
    """Raises ToolNotAllowed for a tool, or a function of the older form, that the module's calls may not carry."""
    allowed = policy.tools.get(module)
    if allowed is None:
        return
    for field_name in ("tools", "functions"):
        carried = body.get(field_name)
        if carried is not None and not isinstance(carried, list):
            raise CallInvalid("must be a list", field_name)
        for tool in carried or ():
            name = _tool_name(tool)
            if name not in allowed:
                raise ToolNotAllowed(name, module, allowed)


def _tool_name(tool: Any) -> str:
    """A function's name; of a tool that the provider runs itself, its type."""
    if not isinstance(tool, dict):
        raise CallInvalid("each must be an object", "tools")
    kind = tool.get("type", "function")
    named = tool.get(kind) if isinstance(kind, str) else None
    name = (named if isinstance(named, dict) else tool).get("name") if kind in CALLER_RUNS else kind
    if not isinstance(name, str):
        raise CallInvalid("each must have a name or a type", "tools")
    return name


def _apply(policy: Policy, body: JsonObject) -> None:
    for name in OTHER_MODELS:
        body.pop(name, None)
    body["model"] = policy.model
    temperature = body.get("temperature")
    if temperature is None:
        body["temperature"] = policy.temperature
    elif type(temperature) not in (int, float):
        raise CallInvalid("must be a number", "temperature")
    limit = policy.max_completion_tokens
    for name in LIMITS:
        asked = body.pop(name, None)
        if asked is not None:
            if type(asked) is not int or asked < 1:
                raise CallInvalid("must be a positive integer", name)
            limit = min(limit, asked)
    body["max_completion_tokens"] = limit


def _check_single(n: Any) -> None:
    if n is not None and (type(n) is not int or n != 1):
        raise CallInvalid("must be 1: one completion is metered per call", "n")


def _check_message(index: int, message: Any) -> None:
    """That a message has the form which rewriting relies on."""
    where = f"messages[{index}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise CallInvalid("must be an object with a role", where)
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise CallInvalid("must be a string, a list of parts, or null", f"{where}.content")
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise CallInvalid("each part must be an object with a type", f"{where}.content")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise CallInvalid("a text part must have a text", f"{where}.content")
