"""Candidates, their lineage, and the Pareto front over seeds."""

import random
from collections.abc import Iterable, Mapping, Sequence
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
    redundancy cover: a candidate goes when each of its seeds is also held by another survivor.
    Source: Agrawal et al. 2025, arXiv 2507.19457, algorithm 2.
    """

    def __init__(self, seeds: Sequence[int], eps: float = 0.0, pressure: float = 1.0) -> None:
        self.seeds = tuple(seeds)
        self.eps = eps
        self.pressure = pressure
        self.members: dict[str, Candidate] = {}
        self.scores: dict[str, tuple[float, ...]] = {}
        self._best: list[float] = [-1.0] * len(self.seeds)
        self._holders: list[list[str]] = [[] for _ in self.seeds]
        self._front: tuple[str, ...] = ()

    def __contains__(self, candidate_id: str) -> bool:
        return candidate_id in self.members

    def add(self, candidate: Candidate, scores: Mapping[int, float]) -> FrontChange:
        """scores: one for each of the archive's seeds. Raises ValueError where one is missing."""
        missing = [seed for seed in self.seeds if seed not in scores]
        if missing:
            raise ValueError(f"candidate {candidate.candidate_id} has no score for seeds {missing[:5]}")
        row = tuple(scores[seed] for seed in self.seeds)
        before = self._front
        self.members[candidate.candidate_id] = candidate
        self.scores[candidate.candidate_id] = row
        for at, score in enumerate(row):
            if score > self._best[at] + self.eps:
                self._best[at] = score
                self._holders[at] = [c for c in self._holders[at] if self.scores[c][at] >= score - self.eps]
            if score >= self._best[at] - self.eps:
                self._holders[at].append(candidate.candidate_id)
        self._front = self._without_dominated()
        return FrontChange(
            tuple(c for c in self._front if c not in before), tuple(c for c in before if c not in self._front)
        )

    def mean(self, candidate_id: str) -> float:
        row = self.scores[candidate_id]
        return sum(row) / len(row)

    def ranked(self) -> list[str]:
        """Members by mean, best first; ties by age."""
        return sorted(self.members, key=lambda c: (-self.mean(c), self.members[c].n))

    def best(self) -> str:
        return self.ranked()[0]

    @property
    def front(self) -> tuple[str, ...]:
        """The survivors of dominated removal, oldest first."""
        return self._front

    def holders(self) -> dict[int, tuple[str, ...]]:
        """Which candidates hold each seed, before dominated removal."""
        return {seed: tuple(held) for seed, held in zip(self.seeds, self._holders, strict=True)}

    def _without_dominated(self) -> tuple[str, ...]:
        """Scan by ascending mean; drop whoever is redundant; restart until stable. A sole holder always stays."""
        survivors = {c: [at for at, held in enumerate(self._holders) if c in held] for c in self._on_any_seed()}
        count = [len(held) for held in self._holders]
        for candidate in sorted(survivors, key=lambda c: (self.mean(c), -self.members[c].n)):
            if all(count[at] > 1 for at in survivors[candidate]):
                for at in survivors.pop(candidate):
                    count[at] -= 1
        return tuple(sorted(survivors, key=lambda c: self.members[c].n))

    def _on_any_seed(self) -> Iterable[str]:
        return dict.fromkeys(c for held in self._holders for c in held)

    def weights(self) -> dict[str, float]:
        """Selection mass: seeds held, to the power of the pressure. The best mean has at least the mean mass."""
        held = {c: float(sum(c in holders for holders in self._holders)) ** self.pressure for c in self._front}
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
