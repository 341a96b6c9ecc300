"""What a call costs in USD, from the price list that ships with genai-prices; unknown is None, never 0."""

import time
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import genai_prices
from genai_prices.types import ModelPrice, TieredPrices

from promptjobs.clients.usage import Usage

PRICE_LISTS = {
    "openai": "openai",
    "groq": "groq",
    "google": "google",
    "anthropic": "anthropic",
    "openrouter": "openrouter",
    "together": "together",
}
"""Our providers' names in genai-prices. A provider that is not here has no public price."""

MILLION = 1_000_000
PERIOD_SECONDS = 900
"""Prices start on dates and at times of day that fall on quarters of an hour: a looked-up price holds for one."""

Steps = tuple[tuple[int, float], ...]
"""(prompt tokens above which it applies, USD per token), ascending; the last one that applies counts for all tokens."""


@dataclass(frozen=True, slots=True)
class Price:
    """A price that the user gives. It goes before the list's."""

    input_usd_per_million: float
    output_usd_per_million: float


@dataclass(frozen=True, slots=True)
class Rates:
    input: Steps
    cached: Steps
    output: Steps


def cost_usd(provider: str, model: str, usage: Usage, price: Price | None = None) -> float | None:
    """Cost of one call, or None where the price or the usage is not known.

    Tokens without a split are charged at the dearer rate, so the figure is never too low.
    """
    rates = _rates_of(provider, model, price)
    if rates is None:
        return None
    sent = usage.prompt_tokens + usage.unknown_tokens
    into, out, cached = _rate(rates.input, sent), _rate(rates.output, sent), _rate(rates.cached, sent)
    if not usage.is_reported and (into or out):
        return None
    return (
        (usage.prompt_tokens - usage.cached_tokens) * into
        + usage.cached_tokens * cached
        + usage.completion_tokens * out
        + usage.unknown_tokens * max(into, out)
    )


def most_usd(
    provider: str, model: str, prompt_tokens: int, completion_tokens: int, price: Price | None = None
) -> float | None:
    """What a call costs at most that has these tokens at most; None where the price is not known.

    Every token at the dearest of its rates. Tokens that are reported without a split count as completion tokens.
    """
    rates = _rates_of(provider, model, price)
    if rates is None:
        return None
    into, out = _dearest(rates.input, rates.cached), _dearest(rates.input, rates.output)
    # Sums of floats are rounded: the bound has to stay above that.
    return (prompt_tokens * into + completion_tokens * out) * (1 + 1e-12)


def is_priced(provider: str, model: str) -> bool:
    """Whether the list has a price for the model."""
    return _listed(provider, model, int(time.time()) // PERIOD_SECONDS) is not None


def load_prices() -> None:
    """Load the list (about 0.3 s, once a process): call it at the start, in a thread, not in the first request."""
    is_priced("openai", "gpt-4o")


def _rates_of(provider: str, model: str, price: Price | None) -> Rates | None:
    return _given(price) if price is not None else _listed(provider, model, int(time.time()) // PERIOD_SECONDS)


@lru_cache(maxsize=1024)
def _listed(provider: str, model: str, period: int) -> Rates | None:
    """`period` is only there for the cache: the list is asked for the present time."""
    price_list = PRICE_LISTS.get(provider)
    if price_list is None:
        return None
    name = model.removeprefix("models/") if provider == "google" else model
    one_token = genai_prices.Usage(input_tokens=1, output_tokens=1)
    try:
        found = genai_prices.calc_price(one_token, name, provider_id=price_list).model_price
    except (LookupError, ValueError):
        return None
    return _rates(found)


def _rates(found: ModelPrice) -> Rates | None:
    if found.input_mtok is None or found.output_mtok is None:
        return None
    cached = found.cache_read_mtok if found.cache_read_mtok is not None else found.input_mtok
    return Rates(_steps(found.input_mtok), _steps(cached), _steps(found.output_mtok))


def _steps(price: Decimal | TieredPrices) -> Steps:
    if isinstance(price, Decimal):
        return ((-1, float(price) / MILLION),)
    return ((-1, float(price.base) / MILLION), *((tier.start, float(tier.price) / MILLION) for tier in price.tiers))


def _given(price: Price) -> Rates:
    into = ((-1, price.input_usd_per_million / MILLION),)
    return Rates(into, into, ((-1, price.output_usd_per_million / MILLION),))


def _dearest(*rates: Steps) -> float:
    return max(rate for steps in rates for _, rate in steps)


def _rate(steps: Steps, prompt_tokens: int) -> float:
    rate = steps[0][1]
    for start, step in steps:
        if prompt_tokens > start:
            rate = step
    return rate
