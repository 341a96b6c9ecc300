"""The prices that a job gives: how they are read, what is refused with its key, and which one a model has."""

from typing import Any

import pytest
from tests.fakes.config_bodies import body, mipro_body
from tests.fakes.programs import MODULES

from promptjobs.core.config import Price, Resolution, read_config, resolve
from promptjobs.core.policies import policy_digest, price_of, used_models
from promptjobs.errors import InvalidConfig

PATH = "prompt_learning.prices"
CHEAP = {"input_usd_per_million": 1, "output_usd_per_million": 2.5}
DEAR = {"input_usd_per_million": 10, "output_usd_per_million": 20}


def resolved(prices: Any, **changes: Any) -> Resolution:
    return resolve("gepa", body({"prices": prices, **changes}), None)


def refused(prices: Any) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        resolved(prices)
    return caught.value


def test_prices_are_read_by_provider_and_model() -> None:
    config = resolved({"GROQ/llama-3.1-8b-instant": CHEAP, "openrouter/meta-llama/llama-3": DEAR}).config
    assert config.search.prices == {
        "groq/llama-3.1-8b-instant": Price(input_usd_per_million=1.0, output_usd_per_million=2.5),
        "openrouter/meta-llama/llama-3": Price(input_usd_per_million=10.0, output_usd_per_million=20.0),
    }
    assert read_config(config.model_dump_json()) == config


def test_no_prices_are_as_good_as_none_given() -> None:
    assert resolved({}).config == resolved(None).config


@pytest.mark.parametrize(
    ("prices", "field", "said"),
    [
        ([], PATH, "expected an object of at most 100 prices by provider/model, got a list of 0"),
        ({"gpt-4o": CHEAP}, f"{PATH}.gpt-4o", 'expected "provider/model"'),
        ({"/gpt-4o": CHEAP}, f"{PATH}./gpt-4o", 'expected "provider/model"'),
        ({"groq/ ": CHEAP}, f"{PATH}.groq/ ", 'expected "provider/model"'),
        ({"groq/m": 3}, f"{PATH}.groq/m", "expected an object of input_usd_per_million and"),
        ({"groq/m": {}}, f"{PATH}.groq/m", "got neither"),
        ({"groq/m": {"input_usd_per_million": 1}}, f"{PATH}.groq/m.output_usd_per_million", "is required"),
        ({"groq/m": CHEAP | {"cached": 1}}, f"{PATH}.groq/m", "expected an object of input_usd_per_million and"),
        (
            {"groq/m": CHEAP | {"input_usd_per_million": -1}},
            f"{PATH}.groq/m.input_usd_per_million",
            "from 0 to 1000000",
        ),
        ({"groq/m": CHEAP, "Groq/m": DEAR}, f"{PATH}.Groq/m", "gives groq/m another price"),
        ({f"groq/m{n}": CHEAP for n in range(101)}, PATH, "at most 100"),
    ],
)
def test_a_wrong_price_is_refused_with_its_key(prices: Any, field: str, said: str) -> None:
    error = refused(prices)
    assert error.param == field
    assert said in str(error)


def test_an_override_may_name_a_model_with_dots() -> None:
    sent = {"prompt_learning": {"prices": {"groq/llama-3.1-8b-instant": DEAR}}}
    config = resolve("gepa", body({"prices": {"groq/llama-3.1-8b-instant": CHEAP}}), sent).config
    assert config.search.prices == {"groq/llama-3.1-8b-instant": Price(**DEAR)}


def test_a_price_of_a_model_that_the_job_does_not_call_is_reported() -> None:
    used, other = "groq/llama-3.1-8b-instant", "xai/grok"
    assert resolved({used: CHEAP}).warnings == ()
    assert resolved({used: CHEAP, other: CHEAP}).warnings == (
        "prices.xai/grok has no effect: the job calls no such model",
    )


def test_what_the_policy_says_goes_before_the_prices() -> None:
    model = ("groq", "llama-3.1-8b-instant")
    prices = {"/".join(model): CHEAP, "xai/grok": CHEAP}
    plain = resolved(prices, **{"gepa.mutation.llm_provider": "xai", "gepa.mutation.llm_model": "grok"}).config
    own = resolved(prices, **{"policy.price": DEAR}).config
    assert price_of(plain, *model) == price_of(plain, "xai", "grok") == Price(**CHEAP)
    assert price_of(own, *model) == Price(**DEAR)
    assert price_of(plain, "groq", "another") is None


def test_a_modules_own_price_goes_before_the_prices() -> None:
    modules = [dict(module) for module in MODULES]
    modules[0]["policy"] = {"model": "big", "price": DEAR}
    config = resolved({"groq/big": CHEAP}, **{"gepa.modules": modules}).config
    assert price_of(config, "groq", "big") == Price(**DEAR)


def test_prices_are_no_part_of_what_a_rollout_is_recorded_under() -> None:
    prices = {"groq/llama-3.1-8b-instant": CHEAP}
    assert policy_digest(resolved(prices).config) == policy_digest(resolved(None).config)


def test_a_known_price_gives_the_objective_cost_something_to_compare() -> None:
    asked = {"gepa.objectives": ["score", "cost"], "gepa.front": "hybrid"}
    assert any("cost compares nobody" in said for said in resolved(None, **asked).warnings)
    assert resolved({"groq/llama-3.1-8b-instant": CHEAP}, **asked).warnings == ()


def test_every_model_of_a_job_is_used_with_the_field_that_names_it() -> None:
    judge = {"enabled": True, "reward_source": "verifier", "backend_provider": "openai", "backend_model": "j"}
    changes = {"verifier": judge, "proxy_models": {"lo_model": "lo"}}
    found = resolve("mipro", mipro_body({**changes, "mipro.meta": {"provider": "xai", "model": "meta"}}), None).config
    assert [
        (each.field.removeprefix("prompt_learning."), each.provider, each.model) for each in used_models(found)
    ] == [
        ("policy.model", "groq", "llama-3.1-8b-instant"),
        ("mipro.meta.model", "xai", "meta"),
        ("verifier.backend_model", "openai", "j"),
        ("proxy_models.lo_model", "groq", "lo"),
    ]
