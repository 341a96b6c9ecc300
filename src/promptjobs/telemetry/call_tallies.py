"""Counts model calls by category, provider and model, for a microsecond each, and shows them as Prometheus metrics.

The client library's own counters take a lock for each number, which is most of what a call may cost here. Calls are
counted by the event loop's thread alone, so plain numbers do.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

MAX_MODELS = 200
OTHER = "other"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
BUCKETS = (*map(str, SECONDS), "+Inf")
"""Upper bounds of the histogram's buckets."""

MODEL = ("provider", "model")
CATEGORY = ("category", *MODEL)
KINDS = ("prompt", "completion", "unknown")
OK = "ok"


def outcome_of(error_code: str | None, status: int | None) -> str:
    """The outcome of a call by its error's code. A provider's 429 is told apart from its other errors."""
    if error_code is None:
        return OK
    return "upstream_rate_limited" if error_code == "upstream_error" and status == 429 else error_code


@dataclass(slots=True)
class _Latency:
    """The calls of one model. counts[i]: those of bucket i alone; the last bucket has no upper bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds: float = 0.0


@dataclass(slots=True)
class _Tally:
    """The calls of one model in one category. latency: shared by all categories of the model."""

    latency: _Latency
    outcomes: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unknown_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0


class CallTallies(Collector):
    """max_models: pairs of provider and model that are told apart. Names come from configs, which anybody may send:
    all further models count as one, whose provider and model are `other`.
    """

    def __init__(self, max_models: int = MAX_MODELS) -> None:
        self._max_models = max_models
        self._latencies: dict[tuple[str, str], _Latency] = {}
        self._tallies: dict[tuple[str, str, str], _Tally] = {}

    def count(
        self,
        category: str,
        provider: str,
        model: str,
        outcome: str,
        prompt_tokens: int,
        completion_tokens: int,
        unknown_tokens: int,
        cost_usd: float | None,
        seconds: float,
    ) -> None:
        """One call that has ended. cost_usd: None where it is not known."""
        tally = self._tallies.get((category, provider, model)) or self._tally(category, provider, model)
        tally.outcomes[outcome] = tally.outcomes.get(outcome, 0) + 1
        tally.prompt_tokens += prompt_tokens
        tally.completion_tokens += completion_tokens
        tally.unknown_tokens += unknown_tokens
        if cost_usd is None:
            tally.unpriced += 1
        else:
            tally.cost_usd += cost_usd
        latency = tally.latency
        latency.counts[bisect_left(SECONDS, seconds)] += 1
        latency.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """May be called by any thread."""
        yield from self._counters([*self._tallies.items()])
        seconds = HistogramMetricFamily(
            "promptjobs_call_seconds", "Model calls, from the request to the end of the reply.", labels=MODEL
        )
        for model, latency in [*self._latencies.items()]:
            buckets, total = [], 0
            for bound, count in zip(BUCKETS, latency.counts, strict=True):
                total += count
                buckets.append((bound, total))
            seconds.add_metric(model, buckets, latency.seconds)
        yield seconds

    def _tally(self, category: str, provider: str, model: str) -> _Tally:
        if (provider, model) not in self._latencies and len(self._latencies) >= self._max_models:
            provider = model = OTHER
        name = (category, provider, model)
        if name not in self._tallies:
            latency = self._latencies.setdefault((provider, model), _Latency())
            self._tallies[name] = _Tally(latency)
        return self._tallies[name]

    def _counters(self, tallies: list[tuple[tuple[str, str, str], _Tally]]) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "promptjobs_calls", "Model calls that have ended, every attempt.", labels=(*CATEGORY, "outcome")
        )
        tokens = CounterMetricFamily(
            "promptjobs_tokens",
            "Tokens of model calls; `unknown` ones were reported without a split.",
            labels=(*CATEGORY, "kind"),
        )
        cost = CounterMetricFamily(
            "promptjobs_cost_usd", "What model calls have cost, as far as it is known.", labels=CATEGORY
        )
        unpriced = CounterMetricFamily(
            "promptjobs_unpriced_calls", "Model calls whose cost is not known.", labels=CATEGORY
        )
        for name, tally in tallies:
            for outcome, count in [*tally.outcomes.items()]:
                calls.add_metric((*name, outcome), count)
            counts = (tally.prompt_tokens, tally.completion_tokens, tally.unknown_tokens)
            for kind, count in zip(KINDS, counts, strict=True):
                tokens.add_metric((*name, kind), count)
            cost.add_metric(name, tally.cost_usd)
            unpriced.add_metric(name, tally.unpriced)
        yield from (calls, tokens, cost, unpriced)
