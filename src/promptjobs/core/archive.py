"""Candidates, their lineage, and the archive that holds the accepted ones on a Pareto front."""

import bisect
import random
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from operator import or_
from types import MappingProxyType
from typing import Any, TypeAlias

from promptjobs.core.front_keys import FrontKey, FrontType, SeedKeys, kinds_of_keys
from promptjobs.core.objectives import Objective
from promptjobs.core.prompt import PromptTemplate

Values: TypeAlias = Mapping[Objective, Mapping[int, float]]
"""Oriented values (higher is better) by objective and seed."""


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
    """How the front differs from the one last told of, and who had to leave the archive."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    evicted: tuple[str, ...] = ()


class Archive:
    """The accepted candidates with their values, and the front over them.

    Per key the front holds the best value and every candidate that reaches it within `eps`. Dominated removal is a
    redundancy cover: a candidate goes when each of its keys is also held by another survivor. Keys are bits of an
    integer, so an addition costs a few operations per member.
    Source: Agrawal et al. 2025, arXiv 2507.19457, algorithm 2.

    front: which keys there are. "instance": each seed's score. "objective": each objective's mean over the seeds
    ("score": the ranking value). "hybrid": both. "cartesian": each objective on each seed.
    eps: for scores; values of the other objectives, in units of their own, tie only where they are equal.
    size: beyond it members that are neither on the front nor the best nor the baseline are evicted, the lowest first;
    the archive stays larger where there are no such members.
    is_sparse: members may have scores on some of the seeds. They hold no key they have no value for.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        eps: float = 0.0,
        pressure: float = 1.0,
        *,
        front: FrontType = "instance",
        objectives: Sequence[Objective | str] = (Objective.SCORE,),
        size: int | None = None,
        is_sparse: bool = False,
    ) -> None:
        """Raises ValueError on an unknown objective, on none, or on a size below 1."""
        self.seeds = tuple(seeds)
        self.eps = eps
        self.pressure = pressure
        self.front_type: FrontType = front
        self.objectives = tuple(dict.fromkeys(map(Objective, objectives)))
        if not self.objectives:
            raise ValueError("a front needs an objective")
        if size is not None and size < 1:
            raise ValueError(f"an archive's size must be at least 1, got {size}")
        self.size = size
        self.is_sparse = is_sparse
        self.members: dict[str, Candidate] = {}
        self.scores: dict[str, tuple[float, ...]] = {}
        """The rows of the members that have a score on every seed; `row` has all of them."""
        seed_objectives, self._mean_objectives = kinds_of_keys(front, self.objectives)
        self._keys = SeedKeys(seed_objectives, self.seeds, eps)
        compared = dict.fromkeys((*seed_objectives, *self._mean_objectives))
        self._others = tuple(objective for objective in compared if objective is not Objective.SCORE)
        self._rows: dict[str, dict[Objective, list[float | None]]] = {}
        self._means: dict[str, float] = {}
        self._objective_means: dict[Objective, dict[str, float]] = {o: {} for o in Objective}
        self._estimates: dict[str, float] = {}
        self._values: dict[str, float] = {}
        self._order: list[tuple[float, int, str]] = []
        self._mean_holders: dict[Objective, tuple[str, ...]] = {}
        self._bits: dict[str, int] = {}
        self._front: tuple[str, ...] = ()
        self._told: tuple[str, ...] = ()
        self._is_stale = False

    def __contains__(self, candidate_id: str) -> bool:
        return candidate_id in self.members

    # --- what comes in -----------------------------------------------------------------------------------------------

    def add(
        self,
        candidate: Candidate,
        scores: Mapping[int, float],
        objectives: Values | None = None,
        *,
        estimate: float | None = None,
    ) -> FrontChange:
        """scores: by seed, one for each of the archive's seeds; in a sparse archive for one of them at least.

        objectives: oriented values of the other objectives, as far as they are known. estimate: what it is ranked by
        from the start, where that is not its mean. A candidate that is redundant and ranked last in a full archive is
        evicted at once. Raises ValueError where a score is missing, or on a member.
        """
        candidate_id = candidate.candidate_id
        if candidate_id in self.members:
            raise ValueError(f"candidate {candidate_id} is in the archive already")
        missing = [seed for seed in self.seeds if seed not in scores]
        if len(missing) == len(self.seeds) or (missing and not self.is_sparse):
            raise ValueError(f"candidate {candidate_id} has no score for seeds {missing[:5]}")
        self.members[candidate_id] = candidate
        self._keys.held[candidate_id] = 0
        self._rows[candidate_id] = {
            objective: [None] * len(self.seeds)
            for objective in (Objective.SCORE, *self._keys.objectives, *self._mean_objectives)
        }
        self._take(candidate_id, scores, objectives, estimate)
        return self._tell()

    def extend(
        self,
        candidate_id: str,
        scores: Mapping[int, float],
        objectives: Values | None = None,
        *,
        estimate: float | None = None,
    ) -> FrontChange:
        """Add a member's scores on further seeds. estimate: its new one; without it, it keeps the one it has.

        Raises KeyError where it is no member, ValueError on another score for a seed that is known.
        """
        known = self.known_scores(candidate_id)
        differing = [seed for seed, score in scores.items() if known.get(seed, score) != score]
        if differing:
            raise ValueError(f"candidate {candidate_id} has other scores already for seeds {differing[:5]}")
        self._leave_order(candidate_id)
        self._take(candidate_id, scores, objectives, estimate)
        return self._tell()

    def set_estimate(self, candidate_id: str, value: float) -> None:
        """Rank a member by `value` instead of its mean. What this does to the front is told with the next change.

        Raises KeyError where it is no member.
        """
        self._leave_order(candidate_id)
        self._estimates[candidate_id] = value
        self._enter_order(candidate_id)

    def _take(
        self, candidate_id: str, scores: Mapping[int, float], objectives: Values | None, estimate: float | None
    ) -> None:
        rows = self._rows[candidate_id]
        given: Values = {**(objectives or {}), Objective.SCORE: scores}
        for objective, row in rows.items():
            found = given.get(objective, {})
            new = [(at, found[seed]) for at, seed in enumerate(self.seeds) if row[at] is None and seed in found]
            for at, value in new:
                row[at] = value
            if objective in self._keys.objectives:
                self._keys.enter(candidate_id, objective, new)
            known = [value for value in row if value is not None]
            if known:
                self._objective_means[objective][candidate_id] = sum(known) / len(known)
            if objective is Objective.SCORE and len(known) == len(self.seeds):
                self.scores[candidate_id] = tuple(known)
        self._means[candidate_id] = self._objective_means[Objective.SCORE][candidate_id]
        if estimate is not None:
            self._estimates[candidate_id] = estimate
        self._enter_order(candidate_id)

    def _place(self, candidate_id: str) -> tuple[float, int, str]:
        return -self._values[candidate_id], self.members[candidate_id].n, candidate_id

    def _leave_order(self, candidate_id: str) -> None:
        del self._order[bisect.bisect_left(self._order, self._place(candidate_id))]

    def _enter_order(self, candidate_id: str) -> None:
        self._values[candidate_id] = self._estimates.get(candidate_id, self._means[candidate_id])
        bisect.insort(self._order, self._place(candidate_id))
        self._is_stale = True

    def _tell(self) -> FrontChange:
        before, self._told = self._told, self.front
        evicted = self._evict()
        earlier, now = set(before), set(self._told)
        return FrontChange(
            tuple(c for c in self._told if c not in earlier), tuple(c for c in before if c not in now), evicted
        )

    def _evict(self) -> tuple[str, ...]:
        """Whoever is not on the front is redundant, and without him the same candidates survive."""
        if self.size is None or len(self.members) <= self.size:
            return ()
        keep = {*self._front, self.best()}
        spare = [c for _, _, c in reversed(self._order) if c not in keep and not self.members[c].is_baseline]
        evicted = tuple(spare[: len(self.members) - self.size])
        for candidate_id in evicted:
            self._leave_order(candidate_id)
            self._keys.drop(candidate_id)
            del self.members[candidate_id], self._rows[candidate_id]
            for means in self._objective_means.values():
                means.pop(candidate_id, None)
            self.scores.pop(candidate_id, None)
            self._estimates.pop(candidate_id, None)
            self._is_stale = True
        return evicted

    # --- what is known -----------------------------------------------------------------------------------------------

    def mean(self, candidate_id: str) -> float:
        """The mean score over the seeds that are known; the evicted keep theirs."""
        return self._means[candidate_id]

    @property
    def ranking(self) -> Mapping[str, float]:
        """What members are ranked by: the estimate where one was set, else the mean; the evicted keep theirs."""
        return MappingProxyType(self._values)

    def row(self, candidate_id: str) -> tuple[float | None, ...]:
        """A member's scores in the order of the archive's seeds; None where a seed is unknown."""
        return tuple(self._rows[candidate_id][Objective.SCORE])

    def known_scores(self, candidate_id: str) -> dict[int, float]:
        """A member's scores by seed, as far as they are known."""
        return {
            seed: score for seed, score in zip(self.seeds, self.row(candidate_id), strict=True) if score is not None
        }

    def ranked(self) -> list[str]:
        """Members by ranking value, best first; ties by age."""
        return [candidate_id for _, _, candidate_id in self._order]

    def best(self) -> str:
        return self._order[0][2]

    # --- the front ---------------------------------------------------------------------------------------------------

    @property
    def front(self) -> tuple[str, ...]:
        """The survivors of dominated removal, oldest first."""
        self._refresh()
        return self._front

    def holders(self) -> dict[FrontKey, tuple[str, ...]]:
        """Which candidates hold each key, before dominated removal."""
        self._refresh()
        found = self._keys.holders(self.front_type)
        for objective, held in self._mean_holders.items():
            found[objective] = held
        return found

    def _refresh(self) -> None:
        """Find the front anew where something has changed: several changes in a row cost one scan."""
        if self._is_stale:
            self._bits = self._keys_held()
            self._front = tuple(self._survivors(None))
            self._is_stale = False

    def _keys_held(self) -> dict[str, int]:
        """Bits of each member's keys. Means move both ways as scores come in, so their keys are found anew."""
        if not self._mean_objectives:
            return self._keys.held
        bits = dict(self._keys.held)
        for n, objective in enumerate(self._mean_objectives, len(self._keys)):
            self._mean_holders[objective] = self._best_by_mean(objective)
            for candidate_id in self._mean_holders[objective]:
                bits[candidate_id] |= 1 << n
        return bits

    def _best_by_mean(self, objective: Objective) -> tuple[str, ...]:
        if objective is Objective.SCORE:
            least = self._values[self.best()] - self.eps
            return tuple(c for _, _, c in takewhile(lambda place: -place[0] >= least, self._order))
        means = self._objective_means[objective]
        best = max(means.values(), default=None)
        return tuple(c for c, mean in means.items() if mean == best)

    def _survivors(self, among: Collection[str] | None) -> list[str]:
        """Scan by ascending ranking value; drop whoever is redundant. A sole holder always stays. Oldest first.

        One pass is enough: a removal only makes the others harder to remove. Whoever is scanned later is still there,
        so a candidate is redundant when the survivors before it and all after it hold each of its keys. Of equals in
        the ranking, who is worse by the other objectives comes first: else a dear one would outlive its cheaper equal.
        """
        bits = self._bits
        ascending = [c for _, _, c in reversed(self._order) if bits[c] and (among is None or c in among)]
        if self._others:
            ascending.sort(key=self._rank_with_others)
        later = list(accumulate((bits[c] for c in reversed(ascending)), or_, initial=0))
        later.pop()
        survivors, earlier = [], 0
        for candidate_id in ascending:
            held = bits[candidate_id]
            if held & ~(earlier | later.pop()):
                survivors.append(candidate_id)
                earlier |= held
        return sorted(survivors, key=lambda c: self.members[c].n)

    def _rank_with_others(self, candidate_id: str) -> tuple[float, ...]:
        means = (self._objective_means[objective].get(candidate_id, float("-inf")) for objective in self._others)
        return self._values[candidate_id], *means

    def keys_held(self, among: Collection[str] | None = None) -> dict[str, int]:
        """How many keys each survivor holds; with `among`, of a front made of these members' keys only."""
        self._refresh()
        survivors = self._front if among is None else self._survivors(among)
        return {c: self._bits[c].bit_count() for c in survivors}

    def weights(self, among: Collection[str] | None = None) -> dict[str, float]:
        """Selection mass: keys held, as a share of the most that one holds, to the power of the pressure.

        The best has at least the mean mass. among: members to choose from, the best with them; None for all.
        """
        counts = self.keys_held(among)
        most = max(counts.values(), default=1)
        held = {c: (count / most) ** self.pressure for c, count in counts.items()}
        floor = sum(held.values()) / len(held) if held else 1.0
        best = self.best()
        held[best] = max(held.get(best, 0.0), floor)
        return held

    def draw_parent(self, rng: random.Random, among: Collection[str] | None = None) -> Candidate:
        """A member in proportion to its mass."""
        weights = self.weights(among)
        return self.members[rng.choices(list(weights), list(weights.values()))[0]]


def lineage(candidates: Mapping[str, Candidate], candidate_id: str) -> list[str]:
    """The candidate and its ancestors, nearest first."""
    path: dict[str, None] = {}
    todo = deque([candidate_id])
    while todo:
        current = todo.popleft()
        if current not in path and current in candidates:
            path[current] = None
            todo.extend(candidates[current].parents)
    return list(path)


def candidate_to_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "candidate_id": candidate.candidate_id,
        "n": candidate.n,
        "parents": list(candidate.parents),
        "operator": candidate.operator,
        "generation": candidate.generation,
    }
