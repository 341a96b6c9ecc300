"""MIPRO's trials: which configuration is measured next, on which seeds, and what the surrogate is told of it."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptjobs.core import mipro_events as events
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import CandidateFact, Fact, Step, Steps
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import Reservation
from promptjobs.core.mipro_plan import minibatch_size
from promptjobs.core.mipro_proposing import Proposed
from promptjobs.core.mipro_space import Choice, Instruction, Stage
from promptjobs.core.prompt_compiler import Compiled
from promptjobs.core.screening import Screening
from promptjobs.core.stops import StopReason
from promptjobs.core.trial import Phase, Trial
from promptjobs.errors import TransformApplicationError

if TYPE_CHECKING:
    from promptjobs.core.mipro import Mipro

FIRST_PART = 3
"""A minibatch is measured in two parts, the first of them a third of it: who is clearly behind then ends there."""

FEWEST_FIRST = 4
"""Seeds of the first part at least."""

NEW_SHARE = 0.6
"""Of an iteration's trials, for what was proposed before it; the others are the model's."""

TRIES = 200
"""Configurations that are looked at for one trial: others may compile to prompts that are known."""

FULL_SHARE = 0.12
"""Of the rollouts so far that full evaluations may have used before a further one."""


@dataclass(frozen=True, slots=True)
class Picked:
    """A configuration that is to be measured."""

    choice: Choice
    candidate: Candidate
    compiled: Compiled


class Trials:
    """queue: moves that are tried before the model is asked. left: trials of this iteration. done: in all.

    full: candidates that were measured in full. is_exhausted: there is no configuration left.
    """

    def __init__(self, search: "Mipro") -> None:
        self.search = search
        self.beliefs = search.beliefs
        self.queue: deque[dict[str, int]] = deque()
        self.history: list[dict[str, Any]] = []
        self.full: set[str] = set()
        self.done = 0
        self.left = 0
        self.under_way = 0
        self.is_exhausted = False
        self._since_full = 0
        self._told_best = search.baseline().candidate_id

    def tried(self, candidate_id: str) -> Mapping[str, Any] | None:
        """The trial of a candidate; None for the baseline, and for those of an earlier version of the search."""
        return next((each for each in self.history if each["candidate_id"] == candidate_id), None)

    # --- what comes next ---------------------------------------------------------------------------------------------

    def extend(self, proposed: Sequence[Proposed]) -> None:
        """The banks have grown: what is new is tried beside the incumbent's other options, the most promising first.

        Some of the iteration's trials are left to the model: what is not tried now stays among its options.
        """
        has_grown = self.beliefs.extend()
        self.is_exhausted = self.is_exhausted and not has_grown
        self.queue.clear()
        moves = [[self._move(each.stage, made) for made in each.entries] for each in proposed]
        if len(moves) > 1:
            self.queue.append({slot: option for first in moves for slot, option in first[0].items()})
        self.queue.extend(_by_turns(moves))
        most = max(1, round(NEW_SHARE * self.search.mipro.num_evaluations_per_iteration))
        while len(self.queue) > most:
            self.queue.pop()

    def _move(self, stage: Stage, made: Instruction) -> dict[str, int]:
        """What an instruction changes in a choice; a whole text takes the place of all that its stage has chosen."""
        slot, option = stage.option(made)
        others = {name: 0 for name in stage.dimensions() if ".instruction_" in name} if made.is_whole else {}
        return {**others, slot: option}

    def try_examples(self) -> None:
        """Examples are tried first of all, a large set for every stage that has some, together with the new texts."""
        move = {}
        for stage in self.search.space.stages:
            if stage.sets and stage.config.max_demo_slots:
                at = stage.sets.index(max(stage.sets, key=len))
                move[stage.demo_slot(0)] = at + 1
        if move:
            self.queue.appendleft({**(self.queue[0] if self.queue else {}), **move})

    def _next(self) -> Steps:
        """The next configuration whose prompt is not known; None where there is none.

        Of those whose prompt is known only the first is told: there may be many.
        """
        duplicates = 0
        for _ in range(TRIES):
            if self.queue:
                choice = {**self.beliefs.choices[self.beliefs.best()], **self.queue.popleft()}
                if not self.beliefs.claim(choice):
                    continue
            else:
                suggested = self.beliefs.suggest()
                if suggested is None:
                    break
                choice = suggested
            picked = yield from self._compiled(choice)
            if isinstance(picked, Picked):
                return picked
            if picked is not None and not duplicates:
                yield Step(facts=[events.trial_duplicate(self.search.iteration, choice, picked)])
            duplicates += picked is not None
            self.beliefs.discard(choice)
        self.is_exhausted = True
        return None

    def _compiled(self, choice: dict[str, int]) -> Steps:
        """Returns Picked; the candidate that has this prompt already; or None where it cannot be run."""
        search = self.search
        try:
            compiled = search.space.compile(choice)
        except TransformApplicationError as error:
            yield Step(facts=[events.trial_refused(search.iteration, choice, "transform", str(error))])
            return None
        detail = search.space.too_long(compiled, search.mipro.max_prompt_tokens, search.mipro.module_limits)
        if detail is not None:
            yield Step(facts=[events.trial_refused(search.iteration, choice, "too_long", detail)])
            return None
        candidate_id = compiled.template.digest()
        known = search.candidates.get(candidate_id)
        if known is not None:
            return known
        base, is_warm = search.baseline(), candidate_id in search.warm.origins
        candidate = Candidate(
            candidate_id=candidate_id,
            n=len(search.candidates),
            prompt=compiled.template,
            baseline_id=base.candidate_id,
            parents=(base.candidate_id if is_warm else search.incumbent().candidate_id,),
            operator="warm_start" if is_warm else "mipro",
            generation=search.iteration + 1,
        )
        return Picked(choice, candidate, compiled)

    # --- measuring ---------------------------------------------------------------------------------------------------

    def lane(self, lane: Lane) -> Steps:
        """One trial after the other until the iteration has had all of its own, or the search ends."""
        search = self.search
        while self.left > 0 and search.may_go_on():
            self.left -= 1
            picked: Picked | None = yield from self._next()
            if picked is None:
                self.left = 0
                yield Step(facts=[events.exhausted(search.iteration, self.done)])
                return
            is_paid = yield from self._trial(lane, picked)
            if not is_paid:
                return
            if self._since_full >= search.mipro.full_eval_every:
                yield from self.full_evaluation(lane)

    def unpaid(self) -> StopReason | None:
        """Which limit does not hold a single further trial; None where one can be paid."""
        search = self.search
        seeds = min(minibatch_size(search.mipro), len(search.pool.active))
        cost = seeds * (1 + search.has_proxy)
        lacking = search.budget.lacks(cost, self._parts(seeds))
        return lacking or search.spending.refusal(search.spending.baseline_tokens, cost)

    def measure_incumbent(self, lane: Lane) -> Steps:
        """The incumbent on the new minibatch: who comes after it is compared with it there.

        It is not where nothing could be paid after that.
        """
        search = self.search
        best, seeds = search.incumbent(), search.minibatch
        cost = search.evaluations.cost(best.candidate_id, seeds)
        rest = len(seeds) * (1 + search.has_proxy)
        tokens = search.space.compile(self.beliefs.choices[best.candidate_id]).tokens
        lacking = search.budget.lacks(cost + rest, 1 + self._parts(len(seeds)))
        if not cost or lacking or not search.spending.affords(tokens, cost + rest):
            return
        reservation = search.reserve(cost, trials=1)
        yield from search.score(lane, best, seeds, Phase.OPTIMIZATION, reservation)
        reservation.release()
        self.beliefs.refresh()

    def _trial(self, lane: Lane, picked: Picked) -> Steps:
        """Returns whether it could be paid. Where others are under way they may give back what it needs."""
        search, candidate = self.search, picked.candidate
        seeds = search.minibatch
        cost = search.evaluations.screening_cost(candidate.candidate_id, seeds)
        refusal = search.spending.refusal(picked.compiled.tokens, cost)
        trials = self._parts(len(seeds))
        reservation = None if refusal else Reservation.of(search.budget, cost, trials)
        if reservation is None:
            self._put_back(picked)
            if not self.under_way:
                search.stop_for(refusal or search.budget.refused or StopReason.ROLLOUT_BUDGET)
            return False
        self.under_way += 1
        search.spending.reserve(candidate.candidate_id, picked.compiled.tokens, cost)
        search.candidates[candidate.candidate_id] = candidate
        self.beliefs.choices[candidate.candidate_id] = dict(picked.choice)
        search.evaluations.stats.count_proposal(is_refused=False)
        self.done += 1
        self._since_full += 1
        number = self.done
        payload, origin = search.space.payload(picked.choice), search.warm.origins.get(candidate.candidate_id)
        facts: list[Fact] = [
            CandidateFact(candidate),
            *events.trial_started(search.iteration, number, candidate, payload, picked.compiled, origin),
        ]
        found: Screening = yield from self._minibatch(lane, candidate, seeds, reservation, facts)
        reservation.release()
        search.spending.release(candidate.candidate_id)
        self.under_way -= 1
        self.beliefs.take(candidate, found)
        self.history.append(
            {
                "trial": number,
                "iteration": search.iteration,
                "candidate_id": candidate.candidate_id,
                "choice": dict(picked.choice),
                "minibatch_score": found.score,
                "seeds": len(found.known_scores),
                "misses": [miss.to_json() for miss in picked.compiled.misses],
            }
        )
        best = self.beliefs.value(self.beliefs.best())
        told = [
            *events.minibatch(search.iteration, number, candidate, found, best),
            events.trial_complete(
                search.iteration,
                number,
                candidate,
                found,
                payload,
                self.beliefs.estimate_of(candidate),
                self.beliefs.seeds_of(candidate.candidate_id),
            ),
        ]
        yield Step(facts=[*told, *self._incumbent_facts(number), *search.progress()])
        return True

    def _parts(self, seeds: int) -> int:
        """In how many parts a minibatch of so many seeds is measured at most; each is a trial."""
        return 2 if self.search.mipro.early_stopping and _first_part(seeds) < seeds else 1

    def _put_back(self, picked: Picked) -> None:
        self.beliefs.withdraw(picked.choice)
        self.queue.appendleft(dict(picked.choice))
        self.left += 1

    def _minibatch(
        self, lane: Lane, candidate: Candidate, seeds: Sequence[int], reservation: Reservation, facts: Sequence[Fact]
    ) -> Steps:
        """All of the seeds; a first part alone, where the candidate is behind the incumbent on it, or only fails."""
        search, size = self.search, _first_part(len(seeds))
        if self._parts(len(seeds)) == 1:
            return (yield from search.screen(lane, candidate, seeds, reservation, facts))
        first, rest = seeds[:size], seeds[size:]
        found: Screening = yield from search.screen(lane, candidate, first, reservation, facts)
        rival = self.beliefs.rival(first)
        scored = [(seed, score) for seed, score in zip(found.seeds, found.scores, strict=True) if score is not None]
        if not scored or sum(score - rival[seed] for seed, score in scored if seed in rival) < 0:
            return found
        more: Screening = yield from search.screen(lane, candidate, rest, reservation, ())
        return Screening((*found.seeds, *more.seeds), (*found.scores, *more.scores), found.foretold | more.foretold)

    def _incumbent_facts(self, number: int) -> list[Fact]:
        search, best = self.search, self.beliefs.best()
        own = self.tried(best)
        if best == self._told_best or own is None:
            return []
        self._told_best = best
        full, done = search.full_score(best), search.evaluations.stats.total_rollouts
        value, seeds = self.beliefs.value(best), self.beliefs.seeds_of(best)
        candidate = search.candidates[best]
        return [events.new_incumbent(search.iteration, number, candidate, own, full, value, seeds, done)]

    # --- full evaluations --------------------------------------------------------------------------------------------

    def full_evaluation(self, lane: Lane) -> Steps:
        """Measure the candidate that the model believes in most on all validation seeds, where that is not known."""
        search = self.search
        self._since_full = 0
        best = self.beliefs.best()
        seeds = search.full_seeds
        cost = search.evaluations.cost(best, seeds)
        spent = len(self.full) * len(seeds)
        done = search.evaluations.stats.total_rollouts
        if best in self.full or not cost or spent + cost > FULL_SHARE * (done + cost):
            return
        tokens = search.space.compile(self.beliefs.choices[best]).tokens
        is_paid = search.spending.affords(tokens, cost)
        reservation = Reservation.of(search.budget, cost, trials=1) if is_paid else None
        if reservation is None:
            return
        self.full.add(best)
        number = self.done
        search.spending.reserve(f"full {best}", tokens, cost)
        trial: Trial = yield from search.score(
            lane, search.candidates[best], seeds, Phase.VALIDATION, reservation, may_fail=True
        )
        reservation.release()
        search.spending.release(f"full {best}")
        self.beliefs.refresh()
        told: list[Fact] = [events.full_evaluated(search.iteration, number, search.candidates[best], trial)]
        yield Step(facts=[*told, *search.progress()])


def _first_part(seeds: int) -> int:
    """Seeds of the first part of a minibatch of so many."""
    return max(FEWEST_FIRST, -(-seeds // FIRST_PART))


def _by_turns(lists: Sequence[Sequence[dict[str, int]]]) -> list[dict[str, int]]:
    """One of each list, then the next of each."""
    longest = max(map(len, lists), default=0)
    return [each[at] for at in range(longest) for each in lists if at < len(each)]
