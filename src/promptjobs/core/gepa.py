"""GEPA with lanes: reflective prompt evolution over a Pareto front. Pure: no clock, no IO, its own randomness.

Source: Agrawal et al. 2025, arXiv 2507.19457. Departures: lanes share one archive and never wait for each other; the
budget is reserved before it is asked; comparisons are paired, and a failure is never a score; by default children are
raced (`racing`) instead of being validated in full (`gepa_gate`).
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from promptjobs.core import gepa_events as events
from promptjobs.core.archive import Archive, Candidate, FrontChange
from promptjobs.core.asks import Fact, Fork, Step, Steps
from promptjobs.core.config import GepaJobConfig
from promptjobs.core.crossover import Crossover
from promptjobs.core.demonstrations import MARK, Ladder
from promptjobs.core.evaluations import Evaluations
from promptjobs.core.gepa_closing import GepaClosing
from promptjobs.core.gepa_gate import Gate
from promptjobs.core.gepa_opening import Opening
from promptjobs.core.gepa_proposals import Proposals
from promptjobs.core.gepa_rebuilding import rebuild
from promptjobs.core.gepa_warm_start import WarmStart
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.limits import (
    Budget,
    draft_count,
    end_rollouts,
    lane_count,
    least_proposal,
    opening_seeds,
    total_budget,
)
from promptjobs.core.objectives import Objective, oriented_values
from promptjobs.core.optimizer import Adopted
from promptjobs.core.pools import AdaptivePool, FeedbackPool
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.racing import Race
from promptjobs.core.result import Attempt
from promptjobs.core.search_base import Search
from promptjobs.core.selection import draw_parent
from promptjobs.core.stops import SearchState, StopReason, Stops, gepa_stops, said_of
from promptjobs.core.trial import Phase

IDLE_TURNS = 25
"""Turns in a row that cost no rollout, after which there is nothing left to try."""

TRADE_OFF = 0.05
"""An objective besides the score must be better by this share to make up for a score that is only as good."""


class Gepa(Search):
    algorithm = "gepa"
    search_version = 1

    def __init__(self, config: GepaJobConfig) -> None:
        self.config = config
        self.gepa = gepa = config.gepa
        budget = Budget(total_budget(gepa), end_rollouts(gepa))
        adaptive = gepa.adaptive_pool
        informative = AdaptivePool(adaptive, gepa.feedback_seeds, gepa.rng_seed) if adaptive else None
        pool = FeedbackPool(gepa.feedback_seeds, gepa.minibatch_size, gepa.rng_seed, informative)
        super().__init__(config, Evaluations.of(config, budget), budget, pool)
        self.front_seeds = gepa.front_seeds
        self.archive = self._new_archive()
        self.attempts: dict[str, Attempt] = {}
        self.ladder = Ladder(self.gepa.max_demonstrations)
        self.proposals = Proposals(config, self.evaluations, self.candidates, self.ladder)
        self.crossover = Crossover(self)
        self.acceptance: Race | Gate = Race(self) if self.is_race else Gate(self)
        self.stops = Stops(self.gepa)
        self.counts: Counter[int] = Counter()
        self.drafts = 0
        self.finished = 0
        self.accepted = 0
        self.exhausted = set[str]()
        self._started = 0
        self._accepted_in_generation = 0
        self._best_generation = 0
        self._perfect_in_a_row = 0
        self._idle_in_a_row = 0

    @property
    def is_race(self) -> bool:
        return self.gepa.acceptance == "race"

    @property
    def calls_under_way(self) -> int:
        return self.proposals.under_way

    def end_rollouts(self, total: int) -> int:
        return end_rollouts(self.gepa, total) + 2 * len(self.gepa.test_seeds)

    @property
    def min_improvement(self) -> float:
        """By how much a child's mean must pass its parent's."""
        return self.gepa.adaptive_batch.min_local_improvement if self.gepa.adaptive_batch else 0.0

    @property
    def is_drafting(self) -> bool:
        """Whether the next proposal is one of the drafts that are made of the baseline."""
        return self._started <= self.drafts

    def best_candidate(self) -> Candidate:
        return self.archive.members[self.archive.best()]

    def draw_parent(self, rng: random.Random) -> Candidate:
        how = self.gepa.parent_selection
        return draw_parent(self.archive, rng, how, epsilon=self.gepa.epsilon, top_k=self.gepa.top_k)

    # --- the search --------------------------------------------------------------------------------------------------

    def search(self, lane: Lane) -> Steps:
        yield Step(facts=[events.started(self.config, self.budget.total)])
        if self.base is None or self.base.candidate_id not in self.archive:
            yield from Opening(self).run(lane)
        if self.gepa.warm_prompts and self._may_go_on():
            yield from WarmStart(self).run(lane)
        lanes = lane_count(self.gepa, self.budget.left)
        is_warm = bool(self.gepa.warm_prompts) and self.accepted > 0
        self.drafts = 0 if is_warm else draft_count(self.gepa, self.budget.left, self.budget.trials_left)
        if isinstance(self.acceptance, Race) and not self.accepted and self._may_go_on():
            # The first step is the largest: whatever else was begun from the baseline meanwhile would be lost on it.
            self._started += self.drafts
            accepted = yield from self.acceptance.drafts(lane, self.drafts)
            for n in range(self.drafts):
                yield Step(facts=self._proposal_finished(accepted and n == 0))
        yield Fork([self._lane] * lanes)
        self.finish_reason = self.finish_reason or self.budget.refused or StopReason.ROLLOUT_BUDGET

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        return (yield from GepaClosing(self, cause).run(lane))

    def _lane(self, lane: Lane) -> Steps:
        """Until the search stops, or the lane cannot pay: the others go on, by what they hold and do not spend."""
        while lane.path not in self.exhausted and self._may_go_on():
            yield from self._turn(lane)

    def _turn(self, lane: Lane) -> Steps:
        """One proposal from start to end."""
        change = self.pool.next_iteration()
        if change is not None:
            yield Step(facts=[events.pool_changed(change)])
        self._started += 1
        rollouts = self.evaluations.stats.total_rollouts
        accepted = yield from self.acceptance.iteration(lane)
        self._idle_in_a_row = 0 if self.evaluations.stats.total_rollouts > rollouts else self._idle_in_a_row + 1
        if accepted is None:
            self._started -= 1
            return
        yield Step(facts=self._proposal_finished(accepted))

    def _may_go_on(self) -> bool:
        if self.finish_reason is None:
            looks = 2 * self.pool.per_epoch
            nothing = self._perfect_in_a_row >= looks or self._idle_in_a_row >= max(looks, IDLE_TURNS)
            own = gepa_stops(
                self.gepa,
                proposals=self._started,
                generation=self.generation,
                best_generation=self._best_generation,
            )
            state = SearchState(
                trials=self.evaluations.trials,
                rollouts_left=self.budget.total - self.budget.reserved - self.evaluations.stats.total_rollouts,
                best_score=self.archive.ranking[self.archive.best()],
                has_evidence=not nothing,
                meta_calls_under_way=self.proposals.under_way,
                unpaid=self._unpaid(),
            )
            reason = self.stops.reason(state, self.evaluations.stats, own)
            self.finish_reason, self.finish_detail = reason, said_of(reason, self.evaluations.stats)
        return self.finish_reason is None

    def _unpaid(self) -> StopReason | None:
        purse = self.budget.purse
        return None if purse is None else purse.refusal(self.budget.used, least_proposal(self.gepa))

    @property
    def generation(self) -> int:
        """`children_per_generation` finished proposals make a generation."""
        return self.finished // self.gepa.children_per_generation

    def found_nothing(self, has_looked: bool) -> None:
        """There was nothing to learn from."""
        self._perfect_in_a_row += has_looked

    def found_evidence(self) -> None:
        self._perfect_in_a_row = 0

    # --- the baseline -------------------------------------------------------------------------------------------------

    def begin(self, template: PromptTemplate) -> None:
        """The baseline is known: what may be changed in it, and whether examples can be told from its own text."""
        self.proposals.begin(template)
        if any(MARK in section.content for section in template.sections):
            self.ladder.is_open = False

    def _new_archive(self) -> Archive:
        gepa = self.gepa
        is_sparse = self.is_race or (gepa.adaptive_batch is not None)
        return Archive(
            self.front_seeds,
            gepa.pareto_eps,
            gepa.selection_pressure,
            front=gepa.front,
            objectives=gepa.objectives,
            size=gepa.archive_size,
            is_sparse=is_sparse,
        )

    def open_archive(self, base: Candidate, scores: Mapping[int, float]) -> FrontChange:
        """The front's seeds are those on which the baseline did not fail: a broken seed compares nobody."""
        opening = set(opening_seeds(self.gepa))
        self.front_seeds = tuple(s for s in self.gepa.front_seeds if s in scores or s not in opening)
        self.archive = self._new_archive()
        self.counts.update(scores)
        return self.archive.add(base, scores, self._objectives(base, tuple(scores)))

    def _objectives(self, candidate: Candidate, seeds: Sequence[int]) -> dict[Objective, dict[int, float]]:
        others = [Objective(name) for name in self.gepa.objectives if name != "score"]
        known = self.evaluations.known[candidate.candidate_id]
        return oriented_values([(seed, known[seed]) for seed in seeds if seed in known], others) if others else {}

    # --- measuring ---------------------------------------------------------------------------------------------------

    def estimate_of(self, candidate: Candidate) -> float | None:
        return self.archive.ranking[candidate.candidate_id] if candidate.candidate_id in self.archive else None

    def is_trade_off(
        self, reference: Candidate, child: Candidate, gain: float, pairs: int, seeds: Sequence[int] | None = None
    ) -> bool:
        """Whether a child that scores as well is clearly better by another objective that spans the front.

        seeds: those compared, by default the front's.
        """
        if self.gepa.front == "instance" or pairs == 0 or gain < -1.0 / pairs:
            return False
        seeds = self.front_seeds if seeds is None else seeds
        ours, theirs = self._objectives(child, seeds), self._objectives(reference, seeds)
        for objective, values in ours.items():
            common = [seed for seed in values if seed in theirs.get(objective, {})]
            before, after = (sum(side[seed] for seed in common) for side in (theirs[objective], values))
            if common and after - before > TRADE_OFF * abs(before):
                return True
        return False

    def join(self, child: Candidate, seeds: Sequence[int], estimate: float | None) -> Steps:
        """Into the archive with its known scores; estimate: what it is ranked by, where that is not its mean."""
        scores = self.evaluations.scores(child.candidate_id, seeds)
        previous = self.archive.ranking[self.archive.best()]
        change = self.archive.add(child, scores, self._objectives(child, seeds), estimate=estimate)
        self.counts.update(scores)
        mean = sum(scores.values()) / len(scores)
        self.attempts[child.candidate_id] = Attempt(child, mean, len(scores), True)
        self.accepted += 1
        is_pareto = child.candidate_id in self.archive.front
        facts: list[Fact] = [events.raced(child, scores, True, is_pareto, "accepted")]
        facts.append(events.frontier_updated(self.archive, change))
        value = self.archive.ranking[child.candidate_id]
        if value > previous:
            self._best_generation = self.generation
            done = self.evaluations.stats.total_rollouts
            facts.append(events.new_best(child, value, len(scores), previous, done))
        yield Step(facts=facts)

    # --- what is told ------------------------------------------------------------------------------------------------

    def _proposal_finished(self, accepted: bool) -> list[Fact]:
        before = self.generation
        self.finished += 1
        if self.finished <= self.drafts:
            self._best_generation = self.generation  # drafts do not build on each other: patience begins after them
        self.ladder.proposal_finished()
        self._accepted_in_generation += accepted
        facts: list[Fact] = []
        if self.generation > before:
            best, children = self.archive.best(), self.gepa.children_per_generation
            score, seeds = self.archive.ranking[best], self.seeds_of(best)
            accepted_ones = self._accepted_in_generation
            facts.append(events.generation_complete(self.generation, score, seeds, children, accepted_ones))
            self._accepted_in_generation = 0
        return [*facts, *self.progress()]

    def seeds_of(self, candidate_id: str) -> int:
        """On how many of the front's seeds a member has a score."""
        return len(self.archive.known_scores(candidate_id))

    def progress_data(self) -> dict[str, Any]:
        stats = self.evaluations.stats
        total = self.budget.total
        done = min(total, stats.total_rollouts - stats.rollouts[Phase.TEST])
        planned = self.gepa.num_generations * self.gepa.children_per_generation
        best = self.archive.best() if self.archive.members else None
        base = self.base.candidate_id if self.base is not None and self.base.candidate_id in self.archive else None
        return {
            "phase": self.phase,
            "rollouts_completed": done,
            "rollouts_total": total,
            "rollouts_remaining": total - done,
            "percent_rollouts": done / total,
            "percent_overall": done / total,
            "trials_completed": self.evaluations.trials,
            "transformations_tried": min(self.finished, planned),
            "transformations_planned": planned,
            "best_score": self.archive.ranking[best] if best else None,
            "best_score_seeds": self.seeds_of(best) if best else 0,
            "baseline_score": self.archive.ranking[base] if base else None,
            "baseline_score_seeds": self.seeds_of(base) if base else 0,
            "best_candidate_id": best,
            "front": list(self.archive.front),
            "generation": self.generation,
            **stats.to_json(),
        }

    def adopt(self, adopted: Adopted) -> None:
        """Rebuild the archive from what an earlier version has published."""
        rebuild(self, adopted)

    def resume_after(self, proposals: int) -> None:
        """So many proposals were finished before: generations are counted on from there."""
        self._started = self.finished = proposals
        self._best_generation = self.generation
