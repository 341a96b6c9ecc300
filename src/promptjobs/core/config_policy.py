"""The model under optimization in a job's config: the job's own, and that of a module which has another."""

from collections.abc import Mapping
from typing import Any

from promptjobs.core.config_fields import TABLE_OF
from promptjobs.core.config_sections import Resolved
from promptjobs.core.config_support import SECTION, FieldSupport
from promptjobs.core.config_values import read, shown
from promptjobs.errors import InvalidConfig

FIELD_AT: Mapping[str, FieldSupport] = TABLE_OF["gepa"].at
"""The policy's fields are the same for every algorithm."""

UPSTREAM_KEYS = frozenset({"inference_url", "api_base", "base_url"})


MAX_PRICES = 100
"""Models whose prices a job may give."""


class Price(Resolved):
    input_usd_per_million: float
    output_usd_per_million: float


class PolicyConfig(Resolved):
    """The model under optimization. price: None where the server's price list decides."""

    provider: str
    model: str
    temperature: float = 0.0
    max_completion_tokens: int = 512
    policy_name: str | None = None
    price: Price | None = None


def job_policy(values: Mapping[str, Any]) -> PolicyConfig:
    """Of the whole job. Raises InvalidConfig for half of a price."""
    prices = {name: values[f"{SECTION}.policy.price.{name}"] for name in Price.model_fields}
    return PolicyConfig(
        provider=values[f"{SECTION}.policy.provider"].lower(),
        model=values[f"{SECTION}.policy.model"],
        temperature=values[f"{SECTION}.policy.temperature"],
        max_completion_tokens=values[f"{SECTION}.policy.max_completion_tokens"],
        policy_name=values[f"{SECTION}.policy.policy_name"],
        price=_price(prices, f"{SECTION}.policy.price"),
    )


def read_prices(value: Any, path: str) -> dict[str, Price]:
    """By provider/model, the provider in lower case; a model's name may hold slashes. Raises InvalidConfig."""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_PRICES:
        raise InvalidConfig(
            f"expected an object of at most {MAX_PRICES} prices by provider/model, got {shown(value)}", path
        )
    prices: dict[str, Price] = {}
    for key, one in value.items():
        here = f"{path}.{key}"
        provider, _, model = (part.strip() for part in key.partition("/"))
        if not provider or not model:
            raise InvalidConfig('expected "provider/model" as the key of a price, such as "openai/gpt-4o-mini"', here)
        price, name = _module_price(one, here), f"{provider.lower()}/{model}"
        if price is None:
            raise InvalidConfig(f"expected {' and '.join(Price.model_fields)}, got neither", here)
        if prices.setdefault(name, price) != price:
            raise InvalidConfig(f"gives {name} another price than the same key in other letters does", here)
    return prices


def module_policy(value: Any, job: PolicyConfig, path: str) -> tuple[PolicyConfig | None, list[str]]:
    """A module's own policy, and warnings; None where it says what the job's says. Raises InvalidConfig.

    What it leaves out is the job's. The price is only where the model is.
    """
    given, warnings = _given(value, path)
    provider = str(given.get("provider", job.provider)).lower()
    if provider != job.provider and "model" not in given:
        raise InvalidConfig("is required where the provider is not the job's", f"{path}.model")
    model = given.get("model", job.model)
    if given.get("policy_name", job.policy_name) != job.policy_name:
        warnings.append(f"{path}.policy_name has no effect: a rollout is requested under the job's policy_name")
    own = PolicyConfig(
        provider=provider,
        model=model,
        temperature=given.get("temperature", job.temperature),
        max_completion_tokens=given.get("max_completion_tokens", job.max_completion_tokens),
        policy_name=job.policy_name,
        price=given.get("price", job.price if (provider, model) == (job.provider, job.model) else None),
    )
    return None if own == job else own, warnings


def repeated_policy(value: Any, job: PolicyConfig, path: str) -> list[str]:
    """Check a policy that may only say again what the job's says. Returns warnings; raises InvalidConfig."""
    given, warnings = _given(value, path)
    for key, one in given.items():
        own = getattr(job, key)
        if (one.lower() if key == "provider" else one) != own:
            raise InvalidConfig(f"is {shown(one)}, and the job's policy says {shown(own)}", f"{path}.{key}")
    return warnings


def _given(value: Any, path: str) -> tuple[dict[str, Any], list[str]]:
    """The values of a policy's fields, read by their types, and warnings about what is no field."""
    if value is None:
        return {}, []
    if not isinstance(value, dict):
        raise InvalidConfig(f"expected an object, got {shown(value)}", path)
    found: dict[str, Any] = {}
    warnings = []
    for key, one in value.items():
        field = FIELD_AT.get(f"{SECTION}.policy.{key}")
        if one is None:
            continue
        if key in UPSTREAM_KEYS:
            raise InvalidConfig("must be absent: addresses of providers are the server's settings", f"{path}.{key}")
        if key == "price":
            found[key] = _module_price(one, f"{path}.price")
        elif field is None:
            warnings.append(f"unknown key {path}.{key} is ignored")
        else:
            found[key] = read(field, f"{path}.{key}", one)
    found.pop("inference_mode", None)
    return found, warnings


def _module_price(value: Any, path: str) -> Price | None:
    if not isinstance(value, dict) or not value.keys() <= Price.model_fields.keys():
        raise InvalidConfig(f"expected an object of {' and '.join(Price.model_fields)}, got {shown(value)}", path)
    given = {name: value.get(name) for name in Price.model_fields}
    fields = {name: FIELD_AT[f"{SECTION}.policy.price.{name}"] for name in Price.model_fields}
    prices = {name: None if one is None else read(fields[name], f"{path}.{name}", one) for name, one in given.items()}
    return _price(prices, path)


def _price(prices: Mapping[str, Any], path: str) -> Price | None:
    missing = [name for name, price in prices.items() if price is None]
    if len(missing) == 1:
        raise InvalidConfig("is required where the other price is given", f"{path}.{missing[0]}")
    return None if missing else Price(**prices)
