"""Who holds which key of a front: the best values on seeds, noted as they come in."""

from collections.abc import Iterable
from typing import Literal, TypeAlias

from promptjobs.core.objectives import Objective

FrontType: TypeAlias = Literal["instance", "objective", "hybrid", "cartesian"]
FrontKey: TypeAlias = int | Objective | tuple[int, Objective]
"""What a front has a best for: a seed, an objective's mean over the seeds, or an objective on a seed."""


class SeedKeys:
    """A key for each objective on each seed; key `n` is the bit `1 << n` of a candidate's `held`.

    A key's mark is the best value it has seen. It stays where its holder is dropped: what was reached once is what
    later candidates have to reach.
    """

    def __init__(self, objectives: tuple[Objective, ...], seeds: tuple[int, ...], eps: float) -> None:
        """eps: for scores; values of the other objectives, in units of their own, tie only where they are equal."""
        self.objectives = objectives
        self.seeds = seeds
        self.eps = eps
        self.held: dict[str, int] = {}
        self._marks = [float("-inf")] * (len(objectives) * len(seeds))
        self._holders: list[dict[str, float]] = [{} for _ in self._marks]

    def __len__(self) -> int:
        return len(self._marks)

    def enter(self, candidate_id: str, objective: Objective, new: Iterable[tuple[int, float]]) -> None:
        """new: values by the seed's place in `seeds`. Who no longer reaches the best one lets go of the key."""
        marks, bits = self._marks, 0
        offset = self.objectives.index(objective) * len(self.seeds)
        eps = self.eps if objective is Objective.SCORE else 0.0
        for at, value in new:
            key = offset + at
            if value > marks[key]:
                marks[key] = value
                holders = self._holders[key]
                for lost in [c for c, reached in holders.items() if reached < value - eps]:
                    del holders[lost]
                    self.held[lost] ^= 1 << key
            if value >= marks[key] - eps:
                self._holders[key][candidate_id] = value
                bits |= 1 << key
        self.held[candidate_id] |= bits

    def drop(self, candidate_id: str) -> None:
        del self.held[candidate_id]
        for holders in self._holders:
            holders.pop(candidate_id, None)

    def holders(self, front: FrontType) -> dict[FrontKey, tuple[str, ...]]:
        """By seed, or by seed and objective on a cartesian front."""
        found: dict[FrontKey, tuple[str, ...]] = {}
        for n, held in enumerate(self._holders):
            objective, at = divmod(n, len(self.seeds))
            seed = self.seeds[at]
            found[(seed, self.objectives[objective]) if front == "cartesian" else seed] = tuple(held)
        return found


def kinds_of_keys(
    front: FrontType, objectives: tuple[Objective, ...]
) -> tuple[tuple[Objective, ...], tuple[Objective, ...]]:
    """The objectives with a key on each seed, and those with a key for their mean."""
    match front:
        case "instance":
            return (Objective.SCORE,), ()
        case "objective":
            return (), objectives
        case "hybrid":
            return (Objective.SCORE,), objectives
        case "cartesian":
            return objectives, ()
