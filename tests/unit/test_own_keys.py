"""Which key a provider is called with: the organisation's, the server's, or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from promptjobs.clients.providers import NO_KEYS, OwnKeys, Providers
from promptjobs.errors import ProviderNotConfigured, SecretUnreadable
from promptjobs.interceptor.forward import Upstreams
from promptjobs.settings import PROVIDERS

OURS, THEIRS = SecretStr("server-key"), SecretStr("own-key")
REGISTRY = Providers(
    {"openai": ("http://proxy.test/v1/", OURS), "ollama": ("http://127.0.0.1:11434/v1", None)}, PROVIDERS
)


def used(name: str, own: OwnKeys) -> str | None:
    """The key, which has to be the same for completions and for the interceptor's calls."""
    key = REGISTRY.get(name, own).key
    prepared = Upstreams(REGISTRY).get(name, own)
    assert prepared.headers.get("authorization") == (None if key is None else f"Bearer {key.get_secret_value()}")
    assert prepared.secrets == (() if key is None else (key.get_secret_value(),))
    return None if key is None else key.get_secret_value()


def test_an_organisations_own_key_goes_before_the_servers() -> None:
    own = OwnKeys({"openai": THEIRS})
    assert used("openai", own) == "own-key"
    assert used("openai", NO_KEYS) == "server-key"
    assert used("ollama", own) is None


def test_an_own_key_goes_to_the_address_that_the_server_has_for_the_provider() -> None:
    own = OwnKeys({"openai": THEIRS, "groq": THEIRS})
    assert REGISTRY.get("openai", own).chat_url == "http://proxy.test/v1/chat/completions"
    groq = REGISTRY.get("groq", own)
    assert (groq.base_url, groq.quirks) == (PROVIDERS["groq"], Providers({"groq": ("x", OURS)}).get("groq").quirks)


def test_a_provider_without_a_key_says_where_one_can_be_given() -> None:
    with pytest.raises(ProviderNotConfigured, match=r"GROQ_API_KEY.*PUT /api/provider-keys/groq"):
        REGISTRY.get("groq")
    with pytest.raises(ProviderNotConfigured, match="unknown"):
        REGISTRY.get("nobody", OwnKeys({"nobody": THEIRS}))


@pytest.mark.parametrize("name", ["openai", "ollama", "groq", "nobody"])
def test_where_own_keys_are_required_no_other_is_used(name: str) -> None:
    upstreams = Upstreams(REGISTRY)
    if name in ("openai", "ollama"):
        upstreams.get(name)  # is ready for others now
    for get in (REGISTRY.get, upstreams.get):
        with pytest.raises(ProviderNotConfigured, match="use_byok"):
            get(name, OwnKeys({"google": THEIRS}, are_required=True))
    assert used("openai", OwnKeys({"openai": THEIRS}, are_required=True)) == "own-key"


def test_a_key_that_cannot_be_opened_is_not_replaced_by_the_servers() -> None:
    upstreams = Upstreams(REGISTRY)
    upstreams.get("openai")
    for get in (REGISTRY.get, upstreams.get):
        with pytest.raises(SecretUnreadable):
            get("openai", OwnKeys({"openai": None}))
        assert get("ollama", OwnKeys({"openai": None})).name == "ollama", "others are not concerned"


@given(st.lists(st.tuples(st.sampled_from(["openai", "groq"]), st.sampled_from(["a", "b", "c", None])), max_size=30))
def test_calls_of_many_organisations_never_mix_their_keys(calls: list[tuple[str, str | None]]) -> None:
    upstreams = Upstreams(REGISTRY)
    for name, key in calls:
        own = NO_KEYS if key is None else OwnKeys({name: SecretStr(key)})
        if key is None and name == "groq":
            with pytest.raises(ProviderNotConfigured):
                upstreams.get(name, own)
        else:
            assert upstreams.get(name, own).headers["authorization"] == f"Bearer {key or 'server-key'}"


def test_every_known_provider_may_be_dialled() -> None:
    assert {"proxy.test:80", "api.groq.com:443", "127.0.0.1:8000", "127.0.0.1:11434"} <= REGISTRY.targets()
    assert "api.openai.com:443" not in REGISTRY.targets(), "its calls go elsewhere"


def test_no_key_shows_in_what_is_printed() -> None:
    own = OwnKeys({"openai": THEIRS})
    assert "own-key" not in repr(own) + repr(REGISTRY.get("openai", own))
