"""Providers and prices: the registry, the form of a request, and what it costs."""

import genai_prices
import pytest
from pydantic import SecretStr

from promptjobs.clients.pricing import Price, cost_usd, is_priced
from promptjobs.clients.providers import KNOWN, Provider, Providers, prepare_body
from promptjobs.clients.usage import Usage
from promptjobs.errors import ProviderNotConfigured
from promptjobs.settings import KEY_NAMES, KEYLESS, PROVIDERS

KEY = SecretStr("test-key")
REGISTRY = Providers(
    {
        "openai": ("https://api.openai.com/v1/", KEY),
        "groq": ("https://api.groq.com/openai/v1", KEY),
        "anthropic": ("https://api.anthropic.com/v1", KEY),
        "ollama": ("http://127.0.0.1:11434/v1", None),
        "mine": ("http://[::1]:9000/v1", None),
    }
)


def test_the_known_providers_are_those_of_the_settings():
    assert KNOWN.keys() == PROVIDERS.keys()
    for name, quirks in KNOWN.items():
        expected = None if name in KEYLESS else KEY_NAMES.get(name, (f"{name.upper()}_API_KEY",))[0]
        assert quirks.key_variable == expected


def test_a_provider_has_its_address_and_headers():
    openai, ollama = REGISTRY.get("openai"), REGISTRY.get("ollama")
    assert openai.chat_url == "https://api.openai.com/v1/chat/completions"
    assert openai.headers()["authorization"] == "Bearer test-key"
    assert openai.headers()["accept-encoding"] == "identity"
    assert "authorization" not in ollama.headers()
    assert "test-key" not in repr(openai)


def test_the_registry_names_providers_and_their_targets():
    assert REGISTRY.names() == ("anthropic", "groq", "mine", "ollama", "openai")
    assert REGISTRY.targets() == {
        "api.openai.com:443",
        "api.groq.com:443",
        "api.anthropic.com:443",
        "127.0.0.1:11434",
        "[::1]:9000",
    }


def test_a_missing_key_is_named_by_its_variable():
    with pytest.raises(ProviderNotConfigured, match="GEMINI_API_KEY"):
        REGISTRY.get("google")


def test_an_unknown_provider_is_answered_with_the_known_ones():
    with pytest.raises(ProviderNotConfigured, match=r"anthropic, google, groq, mine, .*PROMPTJOBS_PROVIDER_"):
        REGISTRY.get("opnai")


@pytest.mark.parametrize(
    ("provider", "body", "prepared"),
    [
        ("openai", {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("groq", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        ("openai", {"max_tokens": 5, "max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ("groq", {"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 5}),
        ("groq", {"max_tokens": None, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ("groq", {"max_tokens": None}, {}),
        ("mine", {"seed": 1}, {"seed": 1}),
        ("anthropic", {"seed": 1}, {}),
        ("groq", {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        (
            "groq",
            {"stream": True, "stream_options": {"include_usage": False, "x": 1}},
            {"stream": True, "stream_options": {"include_usage": True, "x": 1}},
        ),
        ("groq", {"stream": False, "stream_options": {"include_usage": True}}, {"stream": False}),
        ("groq", {"api_base": "x", "base_url": "x", "api_key": "x", "extra_headers": {}, "top_p": 1}, {"top_p": 1}),
    ],
)
def test_a_body_is_put_into_the_providers_form(provider, body, prepared):
    before = dict(body)
    assert prepare_body(REGISTRY.get(provider), body) == prepared
    assert body == before


PRICED = [
    ("openai", "gpt-4.1-mini"),
    ("groq", "llama-3.3-70b-versatile"),
    ("google", "gemini-2.5-pro"),
    ("anthropic", "claude-sonnet-4-5"),
    ("openrouter", "openai/gpt-4o-mini"),
    ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
]


@pytest.mark.parametrize(("provider", "model"), PRICED)
@pytest.mark.parametrize("prompt", [1, 1000, 200_000, 200_001, 500_000])
@pytest.mark.parametrize("cached", [0, 1])
def test_the_cost_is_that_of_the_price_list_in_every_tier(provider, model, prompt, cached):
    usage = Usage(prompt, 300, cached_tokens=cached)
    reference = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=prompt, output_tokens=300, cache_read_tokens=cached),
        model,
        provider_id=provider,
    )
    assert cost_usd(provider, model, usage) == pytest.approx(float(reference.total_price), rel=1e-12)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-99"),
        ("ollama", "gpt-4o"),
        ("vllm", "gpt-4o"),
        ("mine", "gpt-4o"),
        ("openai", "text-embedding-3-small"),
        ("openai", "whisper-1"),
        ("openai", ""),
    ],
)
def test_an_unknown_price_is_none(provider, model):
    assert cost_usd(provider, model, Usage(10, 10)) is None
    assert not is_priced(provider, model)


def test_unreported_usage_has_no_cost_unless_the_price_is_zero():
    assert cost_usd("openai", "gpt-4o", Usage()) is None
    assert cost_usd("mine", "m", Usage(), Price(0, 0)) == 0


def test_tokens_without_a_split_cost_the_dearer_rate():
    assert cost_usd("mine", "m", Usage(100, 10, 1000), Price(1, 4)) == pytest.approx(
        (100 * 1 + 10 * 4 + 1000 * 4) / 1e6
    )


def test_a_given_price_goes_before_the_list():
    assert cost_usd("openai", "gpt-4o", Usage(10**6, 10**6), Price(1, 2)) == pytest.approx(3)


def test_googles_model_prefix_is_no_part_of_the_name():
    assert cost_usd("google", "models/gemini-2.5-pro", Usage(10, 1)) == cost_usd(
        "google", "gemini-2.5-pro", Usage(10, 1)
    )


def test_a_provider_is_a_value():
    assert Provider("mine", "http://h.test/v1") == Provider("mine", "http://h.test/v1")
