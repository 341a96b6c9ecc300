"""The sampler of configurations: what to try next, and what is believed of each configuration."""

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from promptjobs.core.asks import digest
from promptjobs.core.choices import Choices, Point
from promptjobs.core.improvement import Improvement, ranked
from promptjobs.core.parzen import Parzen
from promptjobs.core.surrogate import Surrogate

Config = dict[str, int]
"""An option for each dimension by name; 0 means "leave as is"."""

_STARTUP, _STARTUP_SHARE = 10, 3
"""Random trials at first, and the share of the planned trials that they may take at most: one in this many."""
_ENUMERATED = 256
"""Where no more points are free, all of them are candidates."""
_UNIFORM_CANDIDATES = 8
"""Beside those of the density, so that the surrogate sees options that the good observations lack."""
_DRAWS = 8
"""For each candidate that is wanted, at most."""


class SamplerModel(StrEnum):
    """What ranks the candidates: `gp`, a Gaussian process; `tpe`, the ratio of the densities of good and bad points."""

    GP = "gp"
    TPE = "tpe"


@dataclass(frozen=True, slots=True)
class TpeSettings:
    """gamma: share of the observations that count as good, in (0, 1). n_candidates: points drawn from their density.

    n_startup_trials: trials at random before the model suggests; None: 10, but no more than a third of the planned
    ones. epsilon: probability of a random suggestion. alpha: smoothing of the density's kernels, above 0.
    Raises ValueError.
    """

    gamma: float = 0.25
    n_candidates: int = 24
    n_startup_trials: int | None = None
    epsilon: float = 0.0
    alpha: float = 1.0
    model: SamplerModel = SamplerModel.GP

    def __post_init__(self) -> None:
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must be in (0, 1), got {self.gamma!r}")
        if self.n_candidates < 1:
            raise ValueError(f"n_candidates must be at least 1, got {self.n_candidates!r}")
        if self.n_startup_trials is not None and self.n_startup_trials < 0:
            raise ValueError(f"n_startup_trials must be at least 0, got {self.n_startup_trials!r}")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must be in [0, 1], got {self.epsilon!r}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be above 0, got {self.alpha!r}")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is believed of a configuration's true score: mean in [0, 1] and standard deviation."""

    mean: float
    sd: float


@dataclass(frozen=True, slots=True)
class _Pooled:
    """The observations of one point: their mean by weight, the sum of their weights, how many they are."""

    mean: float
    weight: float
    count: int

    def plus(self, score: float, weight: float) -> "_Pooled":
        total = self.weight + weight
        return _Pooled(self.mean + (score - self.mean) * weight / total, total, self.count + 1)


