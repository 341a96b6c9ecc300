"""What the scores of the candidates tell about the seeds: how informative each is, and which of them are alike."""

import bisect
import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(d, n): a column per seed, a row per candidate. Sums run along the rows alone, so they are the same everywhere."""

VECTOR_CANDIDATES = 32
"""Seeds are compared over the scores of this many candidates at most: those with the most scores."""

MAX_CLUSTERS = 256
"""Beyond this many, clusters give several of their seeds: a bound on the work."""


class SeedScores:
    """Scores by candidate and seed, the latest where there are several; seeds other than `seeds` are left out."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._scores: dict[str, dict[int, float]] = {}
        self._ranks: dict[str, tuple[float, int]] = {}
        # Per seed (rank, score), the best candidate first: kept sorted, so that an update does not sort all there is.
        self._on: dict[int, list[tuple[tuple[float, int], float]]] = {seed: [] for seed in seeds}

    def observe(self, candidate_id: str, scores: Mapping[int, float], rank_value: float) -> None:
        """rank_value: by which candidates are ranked, higher is better. Raises ValueError where it is not finite."""
        if not math.isfinite(rank_value):
            raise ValueError(f"rank_value must be finite, got {rank_value!r} for candidate {candidate_id}")
        known = self._scores.setdefault(candidate_id, {})
        new = {seed: score for seed, score in scores.items() if seed in self._on}
        before = self._ranks.get(candidate_id, (-rank_value, len(self._ranks)))
        rank = self._ranks[candidate_id] = (-rank_value, before[1])
        for seed in known if rank != before else new.keys() & known.keys():
            self._on[seed].pop(bisect.bisect_left(self._on[seed], (before, known[seed])))
        known |= new
        for seed in known if rank != before else new:
            bisect.insort(self._on[seed], (rank, known[seed]))

    def count(self, seed: int) -> int:
        """How many candidates have a score on `seed`."""
        return len(self._on[seed])

    def informativeness(self, k: int) -> dict[int, float]:
        """Per seed the variance of its scores among the `k` best of the candidates that have one on it.

        0 where all or none of them solve the seed: it tells nothing about which candidate is better.
        """
        return {seed: variance([score for _, score in ranked[:k]]) for seed, ranked in self._on.items()}

    def points(self, seeds: Sequence[int]) -> Points:
        """The score vectors of `seeds`: scores less the candidate's mean, 0 where there is none."""
        most = sorted(self._scores, key=lambda one: (-len(self._scores[one]), self._ranks[one]))
        rows = [self._row(self._scores[one], seeds) for one in most[:VECTOR_CANDIDATES] if self._scores[one]]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(seeds))

    @staticmethod
    def _row(scores: Mapping[int, float], seeds: Sequence[int]) -> list[float]:
        mean = sum(scores.values()) / len(scores)
        return [scores[seed] - mean if seed in scores else 0.0 for seed in seeds]


def variance(scores: Sequence[float]) -> float:
    """Mean squared deviation from the mean; exactly 0 where all are equal or there is none."""
    if not scores or min(scores) == max(scores):
        return 0.0
    mean = sum(scores) / len(scores)
    return sum((score - mean) ** 2 for score in scores) / len(scores)


def spread(seeds: Sequence[int], count: int, rng: random.Random) -> list[int]:
    """`count` of the seeds, evenly spaced in their order, from a random start."""
    start = rng.random()
    return [seeds[int((at + start) * len(seeds) / count)] for at in range(count)]


def farthest_first(points: Points, others: Points, count: int) -> list[int]:
    """Columns of `points`, each the one least similar to `others` and to those chosen before it.

    At equal distance the earlier column goes first. Returns at most `count` indices.
    Source: Gonzalez 1985, farthest-point traversal.
    """
    nearest = np.full(points.shape[1], np.inf)
    for column in others.T:
        nearest = np.minimum(nearest, _distances(points, column))
    picked: list[int] = []
    for _ in range(min(count, points.shape[1])):
        at = int(nearest.argmax())
        picked.append(at)
        nearest = np.minimum(nearest, _distances(points, points[:, at]))
        nearest[picked] = -1.0
    return picked


def clustered(points: Points, count: int) -> list[int]:
    """Columns of `points` that stand for all: the most central of each of `count` clusters.

    Where fewer than `count` columns differ, the clusters give more of theirs, in proportion to their sizes. Returns
    `count` indices in ascending order, or all where there are fewer.
    """
    total = points.shape[1]
    centres = farthest_first(points, points[:, :0], min(count, MAX_CLUSTERS))
    nearest = np.full(total, np.inf)
    owner = np.zeros(total, dtype=np.int64)
    for n, at in enumerate(centres):
        distances = _distances(points, points[:, at])
        owner[distances < nearest] = n
        nearest = np.minimum(nearest, distances)
    clusters = [_central_first(points, np.flatnonzero(owner == n)) for n in range(len(centres))]
    taken = [min(1, len(cluster)) for cluster in clusters]
    while sum(taken) < min(count, total):
        fullest = max(range(len(clusters)), key=lambda n: (len(clusters[n]) - taken[n]) / (taken[n] + 1))
        taken[fullest] += 1
    return sorted(at for cluster, some in zip(clusters, taken, strict=True) for at in cluster[:some])


def _central_first(points: Points, members: NDArray[np.intp]) -> list[int]:
    if not members.size:
        return []
    inside = points[:, members]
    mean = np.zeros(points.shape[0])
    for column in inside.T:
        mean += column / members.size
    return [int(members[at]) for at in np.argsort(_distances(inside, mean), kind="stable")]


def _distances(points: Points, column: Points) -> Points:
    total = np.zeros(points.shape[1])
    for row in np.square(points - column[:, None]):
        total += row
    return total
