"""What every search does alike: measuring with reports, giving up with the cause, entering phases."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

from promptjobs.core import search_events as events
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import CandidateFact, Fact, ProgressFact, Recall, Step, Steps, digest
from promptjobs.core.config import JobConfig
from promptjobs.core.evaluations import Evaluations
from promptjobs.core.inference import infer_template
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import Budget, Reservation
from promptjobs.core.policies import longest_reply
from promptjobs.core.pools import FeedbackPool
from promptjobs.core.prompt import PromptPattern, PromptTemplate
from promptjobs.core.screening import Screening
from promptjobs.core.spending import purse_of
from promptjobs.core.trial import Phase, Trial
from promptjobs.errors import JobFailed, PromptError

FAILURES_IN_A_ROW = 5
"""Trials without any score after which a search gives up."""


class Search(ABC):
    """candidates: all of the search, by id. base: None before the baseline is known. finalists: of the validation."""

    algorithm: str

    def __init__(self, config: JobConfig, evaluations: Evaluations, budget: Budget, pool: FeedbackPool) -> None:
        self.evaluations = evaluations
        self.budget = budget
        budget.trials = config.search.max_trials
        self._token_cap = config.search.token_cap
        budget.purse = purse_of(config.search, longest_reply(config), evaluations.stats, self)
        self.pool = pool
        self.candidates: dict[str, Candidate] = {}
        self.base: Candidate | None = None
        self.phase = Phase.BOOTSTRAP
        self.finalists = 0
        self._measured_before_validation = 0
        self.finish_reason: str | None = None
        self.finish_detail: str | None = None

    @abstractmethod
    def progress_data(self) -> dict[str, Any]:
        """The newest state in numbers, by the names that clients read."""

    @property
    @abstractmethod
    def calls_under_way(self) -> int:
        """Calls of the meta-model that are not answered yet."""

    @abstractmethod
    def end_rollouts(self, total: int) -> int:
        """Rollouts of the end, validation and test, of a search that has so many in all."""

    @abstractmethod
    def estimate_of(self, candidate: Candidate) -> float | None:
        """What a candidate is ranked by; None where its mean is all that is known of it."""

    @property
    def has_proxy(self) -> bool:
        return self.evaluations.proxy is not None

    # --- measuring ---------------------------------------------------------------------------------------------------

    def score(
        self,
        lane: Lane,
        candidate: Candidate,
        seeds: Sequence[int],
        phase: Phase,
        reservation: Reservation | None,
        facts: Sequence[Fact] = (),
        *,
        may_fail: bool = False,
    ) -> Steps:
        """One trial, reported. Gives up where trial after trial has no score at all, unless that is allowed."""
        trial: Trial = yield from self.evaluations.score(lane, candidate, seeds, phase, reservation, facts)
        yield Step(facts=[events.trial_results(trial), *self.progress()])
        self._observe(candidate, seeds)
        if not may_fail and self.evaluations.failed_trials_in_a_row >= FAILURES_IN_A_ROW:
            yield from self.fail(f"{FAILURES_IN_A_ROW} trials in a row brought no score", candidate, seeds)
        return trial

    def screen(
        self,
        lane: Lane,
        candidate: Candidate,
        seeds: Sequence[int],
        reservation: Reservation,
        facts: Sequence[Fact] = (),
        phase: Phase = Phase.OPTIMIZATION,
    ) -> Steps:
        """Scores to compare by, which a cheaper model may have foretold; returns a Screening."""
        if not self.has_proxy:
            trial: Trial = yield from self.score(lane, candidate, seeds, phase, reservation, facts)
            return Screening(trial.seeds, trial.scores, frozenset())
        found = yield from self.evaluations.screen(lane, candidate, seeds, phase, reservation, facts)
        yield Step(facts=self.progress())
        self._observe(candidate, seeds)
        return found

    def _observe(self, candidate: Candidate, seeds: Sequence[int]) -> None:
        scores = self.evaluations.scores(candidate.candidate_id, seeds)
        self.pool.observe(candidate.candidate_id, scores, self._value(candidate))

    def _value(self, candidate: Candidate) -> float:
        estimate = self.estimate_of(candidate)
        if estimate is not None:
            return estimate
        known = self.evaluations.known.get(candidate.candidate_id, {})
        scores = [answer.score for answer in known.values() if answer.score is not None]
        return sum(scores) / len(scores) if scores else 0.0

    # --- the start ---------------------------------------------------------------------------------------------------

    def introduce(self, candidate: Candidate) -> list[Fact]:
        """The fact of a new candidate; none where an earlier version of the search has told it."""
        is_known = candidate.candidate_id in self.candidates
        self.candidates[candidate.candidate_id] = candidate
        return [] if is_known else [CandidateFact(candidate)]

    def reserve(self, rollouts: int, trials: int = 0) -> Reservation:
        """Raises JobFailed where the budget does not hold the baseline, whose own trials are never refused."""
        reservation = Reservation.of(self.budget, rollouts, trials)
        if reservation is None:
            raise JobFailed(f"the budget of {self.budget.total} rollouts does not hold the baseline")
        return reservation

    def probe(self, lane: Lane, seeds: Sequence[int]) -> Steps:
        """Some rollouts with the task app's own messages unchanged: their pattern is the baseline prompt."""
        probe = Candidate(digest("probe").hex(), 0, None, None, operator="probe")
        reservation = self.reserve(len(seeds))
        trial = yield from self.score(lane, probe, seeds, Phase.BOOTSTRAP, reservation, self.introduce(probe))
        if trial.score is None:
            yield from self.fail("every rollout with the task app's own messages failed", probe, seeds)
        answered = [self.evaluations.known[probe.candidate_id][seed] for seed in seeds]
        bodies = yield Recall([answer.key for answer in answered if not answer.is_failure])
        try:
            template = infer_template([body.messages for body in bodies])
            PromptPattern.of(template)
        except PromptError as error:
            raise JobFailed(f"the baseline prompt cannot be told from the task app's messages: {error}") from error
        yield Step(facts=[events.pattern_found(self.algorithm, template)])
        return template

    def baseline_of(self, template: PromptTemplate) -> Candidate:
        """The candidate of the baseline prompt, the one that is known where an earlier version made it."""
        base_id = template.digest()
        return self.candidates.get(base_id) or Candidate(base_id, len(self.candidates), template, base_id)

    # --- what is told ------------------------------------------------------------------------------------------------

    def fail(self, what: str, candidate: Candidate, seeds: Sequence[int]) -> Steps:
        """Give up, naming the most frequent reason and one rollout's words."""
        known = self.evaluations.known[candidate.candidate_id]
        failed = [(seed, known[seed]) for seed in seeds if seed in known and known[seed].is_failure]
        if not failed:
            raise JobFailed(what)
        reason, count = Counter(answer.reason for _, answer in failed).most_common(1)[0]
        seed, answer = next((seed, answer) for seed, answer in failed if answer.reason is reason)
        [body] = yield Recall([answer.key])
        said = self.evaluations.feedback(candidate.candidate_id, seed) or body.feedback
        raise JobFailed(f"{what}; {count} of {len(seeds)} with {reason}: {said}")

    def enter(self, phase: Phase) -> list[Fact]:
        """The facts of a new phase; none where the search is in it already."""
        before, self.phase = self.phase, phase
        if phase is Phase.VALIDATION and before is not phase:
            self._measured_before_validation = self.evaluations.stats.trials[phase]
        return [] if before is phase else [events.phase_changed(before, phase), ProgressFact(self.progress_data())]

    def progress(self) -> list[Fact]:
        data = self.progress_data()
        tried, planned = data["transformations_tried"], data["transformations_planned"]
        data |= {
            "percent_transformations": tried / planned,
            "rollout_tokens_budget": self._token_cap,
            **self._validation(),
        }
        return [events.progress(data), ProgressFact(data)]

    def _validation(self) -> dict[str, int]:
        """During the validation, how many of the finalists have been measured."""
        if self.phase is not Phase.VALIDATION:
            return {}
        measured = self.evaluations.stats.trials[Phase.VALIDATION] - self._measured_before_validation
        return {"validation_candidate": min(measured, self.finalists), "validation_total": self.finalists}
