"""How sure a figure is: means and paired differences with confidence intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its two-sided 95 % interval; low and high are None where one observation tells no spread."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n, "confidence": CONFIDENCE}


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Student's t interval of the mean; exact for normal values, approximate for scores. Raises ValueError on none."""
    n = len(values)
    if not n:
        raise ValueError("the mean of no values")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, None, 1)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    reach = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * spread / math.sqrt(n)
    return Estimate(mean, mean - reach, mean + reach, n)


def score_estimate(scores: Sequence[float]) -> Estimate:
    """The mean of scores in [0, 1], its interval cut to that range."""
    found = mean_estimate(scores)
    if found.low is None or found.high is None:
        return found
    return Estimate(found.mean, max(0.0, found.low), min(1.0, found.high), found.n)


def paired_difference(ours: dict[int, float], theirs: dict[int, float]) -> Estimate | None:
    """ours − theirs over the seeds that both have; None where there is none in common."""
    common = [seed for seed in ours if seed in theirs]
    return mean_estimate([ours[seed] - theirs[seed] for seed in common]) if common else None
