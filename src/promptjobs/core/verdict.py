"""How sure a figure is: means and paired differences with confidence intervals.

Scores that are all 0 or 1 are counts, and a normal interval around them fails exactly where it matters: 15 of 15 right
would be "1.0 ± 0". They get Wilson's interval, and their differences Bonett and Price's; everything else Student's t.
Sources: Wilson 1927; Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions
based on paired data".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
Z = float(ndtri(0.5 + CONFIDENCE / 2))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its two-sided 95 % interval; low and high are None where one observation tells no spread."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def span(self, form: str) -> str | None:
        """ "0.446 to 0.737", by a format of numbers; None where there is no interval."""
        return None if self.low is None or self.high is None else f"{self.low:{form}} to {self.high:{form}}"

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n, "confidence": CONFIDENCE}


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Student's t interval of the mean; exact for normal values, approximate for others. Raises ValueError on none."""
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
    """The mean of scores in [0, 1]. Equal scores tell no spread either: they too get Wilson's interval."""
    if scores and (_are_counts(scores) or len(set(scores)) == 1):
        return _wilson(math.fsum(scores) / len(scores), len(scores))
    found = mean_estimate(scores)
    if found.low is None or found.high is None:
        return found
    return Estimate(found.mean, max(0.0, found.low), min(1.0, found.high), found.n)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """ours − theirs over the seeds that both have; None where there is none in common."""
    common = [seed for seed in ours if seed in theirs]
    if not common:
        return None
    differences = [ours[seed] - theirs[seed] for seed in common]
    if _are_counts([ours[seed] for seed in common]) and _are_counts([theirs[seed] for seed in common]):
        return _bonett_price(differences)
    return mean_estimate(differences)


def _are_counts(scores: Sequence[float]) -> bool:
    return all(score in (0.0, 1.0) for score in scores)


def _wilson(mean: float, n: int) -> Estimate:
    centre = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
    reach = Z / (1 + Z * Z / n) * math.sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n))
    return Estimate(mean, max(0.0, min(mean, centre - reach)), min(1.0, max(mean, centre + reach)), n)


def _bonett_price(differences: Sequence[float]) -> Estimate:
    """One win and one loss are added, so that a run of wins does not look certain."""
    n = len(differences)
    won = (sum(difference > 0 for difference in differences) + 1) / (n + 2)
    lost = (sum(difference < 0 for difference in differences) + 1) / (n + 2)
    reach = Z * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    mean = math.fsum(differences) / n
    return Estimate(mean, max(-1.0, min(mean, won - lost - reach)), min(1.0, max(mean, won - lost + reach)), n)
