"""The densities of the tree-structured Parzen estimator: mixtures of product kernels over categorical points.

Sources: Bergstra et al. 2011, section 4, for the two densities; Falkner et al. 2018 for kernels over whole points.
"""

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from promptjobs.core.choices import Point

Floats = NDArray[np.float64]


class Parzen:
    """A kernel around each of the points, and a uniform one, all with the same share."""

    def __init__(self, points: Sequence[Point], sizes: Sequence[int], alpha: float) -> None:
        """alpha: weight of the uniform part of each kernel, above 0: the more, the smoother."""
        self._points = points
        self._sizes = sizes
        self._prior = alpha / (len(points) + 1)
        self._kept = [1 / (1 + self._prior * size) for size in sizes]
        """The share of a kernel's own option, beside what the uniform part gives it."""

    def draw(self, rng: random.Random) -> Point:
        at = int(rng.random() * (len(self._points) + 1))
        if at == len(self._points):
            return tuple([int(rng.random() * size) for size in self._sizes])
        options = zip(self._points[at], self._sizes, self._kept, strict=True)
        return tuple([own if rng.random() < kept else int(rng.random() * size) for own, size, kept in options])

    def log_density(self, points: Sequence[Point]) -> Floats:
        """(points,) of the mixture."""
        sizes = np.asarray(self._sizes, np.float64)
        kernels = np.full((len(points), len(self._points) + 1), -np.log(sizes).sum())
        if self._points:
            agree = np.asarray(points)[:, None, :] == np.asarray(self._points)[None, :, :]
            logs = np.where(agree, np.log(self._prior + 1), np.log(self._prior)) - np.log(1 + self._prior * sizes)
            kernels[:, :-1] = logs.sum(axis=2)
        top = kernels.max(axis=1)
        return np.asarray(top + np.log(np.exp(kernels - top[:, None]).mean(axis=1)))
