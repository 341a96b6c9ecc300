"""Counters of a job: rollouts, failures, trials, tokens, cost, by what they were for. One shape, wherever shown."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from promptjobs.core.asks import Answer, FailureReason
from promptjobs.core.failures import FailureKind, by_kind, most_frequent_first, said
from promptjobs.core.trial import Phase


@dataclass(slots=True)
class Tokens:
    """Sums over answers. cost_usd is the sum of the known costs; unpriced counts the answers without a price."""

    prompt: int = 0
    completion: int = 0
    unknown: int = 0
    cost_usd: float = 0.0
    priced: int = 0
    unpriced: int = 0

    def add(self, answer: Answer) -> None:
        self.prompt += answer.prompt_tokens
        self.completion += answer.completion_tokens
        self.unknown += answer.unknown_tokens
        if answer.cost_usd is not None:
            self.priced += 1
            self.cost_usd += answer.cost_usd
        elif answer.prompt_tokens or answer.completion_tokens or answer.unknown_tokens:
            self.unpriced += 1

    @property
    def total(self) -> int:
        return self.prompt + self.completion + self.unknown

    @property
    def known_cost_usd(self) -> float | None:
        """None where the price of any call is unknown: a sum of what is known would be too low."""
        return None if self.unpriced else round(self.cost_usd, 12)


def _by_phase() -> dict[Phase, int]:
    return dict.fromkeys(Phase, 0)


@dataclass(slots=True)
class Statistics:
    """rollouts: answered ok or failed. failed_by_reason: those that failed; failing: those since the last that did not.
    unjudged: answered, but without a score, for the judge gave none. reused: scores taken from earlier answers.

    trials_tried: prompts proposed, by whatever operator; proposals_refused: those of them that never became candidates;
    proposals_unparsed: those again whose reply could not be read. completions: calls of the meta-model; judgements:
    calls of the judge; of both, those that brought no reply are counted as failed.
    """

    rollouts: dict[Phase, int] = field(default_factory=_by_phase)
    failed: dict[Phase, int] = field(default_factory=_by_phase)
    failed_by_reason: Counter[FailureReason] = field(default_factory=Counter)
    failing: Counter[FailureReason] = field(default_factory=Counter)
    unjudged: int = 0
    trials: dict[Phase, int] = field(default_factory=_by_phase)
    reused: int = 0
    trials_tried: int = 0
    proposals_refused: int = 0
    proposals_unparsed: int = 0
    completions: int = 0
    failed_completions: int = 0
    judgements: int = 0
    failed_judgements: int = 0
    rollout_tokens: Tokens = field(default_factory=Tokens)
    mutation_tokens: Tokens = field(default_factory=Tokens)
    judge_tokens: Tokens = field(default_factory=Tokens)

    def count_rollout(self, answer: Answer, phase: Phase) -> None:
        self.rollouts[phase] += 1
        self.rollout_tokens.add(answer)
        if answer.reason is None:
            self.failing.clear()
            return
        self.failed[phase] += 1
        self.failed_by_reason[answer.reason] += 1
        self.failing[answer.reason] += 1

    def count_completion(self, answer: Answer) -> None:
        self.completions += 1
        self.failed_completions += answer.is_failure
        self.mutation_tokens.add(answer)

    def count_judgement(self, answer: Answer) -> None:
        self.judgements += 1
        self.failed_judgements += answer.is_failure
        self.judge_tokens.add(answer)

    def count_unjudged(self) -> None:
        """A rollout has no score, for the judge gave none."""
        self.unjudged += 1

    def count_proposal(self, *, is_refused: bool, is_unparsed: bool = False) -> None:
        """is_unparsed: it is refused because the reply could not be read."""
        self.trials_tried += 1
        self.proposals_refused += is_refused
        self.proposals_unparsed += is_unparsed

    @property
    def total_rollouts(self) -> int:
        return sum(self.rollouts.values())

    @property
    def total_failed(self) -> int:
        return sum(self.failed.values())

    @property
    def failed_in_a_row(self) -> int:
        """Rollouts, the latest ones."""
        return self.failing.total()

    @property
    def reasons(self) -> Counter[FailureReason]:
        """Why rollouts have no score, those among them that the judge gave none."""
        unjudged = {FailureReason.JUDGE_FAILED: self.unjudged} if self.unjudged else {}
        return self.failed_by_reason + Counter(unjudged)

    @property
    def failures(self) -> dict[FailureKind, int]:
        """The same by kind; all but JUDGE add up to `total_failed`."""
        return by_kind(self.reasons)

    def error_rate_said(self) -> str:
        """ "9 of 21 rollouts failed: 7 provider_error, 2 invalid_score"."""
        return f"{self.total_failed} of {self.total_rollouts} rollouts failed: {said(self.failed_by_reason)}"

    def failing_said(self) -> str:
        """ "the last 5 rollouts failed: 5 provider_error"."""
        return f"the last {self.failed_in_a_row} rollouts failed: {said(self.failing)}"

    @property
    def total_tokens(self) -> int:
        return sum(part.total for part in self._parts)

    @property
    def spent_usd(self) -> float:
        """The sum of the known costs: at most what was spent."""
        return sum(part.cost_usd for part in self._parts)

    @property
    def total_cost_usd(self) -> float | None:
        """None where the price of any call is unknown."""
        return None if any(part.unpriced for part in self._parts) else round(self.spent_usd, 12)

    @property
    def _parts(self) -> tuple[Tokens, Tokens, Tokens]:
        return self.rollout_tokens, self.mutation_tokens, self.judge_tokens

    def to_json(self) -> dict[str, Any]:
        """The counters by the names that clients of the API read."""
        rollouts, mutation, judge = self._parts
        return {
            "trials_tried": self.trials_tried,
            "proposals_refused": self.proposals_refused,
            "proposals_unparsed": self.proposals_unparsed,
            "total_trials_evaluated": sum(self.trials.values()),
            "optimization_trials_evaluated": self.trials[Phase.OPTIMIZATION],
            "validation_trials_evaluated": self.trials[Phase.VALIDATION],
            "test_trials_evaluated": self.trials[Phase.TEST],
            "transformations_evaluated": self.trials_tried - self.proposals_refused,
            "total_rollouts": self.total_rollouts,
            "bootstrap_rollouts_executed": self.rollouts[Phase.BOOTSTRAP],
            "optimization_rollouts_executed": self.rollouts[Phase.OPTIMIZATION],
            "validation_rollouts_executed": self.rollouts[Phase.VALIDATION],
            "test_rollouts_executed": self.rollouts[Phase.TEST],
            "failed_rollouts": self.total_failed,
            "failures": {kind.value: count for kind, count in self.failures.items()},
            "failures_by_reason": {reason.value: n for reason, n in most_frequent_first(self.reasons.items())},
            "reused_rollouts": self.reused,
            "mutation_calls": self.completions,
            "mutation_calls_failed": self.failed_completions,
            "judge_calls": self.judgements,
            "judge_calls_failed": self.failed_judgements,
            "rollouts_prompt_tokens": rollouts.prompt,
            "rollouts_completion_tokens": rollouts.completion,
            "rollouts_unknown_tokens": rollouts.unknown,
            "mutation_prompt_tokens": mutation.prompt,
            "mutation_completion_tokens": mutation.completion,
            "mutation_unknown_tokens": mutation.unknown,
            "rollout_tokens_used": rollouts.total,
            "mutation_tokens_used": mutation.total,
            "judge_tokens_used": judge.total,
            "total_tokens": self.total_tokens,
            "rollouts_cost_usd": rollouts.known_cost_usd,
            "mutation_cost_usd": mutation.known_cost_usd,
            "judge_cost_usd": judge.known_cost_usd,
            "total_cost_usd": self.total_cost_usd,
        }
