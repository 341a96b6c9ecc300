"""The upstream call without a stream: sent once, read whole, turned into what the task app is answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import SecretStr

from promptjobs.clients.http import Outgoing
from promptjobs.clients.json_reply import read_json
from promptjobs.clients.providers import NO_KEYS, OwnKeys, Provider, Providers
from promptjobs.clients.redaction import redacted
from promptjobs.clients.usage import read_usage
from promptjobs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidReply,
    InvalidRequest,
    TargetNotAllowed,
    Unreachable,
    WorldError,
)
from promptjobs.interceptor.bounded import Recent
from promptjobs.interceptor.meter import Outcome
from promptjobs.interceptor.wire import JSON_TYPE, Headers, error_body

TIMEOUT_SECONDS = 120.0
"""From the first byte to the provider to the last byte from it."""

MAX_OWN = 1_000
"""Keys of organisations for which a provider is kept ready."""

SHOWN = 1_000
"""Characters of a provider's error message that are passed on."""

PASSED_ON = ("retry-after", "retry-after-ms", "x-should-retry")
"""Headers of a reply by which clients decide when to try again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the task app is answered, and what is recorded about it."""

    outcome: Outcome
    body: bytes
    headers: Headers

    @property
    def status(self) -> int:
        return self.outcome.status


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider in the form that a call needs it; `secrets` are never shown."""

    name: str
    provider: Provider
    url: str
    headers: Mapping[str, str]
    secrets: tuple[str, ...]

    @staticmethod
    def of(provider: Provider) -> "Upstream":
        secrets = () if provider.key is None else (provider.key.get_secret_value(),)
        return Upstream(provider.name, provider, provider.chat_url, provider.headers(), secrets)


class Upstreams:
    """The providers, each prepared once for the server's key, and once for each key of an organisation."""

    def __init__(self, providers: Providers) -> None:
        self._providers = providers
        self._ready: dict[str, Upstream] = {}
        self._own: Recent[tuple[str, SecretStr | None], Upstream] = Recent(MAX_OWN)

    def get(self, name: str, own: OwnKeys = NO_KEYS) -> Upstream:
        """Raises ProviderNotConfigured, SecretUnreadable."""
        if own.concern(name):
            return self._with_own(name, own)
        found = self._ready.get(name)
        if found is None:
            found = self._ready[name] = Upstream.of(self._providers.get(name))
        return found

    def _with_own(self, name: str, own: OwnKeys) -> Upstream:
        own.require(name)
        key = own.by_provider[name]
        found = self._own.get((name, key))
        return found or self._own.put((name, key), Upstream.of(self._providers.get(name, own)))


async def complete(outgoing: Outgoing, upstream: Upstream, body: bytes, timeout_seconds: float) -> Answer:
    """Make one call. Whatever happens there is an answer; only cancellation raises."""
    try:
        reply = await outgoing.request(
            "POST", upstream.url, body=body, headers=upstream.headers, timeout_seconds=timeout_seconds
        )
    except (WorldError, InvalidRequest) as exc:
        return failed(upstream, exc)
    return read_answer(upstream, reply.status, reply.headers, reply.body)


def failed(upstream: Upstream, exc: WorldError | InvalidRequest) -> Answer:
    """The answer where there is no reply. It names the provider and not its address."""
    match exc:
        case ConnectionLost():
            status, code, cause, is_sent = 502, "upstream_interrupted", exc.cause, True
        case Unreachable():
            status, code, cause, is_sent = 503, "upstream_unreachable", exc.cause, False
        case DeadlineExceeded():
            status, code, cause, is_sent = 504, "upstream_timeout", f"no complete reply in {exc.seconds:g} s", True
        case InvalidReply():
            status, code, cause, is_sent = 502, "upstream_invalid_reply", exc.cause, True
        case TargetNotAllowed():
            status, code, cause, is_sent = 400, exc.code, "its address may not be dialled", False
        case _:
            status, code, cause, is_sent = 400, exc.code, "its address or key cannot be used", False
    shown = f"provider {upstream.name}: {redacted(cause, upstream.secrets)}"
    return _refused(status, code, shown, may_cost=is_sent, is_sent=is_sent)


def read_answer(upstream: Upstream, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """A complete reply as it came, or the error that it is."""
    if status >= 400:
        return _upstream_error(upstream, status, headers, body)
    if status >= 300:
        cause = f"provider {upstream.name}: it redirects (HTTP {status}), which is not followed"
        return _refused(502, "upstream_invalid_reply", cause, may_cost=False, is_sent=True)
    try:
        reply = read_json(body, upstream.name)
    except InvalidReply as exc:
        return failed(upstream, exc)
    if not isinstance(reply, dict):
        return failed(upstream, InvalidReply(upstream.name, "it is not an object"))
    choices = reply.get("choices")
    if isinstance(choices, list):
        message, finish_reason = _first_choice(choices)
        outcome = Outcome(status, reply=message, finish_reason=finish_reason, usage=read_usage(reply))
        return Answer(outcome, body, [JSON_TYPE])
    if "error" in reply:
        # Routers answer 200 and put the upstream's status into the error.
        return _upstream_error(upstream, status_of(reply["error"]), headers, body)
    return failed(upstream, InvalidReply(upstream.name, "it has no choices"))


def shown_error(upstream: Upstream, status: int, error: Any) -> tuple[bytes, str]:
    """A provider's error in OpenAI's form, without secrets; and its text for the record."""
    given = error if isinstance(error, dict) else {"message": error}

    def text(name: str, default: str | None = None) -> str | None:
        value = given.get(name)
        return redacted(str(value), upstream.secrets, SHOWN) if isinstance(value, str | int) else default

    message = text("message", "no reason given") or "no reason given"
    body = error_body(message, text("code"), text("type") or "upstream_error", text("param"))
    return body, f"upstream_error: HTTP {status}: {message}"


def _upstream_error(upstream: Upstream, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    try:
        reply = read_json(body, upstream.name)
        error = reply.get("error", reply.get("message")) if isinstance(reply, dict) else reply
    except InvalidReply as exc:
        error = exc.cause
    shown, recorded = shown_error(upstream, status, error)
    kept = [(name.encode(), headers[name].encode("latin-1", "replace")) for name in PASSED_ON if name in headers]
    answered = status if status <= 599 else 502
    return Answer(Outcome(answered, error=recorded, may_cost=False), shown, [JSON_TYPE, *kept])


def _first_choice(choices: list[Any]) -> tuple[str | None, str | None]:
    """JSON text of the first choice's message, and its finish reason."""
    choice = choices[0] if choices else None
    if not isinstance(choice, dict):
        return None, None
    message, reason = choice.get("message"), choice.get("finish_reason")
    text = orjson.dumps(message).decode() if isinstance(message, dict) else None
    return text, reason if isinstance(reason, str) else None


def status_of(error: Any) -> int:
    """The status that an error inside a reply names, else 502."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and 400 <= code <= 599 else 502


def _refused(status: int, code: str, message: str, *, may_cost: bool, is_sent: bool) -> Answer:
    outcome = Outcome(status, error=f"{code}: {message}", may_cost=may_cost, is_sent=is_sent)
    return Answer(outcome, error_body(message, code, "upstream_error"), [JSON_TYPE])