class Sampler:
    """Suggests configurations, never one twice, and learns from their scores. The same calls give the same answers.

    Candidates are drawn from the density of the good observations, and ranked by the model. Whatever that is, beliefs
    are those of a Gaussian process that knows the noise of a mean of so many scores.
    """

    def __init__(
        self, dimensions: Mapping[str, int], settings: TpeSettings, rng_seed: int, planned_trials: int | None = None
    ) -> None:
        """dimensions: name -> number of options, at least 1; option 0 means "leave as is". Raises ValueError."""
        self._choices = Choices(dimensions)
        self._settings = settings
        self._rng_seed = rng_seed
        most = _STARTUP if planned_trials is None else min(_STARTUP, planned_trials // _STARTUP_SHARE)
        self._startup = most if settings.n_startup_trials is None else settings.n_startup_trials
        self._seen: dict[Point, _Pooled] = {}
        self._pending: dict[Point, None] = {}
        self._discarded: dict[Point, None] = {}
        self._surrogate = Surrogate(self._choices.sizes)
        self._draws = 0

    # --- what is tried -----------------------------------------------------------------------------------------------

    def extend(self, dimensions: Mapping[str, int]) -> None:
        """Add options to dimensions, or dimensions; configurations of before have 0 in new ones.

        Dimensions that are not named stay as they are. Raises ValueError where one would have fewer options.
        """
        self._choices.extend(dimensions)
        self._seen = {self._choices.padded(point): pooled for point, pooled in self._seen.items()}
        self._pending = {self._choices.padded(point): None for point in self._pending}
        self._discarded = {self._choices.padded(point): None for point in self._discarded}
        self._rebuild()

    def suggest_ranked(self, top_k: int) -> list[Config]:
        """Up to `top_k` new configurations, best first; fewer where the space is exhausted. Each becomes pending."""
        points = itertools.islice(iter(self._next, None), max(0, top_k))
        return [self._choices.decode(point) for point in points]

    def claim(self, config: Mapping[str, int]) -> bool:
        """Make a configuration that others chose pending; False where it is pending, observed or discarded already."""
        point = self._choices.encode(config)
        if self._is_taken(point):
            return False
        self._take(point)
        return True

    def withdraw(self, config: Mapping[str, int]) -> None:
        """A pending configuration that will not be observed: it may be suggested again. Others stay as they are."""
        point = self._choices.encode(config)
        if point in self._pending:
            del self._pending[point]
            self._rebuild()

    def discard(self, config: Mapping[str, int]) -> None:
        """A configuration that cannot be measured: it is never suggested, and nothing is learnt of it."""
        point = self._choices.encode(config)
        self._discarded[point] = None
        if self._pending.pop(point, 0) is None:
            self._rebuild()

    def rebase(self, observations: Iterable[tuple[Mapping[str, int], float, float]]) -> None:
        """Replace all that was observed by these configurations, mean scores and weights."""
        before, self._seen = self._seen, {}
        for config, score, weight in observations:
            self._record(config, score, weight)
        if before.keys() <= self._seen.keys():
            self._surrogate.update((point, pooled.mean, pooled.weight) for point, pooled in self._seen.items())
        else:
            self._rebuild()

    def observe(self, config: Mapping[str, int], score: float, *, weight: float = 1.0) -> None:
        """Record a mean score in [0, 1] of `weight` seeds; observations of one configuration are pooled by weight.

        The configuration need not have been suggested. Raises ValueError on a score or a weight out of range.
        """
        point = self._record(config, score, weight)
        self._surrogate.observe(point, self._seen[point].mean, self._seen[point].weight)

    # --- what is believed --------------------------------------------------------------------------------------------

    def estimate(self, config: Mapping[str, int]) -> Estimate:
        """The belief about a configuration, seen or not."""
        return self.estimates([config])[0]

    def estimates(self, configs: Sequence[Mapping[str, int]]) -> list[Estimate]:
        """The beliefs about configurations, seen or not, in their order."""
        if not configs:
            return []
        means, sds = self._surrogate.posterior([self._choices.encode(config) for config in configs])
        pairs = zip(means, sds, strict=True)
        return [Estimate(min(1.0, max(0.0, float(mean))), float(sd)) for mean, sd in pairs]

    def best_seen(self, n: int, exclude: Iterable[Mapping[str, int]] = ()) -> list[Config]:
        """Up to `n` observed configurations with the highest estimated means, best first, without those excluded."""
        excluded = {self._choices.encode(config) for config in exclude}
        points, means = self._surrogate.observed()
        allowed = (points[at] for at in ranked(means) if points[at] not in excluded)
        return [self._choices.decode(point) for point in itertools.islice(allowed, max(0, n))]

    def state(self) -> dict[str, Any]:
        """The dimensions, the settings, what was observed and what is pending, as JSON."""
        return {
            "dimensions": self._choices.dimensions,
            "settings": asdict(self._settings),
            "rng_seed": self._rng_seed,
            "startup_trials": self._startup,
            "suggested": self._draws,
            "observations": [
                {"config": self._choices.decode(point)} | asdict(pooled) for point, pooled in self._seen.items()
            ],
            "pending": [self._choices.decode(point) for point in self._pending],
        }

    # --- inside ------------------------------------------------------------------------------------------------------

    def _record(self, config: Mapping[str, int], score: float, weight: float) -> Point:
        if not 0 <= score <= 1:
            raise ValueError(f"score must be in [0, 1], got {score!r}")
        if not 0 < weight < math.inf:
            raise ValueError(f"weight must be above 0, got {weight!r}")
        point = self._choices.encode(config)
        self._pending.pop(point, None)
        self._seen[point] = self._seen.get(point, _Pooled(score, 0.0, 0)).plus(score, weight)
        return point

    def _is_taken(self, point: Point) -> bool:
        return point in self._seen or point in self._pending or point in self._discarded

    def _take(self, point: Point) -> None:
        self._pending[point] = None
        self._surrogate.add(point)

    def _rebuild(self) -> None:
        """A surrogate of the same observations, going on from what the likelihood said before."""
        self._surrogate = Surrogate(self._choices.sizes, self._surrogate.hyperparameters)
        self._surrogate.update((point, pooled.mean, pooled.weight) for point, pooled in self._seen.items())
        for point in self._pending:
            self._surrogate.add(point)

    def _next(self) -> Point | None:
        """The next suggestion, pending from now on; None where every point is taken."""
        taken = self._seen.keys() | self._pending.keys() | self._discarded.keys()
        free = self._choices.count - len(taken)
        if free <= 0:
            return None
        rng = random.Random(digest("tpe", self._rng_seed, self._draws))
        self._draws += 1
        is_random = (
            rng.random() < self._settings.epsilon or len(taken) - len(self._discarded) < self._startup or not self._seen
        )
        point = self._choices.draw_without(taken, rng) if is_random else self._chosen(rng, taken, free)
        self._take(point)
        return point

    def _chosen(self, rng: random.Random, taken: set[Point], free: int) -> Point:
        enumerated = list(self._choices.without(taken)) if free <= _ENUMERATED else []
        if self._settings.model is SamplerModel.TPE:
            return self._by_density(enumerated or self._drawn(rng, taken))
        search = Improvement(self._surrogate, taken)
        if enumerated:
            search.rank(enumerated)
        else:
            search.rank(self._drawn(rng, taken) + [self._choices.draw(rng) for _ in range(_UNIFORM_CANDIDATES)])
            search.climb()
        return self._choices.draw_without(taken, rng) if search.found is None else search.found

    def _split(self) -> tuple[list[Point], list[Point]]:
        """The good and the bad; pending points count as bad, so that not all of a batch are alike."""
        by_mean = sorted(self._seen, key=lambda point: -self._seen[point].mean)
        n_good = math.ceil(self._settings.gamma * len(by_mean))
        return by_mean[:n_good], by_mean[n_good:] + list(self._pending)

    def _drawn(self, rng: random.Random, taken: set[Point]) -> list[Point]:
        """Distinct candidates from the density of the good."""
        wanted = self._settings.n_candidates
        good = Parzen(self._split()[0], self._choices.sizes, self._settings.alpha)
        draws = (good.draw(rng) for _ in range(_DRAWS * wanted))
        found = dict.fromkeys(itertools.islice((point for point in draws if point not in taken), wanted))
        return list(found) or [self._choices.draw_without(taken, rng)]

    def _by_density(self, candidates: list[Point]) -> Point:
        good, bad = (Parzen(points, self._choices.sizes, self._settings.alpha) for points in self._split())
        return candidates[ranked(good.log_density(candidates) - bad.log_density(candidates))[0]]
