"""GEPA with lanes: reflective prompt evolution over a Pareto front. Pure: no clock, no IO, its own randomness.

Source: Agrawal et al. 2025, arXiv 2507.19457. Departures: lanes share one archive and never wait for each other; the
budget is reserved before it is asked; comparisons are paired, and a failure is never a score.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from promptjobs.core import gepa_events as events
from promptjobs.core.archive import Archive, Candidate, FrontChange
from promptjobs.core.asks import (
    CandidateFact,
    Fact,
    Fork,
    ProgressFact,
    Recall,
    Step,
    Steps,
    digest,
)
from promptjobs.core.config import JobConfig
from promptjobs.core.evaluations import Evaluations, Reservation
from promptjobs.core.gepa_closing import Closing
from promptjobs.core.gepa_proposals import Proposals
from promptjobs.core.inference import infer_template
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.limits import Budget, end_rollouts, probe_seeds, total_budget
from promptjobs.core.optimizer import Adopted
from promptjobs.core.prompt import PromptPattern
from promptjobs.core.result import Attempt
from promptjobs.core.trial import Phase, Trial
from promptjobs.errors import JobFailed, PromptError

COMMON_SHARE = 0.8
"""Parent and child are compared where at least this share of the minibatch was answered for both."""

FAILURES_IN_A_ROW = 5
"""Trials without any score, or minibatches with too few, after which the search gives up."""


class Gepa:
    search_version = 1

    def __init__(self, config: JobConfig) -> None:
        self.config = config
        self.gepa = config.gepa
        self.budget = Budget(total_budget(self.gepa), end_rollouts(self.gepa))
        self.evaluations = Evaluations(policy_digest(config), self.budget)
        self.front_seeds = self.gepa.front_seeds
        self.archive = Archive(self.front_seeds)
        self.minibatches = Minibatches(self.gepa.feedback_seeds, self.gepa.minibatch_size, self.gepa.rng_seed)
        self.candidates: dict[str, Candidate] = {}
        self.attempts: dict[str, Attempt] = {}
        self.base: Candidate | None = None
        self.phase = Phase.BOOTSTRAP
        self.finish_reason: str | None = None
        self.proposals = Proposals(self.gepa, self.evaluations, self.candidates)
        self._started = 0
        self._finished = 0
        self._accepted = 0
        self._best_generation = 0
        self._perfect_in_a_row = 0
        self._thin_in_a_row = 0

    # --- the search --------------------------------------------------------------------------------------------------

    def search(self, lane: Lane) -> Steps:
        yield Step(facts=[events.started(self.config, self.budget.total)])
        if self.base is None or self.base.candidate_id not in self.archive:
            yield from self._baseline(lane)
        yield Fork([self._lane] * self.gepa.lanes)
        self.finish_reason = self.finish_reason or "rollout_budget"

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        return (yield from Closing(self, cause).run(lane))

    def _baseline(self, lane: Lane) -> Steps:
        template = self.config.template()
        if template is None:
            template = yield from self._probe(lane)
        self.proposals.begin(template)
        base_id = template.digest()
        base = self.candidates.get(base_id) or Candidate(base_id, len(self.candidates), template, base_id)
        facts = self._introduce(base)
        self.base = base
        reservation = self._reserve(len(self.gepa.front_seeds))
        facts.append(events.phase_changed(self.phase, Phase.OPTIMIZATION))
        self.phase = Phase.OPTIMIZATION
        seeds = self.gepa.front_seeds
        trial = yield from self.score(lane, base, seeds, Phase.OPTIMIZATION, reservation, facts)
        yield Step(facts=[events.baseline(base, trial, self.evaluations.stats.total_rollouts)])
        if trial.score is None:
            yield from self._fail("every rollout of the baseline failed", base, seeds)
        scores = self.evaluations.scores(base.candidate_id, seeds)
        if len(scores) < COMMON_SHARE * len(seeds):
            yield from self._fail(f"{len(seeds) - len(scores)} rollouts of the baseline failed", base, seeds)
        change = self._open_archive(base, scores)
        yield Step(facts=[events.frontier_updated(self.archive, change), *self.progress()])

    def _open_archive(self, base: Candidate, scores: Mapping[int, float]) -> FrontChange:
        """The front's seeds are those on which the baseline was answered: a broken seed compares nobody."""
        self.front_seeds = tuple(seed for seed in self.gepa.front_seeds if seed in scores)
        self.archive = Archive(self.front_seeds, self.gepa.pareto_eps, self.gepa.selection_pressure)
        return self.archive.add(base, scores)

    def _probe(self, lane: Lane) -> Steps:
        """Some rollouts with the task app's own messages unchanged: their pattern is the baseline prompt."""
        probe = Candidate(digest("probe").hex(), 0, None, None, operator="probe")
        seeds = probe_seeds(self.config)
        reservation = self._reserve(len(seeds))
        trial = yield from self.score(lane, probe, seeds, Phase.BOOTSTRAP, reservation, self._introduce(probe))
        if trial.score is None:
            yield from self._fail("every rollout with the task app's own messages failed", probe, seeds)
        answered = [self.evaluations.known[probe.candidate_id][seed] for seed in seeds]
        bodies = yield Recall([answer.key for answer in answered if not answer.is_failure])
        try:
            template = infer_template([body.messages for body in bodies])
            PromptPattern.of(template)
        except PromptError as error:
            raise JobFailed(f"the baseline prompt cannot be told from the task app's messages: {error}") from error
        yield Step(facts=[events.pattern_found(template)])
        return template

    def _reserve(self, rollouts: int) -> Reservation:
        reservation = Reservation.of(self.budget, rollouts)
        if reservation is None:
            raise JobFailed(f"the budget of {self.budget.total} rollouts does not hold the baseline")
        return reservation

    def _fail(self, what: str, candidate: Candidate, seeds: Sequence[int]) -> Steps:
        """Give up, naming the most frequent reason and one rollout's words."""
        known = self.evaluations.known[candidate.candidate_id]
        failed = [known[seed] for seed in seeds if seed in known and known[seed].is_failure]
        reason, count = Counter(answer.reason for answer in failed).most_common(1)[0]
        [body] = yield Recall([next(answer.key for answer in failed if answer.reason is reason)])
        raise JobFailed(f"{what}; {count} of {len(seeds)} with {reason}: {body.feedback}")

    def _lane(self, lane: Lane) -> Steps:
        while self._may_go_on():
            parent = self.archive.draw_parent(lane.rng())
            seeds = self.minibatches.next()
            worst = self.evaluations.cost(parent.candidate_id, seeds) + len(seeds) + len(self.front_seeds)
            reservation = Reservation.of(self.budget, worst)
            if reservation is None:
                # The other lanes go on: what they hold and do not spend comes back to them.
                return
            self._started += 1
            accepted = yield from self._iteration(lane, parent, seeds, reservation)
            reservation.release()
            if accepted is None:
                self._started -= 1
            else:
                yield Step(facts=self._proposal_finished(accepted))

    def _may_go_on(self) -> bool:
        if self.finish_reason is None:
            if self._started >= self.gepa.num_generations * self.gepa.children_per_generation:
                self.finish_reason = "num_generations"
            elif self.generation - self._best_generation >= self.gepa.patience_generations:
                self.finish_reason = "patience_generations"
            elif self.gepa.max_trials is not None and self.evaluations.trials >= self.gepa.max_trials:
                self.finish_reason = "max_trials"
            elif self._perfect_in_a_row >= 2 * self.minibatches.per_epoch:
                self.finish_reason = "nothing_to_learn"
        return self.finish_reason is None

    @property
    def generation(self) -> int:
        """`children_per_generation` finished proposals make a generation."""
        return self._finished // self.gepa.children_per_generation

    def _iteration(self, lane: Lane, parent: Candidate, seeds: Sequence[int], reservation: Reservation) -> Steps:
        """One proposal from evidence to verdict.

        Returns whether a child joined the archive; None where there was nothing to propose from.
        """
        before = yield from self.score(lane, parent, seeds, Phase.OPTIMIZATION, reservation)
        if len(before.known_scores) < COMMON_SHARE * len(seeds):
            # Whatever a child scored, the comparison would be incomplete.
            self._thin_in_a_row += 1
            if self._thin_in_a_row >= FAILURES_IN_A_ROW:
                yield from self._fail(f"{FAILURES_IN_A_ROW} minibatches in a row had too few scores", parent, seeds)
            return None
        self._thin_in_a_row = 0
        records = yield from self.proposals.evidence(parent, before)
        if not records:
            self._perfect_in_a_row += 1
            return None
        self._perfect_in_a_row = 0
        child = yield from self.proposals.propose(parent, records, self._finished)
        if child is None:
            return False
        after = yield from self.score(lane, child, seeds, Phase.OPTIMIZATION, reservation)
        verdict = compared(before, after)
        self.attempts[child.candidate_id] = Attempt(child, after.score, False)
        if verdict != "improved":
            yield Step(facts=[events.scored(child, after, False, False, verdict)])
            return False
        return (yield from self._join(lane, child, reservation))

    def _join(self, lane: Lane, child: Candidate, reservation: Reservation) -> Steps:
        """Score an improved child on the front's seeds and add it to the archive."""
        seeds = self.front_seeds
        trial = yield from self.score(lane, child, seeds, Phase.OPTIMIZATION, reservation)
        scores = self.evaluations.scores(child.candidate_id, seeds)
        if len(scores) < len(seeds):
            self.attempts[child.candidate_id] = Attempt(child, trial.score, False)
            yield Step(facts=[events.scored(child, trial, False, False, "incomplete")])
            return False
        previous = self.archive.mean(self.archive.best())
        change = self.archive.add(child, scores)
        self.attempts[child.candidate_id] = Attempt(child, trial.score, True)
        is_pareto = child.candidate_id in self.archive.front
        facts: list[Fact] = [events.scored(child, trial, True, is_pareto, "accepted")]
        facts.append(events.frontier_updated(self.archive, change))
        if self.archive.mean(child.candidate_id) > previous:
            self._best_generation = self.generation
            best, rollouts = self.archive.mean(child.candidate_id), self.evaluations.stats.total_rollouts
            facts.append(events.new_best(child, best, previous, rollouts))
        yield Step(facts=facts)
        return True

    def score(
        self,
        lane: Lane,
        candidate: Candidate,
        seeds: Sequence[int],
        phase: Phase,
        reservation: Reservation | None,
        facts: Sequence[Fact] = (),
    ) -> Steps:
        """Evaluate, and give up where trial after trial has no score at all."""
        trial: Trial = yield from self.evaluate(lane, candidate, seeds, phase, reservation, facts)
        if self.evaluations.failed_trials_in_a_row >= FAILURES_IN_A_ROW:
            yield from self._fail(f"{FAILURES_IN_A_ROW} trials in a row brought no score", candidate, seeds)
        return trial

    def evaluate(
        self,
        lane: Lane,
        candidate: Candidate,
        seeds: Sequence[int],
        phase: Phase,
        reservation: Reservation | None,
        facts: Sequence[Fact] = (),
    ) -> Steps:
        """One trial, reported."""
        trial: Trial = yield from self.evaluations.score(lane, candidate, seeds, phase, reservation, facts)
        yield Step(facts=[events.trial_results(trial), *self.progress()])
        return trial

    def _proposal_finished(self, accepted: bool) -> list[Fact]:
        before = self.generation
        self._finished += 1
        self._accepted += accepted
        facts: list[Fact] = []
        if self.generation > before:
            best = self.archive.mean(self.archive.best())
            facts.append(
                events.generation_complete(self.generation, best, self.gepa.children_per_generation, self._accepted)
            )
            self._accepted = 0
        return [*facts, *self.progress()]

    def _introduce(self, candidate: Candidate) -> list[Fact]:
        self.candidates[candidate.candidate_id] = candidate
        return [CandidateFact(candidate)]

    # --- what is told ------------------------------------------------------------------------------------------------

    def progress(self) -> list[Fact]:
        data = self.progress_data()
        return [events.progress(data), ProgressFact(data)]

    def progress_data(self) -> dict[str, Any]:
        stats = self.evaluations.stats
        total = self.budget.total
        done = min(total, stats.total_rollouts - stats.rollouts[Phase.TEST])
        has_members = bool(self.archive.members)
        best = self.archive.best() if has_members else None
        is_scored = self.base is not None and self.base.candidate_id in self.archive
        return {
            "phase": self.phase,
            "rollouts_completed": done,
            "rollouts_total": total,
            "rollouts_remaining": total - done,
            "percent_rollouts": done / total,
            "percent_overall": done / total,
            "trials_completed": self.evaluations.trials,
            "transformations_tried": stats.trials_tried,
            "transformations_planned": self.gepa.num_generations * self.gepa.children_per_generation,
            "best_score": self.archive.mean(best) if best else None,
            "baseline_score": self.archive.mean(self.base.candidate_id) if is_scored and self.base else None,
            "best_candidate_id": best,
            "front": list(self.archive.front),
            "generation": self.generation,
            **stats.to_json(),
        }

    def adopt(self, adopted: Adopted) -> None:
        """Rebuild the archive from candidates and trials: a candidate with all of the front's seeds is a member."""
        self.evaluations.adopt(adopted)
        for candidate in adopted.candidates:
            self.candidates[candidate.candidate_id] = candidate
            if candidate.operator == "baseline":
                self.base = candidate
                self.proposals.begin(candidate.template)
                self.phase = Phase.OPTIMIZATION
                scores = self.evaluations.scores(candidate.candidate_id, self.gepa.front_seeds)
                if len(scores) >= COMMON_SHARE * len(self.gepa.front_seeds):
                    self._open_archive(candidate, scores)
            elif candidate.operator == "reflection":
                scores = self.evaluations.scores(candidate.candidate_id, self.front_seeds)
                if len(scores) == len(self.front_seeds):
                    self.archive.add(candidate, scores)
        for candidate in self.candidates.values():
            if candidate.operator == "reflection":
                known = self.evaluations.known.get(candidate.candidate_id, {})
                found = [answer.score for answer in known.values() if answer.score is not None]
                accepted = candidate.candidate_id in self.archive
                score = sum(found) / len(found) if found else None
                self.attempts[candidate.candidate_id] = Attempt(candidate, score, accepted)
        self.evaluations.stats.trials_tried = len(self.attempts)
        self._started = self._finished = len(self.attempts)
        self._best_generation = self.generation


