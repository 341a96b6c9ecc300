"""The end of a GEPA job: finalists on the validation seeds, the held-out test once, and the result."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptjobs.core import gepa_events as events
from promptjobs.core.archive import Candidate, lineage
from promptjobs.core.asks import Fact, Fork, Step, Steps
from promptjobs.core.closing import Closing
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import COMMON_SHARE
from promptjobs.core.result import Attempt, Finalist, Member, OptimizationResult
from promptjobs.core.search_events import closing_events
from promptjobs.core.trial import Phase

if TYPE_CHECKING:
    from promptjobs.core.gepa import Gepa


class GepaClosing(Closing):
    """The archive's best on the validation seeds, or in the race on all of the front's."""

    search: "Gepa"

    def run(self, lane: Lane) -> Steps:
        search = self.search
        self.begin(len(search.gepa.test_seeds))
        yield Step(facts=[events.stopping(self.reason, self.detail), *self._undecided()])
        finalists = yield from self._validate(lane)
        best = finalists[0].candidate if finalists else self._best_of_front()
        if self.may_ask and best is not None and search.archive.members and search.gepa.test_seeds:
            yield from self._test(best)
        result = self._result(best, finalists)
        yield Step(facts=[*closing_events(result, search.evaluations.stats), *search.progress()])
        return result

    def _undecided(self) -> list[Fact]:
        """Whom the end overtook before it was accepted or rejected: what it scored is told all the same."""
        search, facts = self.search, list[Fact]()
        for candidate in search.candidates.values():
            found = search.evaluations.known.get(candidate.candidate_id, {})
            scores = {seed: answer.score for seed, answer in found.items() if answer.score is not None}
            if scores and not candidate.is_baseline and candidate.candidate_id not in search.attempts:
                mean = sum(scores.values()) / len(scores)
                search.attempts[candidate.candidate_id] = Attempt(candidate, mean, len(scores), False)
                facts.append(events.raced(candidate, scores, False, False, "the search ended before it was decided"))
        return facts

    def _best_of_front(self) -> Candidate | None:
        archive = self.search.archive
        return archive.members[archive.best()] if archive.members else self.search.base

    def _validate(self, lane: Lane) -> Steps:
        """The finalists, best first; none where there is nothing to tell them apart by."""
        search = self.search
        seeds, phase = self._final_seeds()
        if not seeds or not search.archive.members:
            return []
        top = self._finalists(seeds)
        if self.may_ask:
            if phase is Phase.VALIDATION:
                search.finalists = len(top)
                yield Step(facts=search.enter(phase))
            yield Fork([self.scoring(candidate, seeds, phase) for candidate in top])
        return self.ranked(top, seeds, COMMON_SHARE, of_all=not search.is_race)

    def _final_seeds(self) -> tuple[Sequence[int], Phase]:
        """Held-out validation seeds where there are such; in the race else the front's, which saw only a part of it."""
        search = self.search
        if search.gepa.pareto_source == "train" and search.gepa.validation_seeds:
            return search.gepa.validation_seeds, Phase.VALIDATION
        return (search.front_seeds, Phase.OPTIMIZATION) if search.is_race else ((), Phase.OPTIMIZATION)

    def rank_value(self, candidate: Candidate) -> float:
        archive = self.search.archive
        return archive.ranking.get(candidate.candidate_id, archive.mean(candidate.candidate_id))

    def _finalists(self, seeds: Sequence[int]) -> list[Candidate]:
        """The best of the archive and the baseline; as many as can be scored on all of the seeds, in the paper's search
        all of them where money and tokens are not limited.

        The winner comes first, then the baseline where the seeds are held out: the lift is told by them.
        """
        search = self.search
        archive, base = search.archive, search.base
        top = [archive.members[c] for c in archive.ranked()[: search.gepa.validation_top_k]]
        is_scarce = search.is_race or search.budget.purse is not None
        is_held_out = is_scarce and search.gepa.pareto_source == "train"
        others = [base] if base is not None and base != top[0] and (is_held_out or base not in top) else []
        rest = [candidate for candidate in top[1:] if candidate not in others]
        order = [top[0], *others, *rest] if is_held_out else [*top, *others]
        if not is_scarce or not self.may_ask:
            return order
        left, chosen = search.budget.left, list[Candidate]()
        for candidate in order:
            cost = search.evaluations.cost(candidate.candidate_id, seeds)
            if cost <= left:
                left -= cost
                chosen.append(candidate)
        return chosen or top[:1]

    def _test(self, best: Candidate) -> Steps:
        base = self.search.base
        candidates = [best] if base is None or base == best else [base, best]
        seeds = self.tested(len(candidates), self.search.gepa.test_seeds)
        yield Step(facts=self.search.enter(Phase.TEST))
        yield Fork([self.scoring(c, seeds, Phase.TEST) for c in candidates if seeds])

    def _result(self, best: Candidate | None, finalists: Sequence[Finalist]) -> OptimizationResult:
        search, gepa = self.search, self.search.gepa
        archive = search.archive
        is_train = gepa.pareto_source == "train"
        validated = gepa.validation_seeds if is_train else search.front_seeds
        return OptimizationResult(
            best=best,
            baseline=search.base,
            train=self.measured(best, search.front_seeds) if best and is_train else None,
            validation=self.measured(best, validated) if best else None,
            test=self.measured(best, gepa.test_seeds) if best else None,
            archive=[
                Member(archive.members[c], archive.ranking[c], search.seeds_of(c), known, c in archive.front)
                for c, known in ((c, archive.known_scores(c)) for c in archive.ranked())
            ],
            finalists=list(finalists),
            attempts=list(search.attempts.values()),
            lineage=lineage(search.candidates, best.candidate_id) if best else [],
            finish_reason=self.reason,
            detail=self.detail,
            progress=search.progress_data(),
        )
