"""The providers that can be called, and what each wants a request to look like."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from promptjobs.errors import ProviderNotConfigured, SecretUnreadable


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


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The keys that a job's organisation has left for providers, by name; None in place of one that cannot be opened.

    are_required: no other key may be used, the server's least of all.
    """

    by_provider: Mapping[str, SecretStr | None] = field(default_factory=dict)
    are_required: bool = False

    def concern(self, name: str) -> bool:
        """Whether the server's own key must not be used for the provider."""
        return self.are_required or name in self.by_provider

    def require(self, name: str) -> None:
        """Raises SecretUnreadable; ProviderNotConfigured where a key is required and none was left."""
        if name in self.by_provider:
            if self.by_provider[name] is None:
                raise SecretUnreadable
        elif self.are_required:
            raise ProviderNotConfigured(
                f"provider {name!r}: use_byok is true, and the organisation has left no key for it "
                f"(PUT /api/provider-keys/{name})"
            )


NO_KEYS = OwnKeys()


class Providers:
    """The server's registry of providers: the only source of upstream addresses, and of keys that are the server's."""

    def __init__(
        self, environment: Mapping[str, tuple[str, SecretStr | None]], addresses: Mapping[str, str] | None = None
    ) -> None:
        """environment: base URL and key of each provider that can be called. addresses: base URLs of further ones,
        which can be called with a key of the caller's organisation alone.
        """
        self._providers = {
            name: Provider(name, base_url.rstrip("/"), key, KNOWN.get(name, Quirks()))
            for name, (base_url, key) in environment.items()
        }
        self._keyless = {
            name: Provider(name, base_url.rstrip("/"), None, KNOWN.get(name, Quirks()))
            for name, base_url in (addresses or {}).items()
        } | {name: replace(provider, key=None) for name, provider in self._providers.items()}

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._providers.values())

    def get(self, name: str, own: OwnKeys = NO_KEYS) -> Provider:
        """With the organisation's own key where it has left one, else with the server's.

        Raises ProviderNotConfigured, which says what to set; SecretUnreadable.
        """
        own.require(name)
        key = own.by_provider.get(name)
        if key is not None:
            return replace(self.without_key(name), key=key)
        provider = self._providers.get(name)
        if provider is not None:
            return provider
        quirks = KNOWN.get(name)
        if quirks is None or quirks.key_variable is None:
            raise self._unknown(name)
        instead = f", or leave your own (PUT /api/provider-keys/{name})" if name in self._keyless else ""
        raise ProviderNotConfigured(f"provider {name!r} has no key: set {quirks.key_variable} for the server{instead}")

    def without_key(self, name: str) -> Provider:
        """A provider that can be called once somebody brings a key. Raises ProviderNotConfigured."""
        provider = self._keyless.get(name)
        if provider is None:
            raise self._unknown(name)
        return provider

    def names(self) -> tuple[str, ...]:
        """The providers that can be called with what the server has, sorted."""
        return tuple(sorted(self._providers))

    def targets(self) -> frozenset[str]:
        """host:port of every provider: what a session that calls nothing but providers may dial."""
        return frozenset(_target(provider.base_url) for provider in self._keyless.values())

    def _unknown(self, name: str) -> ProviderNotConfigured:
        known = ", ".join(sorted(KNOWN.keys() | self._providers.keys()))
        return ProviderNotConfigured(
            f"provider {name!r} is unknown: the server knows {known}; "
            "any other one needs PROMPTJOBS_PROVIDER_<NAME>_BASE_URL"
        )


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
