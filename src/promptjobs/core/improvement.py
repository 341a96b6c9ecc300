"""Where a surrogate expects the greatest improvement: among candidates, and by climbing over their neighbours."""

import math
from collections.abc import Container, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from promptjobs.core.choices import Point
from promptjobs.core.surrogate import Surrogate

Floats = NDArray[np.float64]

_STARTS = 3
"""Observed points with the best means that a climb starts from, beside the best candidate."""
_STEPS = 3
_NEIGHBOURS = 256
"""Looked at in one step, of all points that it starts from."""


def expected_improvement(means: Floats, sds: Floats, best: float) -> Floats:
    """Of normal variables over `best`. Source: Jones et al. 1998."""
    distance = (means - best) / sds
    density = np.exp(-0.5 * distance**2) / np.sqrt(2 * np.pi)
    return np.asarray((means - best) * ndtr(distance) + sds * density)


class Improvement:
    """Looks for the free point with the greatest expected improvement over the means of the observed ones."""

    def __init__(self, surrogate: Surrogate, taken: Container[Point]) -> None:
        """surrogate: with at least one observed point. taken: points that are not to be found."""
        self._surrogate = surrogate
        self._taken = taken
        self._points, self._means = surrogate.observed()
        self._best = float(self._means.max())
        self._value = -math.inf
        self.found: Point | None = None

    def rank(self, candidates: Sequence[Point]) -> None:
        """Look at these."""
        self._look(candidates, *self._surrogate.posterior(candidates))

    def climb(self) -> None:
        """Go on from the best observed points and what was found, one dimension at a time, while that is better."""
        starts = [self._points[at] for at in ranked(self._means)[:_STARTS]]
        for _ in range(_STEPS):
            before = self.found
            if before is not None:
                starts.append(before)
            self._look(*self._surrogate.neighbours(starts, _NEIGHBOURS // len(starts)))
            if self.found == before:
                break
            starts = []

    def _look(self, points: Sequence[Point], means: Floats, sds: Floats) -> None:
        """Keep the best of these, the first of equals, if it is better than what was found before."""
        values = significant(expected_improvement(means, sds, self._best))
        free = (at for at in np.argsort(-values, kind="stable").tolist() if points[at] not in self._taken)
        at = next(free, None)
        if at is not None and values[at] > self._value:
            self._value, self.found = float(values[at]), points[at]


def ranked(values: Floats) -> list[int]:
    """Indices, highest value first, equal ones in their order, the same on every machine."""
    return [int(at) for at in np.argsort(-significant(values), kind="stable")]


def significant(values: Floats) -> Floats:
    """Rounded to 9 significant digits: linear algebra differs between machines in the last ones."""
    magnitudes = 10.0 ** np.floor(np.log10(np.maximum(np.abs(values), 1e-300)))
    return np.asarray(np.round(values / magnitudes, 8) * magnitudes)
