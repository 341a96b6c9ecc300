"""Acceptance by the paper's gate: a minibatch with parent and child, then the front's seeds.

Source: Agrawal et al. 2025, arXiv 2507.19457. Departures: comparisons are paired over what both have answered.
"""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptjobs.core import gepa_events as events
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Step, Steps
from promptjobs.core.demonstrations import FEWEST, with_examples
from promptjobs.core.gepa_proposals import Proposal, rewritten
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import COMMON_SHARE, Reservation
from promptjobs.core.merging import merge_subsample
from promptjobs.core.pools import is_improved, validation_subsample
from promptjobs.core.result import Attempt
from promptjobs.core.screening import Screening
from promptjobs.core.trial import Phase, Trial

if TYPE_CHECKING:
    from promptjobs.core.gepa import Gepa

FAILURES_IN_A_ROW = 5
"""Minibatches with too few scores after which the search gives up."""

MERGE_SEEDS = 5

PROPOSAL_TRIALS = 3
"""Parent and child on a minibatch, and the child on the front's seeds."""

MERGE_TRIALS = 2


class Gate:
    """One proposal from evidence to verdict."""

    def __init__(self, search: "Gepa") -> None:
        self.search = search
        self._thin_in_a_row = 0

    def iteration(self, lane: Lane) -> Steps:
        """Returns whether a child joined the archive; None where there was nothing to propose from."""
        search, rng = self.search, lane.rng()
        crossed = yield from search.crossover.attempt(lane, rng)
        if crossed is not None:
            return crossed
        parent = search.base if search.is_drafting and search.base else search.draw_parent(rng)
        seeds = search.pool.next()
        cost = search.evaluations.cost
        worst = cost(parent.candidate_id, seeds) + len(seeds) * (1 + search.has_proxy) + len(search.front_seeds)
        reservation = Reservation.of(search.budget, worst, PROPOSAL_TRIALS)
        if reservation is None:
            search.exhausted.add(lane.path)
            return None
        result = yield from self._proposal(lane, parent, seeds, reservation, rng)
        reservation.release()
        return result

    def _proposal(
        self, lane: Lane, parent: Candidate, seeds: Sequence[int], reservation: Reservation, rng: random.Random
    ) -> Steps:
        search = self.search
        # Evidence has to be the policy's own: what a cheaper model says of the parent teaches nothing.
        trial: Trial = yield from search.score(lane, parent, seeds, Phase.OPTIMIZATION, reservation)
        before = Screening(trial.seeds, trial.scores, frozenset())
        if len(before.known_scores) < COMMON_SHARE * len(seeds):
            # Whatever a child scored, the comparison would be incomplete.
            self._thin_in_a_row += 1
            if self._thin_in_a_row >= FAILURES_IN_A_ROW:
                what = f"{FAILURES_IN_A_ROW} minibatches in a row had too few scores"
                yield from search.fail(what, parent, seeds)
            return None
        self._thin_in_a_row = 0
        # A seed whose answer the parent has seen teaches nothing.
        unseen = set(search.evaluations.known[parent.candidate_id]) - set(search.ladder.seeds_of(parent.candidate_id))
        records = yield from search.proposals.evidence(parent, [seed for seed in seeds if seed in unseen])
        if not records:
            search.found_nothing(True)
            return None
        search.found_evidence()
        proposal: Proposal | None = yield from search.proposals.propose(parent, records, search.finished, rng)
        if proposal is None:
            return False
        template = rewritten(parent.template, proposal.texts)
        child = yield from search.proposals.candidate(template, [parent], "reflection", proposal.number)
        if child is None:
            return False
        search.ladder.inherit(child.candidate_id, parent.candidate_id)
        shown = yield from self._with_examples(child, seeds, rng)
        result = yield from self._judged(lane, shown, parent, before, reservation)
        if shown is not child:
            search.ladder.end(result)
        return result

    def _judged(
        self, lane: Lane, child: Candidate, parent: Candidate, before: Screening, reservation: Reservation
    ) -> Steps:
        """The minibatch for the child, and the front's seeds where it is better."""
        search, seeds = self.search, before.seeds
        after: Screening = yield from search.screen(lane, child, seeds, reservation)
        verdict = self._compared(before, after)
        if verdict == "not improved" and self._is_trade_off(parent, child, before, after):
            verdict = "improved"
        if verdict != "improved":
            search.attempts[child.candidate_id] = Attempt(child, after.score, len(after.known_scores), False)
            if verdict == "not improved":
                search.proposals.reject(child, parent)
            scores = {seed: score for seed, score in zip(seeds, after.scores, strict=True) if score is not None}
            yield Step(facts=[events.raced(child, scores, False, False, verdict)])
            return False
        return (yield from self.validate(lane, child, reservation))

    def _with_examples(self, child: Candidate, seeds: Sequence[int], rng: random.Random) -> Steps:
        """Now and then a child goes on with some solved examples beside its instruction, none of the minibatch's."""
        search = self.search
        count = search.ladder.next_count(child.candidate_id)
        examples = search.ladder.draw(count, rng, without=seeds)
        if len(examples) < max(FEWEST, count):
            return child
        section = search.proposals.demonstrated(child.template)
        if section is None:
            return child
        search.ladder.begin()
        content = child.template.section(section).content
        template = child.template.with_text({section: with_examples(content, examples)})
        shown = yield from search.proposals.candidate(template, [child], "demonstrations", search.finished)
        if shown is None:
            search.ladder.end(False)
            return child
        search.ladder.held[shown.candidate_id] = tuple(example.seed for example in examples)
        return shown

    def _compared(self, before: Screening, after: Screening) -> str:
        """Parent and child, paired over the seeds both have: improved, not improved or incomplete."""
        pairs = [(a, b) for a, b in zip(before.scores, after.scores, strict=True) if a is not None and b is not None]
        if len(pairs) < COMMON_SHARE * len(before.seeds):
            return "incomplete"
        least = self.search.min_improvement * len(pairs)
        return "improved" if is_improved([a for a, _ in pairs], [b for _, b in pairs], least) else "not improved"

    def _is_trade_off(self, parent: Candidate, child: Candidate, before: Screening, after: Screening) -> bool:
        pairs = [(a, b) for a, b in zip(before.scores, after.scores, strict=True) if a is not None and b is not None]
        gain = sum(b - a for a, b in pairs) / len(pairs) if pairs else -1.0
        return self.search.is_trade_off(parent, child, gain, len(pairs), before.seeds)

    def validate(self, lane: Lane, child: Candidate, reservation: Reservation) -> Steps:
        """Score an improved child on the front's seeds, or some of them, and add it to the archive."""
        search = self.search
        seeds: Sequence[int] = search.front_seeds
        if search.gepa.adaptive_batch is not None:
            seeds = validation_subsample(seeds, search.gepa.adaptive_batch, search.counts, lane.rng())
        yield from search.score(lane, child, seeds, Phase.OPTIMIZATION, reservation)
        scores = search.evaluations.scores(child.candidate_id, seeds)
        if len(scores) < len(seeds):
            mean = sum(scores.values()) / len(scores) if scores else None
            search.attempts[child.candidate_id] = Attempt(child, mean, len(scores), False)
            yield Step(facts=[events.raced(child, scores, False, False, "incomplete")])
            return False
        yield from search.join(child, seeds, None)
        return True

    def settle(self, lane: Lane, reference: Candidate, children: Sequence[Candidate]) -> Steps:
        """A merge: the better parent's sum on a few seeds must be reached, then the front's seeds follow."""
        search = self.search
        [child] = children
        first, second = (search.candidates[parent] for parent in child.parents[:2])
        ours, theirs = (search.evaluations.scores(c.candidate_id, search.front_seeds) for c in (first, second))
        seeds = merge_subsample(ours, theirs, search.front_seeds, lane.rng(), MERGE_SEEDS)
        reservation = Reservation.of(search.budget, len(search.front_seeds), MERGE_TRIALS)
        if reservation is None:
            search.exhausted.add(lane.path)
            return False
        trial = yield from search.score(lane, child, seeds, Phase.OPTIMIZATION, reservation)
        least = max(sum(scores[seed] for seed in seeds) for scores in (ours, theirs))
        result = False
        if len(trial.known_scores) == len(seeds) and sum(trial.known_scores) >= least:
            result = yield from self.validate(lane, child, reservation)
        else:
            search.attempts[child.candidate_id] = Attempt(child, trial.score, len(trial.known_scores), False)
            scores = search.evaluations.scores(child.candidate_id, seeds)
            yield Step(facts=[events.raced(child, scores, False, False, "not improved")])
        reservation.release()
        return result