class Minibatches:
    """Feedback seeds in batches of `size`, each epoch in a new order; an epoch's rest begins the next batch."""

    def __init__(self, seeds: Sequence[int], size: int, rng_seed: int) -> None:
        self._seeds = list(seeds)
        self._size = min(size, len(seeds))
        self._rng_seed = rng_seed
        self.per_epoch = -(-len(seeds) // self._size)
        self._epoch = 0
        self._left: list[int] = []

    def next(self) -> tuple[int, ...]:
        while len(self._left) < self._size:
            order = [seed for seed in self._seeds if seed not in self._left]
            random.Random(digest("epoch", self._rng_seed, self._epoch)).shuffle(order)
            self._epoch += 1
            self._left += order
        batch, self._left = self._left[: self._size], self._left[self._size :]
        return tuple(batch)


def policy_digest(config: JobConfig) -> str:
    """Hash of all that determines a rollout besides candidate and seed."""
    return digest(config.policy.model_dump(mode="json"), config.task_app.model_dump(mode="json")).hex()


def compared(before: Trial, after: Trial) -> str:
    """Parent and child, paired over the seeds both have: improved, not improved or incomplete."""
    pairs = [(a, b) for a, b in zip(before.scores, after.scores, strict=True) if a is not None and b is not None]
    if len(pairs) < COMMON_SHARE * len(before.seeds):
        return "incomplete"
    return "improved" if sum(b for _, b in pairs) > sum(a for a, _ in pairs) else "not improved"
