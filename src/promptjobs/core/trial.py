"""Phases and trials: one evaluation of one candidate on a list of seeds."""

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """What a rollout is for. Whether it belongs to the baseline is a flag beside it."""

    BOOTSTRAP = "bootstrap"
    OPTIMIZATION = "optimization"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate on `seeds`; `scores[i]` belongs to `seeds[i]` and is None where the rollout failed.

    n: number of the trial in its job, from 1, without a gap. reused: how many of the scores were known before.
    """

    n: int
    candidate_id: str
    phase: Phase
    is_baseline: bool
    seeds: tuple[int, ...]
    scores: tuple[float | None, ...]
    reused: int = 0
    lane: str = ""
    generation: int = 0

    @property
    def known_scores(self) -> tuple[float, ...]:
        return tuple(score for score in self.scores if score is not None)

    @property
    def score(self) -> float | None:
        """Mean over the rollouts that were answered, or None where all failed."""
        known = self.known_scores
        return sum(known) / len(known) if known else None

    @property
    def failed(self) -> int:
        return len(self.scores) - len(self.known_scores)
