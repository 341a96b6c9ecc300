"""Reads a task app's call, and puts a policy in force in it. Pure."""

from dataclasses import dataclass
from typing import Any

from promptjobs.clients.json_reply import read_json
from promptjobs.errors import CallInvalid, InvalidReply, ToolNotAllowed
from promptjobs.interceptor.rewrite import JsonObject
from promptjobs.interceptor.terms import Policy

MAX_BODY_BYTES = 2**20

LIMITS = ("max_tokens", "max_completion_tokens")
"""The two names of the limit on a completion; each provider is sent the one that it knows."""

OTHER_MODELS = ("models", "route", "fallbacks")
"""Fields by which routers are told to use another model."""

CALLER_RUNS = ("function", "custom")
"""Types of tools that have names of the caller's."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call that may be carried out. body: without what `under` decides.

    limit: the smaller of the caller's limits on the completion, in tokens. wants_usage: of a stream's caller.
    """

    body: JsonObject
    messages: list[JsonObject]
    limit: int | None
    streamed: bool
    wants_usage: bool

    def under(self, policy: Policy) -> JsonObject:
        """The body to send: always the policy's model, never more tokens than the policy allows.

        The policy's temperature stands in where the caller gives none. Everything else is passed on.
        """
        most = policy.max_completion_tokens
        body = {
            **self.body,
            "model": policy.model,
            "max_completion_tokens": most if self.limit is None else min(self.limit, most),
        }
        if body.get("temperature") is None:
            body["temperature"] = policy.temperature
        return body


def read_request(raw: bytes) -> Request:
    """The call, once it has the form that rewriting and metering rely on. Raises CallInvalid."""
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
    for name in OTHER_MODELS:
        body.pop(name, None)
    temperature = body.get("temperature")
    if temperature is not None and type(temperature) not in (int, float):
        raise CallInvalid("must be a number", "temperature")
    return Request(body, messages, _taken_limit(body), stream is True, wants_usage)


def check_tools(body: JsonObject, module: str, allowed: tuple[str, ...]) -> None:
    """Raises ToolNotAllowed for a tool, or a function of the older form, that the module's calls may not carry."""
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


def _taken_limit(body: JsonObject) -> int | None:
    """The smaller of the limits that the caller gives, which are taken out of the body."""
    limit = None
    for name in LIMITS:
        asked = body.pop(name, None)
        if asked is not None:
            if type(asked) is not int or asked < 1:
                raise CallInvalid("must be a positive integer", name)
            limit = asked if limit is None else min(limit, asked)
    return limit


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
