"""A GEPA search that begins with prompts of another job: measured right after the baseline, the good ones are kept."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Fork, Step, Steps
from promptjobs.core.gepa_gate import Gate
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import COMMON_SHARE, FIRST, Reservation, opening_seeds
from promptjobs.core.racing import HOPELESS, Outcome, Race, paired_gain
from promptjobs.core.search_events import not_taken_over
from promptjobs.core.trial import Phase
from promptjobs.core.warm_start import as_text, fitted
from promptjobs.errors import PromptError

if TYPE_CHECKING:
    from promptjobs.core.gepa import Gepa


class WarmStart:
    """Each prompt is a child of the baseline, and is compared with it alone: they may be good at different things."""

    def __init__(self, search: "Gepa") -> None:
        self.search = search

    def run(self, lane: Lane) -> Steps:
        """Those that are better than the baseline join the archive, by the paper's gate all that were measured."""
        children = yield from self._children()
        if not children:
            return
        match self.search.acceptance:
            case Race() as race:
                yield from self._raced(race, lane, children)
            case Gate() as gate:
                yield from self._validated(gate, lane, children)

    def _children(self) -> Steps:
        """The prompts as candidates, without those that a search of an earlier version has begun with."""
        search, children = self.search, list[Candidate]()
        if search.base is None:
            raise ValueError("the baseline is not known yet")
        for prompt in search.gepa.warm_prompts:
            try:
                template = as_text(fitted(search.base.template, prompt.prompt))
            except PromptError as error:
                yield Step(facts=[not_taken_over(prompt.origin, str(error))])
                continue
            if template.digest() in search.candidates:
                continue
            child = yield from search.proposals.candidate(template, [search.base], "warm_start", 0, prompt.origin)
            children += [child] if child is not None else []
        return children

    def _raced(self, race: Race, lane: Lane, children: Sequence[Candidate]) -> Steps:
        """Against the baseline on the seeds that it is known on; who is clearly behind after the first ones goes.

        The first prompt is the other job's best: it is not given up on so few.
        """
        search, base = self.search, self.search.base
        if base is None:
            raise ValueError("the baseline is not known yet")
        known = search.evaluations.scores(base.candidate_id, opening_seeds(search.gepa))
        order = sorted(known)
        lane.rng().shuffle(order)
        left = yield from self._measured(race, lane, children, order[:FIRST])
        scores = {c.candidate_id: search.evaluations.scores(c.candidate_id, order[:FIRST]) for c in left}
        scores[base.candidate_id] = known
        going_on = list[Candidate]()
        for child in left:
            gain, _ = paired_gain(scores, base, child, order[:FIRST])
            if child is children[0] or gain >= HOPELESS:
                going_on.append(child)
            else:
                yield from race.reject(child, scores[child.candidate_id], "not improved")
        left = yield from self._measured(race, lane, going_on, order[FIRST:])
        for child in left:
            scores[child.candidate_id] = search.evaluations.scores(child.candidate_id, order)
            gain, pairs = paired_gain(scores, base, child, order)
            if pairs < COMMON_SHARE * len(order):
                yield from race.reject(child, scores[child.candidate_id], "incomplete")
            elif gain > search.min_improvement or search.is_trade_off(base, child, gain, pairs, order):
                yield from race.join(base, child, Outcome(child, gain, pairs))
            else:
                yield from race.reject(child, scores[child.candidate_id], "not improved")

    def _measured(self, race: Race, lane: Lane, children: Sequence[Candidate], seeds: Sequence[int]) -> Steps:
        """Those that could be paid, in their order; the others are told to be given up."""
        search = self.search
        if not seeds:
            return list(children)
        paid, reservations = list[Candidate](), list[Reservation]()
        for child in children:
            cost = search.evaluations.cost(child.candidate_id, seeds)
            reservation = Reservation.of(search.budget, cost, trials=1)
            if reservation is None:
                scores = search.evaluations.scores(child.candidate_id, opening_seeds(search.gepa))
                yield from race.reject(child, scores, "no budget left")
            else:
                paid.append(child)
                reservations.append(reservation)
        yield Fork([self._scoring(*pair, seeds) for pair in zip(paid, reservations, strict=True)])
        return paid

    def _scoring(self, child: Candidate, reservation: Reservation, seeds: Sequence[int]) -> Callable[[Lane], Steps]:
        def score(lane: Lane) -> Steps:
            yield from self.search.score(lane, child, seeds, Phase.OPTIMIZATION, reservation)
            reservation.release()

        return score

    def _validated(self, gate: Gate, lane: Lane, children: Sequence[Candidate]) -> Steps:
        """On the front's seeds, as many as can be paid."""
        search, reservations = self.search, list[Reservation]()
        for _ in children:
            reservation = Reservation.of(search.budget, len(search.front_seeds), trials=1)
            if reservation is None:
                break
            reservations.append(reservation)
        yield Fork([self._validating(gate, *pair) for pair in zip(children, reservations, strict=False)])

    def _validating(self, gate: Gate, child: Candidate, reservation: Reservation) -> Callable[[Lane], Steps]:
        def validate(lane: Lane) -> Steps:
            yield from gate.validate(lane, child, reservation)
            reservation.release()

        return validate
