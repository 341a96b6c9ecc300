"""Counters of a job: rollouts, trials, tokens and cost, each by what it was for. One shape, wherever it is shown."""

from dataclasses import dataclass, field
from typing import Any

from promptjobs.core.asks import Answer
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
    """rollouts: answered ok or failed. reused: scores taken from earlier answers. trials_tried: prompts proposed, by
    whatever operator; proposals_refused: those of them that never became candidates.

    completions: calls of the meta-model; judgements: calls of the judge. failed_in_a_row: rollouts, the latest ones.
    """

    rollouts: dict[Phase, int] = field(default_factory=_by_phase)
    failed: dict[Phase, int] = field(default_factory=_by_phase)
    trials: dict[Phase, int] = field(default_factory=_by_phase)
    reused: int = 0
    trials_tried: int = 0
    proposals_refused: int = 0
    completions: int = 0
    judgements: int = 0
    failed_in_a_row: int = 0
    rollout_tokens: Tokens = field(default_factory=Tokens)
    mutation_tokens: Tokens = field(default_factory=Tokens)
    judge_tokens: Tokens = field(default_factory=Tokens)

    def count_rollout(self, answer: Answer, phase: Phase) -> None:
        self.rollouts[phase] += 1
        self.failed[phase] += answer.is_failure
        self.failed_in_a_row = self.failed_in_a_row + 1 if answer.is_failure else 0
        self.rollout_tokens.add(answer)

    def count_completion(self, answer: Answer) -> None:
        self.completions += 1
        self.mutation_tokens.add(answer)

    def count_judgement(self, answer: Answer) -> None:
        self.judgements += 1
        self.judge_tokens.add(answer)

    def count_proposal(self, *, is_refused: bool) -> None:
        self.trials_tried += 1
        self.proposals_refused += is_refused

    @property
    def total_rollouts(self) -> int:
        return sum(self.rollouts.values())

    @property
    def total_failed(self) -> int:
        return sum(self.failed.values())

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
            "reused_rollouts": self.reused,
            "mutation_calls": self.completions,
            "judge_calls": self.judgements,
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
