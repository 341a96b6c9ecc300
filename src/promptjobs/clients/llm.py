"""Completions by meta-models: one attempt, with its cost; whether to try again is decided elsewhere."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from promptjobs.clients.http import Outgoing, Reply, retry_after_seconds
from promptjobs.clients.json_reply import read_json
from promptjobs.clients.pricing import Price, cost_usd
from promptjobs.clients.providers import NO_KEYS, OwnKeys, Provider, Providers, prepare_body
from promptjobs.clients.redaction import redacted, redacted_body, shown_url, without_repeated
from promptjobs.clients.usage import Usage, read_usage
from promptjobs.core.asks import MetaModel
from promptjobs.core.prompt import Message
from promptjobs.errors import InvalidReply, ProviderCallFailed

RETRYABLE = frozenset({429, 502, 503, 504, 529})
"""529 is Anthropic's "overloaded"."""

OUT_OF_QUOTA = "insufficient_quota"
"""A 429 that no waiting mends."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A completion. finish_reason is the provider's, "" where it gave none; cost_usd is None where unknown."""

    text: str
    finish_reason: str
    usage: Usage
    cost_usd: float | None
    seconds: float


KeysOf = Callable[[], Awaitable[OwnKeys]]
"""Asked before each call, so that a key that was changed meanwhile is the one that is sent."""


async def _no_keys() -> OwnKeys:
    return NO_KEYS


class Llm:
    """Calls meta-models over the shared session."""

    def __init__(self, outgoing: Outgoing, providers: Providers, keys_of: KeysOf = _no_keys) -> None:
        """keys_of: the keys of the organisation for which the calls are made."""
        self._outgoing, self._providers, self._keys_of = outgoing, providers, keys_of

    def with_keys(self, keys_of: KeysOf) -> "Llm":
        """The same for the calls of one job."""
        return Llm(self._outgoing, self._providers, keys_of)

    async def complete(
        self,
        model: MetaModel,
        messages: Sequence[Message],
        *,
        seed: int | None,
        timeout_seconds: float,
        price: Price | None = None,
    ) -> Completed:
        """Ask the model once.

        Raises ProviderNotConfigured, SecretUnreadable, what `keys_of` raises; ProviderCallFailed (which says whether
        a retry may help, and what was billed: 0 where the provider has refused, None where nobody knows); Unreachable,
        ConnectionLost, DeadlineExceeded.
        """
        provider = self._providers.get(model.provider, await self._keys_of())
        body: dict[str, Any] = {
            "model": model.model,
            "messages": [message.to_json() for message in messages],
            "temperature": model.temperature,
            "max_tokens": model.max_tokens,
        }
        if seed is not None:
            body["seed"] = seed
        started = time.perf_counter()
        try:
            reply = await self._outgoing.request(
                "POST",
                provider.chat_url,
                body=orjson.dumps(prepare_body(provider, body)),
                headers=provider.headers(),
                timeout_seconds=timeout_seconds,
            )
            if reply.status != 200:
                raise _refusal(provider, reply)
            read = read_json(reply.body, shown_url(provider.chat_url))
            answer = without_repeated(read, reply.body, _secrets(provider))
        except InvalidReply as exc:
            raise ProviderCallFailed(provider.name, f"invalid reply: {exc.cause}") from exc
        usage = read_usage(answer) if isinstance(answer, Mapping) else Usage()
        cost = cost_usd(provider.name, model.model, usage, price)
        text, finish_reason = _text(provider, answer, usage, cost)
        return Completed(text, finish_reason, usage, cost, time.perf_counter() - started)


def _text(provider: Provider, answer: Any, usage: Usage, cost: float | None) -> tuple[str, str]:
    """Text and finish reason of the first choice."""
    match answer:
        case {"choices": [{"message": {"content": str(text)}, **choice}, *_]}:
            reason = choice.get("finish_reason")
            return text, reason if isinstance(reason, str) else ""
        case {"choices": [{"message": {**message}, **choice}, *_]}:
            named = ", ".join(sorted(map(str, message))) or "nothing"
            cause = f"invalid reply: no text, only {named} (finish_reason {choice.get('finish_reason')!r})"
        case {"error": error}:
            # Routers answer 200 and put the upstream's status into the error.
            code = error.get("code") if isinstance(error, Mapping) else None
            status = code if type(code) is int else 200
            shown = redacted_body(orjson.dumps(error), _secrets(provider))
            raise _failed(provider, shown, status, usage, cost)
        case _:
            cause = "invalid reply: it has no choices"
    raise _failed(provider, redacted(cause), 200, usage, cost)


def _failed(provider: Provider, cause: str, status: int, usage: Usage, cost: float | None) -> ProviderCallFailed:
    """A reply of status 200 without a text: what it says that it used is paid."""
    return ProviderCallFailed(
        provider.name,
        cause,
        status,
        retryable=status in RETRYABLE,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        unknown_tokens=usage.unknown_tokens,
        cost_usd=cost if usage.is_reported else None,
    )


def _refusal(provider: Provider, reply: Reply) -> ProviderCallFailed:
    shown = redacted_body(reply.body, _secrets(provider))
    return ProviderCallFailed(
        provider.name,
        f"HTTP {reply.status}: {shown}" if shown else f"HTTP {reply.status}",
        reply.status,
        retryable=reply.status in RETRYABLE and OUT_OF_QUOTA.encode() not in reply.body,
        retry_after_seconds=retry_after_seconds(reply.headers),
        cost_usd=0.0 if reply.status >= 400 else None,
    )


def _secrets(provider: Provider) -> tuple[str, ...]:
    return () if provider.key is None else (provider.key.get_secret_value(),)
