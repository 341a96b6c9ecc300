"""A Gaussian process over categorical points: what noisy mean scores of some of them say about all of them.

The covariance of two points depends on the number of dimensions in which they agree: additive effects of options,
effects of pairs, and a product kernel that takes the rest, in one of a few proportions. The noise of a mean of n scores
in [0, 1] is at most p(1 - p)/n; how much of that it is, how far the points differ, and which proportions hold is found
by the likelihood. Source: Rasmussen and Williams 2006, chapters 2 and 5; Duvenaud et al. 2011 for additive kernels.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtri, dtrtrs

from promptjobs.core.choices import Point
from promptjobs.core.matches import Counts, Matches, Neighbours

Floats = NDArray[np.float64]

SHAPES = (
    (1.0, 0.0, 0.0, 1.0),
    (0.6, 0.3, 0.1, 1.0),
    (0.3, 0.5, 0.2, 1.0),
    (0.0, 0.0, 1.0, 0.5),
    (0.0, 0.0, 1.0, 1.5),
    (0.5, 0.0, 0.5, 50.0),
)
"""Shares of the additive, the pairwise and the product kernel in the variance; the last one's decay per dimension."""
SPREADS = (0.01, 0.02, 0.04, 0.07, 0.12, 0.2)
"""Standard deviations of the points' true scores."""
_USUAL_SPREAD, _SPREAD_LOG_SD = 0.05, 1.0
NOISES = (1.0, 0.5, 0.2, 0.08, 0.02)
"""Shares of the greatest variance that a score can have."""
LEVEL_SD = 0.15
"""What is known beforehand about the mean of all points, around that of the observed ones."""
LEAST_VARIANCE = 0.02
"""Of a score: a few observations that are all 0 or 1 do not prove that there is no noise."""
_JITTER = 1e-8
"""Variance beside the noise, for the sake of the factorization, where a weight is huge."""
_REFIT = 1.2
"""The likelihood is looked at again when the weight of the observations has grown by this factor."""
_FIRST_FIT = 3


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Indices into the shapes, the spreads and the noises."""

    shape: int = 1
    spread: int = 2
    noise: int = 0

    def varied(self) -> Iterator["Hyperparameters"]:
        """Every shape; spread and noise one step up or down."""
        for shape in range(len(SHAPES)):
            yield Hyperparameters(shape, self.spread, self.noise)
        for spread in (self.spread - 1, self.spread + 1):
            if 0 <= spread < len(SPREADS):
                yield Hyperparameters(self.shape, spread, self.noise)
        for noise in (self.noise - 1, self.noise + 1):
            if 0 <= noise < len(NOISES):
                yield Hyperparameters(self.shape, self.spread, noise)


@dataclass(frozen=True, slots=True)
class _Solved:
    """The posterior in the form that predictions need. covariances: by number of agreements.

    weights: (rows, rows + 1): whitening of the covariances with the rows, and the mean's coefficients.
    """

    centre: float
    covariances: Floats
    weights: Floats


class Surrogate:
    """Rows are points: observed, or pending, which count as observed with the score that is expected of them."""

    def __init__(self, sizes: Sequence[int], hyperparameters: Hyperparameters | None = None) -> None:
        """sizes: number of options of each dimension. hyperparameters: of an earlier fit, to start from."""
        self.hyperparameters = hyperparameters
        self._matches = Matches(sizes)
        self._rows: dict[Point, int] = {}
        self._means: list[float] = []
        self._weights: list[float] = []
        self._tables = [_table(shape, len(sizes)) for shape in SHAPES]
        self._fitted_weight = 0.0
        self._solved: _Solved | None = None

    def add(self, point: Point) -> None:
        """A pending point."""
        self._rows[point] = self._matches.add(point)
        self._means.append(0.0)
        self._weights.append(0.0)
        self._solved = None

    def observe(self, point: Point, mean: float, weight: float) -> None:
        """Set the mean score of a point and its weight in scores, both pooled over all its observations."""
        self.update([(point, mean, weight)])

    def update(self, observations: Iterable[tuple[Point, float, float]]) -> None:
        """Set points, mean scores and weights of several observations at once."""
        for point, mean, weight in observations:
            if point not in self._rows:
                self.add(point)
            row = self._rows[point]
            self._means[row], self._weights[row] = mean, weight
        self._solved = None
        total = math.fsum(self._weights)
        if total >= _REFIT * self._fitted_weight and sum(w > 0 for w in self._weights) >= _FIRST_FIT:
            self._fit()
            self._fitted_weight = total

    def observed(self) -> tuple[list[Point], Floats]:
        """The observed points with their posterior means."""
        rows = [row for row, weight in enumerate(self._weights) if weight > 0]
        points = list(self._rows)
        solved = self._posterior()
        means = solved.centre + solved.covariances[self._matches.between()[rows]] @ solved.weights[:, -1]
        return [points[row] for row in rows], means

    def posterior(self, points: Sequence[Point]) -> tuple[Floats, Floats]:
        """Means and standard deviations of the points' true scores."""
        return self._predict(self._matches.of(points))

    def neighbours(self, points: Sequence[Point], at_most: int) -> tuple[Neighbours, Floats, Floats]:
        """Points that differ from these in one dimension, with posterior; see `Matches.neighbours`."""
        found, counts = self._matches.neighbours(points, at_most)
        return found, *self._predict(counts)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _fit(self) -> None:
        """Climb to more likely hyperparameters; from nothing, look at all spreads and noises first."""
        chosen = np.flatnonzero(np.asarray(self._weights) > 0)
        means, weights = np.asarray(self._means)[chosen], np.asarray(self._weights)[chosen]
        counts = self._matches.between()[np.ix_(chosen, chosen)]
        centre = float(means @ weights / weights.sum())
        known: dict[Hyperparameters, float] = {}

        def likelihood(these: Hyperparameters) -> float:
            if these not in known:
                known[these] = self._log_likelihood(these, counts, means - centre, _variance(centre) / weights)
            return known[these]

        best = self.hyperparameters
        if best is None:
            grid = (Hyperparameters(1, spread, noise) for spread in range(len(SPREADS)) for noise in range(len(NOISES)))
            best = max(grid, key=likelihood)
        self.hyperparameters = max([best, *best.varied()], key=likelihood)

    def _log_likelihood(self, these: Hyperparameters, counts: Counts, residuals: Floats, noises: Floats) -> float:
        """Rounded, so that the choice is the same on every machine; with the prior of the spread."""
        covariance = self._covariances(these)[counts]
        covariance.flat[:: len(noises) + 1] += noises * NOISES[these.noise] + _JITTER
        factor = _cholesky(covariance)
        whitened = cast(Floats, dtrtrs(factor, residuals, lower=1)[0])
        surprise = math.log(SPREADS[these.spread] / _USUAL_SPREAD) / _SPREAD_LOG_SD
        fit = float(whitened @ whitened) + 2 * float(np.log(factor.diagonal()).sum())
        return round(-0.5 * (fit + surprise**2), 7)

    def _covariances(self, these: Hyperparameters) -> Floats:
        return self._tables[these.shape] * SPREADS[these.spread] ** 2 + LEVEL_SD**2

    def _predict(self, counts: Counts) -> tuple[Floats, Floats]:
        solved = self._posterior()
        products = solved.covariances[counts] @ solved.weights
        whitened = products[:, :-1]
        variances = solved.covariances[-1] - np.einsum("ij,ij->i", whitened, whitened)
        return solved.centre + products[:, -1], np.sqrt(np.maximum(variances, 1e-12))

    def _posterior(self) -> _Solved:
        if self._solved is None:
            self._solved = self._solve()
        return self._solved

    def _solve(self) -> _Solved:
        weights, means = np.asarray(self._weights), np.asarray(self._means)
        these = self.hyperparameters or Hyperparameters()
        covariances = self._covariances(these)
        seen = np.flatnonzero(weights)
        if not len(seen):
            return _Solved(0.5, covariances, np.zeros((len(weights), len(weights) + 1)))
        # Pending rows come last: they narrow the variances and leave the means alone.
        order = np.argsort(weights == 0, kind="stable")
        centre = float(means @ weights / weights.sum())
        usual = np.sort(weights[seen])[len(seen) // 2]
        covariance = covariances[self._matches.between()]
        noise = _variance(centre) * NOISES[these.noise] / np.where(weights > 0, weights, usual)
        covariance.flat[:: len(weights) + 1] += noise + _JITTER
        whitening = cast(Floats, dtrtri(_cholesky(covariance[order[:, None], order]), lower=1)[0])
        known = whitening[: len(seen), : len(seen)]
        solved = np.zeros((len(order), len(order) + 1))
        solved[order, :-1] = whitening.T
        solved[seen, -1] = (means[seen] - centre) @ known.T @ known
        return _Solved(centre, covariances, solved)


def _table(shape: tuple[float, float, float, float], dimensions: int) -> Floats:
    """Covariances by number of agreements, 0 to all; 1 where all agree."""
    additive, pairwise, product, decay = shape
    agreements = np.arange(dimensions + 1, dtype=np.float64)
    singles = agreements / max(1, dimensions)
    pairs = agreements * (agreements - 1) / (dimensions * (dimensions - 1)) if dimensions > 1 else singles
    rest = np.exp(-decay * (dimensions - agreements))
    return np.asarray(additive * singles + pairwise * pairs + product * rest, np.float64)


def _variance(mean: float) -> float:
    """The greatest that a score in [0, 1] with this mean can have, kept away from 0."""
    return max(LEAST_VARIANCE, mean * (1 - mean))


def _cholesky(covariance: Floats) -> Floats:
    return cast(Floats, dpotrf(covariance, lower=1, clean=1)[0])
