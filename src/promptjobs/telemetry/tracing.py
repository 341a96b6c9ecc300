"""Sends model calls as OpenTelemetry spans, where the extra `otel` is installed and an endpoint is set.

A span is made when its call has ended, from what the call's record holds: nothing is kept while the call is under way.
Names follow the semantic conventions for generative AI. Prompts and replies are never recorded.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0
PATH = "/v1/traces"
PROVIDER_NAMES = {"google": "gcp.gemini"}
"""What the conventions call a provider, where that is not our name for it."""

TRACEPARENT = b"traceparent"
MAX_TRACEPARENT = 128
"""Bytes; it has 55 as yet."""

Attribute = str | bool | int | float | tuple[str, ...]


class Chat(NamedTuple):
    """A model call that has just ended.

    candidate_id, phase: None for the optimizer's own calls. temperature, max_tokens: as the config has them.
    error: the code of what went wrong, None for a call that was answered. cost_usd: None where it is not known.
    seconds: from the request to the end of the reply. traceparent: the caller's span, in the W3C's form.
    """

    job_id: str
    candidate_id: str | None
    phase: str | None
    category: str
    provider: str
    model: str
    temperature: float
    max_tokens: int
    streamed: bool
    error: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    seconds: float
    traceparent: str | None = None


class Tracing:
    """Hands spans to a thread, which sends them in batches. addresses: host and port of each provider.

    What has queued beyond 2,048 spans is dropped: calls never wait for whoever collects them.
    """

    def __init__(self, provider: "TracerProvider", addresses: Mapping[str, tuple[str, int]]) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._addresses = provider, addresses
        self._tracer = provider.get_tracer("promptjobs")
        self._kind, self._failed = SpanKind.CLIENT, Status(StatusCode.ERROR)
        self._propagator = TraceContextTextMapPropagator()

    def record(self, chat: Chat) -> None:
        """One span, which ends now."""
        ended = time.time_ns()
        span = self._tracer.start_span(
            f"chat {chat.model}",
            context=self._parent(chat.traceparent),
            kind=self._kind,
            attributes=self._attributes(chat),
            start_time=ended - int(chat.seconds * 1e9),
        )
        if chat.error is not None:
            span.set_status(self._failed)
        span.end(ended)

    def close(self, seconds: float) -> bool:
        """Send what has queued, for `seconds` at most. Whether that was enough."""
        closing = threading.Thread(target=self._provider.shutdown, name="spans' end", daemon=True)
        closing.start()
        closing.join(seconds)
        return not closing.is_alive()

    def _parent(self, traceparent: str | None) -> "Context":
        """That of the caller; else the span begins a trace of its own."""
        from opentelemetry.context import Context

        carrier = {} if traceparent is None else {"traceparent": traceparent}
        return self._propagator.extract(carrier, Context())

    def _attributes(self, chat: Chat) -> dict[str, Attribute]:
        host, port = self._addresses.get(chat.provider, (None, None))
        known: dict[str, Attribute | None] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER_NAMES.get(chat.provider, chat.provider),
            "gen_ai.request.model": chat.model,
            "gen_ai.request.temperature": chat.temperature,
            "gen_ai.request.max_tokens": chat.max_tokens,
            "gen_ai.request.stream": True if chat.streamed else None,
            "gen_ai.usage.input_tokens": chat.prompt_tokens or None,
            "gen_ai.usage.output_tokens": chat.completion_tokens or None,
            "gen_ai.response.finish_reasons": (chat.finish_reason,) if chat.finish_reason else None,
            "error.type": chat.error,
            "server.address": host,
            "server.port": port,
            "promptjobs.job_id": chat.job_id,
            "promptjobs.candidate_id": chat.candidate_id,
            "promptjobs.phase": chat.phase,
            "promptjobs.category": chat.category,
            "promptjobs.cost_usd": chat.cost_usd,
        }
        return {name: value for name, value in known.items() if value is not None}


_tracing: Tracing | None = None


def start(endpoint: str | None, version: str, provider_urls: Mapping[str, str]) -> bool:
    """Send spans from now on. Whether any are sent: not without an endpoint, nor without the extra `otel`.

    endpoint: the base URL of a collector that takes OTLP over HTTP. provider_urls: by the names of providers.
    """
    global _tracing
    if not endpoint:
        return False
    try:
        _tracing = Tracing(_provider(endpoint, version), dict(_addresses(provider_urls)))
    except ImportError:
        log.warning("no spans are sent: the extra `otel` is not installed", extra={"endpoint": endpoint})
        return False
    log.info("spans of model calls are sent", extra={"endpoint": endpoint})
    return True


def stop(seconds: float = STOP_SECONDS) -> None:
    """Send what has queued, for `seconds` at most, and record nothing from now on. It blocks."""
    global _tracing
    tracing, _tracing = _tracing, None
    if tracing is not None and not tracing.close(seconds):
        log.warning("spans were not sent in time, and are lost")


def is_on() -> bool:
    return _tracing is not None


def record(chat: Chat) -> None:
    """A span for the call, where spans are sent."""
    if _tracing is not None:
        _tracing.record(chat)


def traceparent_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The caller's span of a request, where spans are sent. headers: ASGI's."""
    if _tracing is None:
        return None
    found = next((value for name, value in headers if name == TRACEPARENT), None)
    return None if found is None or len(found) > MAX_TRACEPARENT else found.decode("latin-1")


def _provider(endpoint: str, version: str) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "promptjobs", "service.version": version})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint.rstrip("/") + PATH)))
    return provider


def _addresses(urls: Mapping[str, str]) -> Iterable[tuple[str, tuple[str, int]]]:
    for name, url in urls.items():
        parts = urlsplit(url)
        if parts.hostname is not None:
            yield name, (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
