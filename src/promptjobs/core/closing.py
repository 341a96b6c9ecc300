"""The end of a search, as far as every algorithm has it: finalists on shared seeds, and rollouts while they last."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Steps
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.limits import Reservation
from promptjobs.core.result import Finalist, Measured
from promptjobs.core.search_base import Search
from promptjobs.core.trial import Phase


class Closing(ABC):
    """Runs on the budget kept for it. After a cancel, errors, or the last of the money nothing is asked: what is known
    is published."""

    def __init__(self, search: Search, cause: Cause | None) -> None:
        self.search = search
        self.cause = cause
        self.may_ask = cause not in (Cause.CANCEL, Cause.ERRORS, Cause.BUG, Cause.SPENT)

    @property
    def reason(self) -> str:
        """Why the search has ended."""
        return str(self.cause or self.search.finish_reason or "completed")

    @property
    def detail(self) -> str | None:
        """The same in words, where the search itself has any; those of a stop from outside are told by its job."""
        return None if self.cause else self.search.finish_detail

    @abstractmethod
    def run(self, lane: Lane) -> Steps:
        """Returns the OptimizationResult."""

    @abstractmethod
    def rank_value(self, candidate: Candidate) -> float:
        """What the search itself ranks a candidate by."""

    def begin(self, test_seeds: int) -> None:
        """The end may use what was kept for it, but for what its test will cost: baseline and winner on these seeds."""
        self.search.budget.begin_end(2 * test_seeds if self.may_ask else 0)

    def tested(self, candidates: int, seeds: Sequence[int]) -> Sequence[int]:
        """The seeds of the test; fewer, and the same ones for all, where money and tokens hold no more."""
        budget = self.search.budget
        budget.begin_end(0)
        if budget.purse is None:
            return seeds
        return seeds[: max(0, budget.purse.holds(budget.used)[0]) // candidates]

    def payable(self, candidate: Candidate, rollouts: int) -> int:
        """How many of so many rollouts of this candidate can be paid."""
        return min(rollouts, self.search.budget.left)

    def scoring(self, candidate: Candidate, seeds: Sequence[int], phase: Phase) -> Callable[[Lane], Steps]:
        """A lane that measures a candidate on these seeds, or on as many as can be paid; the test always can."""
        search = self.search

        def score(lane: Lane) -> Steps:
            if phase is Phase.TEST:
                return (yield from search.score(lane, candidate, seeds, phase, None, may_fail=True))
            cost = search.evaluations.cost(candidate.candidate_id, seeds)
            reservation = Reservation.of(search.budget, self.payable(candidate, cost))
            paid: Sequence[int] = seeds
            if reservation is not None and reservation.held < cost:
                # Not all of it can be paid: what is known stands, and the rest goes to as many seeds as there is for.
                known = search.evaluations.known.get(candidate.candidate_id, {})
                paid = [seed for seed in seeds if seed not in known][: reservation.held]
                if not paid:
                    return None
            return (yield from search.score(lane, candidate, paid, phase, reservation, may_fail=True))

        return score

    def ranked(self, top: Sequence[Candidate], seeds: Sequence[int], share: float, of_all: bool) -> list[Finalist]:
        """The candidates by their means on the seeds that all of them have, best first.

        Left out is who is known on less than a share of the seeds: of all of them, or of those of who has most.
        """
        scores = {c.candidate_id: self.search.evaluations.scores(c.candidate_id, seeds) for c in top}
        most = max(map(len, scores.values()), default=0)
        least = share * (len(seeds) if of_all else most)
        measured = [c for c in top if most and len(scores[c.candidate_id]) >= least]
        if not measured:
            return []
        common = set.intersection(*(set(scores[c.candidate_id]) for c in measured)) or set(seeds)

        def paired(candidate: Candidate) -> float:
            found = [score for seed, score in scores[candidate.candidate_id].items() if seed in common]
            return sum(found) / len(found)

        ranked = sorted(measured, key=lambda c: (-paired(c), -self.rank_value(c), c.n))
        return [Finalist(rank, c, scores[c.candidate_id], tuple(seeds)) for rank, c in enumerate(ranked)]

    def measured(self, best: Candidate, seeds: Sequence[int]) -> Measured | None:
        """The winner and the baseline on these seeds; None where neither has a score there."""
        search = self.search
        ours = search.evaluations.scores(best.candidate_id, seeds)
        base = search.evaluations.scores(search.base.candidate_id, seeds) if search.base else {}
        return Measured(len(seeds), ours, base) if seeds and (ours or base) else None
