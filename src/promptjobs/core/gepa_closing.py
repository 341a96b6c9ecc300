"""The end of a GEPA job: finalists on the validation seeds, the held-out test once, and the result."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from promptjobs.core import gepa_events as events
from promptjobs.core.archive import Candidate, lineage
from promptjobs.core.asks import Fact, Fork, ProgressFact, Step, Steps
from promptjobs.core.evaluations import Reservation
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.result import Finalist, Measured, Member, OptimizationResult
from promptjobs.core.trial import Phase

if TYPE_CHECKING:
    from promptjobs.core.gepa import Gepa

COMMON_SHARE = 0.8


class Closing:
    """Runs on the budget kept for it. After a cancel or errors nothing is asked: what is known is published."""

    def __init__(self, search: "Gepa", cause: Cause | None) -> None:
        self.search = search
        self.cause = cause
        self.may_ask = cause not in (Cause.CANCEL, Cause.ERRORS)

    def run(self, lane: Lane) -> Steps:
        search = self.search
        reason = str(self.cause or search.finish_reason or "completed")
        search.budget.release_reserve()
        yield Step(facts=[events.stopping(reason, None)])
        finalists = yield from self._validate(lane)
        best = finalists[0].candidate if finalists else self._best_of_front()
        if self.may_ask and best is not None and search.archive.members and search.gepa.test_seeds:
            yield from self._test(best)
        result = self._result(best, finalists, reason)
        yield Step(facts=[*events.closing_events(result), *search.progress()])
        return result

    def _best_of_front(self) -> Candidate | None:
        archive = self.search.archive
        return archive.members[archive.best()] if archive.members else self.search.base

    def _enter(self, phase: Phase) -> list[Fact]:
        before, self.search.phase = self.search.phase, phase
        data = self.search.progress_data()
        return [] if before is phase else [events.phase_changed(before, phase), ProgressFact(data)]

    def _validate(self, lane: Lane) -> Steps:
        """The finalists, best first; none where validation seeds are not held out, or may not be opened."""
        search = self.search
        seeds = search.gepa.validation_seeds
        if search.gepa.pareto_source == "validation" or not seeds or not search.archive.members:
            return []
        top = [search.archive.members[c] for c in search.archive.ranked()[: search.gepa.validation_top_k]]
        if search.base is not None and search.base not in top:
            top.append(search.base)
        if self.may_ask:
            yield Step(facts=self._enter(Phase.VALIDATION))
            yield Fork([self._scoring(candidate, seeds, Phase.VALIDATION) for candidate in top])
        scores = {c.candidate_id: search.evaluations.scores(c.candidate_id, seeds) for c in top}
        measured = [c for c in top if len(scores[c.candidate_id]) >= COMMON_SHARE * len(seeds)]
        if not measured:
            return []
        common = set.intersection(*(set(scores[c.candidate_id]) for c in measured)) or set(seeds)

        def paired(candidate: Candidate) -> float:
            found = [score for seed, score in scores[candidate.candidate_id].items() if seed in common]
            return sum(found) / len(found)

        ranked = sorted(measured, key=lambda c: (-paired(c), -search.archive.mean(c.candidate_id), c.n))
        return [Finalist(rank, c, scores[c.candidate_id], tuple(seeds)) for rank, c in enumerate(ranked)]

    def _test(self, best: Candidate) -> Steps:
        base = self.search.base
        candidates = [best] if base is None or base == best else [base, best]
        yield Step(facts=self._enter(Phase.TEST))
        yield Fork([self._scoring(c, self.search.gepa.test_seeds, Phase.TEST) for c in candidates])

    def _scoring(self, candidate: Candidate, seeds: Sequence[int], phase: Phase) -> Callable[[Lane], Steps]:
        search = self.search

        def score(lane: Lane) -> Steps:
            cost = search.evaluations.cost(candidate.candidate_id, seeds)
            reservation = None if phase is Phase.TEST else Reservation.of(search.budget, cost)
            if reservation is None and phase is not Phase.TEST:
                return None
            return (yield from search.evaluate(lane, candidate, seeds, phase, reservation))

        return score

    def _measured(self, best: Candidate, seeds: Sequence[int]) -> Measured | None:
        search = self.search
        ours = search.evaluations.scores(best.candidate_id, seeds)
        base = search.evaluations.scores(search.base.candidate_id, seeds) if search.base else {}
        return Measured(len(seeds), ours, base) if seeds and (ours or base) else None

    def _result(self, best: Candidate | None, finalists: Sequence[Finalist], reason: str) -> OptimizationResult:
        search, gepa = self.search, self.search.gepa
        archive = search.archive
        is_train = gepa.pareto_source == "train"
        validated = gepa.validation_seeds if is_train else search.front_seeds
        return OptimizationResult(
            best=best,
            baseline=search.base,
            train=self._measured(best, search.front_seeds) if best and is_train else None,
            validation=self._measured(best, validated) if best else None,
            test=self._measured(best, gepa.test_seeds) if best else None,
            archive=[
                Member(archive.members[c], archive.mean(c), archive.scores[c], c in archive.front)
                for c in archive.ranked()
            ],
            finalists=list(finalists),
            attempts=list(search.attempts.values()),
            lineage=lineage(search.candidates, best.candidate_id) if best else [],
            finish_reason=reason,
            detail=None,
            progress=search.progress_data(),
        )
