"""What a search has to offer so that the runner can drive it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Steps
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.trial import Phase, Trial


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an earlier version of a search left behind: its published facts, and how much it has spent.

    rollouts, completions: numbers of recorded answers, the rollouts by phase.
    """

    candidates: Sequence[Candidate]
    trials: Sequence[Trial]
    rollouts: Mapping[Phase, int]
    completions: int


class Optimizer(Protocol):
    """Pure: no clock, no IO, no randomness besides the lane's; it sees nothing but the answers it is sent."""

    @property
    def search_version(self) -> int:
        """Raised with every change that makes recorded turns unreplayable."""

    def search(self, lane: Lane) -> Steps: ...

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        """Ends the search, with the budget reserved for it; returns the result. It is never skipped."""

    def adopt(self, adopted: Adopted) -> None:
        """Go on from what an earlier version has published instead of from nothing."""
