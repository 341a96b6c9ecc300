"""What a MIPRO trial will cost, told before it is paid: tokens and dollars, by what earlier rollouts have used."""

from dataclasses import dataclass, field

from promptjobs.core.config_mipro import MiproConfig
from promptjobs.core.stats import Statistics
from promptjobs.core.stops import StopReason


@dataclass(slots=True)
class Spending:
    """baseline_tokens: of the baseline prompt, by our own count. held: tokens of the trials under way, by candidate."""

    config: MiproConfig
    stats: Statistics
    baseline_tokens: int = 0
    held: dict[str, int] = field(default_factory=dict)

    def needed(self, prompt_tokens: int, rollouts: int) -> int:
        """Tokens of so many rollouts with a prompt of so many tokens.

        A rollout so far has used what its prompt, its input and its answer have; only the prompt will be another one.
        Before the first rollout there is the prompt alone.
        """
        done = self.stats.total_rollouts
        usual = self.stats.rollout_tokens.total / done if done else float(self.baseline_tokens)
        per_rollout = max(float(prompt_tokens), usual + prompt_tokens - self.baseline_tokens)
        return round(per_rollout * rollouts)

    def affords(self, prompt_tokens: int, rollouts: int) -> bool:
        """Whether the limits hold with these rollouts and those under way."""
        return self.refusal(prompt_tokens, rollouts) is None

    def refusal(self, prompt_tokens: int, rollouts: int) -> StopReason | None:
        """Which limit would be passed; None where none would."""
        ahead = sum(self.held.values()) + self.needed(prompt_tokens, rollouts)
        stats, config = self.stats, self.config
        limits = [config.max_total_tokens, config.max_token_limit if config.enforce_token_limit else None]
        if any(limit is not None and stats.total_tokens + ahead > limit for limit in limits):
            return StopReason.TOKEN_BUDGET
        used = stats.rollout_tokens.total
        usd = ahead * stats.rollout_tokens.cost_usd / used if used else 0.0
        if (
            config.max_rollout_spend_usd is not None
            and stats.rollout_tokens.cost_usd + usd > config.max_rollout_spend_usd
        ):
            return StopReason.ROLLOUT_COST_BUDGET
        if config.max_spend_usd is not None and stats.spent_usd + usd > config.max_spend_usd:
            return StopReason.COST_BUDGET
        return None

    def reserve(self, candidate_id: str, prompt_tokens: int, rollouts: int) -> None:
        self.held[candidate_id] = self.needed(prompt_tokens, rollouts)

    def release(self, candidate_id: str) -> None:
        self.held.pop(candidate_id, None)
