"""The sampler of configurations: what to try next, and what is believed of each configuration."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptjobs.core.asks import digest
from promptjobs.core.choices import Choices, Point

Config = dict[str, int]
"""An option for each dimension by name; 0 means "leave as is"."""

_ENUMERATED = 2_000
"""Up to this many free points all of them are candidates."""


@dataclass(frozen=True, slots=True)
class TpeSettings:
    """gamma: share of the observations that count as good, in (0, 1). n_candidates: points drawn for a suggestion.

    n_startup_trials: trials at random before the model suggests; None: 10, but no more than a third of the planned
    ones. epsilon: probability of a random suggestion. alpha: smoothing of the kernels, above 0.
    """

    gamma: float = 0.25
    n_candidates: int = 24
    n_startup_trials: int | None = None
    epsilon: float = 0.0
    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is believed of a configuration's score: mean and standard deviation, in the unit of the scores."""

    mean: float
    sd: float


@dataclass(slots=True)
class _Pooled:
    """The observations of one point: their weighted mean, the sum of their weights, how many they are."""

    mean: float
    weight: float
    count: int


class Sampler:
    """Suggests configurations, none twice; learns from their scores. Pure: the same calls give the same answers."""

    def __init__(
        self, dimensions: Mapping[str, int], settings: TpeSettings, rng_seed: int, planned_trials: int | None = None
    ) -> None:
        self._choices = Choices(dimensions)
        self._settings = settings
        self._rng_seed = rng_seed
        third = 10 if planned_trials is None else min(10, planned_trials // 3)
        self._startup = third if settings.n_startup_trials is None else settings.n_startup_trials
        self._seen: dict[Point, _Pooled] = {}
        self._pending: dict[Point, None] = {}
        self._barred: dict[Point, None] = {}
        self._draws = 0

    # --- what is tried -----------------------------------------------------------------------------------------------

    def extend(self, dimensions: Mapping[str, int]) -> None:
        """Add options or dimensions; configurations of before have 0 in the new ones. Raises ValueError on fewer."""
        self._choices.extend(dimensions)
        self._seen = {self._choices.padded(point): pooled for point, pooled in self._seen.items()}
        self._pending = {self._choices.padded(point): None for point in self._pending}
        self._barred = {self._choices.padded(point): None for point in self._barred}

    def suggest_ranked(self, top_k: int) -> list[Config]:
        """Up to `top_k` new configurations, best first; fewer where the space is exhausted. Each becomes pending."""
        found: list[Config] = []
        for _ in range(top_k):
            point = self._next()
            if point is None:
                break
            self._pending[point] = None
            found.append(self._choices.decode(point))
        return found

    def withdraw(self, config: Mapping[str, int]) -> None:
        """A pending configuration that will not be observed: it may be suggested again."""
        self._pending.pop(self._choices.encode(config), None)

    def discard(self, config: Mapping[str, int]) -> None:
        """A configuration that cannot be measured: it is never suggested, and nothing is learnt of it."""
        point = self._choices.encode(config)
        self._pending.pop(point, None)
        self._barred[point] = None

    def rebase(self, observations: Sequence[tuple[Mapping[str, int], float, float]]) -> None:
        """Replace all that was observed by these configurations, mean scores and weights."""
        self._seen.clear()
        for config, score, weight in observations:
            self.observe(config, score, weight=weight)

    def claim(self, config: Mapping[str, int]) -> bool:
        """Make a configuration that others chose pending; False where it is pending or observed already."""
        point = self._choices.encode(config)
        if self._is_taken(point):
            return False
        self._pending[point] = None
        return True

    def observe(self, config: Mapping[str, int], score: float, *, weight: float = 1.0) -> None:
        """Record a mean score in [0, 1] of `weight` seeds; observations of one configuration are pooled by weight.

        The configuration need not have been suggested. Raises ValueError on a score or weight out of range.
        """
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"score must be in [0, 1], got {score!r}")
        if not 0.0 < weight < math.inf:
            raise ValueError(f"weight must be above 0, got {weight!r}")
        point = self._choices.encode(config)
        self._pending.pop(point, None)
        pooled = self._seen.setdefault(point, _Pooled(score, 0.0, 0))
        pooled.weight += weight
        pooled.mean += (score - pooled.mean) * weight / pooled.weight
        pooled.count += 1

    # --- what is believed --------------------------------------------------------------------------------------------

    def estimate(self, config: Mapping[str, int]) -> Estimate:
        """The belief about a configuration, seen or not."""
        return self._belief(self._choices.encode(config))

    def best_seen(self, n: int, exclude: "list[Config] | tuple[Config, ...]" = ()) -> list[Config]:
        """Up to `n` observed configurations with the highest estimated means, best first."""
        excluded = {self._choices.encode(config) for config in exclude}
        ranked = sorted(
            (point for point in self._seen if point not in excluded),
            key=lambda point: (-_rounded(self._belief(point).mean), point),
        )
        return [self._choices.decode(point) for point in ranked[:n]]

    def state(self) -> dict[str, Any]:
        """The dimensions, the settings and what was observed, as JSON."""
        return {
            "dimensions": self._choices.dimensions,
            "settings": asdict(self._settings),
            "observations": [
                {"config": self._choices.decode(point), "mean": p.mean, "weight": p.weight, "count": p.count}
                for point, p in self._seen.items()
            ],
            "pending": [self._choices.decode(point) for point in self._pending],
        }

    # --- inside ------------------------------------------------------------------------------------------------------

    def _is_taken(self, point: Point) -> bool:
        return point in self._seen or point in self._pending or point in self._barred

    def _belief(self, point: Point) -> Estimate:
        total = sum(p.weight for p in self._seen.values())
        centre = sum(p.mean * p.weight for p in self._seen.values()) / total if total else 0.5
        typical = total / len(self._seen) if self._seen else 1.0
        pooled = self._seen.get(point)
        if pooled is None:
            return Estimate(centre, 0.5)
        share = pooled.weight / (pooled.weight + typical)
        return Estimate(centre + share * (pooled.mean - centre), 0.5 / math.sqrt(pooled.weight + typical))

    def _next(self) -> Point | None:
        rng = random.Random(digest("tpe", self._rng_seed, self._draws))
        self._draws += 1
        taken = self._seen.keys() | self._pending.keys()
        free = self._choices.count - len(taken)
        if free <= 0:
            return None
        tried = len(taken)
        if not self._seen or tried < self._startup or rng.random() < self._settings.epsilon:
            return self._random(rng, taken, free)
        candidates = self._candidates(rng, taken, free)
        ratios = self._ratios(candidates)
        return min(zip(candidates, ratios, strict=True), key=lambda pair: (-_rounded(pair[1]), pair[0]))[0]

    def _random(self, rng: random.Random, taken: set[Point], free: int) -> Point:
        if free <= _ENUMERATED:
            return rng.choice(list(self._choices.without(taken)))
        while True:
            point = self._choices.draw(rng)
            if point not in taken:
                return point

    def _split(self) -> tuple[list[Point], list[Point]]:
        ranked = sorted(self._seen, key=lambda point: (-_rounded(self._seen[point].mean), point))
        n_good = max(1, math.ceil(self._settings.gamma * len(ranked)))
        return ranked[:n_good], ranked[n_good:] + list(self._pending)

    def _candidates(self, rng: random.Random, taken: set[Point], free: int) -> list[Point]:
        if free <= _ENUMERATED:
            return list(self._choices.without(taken))
        good, _ = self._split()
        found: dict[Point, None] = {}
        prior = self._settings.alpha / (len(good) + 1)
        for _ in range(20 * self._settings.n_candidates):
            at = rng.randrange(len(good) + 1)
            point = self._choices.draw(rng)
            if at < len(good):
                point = tuple(
                    drawn if rng.random() < prior * size / (1 + prior * size) else kept
                    for kept, drawn, size in zip(good[at], point, self._choices.sizes, strict=True)
                )
            if point not in taken:
                found[point] = None
                if len(found) == self._settings.n_candidates:
                    break
        return list(found) if found else [self._random(rng, taken, free)]

    def _ratios(self, candidates: list[Point]) -> NDArray[np.float64]:
        good, bad = self._split()
        points = np.array(candidates, dtype=np.int64)
        return self._log_density(points, good) - self._log_density(points, bad)

    def _log_density(self, points: NDArray[np.int64], kernels: list[Point]) -> NDArray[np.float64]:
        sizes = np.array(self._choices.sizes, dtype=np.float64)
        uniform = -np.log(sizes).sum()
        if not kernels:
            return np.full(len(points), uniform)
        prior = self._settings.alpha / (len(kernels) + 1)
        matches = points[:, None, :] == np.array(kernels, dtype=np.int64)[None, :, :]
        logs = np.where(matches, np.log(prior + 1), np.log(prior)) - np.log(1 + prior * sizes)
        each = np.concatenate([logs.sum(axis=2), np.full((len(points), 1), uniform)], axis=1)
        top = each.max(axis=1)
        return np.asarray(top + np.log(np.exp(each - top[:, None]).mean(axis=1)))


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
