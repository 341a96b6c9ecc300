"""Candidates, their lineage, and the Pareto front over seeds."""

import bisect
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptjobs.core.prompt import PromptTemplate


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt that is or was searched over.

    n: number in its job, from 0. prompt is None for the task app's own messages before their pattern is known.
    baseline_id: the candidate whose pattern recognises the task app's messages; None where messages pass unchanged.
    operator: how it came to be (probe, baseline, reflection …). generation: 0 for the baseline.
    """

    candidate_id: str
    n: int
    prompt: PromptTemplate | None
    baseline_id: str | None
    parents: tuple[str, ...] = ()
    operator: str = "baseline"
    generation: int = 0

    @property
    def is_baseline(self) -> bool:
        return self.operator in ("baseline", "probe")

    @property
    def template(self) -> PromptTemplate:
        """The prompt of a candidate that has one: every candidate but the probe."""
        if self.prompt is None:
            raise ValueError(f"candidate {self.candidate_id} has no prompt of its own")
        return self.prompt


@dataclass(frozen=True, slots=True)
class FrontChange:
    """What adding a candidate did to the front."""

    added: tuple[str, ...]
    removed: tuple[str, ...]


class Archive:
    """The accepted candidates with their scores on the front's seeds.

    Per seed the front holds the best score and every candidate that reaches it within `eps`. Dominated removal is a
    redundancy cover: a candidate goes when each of its seeds is also held by another survivor. Seeds are bits of an
    integer, so an addition costs a few operations per member.
    Source: Agrawal et al. 2025, arXiv 2507.19457, algorithm 2.
    """

    def __init__(self, seeds: Sequence[int], eps: float = 0.0, pressure: float = 1.0) -> None:
        self.seeds = tuple(seeds)
        self.eps = eps
        self.pressure = pressure
        self.members: dict[str, Candidate] = {}
        self.scores: dict[str, tuple[float, ...]] = {}
        self._means: dict[str, float] = {}
        self._ranked: list[str] = []
        self._best: list[float] = [-1.0] * len(self.seeds)
        self._holders: list[list[str]] = [[] for _ in self.seeds]
        self._held: dict[str, int] = {}
        self._front: tuple[str, ...] = ()

    def __contains__(self, candidate_id: str) -> bool:
        return candidate_id in self.members

    def add(self, candidate: Candidate, scores: Mapping[int, float]) -> FrontChange:
        """scores: one for each of the archive's seeds. Raises ValueError where one is missing, or on a member."""
        candidate_id = candidate.candidate_id
        if candidate_id in self.members:
            raise ValueError(f"candidate {candidate_id} is in the archive already")
        missing = [seed for seed in self.seeds if seed not in scores]
        if missing:
            raise ValueError(f"candidate {candidate_id} has no score for seeds {missing[:5]}")
        row = tuple(scores[seed] for seed in self.seeds)
        self.members[candidate_id] = candidate
        self.scores[candidate_id] = row
        self._means[candidate_id] = sum(row) / len(row)
        self._held[candidate_id] = 0
        bisect.insort(self._ranked, candidate_id, key=lambda c: (-self._means[c], self.members[c].n))
        for at, score in enumerate(row):
            self._enter(candidate_id, at, score)
        previous, self._front = self._front, self._without_dominated()
        before, after = set(previous), set(self._front)
        return FrontChange(
            tuple(c for c in self._front if c not in before), tuple(c for c in previous if c not in after)
        )

    def _enter(self, candidate_id: str, at: int, score: float) -> None:
        """Note a score on the seed at `at`: who no longer reaches the best one lets go of the seed."""
        if score > self._best[at]:
            self._best[at] = score
            for lost in [c for c in self._holders[at] if self.scores[c][at] < score - self.eps]:
                self._holders[at].remove(lost)
                self._held[lost] &= ~(1 << at)
        if score >= self._best[at] - self.eps:
            self._holders[at].append(candidate_id)
            self._held[candidate_id] |= 1 << at

    def mean(self, candidate_id: str) -> float:
        return self._means[candidate_id]

    def ranked(self) -> list[str]:
        """Members by mean, best first; ties by age."""
        return list(self._ranked)

    def best(self) -> str:
        return self._ranked[0]

    @property
    def front(self) -> tuple[str, ...]:
        """The survivors of dominated removal, oldest first."""
        return self._front

    def holders(self) -> dict[int, tuple[str, ...]]:
        """Which candidates hold each seed, before dominated removal."""
        return {seed: tuple(held) for seed, held in zip(self.seeds, self._holders, strict=True)}

    def _without_dominated(self) -> tuple[str, ...]:
        """Scan by ascending mean; drop whoever is redundant. A sole holder always stays.

        One pass is enough: a removal only makes the others harder to remove. Whoever is scanned later is still there,
        so a candidate is redundant when the survivors before it and all after it hold each of its seeds.
        """
        ascending = [c for c in reversed(self._ranked) if self._held[c]]
        later = [0]
        for candidate_id in reversed(ascending):
            later.append(later[-1] | self._held[candidate_id])
        survivors, earlier = [], 0
        for n, candidate_id in enumerate(ascending, 1):
            if self._held[candidate_id] & ~(earlier | later[-1 - n]):
                survivors.append(candidate_id)
                earlier |= self._held[candidate_id]
        return tuple(sorted(survivors, key=lambda c: self.members[c].n))

    def weights(self) -> dict[str, float]:
        """Selection mass: seeds held, as a share of the most that one holds, to the power of the pressure.

        The best mean has at least the mean mass.
        """
        counts = {c: self._held[c].bit_count() for c in self._front}
        most = max(counts.values())
        held = {c: (count / most) ** self.pressure for c, count in counts.items()}
        floor = sum(held.values()) / len(held)
        best = self.best()
        held[best] = max(held.get(best, 0.0), floor)
        return held

    def draw_parent(self, rng: random.Random) -> Candidate:
        weights = self.weights()
        return self.members[rng.choices(list(weights), list(weights.values()))[0]]


def lineage(candidates: Mapping[str, Candidate], candidate_id: str) -> list[str]:
    """The candidate and its ancestors, nearest first."""
    path: list[str] = []
    todo = [candidate_id]
    while todo:
        current = todo.pop(0)
        if current not in path and current in candidates:
            path.append(current)
            todo.extend(candidates[current].parents)
    return path


def candidate_to_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "candidate_id": candidate.candidate_id,
        "n": candidate.n,
        "parents": list(candidate.parents),
        "operator": candidate.operator,
        "generation": candidate.generation,
    }
