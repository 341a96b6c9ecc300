"""What is known of candidates on seeds: scoring with reuse, one trial at a time, and the counters that follow."""

from collections.abc import Sequence
from dataclasses import dataclass

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Answer, Fact, FailureReason, Key, Rollout, Step, Steps, TrialFact
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import Budget
from promptjobs.core.optimizer import Adopted
from promptjobs.core.stats import Statistics
from promptjobs.core.trial import Phase, Trial

FINAL = frozenset({FailureReason.PROMPT_NOT_MATCHED, FailureReason.CANDIDATE_NOT_USED})
"""Failures that another try would only repeat."""


@dataclass(slots=True)
class Reservation:
    """Rollouts taken from the budget for one iteration; what is not spent goes back."""

    budget: Budget
    held: int

    @staticmethod
    def of(budget: Budget, rollouts: int) -> "Reservation | None":
        return Reservation(budget, rollouts) if budget.take(rollouts) else None

    def spend(self, rollouts: int) -> None:
        if rollouts > self.held:
            raise ValueError(f"{rollouts} rollouts are to be spent, {self.held} were reserved")
        self.held -= rollouts

    def release(self) -> None:
        self.budget.give_back(self.held)
        self.held = 0


class Evaluations:
    """Scores by candidate and seed. policy: hash of what else determines a rollout's answer."""

    def __init__(self, policy: str, budget: Budget) -> None:
        self.policy = policy
        self.budget = budget
        self.stats = Statistics()
        self.known: dict[str, dict[int, Answer]] = {}
        self.trials = 0
        self.failed_trials_in_a_row = 0
        self._asked: set[tuple[str, int]] = set()
        self._retried: set[Key] = set()
        self._counted: set[Key] = set()

    def cost(self, candidate_id: str, seeds: Sequence[int]) -> int:
        """How many rollouts are new; those that another lane has under way are not."""
        return sum((candidate_id, seed) not in self._asked for seed in seeds)

    def scores(self, candidate_id: str, seeds: Sequence[int]) -> dict[int, float]:
        """The known scores on `seeds`, without the failures."""
        known = self.known.get(candidate_id, {})
        found = ((seed, known[seed].score) for seed in seeds if seed in known)
        return {seed: score for seed, score in found if score is not None}

    def rollout(self, candidate: Candidate, seed: int, phase: Phase, draw: int = 0) -> Rollout:
        return Rollout(candidate.candidate_id, seed, self.policy, phase, candidate.is_baseline, draw)

    def score(
        self,
        lane: Lane,
        candidate: Candidate,
        seeds: Sequence[int],
        phase: Phase,
        reservation: Reservation | None,
        facts: Sequence[Fact] = (),
    ) -> Steps:
        """Evaluate a candidate; returns the Trial. Only what is unknown is asked.

        A seed that failed is asked once more, where that may help and the budget has room. reservation: pays for the
        new rollouts; None where they are not counted (the test). facts go out with the first asks.
        """
        candidate_id = candidate.candidate_id
        known = self.known.setdefault(candidate_id, {})
        fresh = [seed for seed in seeds if (candidate_id, seed) not in self._asked]
        if reservation is not None:
            reservation.spend(len(fresh))
        self._asked.update((candidate_id, seed) for seed in fresh)
        asks = [self.rollout(candidate, seed, phase) for seed in seeds if seed not in known]
        yield from self._ask(asks, phase, facts)
        yield from self._retry(candidate, seeds, phase, counted=reservation is not None)
        self.trials += 1
        trial = Trial(
            n=self.trials,
            candidate_id=candidate_id,
            phase=phase,
            is_baseline=candidate.is_baseline,
            seeds=tuple(seeds),
            scores=tuple(known[seed].score for seed in seeds),
            reused=len(seeds) - len(fresh),
            lane=lane.path,
            generation=candidate.generation,
        )
        self.stats.trials[phase] += 1
        self.stats.reused += trial.reused
        if asks:  # scores that were known before say nothing about the world as it is now
            is_answered = any(known[ask.seed].score is not None for ask in asks)
            self.failed_trials_in_a_row = 0 if is_answered else self.failed_trials_in_a_row + 1
        yield Step(facts=[TrialFact(trial)])
        return trial

    def _ask(self, asks: Sequence[Rollout], phase: Phase, facts: Sequence[Fact] = ()) -> Steps:
        answers = yield Step(asks, facts)
        for ask, answer in zip(asks, answers, strict=True):
            known = self.known[ask.candidate_id]
            # Another lane may have had its second try while this one waited for the rest of its batch.
            if ask.draw or ask.seed not in known:
                known[ask.seed] = answer
            if ask.key not in self._counted:
                self._counted.add(ask.key)
                self.stats.count_rollout(answer, phase)

    def _retry(self, candidate: Candidate, seeds: Sequence[int], phase: Phase, counted: bool) -> Steps:
        """Once more for what failed; the draw tells the second answer from the first. Lanes that retry share it."""
        known = self.known[candidate.candidate_id]
        asks = []
        for seed in seeds:
            first, second = (self.rollout(candidate, seed, phase, draw) for draw in (0, 1))
            may_help = known[seed].reason not in FINAL and known[seed].key == first.key
            is_paid = second.key in self._retried or not counted
            if known[seed].is_failure and may_help and (is_paid or self.budget.take(1)):
                self._retried.add(second.key)
                asks.append(second)
        if asks:
            yield from self._ask(asks, phase)

    def adopt(self, adopted: Adopted) -> None:
        """Take over what an earlier version of the search has published.

        What had failed is unknown again: its reason is not part of a trial, but its answer is recorded.
        """
        for trial in adopted.trials:
            self.trials = max(self.trials, trial.n)
            self.stats.trials[trial.phase] += 1
            self.stats.reused += trial.reused
            known = self.known.setdefault(trial.candidate_id, {})
            for seed, score in zip(trial.seeds, trial.scores, strict=True):
                tries = [Rollout(trial.candidate_id, seed, self.policy, trial.phase, draw=draw) for draw in (0, 1)]
                self._counted.update(ask.key for ask in tries)
                if score is not None:
                    self._asked.add((trial.candidate_id, seed))
                    known[seed] = Answer(tries[0].key, score)
        for phase, rollouts in adopted.rollouts.items():
            self.stats.rollouts[phase] = rollouts
        self.stats.completions = adopted.completions
        self.budget.used += sum(count for phase, count in adopted.rollouts.items() if phase is not Phase.TEST)
