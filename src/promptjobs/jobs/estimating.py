"""What a job is expected to need and to cost before it runs: the core's estimate, with prices, as JSON."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from promptjobs.clients.pricing import cost_usd, most_usd
from promptjobs.clients.usage import Usage
from promptjobs.core.config import JobConfig
from promptjobs.core.estimate import Calls, estimate
from promptjobs.core.ledger import Cap, Caps, Category
from promptjobs.jobs.pricing_check import given_price, unpriced_models

Amount = float | None


@dataclass(frozen=True, slots=True)
class Range:
    """None where the price is not known."""

    expected: Amount
    at_most: Amount

    def to_json(self) -> dict[str, Amount]:
        return {"expected": self.expected, "at_most": self.at_most}


@dataclass(frozen=True, slots=True)
class Line:
    """The calls of one model for one purpose."""

    category: Category
    calls: Range
    tokens: Range
    cost_usd: Range


def estimate_job(config: JobConfig) -> dict[str, Any]:
    """Rollouts by phase; calls, tokens and cost, each as expected and at most, in all and by category.

    A cost is None where a model without a known price takes part. caps: the job's, by the finish reasons they end it
    with; stopped_by: the one that is expected to end it first, None where all of them are expected to hold. Everything
    else is said without regard to the caps.
    """
    found = estimate(config)
    lines = [_line(config, each) for each in found.calls]
    limits = _limits(config)
    return {
        "rollouts": {phase.value: count for phase, count in found.rollouts.items()} | {"total": found.rollouts_at_most},
        "calls": _figures([(line.category, line.calls) for line in lines]),
        "tokens": _figures([(line.category, line.tokens) for line in lines]),
        "cost_usd": _figures([(line.category, line.cost_usd) for line in lines]),
        "assumptions": list(found.assumptions),
        "unpriced_models": [f"{used.provider}/{used.model}" for used in unpriced_models(config)],
        "caps": {cap.value: limit for cap, limit in limits.items()},
        "stopped_by": _first_cap(config, limits, lines),
    }


def _line(config: JobConfig, calls: Calls) -> Line:
    """Priced as an average call, as often as it is made: a price may depend on how long the call's prompt is."""
    price = given_price(config, calls.provider, calls.model)
    prompt, completion = (math.ceil(tokens / max(1, calls.expected)) for tokens in calls.tokens)
    usage = Usage(prompt_tokens=max(1, prompt), completion_tokens=completion)
    one, most = cost_usd(calls.provider, calls.model, usage, price), calls.tokens_at_most
    return Line(
        calls.category,
        Range(calls.expected, calls.at_most),
        Range(calls.tokens.total, most.total),
        Range(
            None if one is None else calls.expected * one,
            most_usd(calls.provider, calls.model, most.prompt, most.completion, price),
        ),
    )


def _figures(parts: Sequence[tuple[Category, Range]]) -> dict[str, Any]:
    by_category = {each.value: _sum(part for category, part in parts if category is each) for each in Category}
    return {
        **_sum(part for _, part in parts).to_json(),
        "by_category": {name: total.to_json() for name, total in by_category.items()},
    }


def _sum(parts: Iterable[Range]) -> Range:
    known = list(parts)
    return Range(_total(part.expected for part in known), _total(part.at_most for part in known))


def _total(amounts: Iterable[Amount]) -> Amount:
    total: float = 0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


# --- caps ------------------------------------------------------------------------------------------------------------


def _limits(config: JobConfig) -> dict[Cap, float]:
    """In USD, and in tokens."""
    caps = Caps.of(config)
    in_usd = {Cap.TOTAL: caps.total_usd, Cap.ROLLOUTS: caps.rollout_usd, Cap.PROPOSALS: caps.proposal_usd}
    limits = {cap: float(limit) for cap, limit in in_usd.items() if limit is not None}
    return limits if caps.tokens is None else {**limits, Cap.TOKENS: caps.tokens}


def _first_cap(config: JobConfig, limits: dict[Cap, float], lines: Sequence[Line]) -> str | None:
    """The cap of which the least part of what is expected fits in; a search spends evenly, as far as is known.

    A MIPRO search goes on among what was proposed when its proposals have used up theirs.
    """
    rollouts = [line.cost_usd for line in lines if line.category.is_rollout]
    proposals = [line.cost_usd for line in lines if line.category is Category.PROPOSAL]
    expected = {
        Cap.TOTAL: _sum(line.cost_usd for line in lines).expected,
        Cap.ROLLOUTS: _sum(rollouts).expected,
        Cap.PROPOSALS: None if config.algorithm == "mipro" else _sum(proposals).expected,
        Cap.TOKENS: _sum(line.tokens for line in lines).expected,
    }
    fitting = {cap: limit / wanted for cap, limit in limits.items() if (wanted := expected[cap])}
    first = min(fitting, key=lambda cap: fitting[cap], default=None)
    return None if first is None or fitting[first] >= 1 else first.value
