"""Acceptance by racing: children and the best are compared on small blocks of the front's seeds, what is known reused.

Sources: CAPO (arXiv 2504.16005) for racing in prompt search. Instead of scoring every accepted child on all of the
front, a child that loses on a first block goes at once; the finalists alone are scored in full.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptjobs.core import gepa_events as events
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Fork, Step, Steps
from promptjobs.core.demonstrations import texts_of, with_examples
from promptjobs.core.gepa_proposals import Proposal, rewritten
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import COMMON_SHARE, FIRST, SECOND, Reservation, evidence_size
from promptjobs.core.line_merging import apply_additions, merged_texts
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.result import Attempt
from promptjobs.core.trial import Phase

if TYPE_CHECKING:
    from promptjobs.core.gepa import Gepa

HOPELESS = -0.02
"""Who is this much worse after the first block is not given the second."""

FRESH = 4
"""After each rejection in a row so many more seeds of the second block are new to the best, which won on others."""

SHRINKAGE = 6
"""A measured difference over n seeds counts n / (n + this): the rest is taken for luck."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a duel ended. winner: None where the reference stays, or the budget did not suffice.

    gain: the winner's mean paired difference to the reference over `seeds` seeds.
    """

    winner: Candidate | None
    gain: float = 0.0
    seeds: int = 0


class Race:
    """One proposal after another, each raced against the best. used: how often a seed was shown, by parent."""

    def __init__(self, search: "Gepa") -> None:
        self.search = search
        self.size = evidence_size(search.gepa)
        self._rejected_in_a_row = 0
        self._used: dict[str, dict[int, int]] = {}

    # --- one iteration -----------------------------------------------------------------------------------------------

    def iteration(self, lane: Lane) -> Steps:
        """Returns whether a child joined the archive; None where there was nothing to propose from.

        Demonstrations and merges are tried where it is their time; else it is a reflection's turn.
        """
        search, rng = self.search, lane.rng()
        count = search.ladder.next_count(search.archive.best())
        if count:
            yield from self._demonstrate(lane, count, rng)
        crossed = yield from search.crossover.attempt(lane, rng)
        if crossed is not None:
            return crossed
        parent = search.draw_parent(rng)
        proposal = yield from self.proposal(lane, parent, rng)
        if not isinstance(proposal, Proposal):
            return proposal
        best = search.best_candidate()
        children = yield from self._variant(proposal, best)
        return (yield from self.settle(lane, best, children)) if children else False

    def drafts(self, lane: Lane, count: int) -> Steps:
        """Several proposals from the baseline at once, each from other evidence, and the union of what they found.

        Returns whether one of them, or the union, joined the archive.
        """
        search, base = self.search, self.search.best_candidate()
        results = yield Fork([lambda draft: self.proposal(draft, base, draft.rng())] * count)
        proposals = [found for found in results if isinstance(found, Proposal)]
        old = texts_of(base.template)
        united, children = dict(old), list[Candidate]()
        for proposal in proposals:
            texts = {name: apply_additions(old[name], text) for name, text in proposal.texts.items()}
            united |= merged_texts(old, united, texts) if united != old else texts
            template = rewritten(base.template, texts)
            child = yield from search.proposals.candidate(template, [base], "reflection", proposal.number)
            children += [child] if child is not None else []
        if len(children) > 1:
            template = rewritten(base.template, united)
            union = yield from search.proposals.candidate(template, [base], "merge", search.finished)
            children = [union, *children] if union is not None else children
        return (yield from self.settle(lane, base, children)) if children else False

    def proposal(self, lane: Lane, parent: Candidate, rng: random.Random) -> Steps:
        """Evidence and reflection. None where there is nothing to learn from, False where the reply is refused."""
        search = self.search
        seeds = yield from self._evidence(lane, parent, rng)
        records = yield from search.proposals.evidence(parent, seeds)
        if not records:
            search.found_nothing(bool(seeds))
            return None
        search.found_evidence()
        proposal = yield from search.proposals.propose(parent, records, search.finished, rng)
        return False if proposal is None else proposal

    def _evidence(self, lane: Lane, parent: Candidate, rng: random.Random) -> Steps:
        """Seeds to learn from: those the parent fails on and that were shown least, else new ones.

        A seed whose answer the parent has seen teaches nothing.
        """
        search = self.search
        seen = set(search.ladder.seeds_of(parent.candidate_id))
        used = self._used.setdefault(parent.candidate_id, {})
        known = search.evaluations.known.get(parent.candidate_id, {})
        active = [seed for seed in search.pool.active if seed not in seen]
        rng.shuffle(active)
        active.sort(key=lambda seed: (used.get(seed, 0), seed not in known))
        chosen, fresh = list[int](), list[int]()
        for seed in active:
            if len(chosen) + len(fresh) >= self.size:
                break
            if seed not in known:
                fresh.append(seed)
            elif (known[seed].score or 0.0) < 1.0:
                chosen.append(seed)
        cost = search.evaluations.cost(parent.candidate_id, fresh)
        reservation = Reservation.of(search.budget, cost, trials=bool(fresh))
        if reservation is None:
            search.exhausted.add(lane.path)
            return []
        for seed in (*chosen, *fresh):
            used[seed] = used.get(seed, 0) + 1
        if fresh:
            yield from search.score(lane, parent, fresh, Phase.OPTIMIZATION, reservation)
        reservation.release()
        return [*chosen, *fresh]

    def _variant(self, proposal: Proposal, best: Candidate) -> Steps:
        """The proposal laid over the best prompt of today, as candidates: none where it is refused.

        A rewrite also drops lines, be it on purpose or by oversight. They are kept, but after a rejection, when the
        next proposal is taken as it is.
        """
        search, parent = self.search, proposal.parent
        texts = proposal.texts
        if self._rejected_in_a_row % 2 == 0:
            old = texts_of(parent.template)
            kept = {name: apply_additions(old[name], text) for name, text in texts.items()}
            # Where nothing but the dropped lines differs, dropping them is what is proposed.
            texts = texts if all(text == old[name] for name, text in kept.items()) else kept
        template, parents = self._rebased(parent, texts, best)
        child = yield from search.proposals.candidate(template, parents, "reflection", proposal.number)
        if child is None:
            return []
        search.ladder.inherit(child.candidate_id, parents[0].candidate_id)
        return [child]

    def _rebased(
        self, parent: Candidate, texts: Mapping[str, str], best: Candidate
    ) -> tuple[PromptTemplate, list[Candidate]]:
        """Another lane may have found a better prompt meanwhile: what is new here is merged into it, line by line."""
        if best == parent:
            return rewritten(parent.template, dict(texts)), [parent]
        merged = merged_texts(texts_of(parent.template), texts_of(best.template), texts)
        if not merged:
            return rewritten(parent.template, dict(texts)), [parent]
        return rewritten(best.template, merged), [best, parent]

    # --- demonstrations ----------------------------------------------------------------------------------------------

    def _demonstrate(self, lane: Lane, count: int, rng: random.Random) -> Steps:
        search = self.search
        best = search.best_candidate()
        section = search.proposals.demonstrated(best.template)
        if section is None:
            return
        search.ladder.begin()
        examples = search.ladder.draw(count, rng)
        content = best.template.section(section).content
        template = best.template.with_text({section: with_examples(content, examples)})
        child = yield from search.proposals.candidate(template, [best], "demonstrations", search.finished)
        has_won = False
        if child is not None:
            search.ladder.held[child.candidate_id] = tuple(example.seed for example in examples)
            has_won = yield from self.settle(lane, best, [child])
        search.ladder.end(has_won)

    # --- the duel ----------------------------------------------------------------------------------------------------

    def settle(self, lane: Lane, reference: Candidate, children: Sequence[Candidate]) -> Steps:
        """Race children against the reference; the winner joins the archive. Returns whether one did."""
        search = self.search
        outcome: Outcome = yield from self.duel(lane, reference, children)
        winner = outcome.winner
        self._rejected_in_a_row = 0 if winner else self._rejected_in_a_row + 1
        if winner is None:
            return False
        yield from self.join(reference, winner, outcome)
        best = search.best_candidate()
        if best not in (reference, winner):
            # Another lane was faster: what both have found is put together, and has to prove itself.
            parent = search.candidates[winner.parents[0]]
            found = merged_texts(texts_of(parent.template), texts_of(best.template), texts_of(winner.template))
            if found:
                template = rewritten(best.template, found)
                child = yield from search.proposals.candidate(template, [best, winner], "merge", search.finished)
                if child is not None:
                    search.ladder.inherit(child.candidate_id, best.candidate_id)
                    again: Outcome = yield from self.duel(lane, best, [child])
                    if again.winner is not None:
                        yield from self.join(best, again.winner, again)
        return True

    def duel(self, lane: Lane, reference: Candidate, children: Sequence[Candidate]) -> Steps:
        """Two blocks of seeds; of several children all but the best go after the first one."""
        search = self.search
        order = self._order(reference, lane.rng())
        first, second = order[:FIRST], order[FIRST : FIRST + SECOND]
        before = yield from self._block(lane, [reference, *children], first)
        if before is None:
            for child in children:
                yield from self.reject(child, {}, "no budget left")
            return Outcome(None)
        gains = {c.candidate_id: paired_gain(before, reference, c, first) for c in children}
        champion, *others = sorted(children, key=lambda c: (-(gains[c.candidate_id][0]), c.n))
        for lost in others:
            gain, pairs = gains[lost.candidate_id]
            is_lesson = pairs >= COMMON_SHARE * len(first) and gain <= 0
            yield from self.reject(lost, before[lost.candidate_id], "a sibling was better", is_lesson=is_lesson)
        gain, pairs = gains[champion.candidate_id]
        after = before
        if second and pairs and gain >= HOPELESS:
            more = yield from self._block(lane, [reference, champion], second)
            if more is None:
                yield from self.reject(champion, before[champion.candidate_id], "no budget left")
                return Outcome(None)
            after = {c: {**before.get(c, {}), **more[c]} for c in more}
            gain, pairs = paired_gain(after, reference, champion, [*first, *second])
        elif second:
            why = "not improved" if pairs else "incomplete"
            is_lesson = pairs >= COMMON_SHARE * len(first)
            yield from self.reject(champion, before[champion.candidate_id], why, is_lesson=is_lesson)
            return Outcome(None)
        if pairs < COMMON_SHARE * len(order[: FIRST + SECOND]):
            yield from self.reject(champion, after[champion.candidate_id], "incomplete")
            return Outcome(None)
        if not (gain > search.min_improvement or search.is_trade_off(reference, champion, gain, pairs)):
            yield from self.reject(champion, after[champion.candidate_id], "not improved", is_lesson=True)
            return Outcome(None)
        if search.evaluations.proxy is not None:
            return (yield from self._confirmed(lane, reference, champion, [*first, *second]))
        return Outcome(champion, gain, pairs)

    def _confirmed(self, lane: Lane, reference: Candidate, champion: Candidate, seeds: Sequence[int]) -> Steps:
        """A win that a cheaper model foretold has to be repeated by the model under optimization."""
        search = self.search
        found: dict[str, dict[int, float]] = {}
        for candidate in (reference, champion):
            cost = search.evaluations.cost(candidate.candidate_id, seeds)
            reservation = Reservation.of(search.budget, cost, trials=bool(cost))
            if reservation is None:
                search.exhausted.add(lane.path)
                known = search.evaluations.scores(champion.candidate_id, seeds)
                yield from self.reject(champion, known, "no budget left")
                return Outcome(None)
            if reservation.held:
                yield from search.score(lane, candidate, seeds, Phase.OPTIMIZATION, reservation)
            reservation.release()
            found[candidate.candidate_id] = search.evaluations.scores(candidate.candidate_id, seeds)
        gain, pairs = paired_gain(found, reference, champion, seeds)
        is_better = gain > search.min_improvement or search.is_trade_off(reference, champion, gain, pairs)
        if is_better and pairs >= COMMON_SHARE * len(seeds):
            return Outcome(champion, gain, pairs)
        yield from self.reject(champion, found[champion.candidate_id], "not confirmed", is_lesson=True)
        return Outcome(None)

    def _order(self, reference: Candidate, rng: random.Random) -> list[int]:
        """The front's seeds, those that the reference is known on first."""
        known = self.search.evaluations.known.get(reference.candidate_id, {})
        order = list(self.search.front_seeds)
        rng.shuffle(order)
        order.sort(key=lambda seed: seed not in known)
        fresh = min(SECOND, FRESH * self._rejected_in_a_row)
        tail = order[FIRST:]
        old, new = [seed for seed in tail if seed in known], [seed for seed in tail if seed not in known]
        return [*order[:FIRST], *new[:fresh], *old, *new[fresh:]]

    def _block(self, lane: Lane, candidates: Sequence[Candidate], seeds: Sequence[int]) -> Steps:
        """Scores by candidate and seed, all measured at the same time; None where the budget does not suffice."""
        search = self.search
        cost = sum(search.evaluations.screening_cost(c.candidate_id, seeds) for c in candidates)
        reservation = Reservation.of(search.budget, cost, trials=len(candidates))
        if reservation is None:
            search.exhausted.add(lane.path)
            return None
        results = yield Fork([self._measuring(c, seeds, reservation) for c in candidates])
        reservation.release()
        found: dict[str, dict[int, float]] = {}
        for candidate, measured in zip(candidates, results, strict=True):
            pairs = zip(measured.seeds, measured.scores, strict=True)
            found[candidate.candidate_id] = {seed: score for seed, score in pairs if score is not None}
        return found

    def _measuring(
        self, candidate: Candidate, seeds: Sequence[int], reservation: Reservation
    ) -> Callable[[Lane], Steps]:
        return lambda lane: self.search.screen(lane, candidate, seeds, reservation)

    def reject(self, child: Candidate, scores: Mapping[int, float], why: str, *, is_lesson: bool = False) -> Steps:
        """Not into the archive. is_lesson: whether the parent's next reflections are told that this did not help."""
        search = self.search
        mean = sum(scores.values()) / len(scores) if scores else None
        search.attempts[child.candidate_id] = Attempt(child, mean, len(scores), False)
        if is_lesson and child.operator == "reflection":
            search.proposals.reject(child, search.candidates[child.parents[0]])
        yield Step(facts=[events.raced(child, scores, False, False, why)])

    def join(self, reference: Candidate, child: Candidate, outcome: Outcome) -> Steps:
        """Into the archive, ranked by the reference's estimate and the measured difference, shrunk."""
        search = self.search
        seeds = [seed for seed in search.front_seeds if seed in search.evaluations.known[child.candidate_id]]
        shrunk = outcome.gain * outcome.seeds / (outcome.seeds + SHRINKAGE)
        estimate = min(1.0, max(0.0, search.archive.ranking[reference.candidate_id] + shrunk))
        yield from search.join(child, seeds, estimate)


def paired_gain(
    scores: Mapping[str, Mapping[int, float]], reference: Candidate, child: Candidate, seeds: Sequence[int]
) -> tuple[float, int]:
    """Mean paired difference and the number of pairs."""
    ours, theirs = scores[child.candidate_id], scores[reference.candidate_id]
    pairs = [ours[seed] - theirs[seed] for seed in seeds if seed in ours and seed in theirs]
    return (sum(pairs) / len(pairs), len(pairs)) if pairs else (-1.0, 0)
