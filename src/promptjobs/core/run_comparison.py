"""Who of two ways to search is better: each is known by several runs, which are measured on the same seeds.

Two things are left to chance: which runs there were, and which seeds they were measured on. A difference counts that is
large against both, so that it can be expected of other runs on other seeds. It is judged like readers who look at the
same cases: the variance of the difference is that by runs plus that by seeds, less what stands in both.
Sources: Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer ROC analysis"
(readers nested in treatments); Satterthwaite 1946.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from promptjobs.core.comparison import ALPHA, TIE, Method, exact_p, least, t_power, t_test_p
from promptjobs.core.verdict import Estimate

Scores = NDArray[np.float64]
"""(runs, seeds)."""


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Ours against theirs, over num_seeds seeds that all runs of both have a score on.

    difference: of the means over the runs. wins: seeds on which ours are better, in their mean. seeds_needed: for 80 %
    power at the observed difference, with as many runs as there are; runs_needed: runs of each, on as many seeds.
    """

    num_seeds: int
    our_runs: int
    their_runs: int
    difference: Estimate | None = None
    wins: int = 0
    losses: int = 0
    ties: int = 0
    p_value: float | None = None
    method: Method | None = None
    seeds_needed: int | None = None
    runs_needed: int | None = None


def compare_runs(ours: Sequence[Mapping[int, float]], theirs: Sequence[Mapping[int, float]]) -> RunComparison:
    """ours, theirs: of each run the scores in [0, 1] by seed."""
    if not (ours and theirs):
        return RunComparison(0, len(ours), len(theirs))
    common = sorted(set.intersection(*(set(run) for run in (*ours, *theirs))))
    if not common:
        return RunComparison(0, len(ours), len(theirs))
    mine, others = (np.array([[run[seed] for seed in common] for run in runs], np.float64) for runs in (ours, theirs))
    by_seed = mine.mean(axis=0) - others.mean(axis=0)
    n, wins, losses = len(common), int((by_seed > TIE).sum()), int((by_seed < -TIE).sum())
    known = RunComparison(n, len(ours), len(theirs), None, wins, losses, n - wins - losses)
    mean = float(by_seed.mean())
    if n < 2 or len(ours) < 2 or len(theirs) < 2:
        return replace(known, difference=Estimate(mean, None, None, n))
    spread = _Spread.of(mine, others, by_seed)
    difference, p_value, method = _tested(mean, spread, known)
    seeds, runs = spread.needed(abs(mean), n, len(ours), len(theirs))
    return replace(known, difference=difference, p_value=p_value, method=method, seeds_needed=seeds, runs_needed=runs)


def _tested(mean: float, spread: "_Spread", known: RunComparison) -> tuple[Estimate, float, Method]:
    n, ours, theirs = known.num_seeds, known.our_runs, known.their_runs
    error, freedom = spread.error(ours, theirs, n)
    if error <= TIE:
        # Neither runs nor seeds differ: what is left is how unlikely it is that all runs, and all seeds, fall so.
        permuted = 1.0 if abs(mean) <= TIE else min(1.0, 2 / math.comb(ours + theirs, ours))
        return Estimate(mean, None, None, n), max(permuted, exact_p(known.wins, known.losses)), Method.PERMUTATION
    reach = float(stdtrit(freedom, 1 - ALPHA / 2)) * error
    estimate = Estimate(mean, mean - reach, mean + reach, n)
    return estimate, t_test_p(mean, error, freedom), Method.RUNS_AND_SEEDS_T


@dataclass(frozen=True, slots=True)
class _Spread:
    """Variances, of ours and theirs: of the runs' means (`runs`), of what run and seed have together (`rest`); and of
    the difference by seed (`seeds`)."""

    runs: tuple[float, float]
    rest: tuple[float, float]
    seeds: float

    @staticmethod
    def of(ours: Scores, theirs: Scores, by_seed: Scores) -> "_Spread":
        """Of at least two runs each, on at least two seeds."""
        runs = float(ours.mean(axis=1).var(ddof=1)), float(theirs.mean(axis=1).var(ddof=1))
        return _Spread(runs, (_rest(ours), _rest(theirs)), float(by_seed.var(ddof=1)))

    def error(self, ours: int, theirs: int, n: int) -> tuple[float, float]:
        """The difference's standard error, and its degrees of freedom."""
        by_runs = [of / count for of, count in zip(self.runs, (ours, theirs), strict=True)]
        both = sum(of / count for of, count in zip(self.rest, (ours, theirs), strict=True)) / n
        return _combined(by_runs, (ours - 1, theirs - 1), self.seeds / n, n - 1, both)

    def needed(self, mean: float, n: int, ours: int, theirs: int) -> tuple[int | None, int | None]:
        """Seeds, with as many runs; and runs of each, on as many seeds. None where no number of them would do."""
        own_seeds = max(0.0, self.seeds - self.rest[0] / ours - self.rest[1] / theirs)
        own_runs = [max(0.0, of - rest / n) for of, rest in zip(self.runs, self.rest, strict=True)]

        def power(runs: Sequence[int], seeds: int) -> float:
            both = [rest / (count * seeds) for rest, count in zip(self.rest, runs, strict=True)]
            by_runs = [own / count + each for own, count, each in zip(own_runs, runs, both, strict=True)]
            freedoms = [count - 1 for count in runs]
            error, freedom = _combined(by_runs, freedoms, own_seeds / seeds + sum(both), seeds - 1, sum(both))
            return 1.0 if error <= TIE else t_power(mean, error, freedom)

        if mean <= TIE:
            return None, None
        seeds = least(lambda seeds: power((ours, theirs), seeds), n)
        return seeds, least(lambda runs: power((runs, runs), n), max(ours, theirs))


def _rest(scores: Scores) -> float:
    """Of scores, what is neither the run's nor the seed's."""
    runs, seeds = scores.shape
    left = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    return float((left**2).sum() / ((runs - 1) * (seeds - 1)))


def _combined(
    by_runs: Sequence[float], run_freedoms: Sequence[int], by_seeds: float, seed_freedom: int, both: float
) -> tuple[float, float]:
    """by_runs, by_seeds: variances of the difference, in each of which `both` stands.

    It is never taken off below the larger of the two.
    """
    variance = max(sum(by_runs), by_seeds, sum(by_runs) + by_seeds - both)
    parts = zip((*by_runs, by_seeds), (*run_freedoms, seed_freedom), strict=True)
    uncertain = sum(part**2 / freedom for part, freedom in parts)
    return math.sqrt(variance), (variance**2 / uncertain if uncertain else math.inf)
