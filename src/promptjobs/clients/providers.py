"""The providers that can be called, and what each wants a request to look like."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from promptjobs.errors import ProviderNotConfigured


@dataclass(frozen=True, slots=True)
class Quirks:
    """How a provider differs. limit_field limits the completion; key_variable is the key's environment variable."""

    limit_field: str = "max_tokens"
    accepts_seed: bool = True
    key_variable: str | None = None


KNOWN: Mapping[str, Quirks] = {
    "openai": Quirks(limit_field="max_completion_tokens", key_variable="OPENAI_API_KEY"),
    "groq": Quirks(key_variable="GROQ_API_KEY"),
    "google": Quirks(accepts_seed=False, key_variable="GEMINI_API_KEY"),
    "anthropic": Quirks(accepts_seed=False, key_variable="ANTHROPIC_API_KEY"),
    "openrouter": Quirks(key_variable="OPENROUTER_API_KEY"),
    "together": Quirks(key_variable="TOGETHER_API_KEY"),
    "ollama": Quirks(),
    "vllm": Quirks(),
}
"""Providers with conventional environment variables; any other name is an OpenAI-compatible endpoint of one's own."""

LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")

REROUTING = frozenset(
    {
        "api_base",
        "api_key",
        "api_version",
        "base_url",
        "custom_llm_provider",
        "extra_body",
        "extra_headers",
        "extra_query",
        "headers",
        "organization",
    }
)
"""Fields by which a caller could choose another upstream, key or header: only the server's registry says these."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenAI-compatible endpoint; base_url has no trailing slash."""

    name: str
    base_url: str
    key: SecretStr | None = None
    quirks: Quirks = field(default=Quirks())

    @property
    def chat_url(self) -> str:
        return f"{self.base_url}/chat/completions"

    def headers(self) -> dict[str, str]:
        """The headers of a call. The reply comes uncompressed, so that its usage can be read as it passes."""
        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            "accept-encoding": "identity",
        }
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key.get_secret_value()}"
        return headers


class Providers:
    """The server's registry of providers: the only source of upstream addresses and keys."""

    def __init__(self, environment: Mapping[str, tuple[str, SecretStr | None]]) -> None:
        self._providers = {
            name: Provider(name, base_url.rstrip("/"), key, KNOWN.get(name, Quirks()))
            for name, (base_url, key) in environment.items()
        }

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._providers.values())

    def get(self, name: str) -> Provider:
        """Raises ProviderNotConfigured, which says what to set."""
        provider = self._providers.get(name)
        if provider is not None:
            return provider
        quirks = KNOWN.get(name)
        if quirks is not None and quirks.key_variable is not None:
            raise ProviderNotConfigured(f"provider {name!r} has no key: set {quirks.key_variable} for the server")
        known = ", ".join(sorted(KNOWN.keys() | self._providers.keys()))
        raise ProviderNotConfigured(
            f"provider {name!r} is unknown: the server knows {known}; "
            "any other one needs PROMPTJOBS_PROVIDER_<NAME>_BASE_URL"
        )

    def names(self) -> tuple[str, ...]:
        """The providers that can be called, sorted."""
        return tuple(sorted(self._providers))

    def targets(self) -> frozenset[str]:
        """host:port of every provider: what a session that calls nothing but providers may dial."""
        return frozenset(_target(provider.base_url) for provider in self._providers.values())


def prepare_body(provider: Provider, body: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a chat-completions body in the form that the provider wants.

    The token limit has the provider's name for it (given twice, the provider's own name counts), an unsupported seed is
    dropped, so are fields that would choose another upstream; a stream is asked to report its usage.
    """
    prepared = {key: value for key, value in body.items() if key not in REROUTING and key not in LIMIT_FIELDS}
    wanted = provider.quirks.limit_field
    for name in sorted(LIMIT_FIELDS, key=lambda name: name != wanted):
        if body.get(name) is not None:
            prepared[wanted] = body[name]
            break
    if not provider.quirks.accepts_seed:
        prepared.pop("seed", None)
    options = prepared.pop("stream_options", None)
    if prepared.get("stream") is True:
        given = options if isinstance(options, Mapping) else {}
        prepared["stream_options"] = {**given, "include_usage": True}
    return prepared


def _target(base_url: str) -> str:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
