"""What a MIPRO trial will cost, told before it is paid: tokens and dollars, by what earlier rollouts have used."""

import math
from dataclasses import dataclass, field

from promptjobs.core.config_mipro import MiproConfig
from promptjobs.core.stats import Statistics
from promptjobs.core.stops import StopReason


@dataclass(slots=True)
class Spending:
    """baseline_tokens: of the baseline prompt, by our own count. overhead: what a rollout uses beside its prompt.

    kept: seeds of the end, on which a candidate and the baseline are still to be measured: max_token_limit must hold
    them too. longest: tokens of the longest prompt that may win. held: tokens of what is under way, by its name.
    """

    config: MiproConfig
    stats: Statistics
    baseline_tokens: int = 0
    overhead: int = 0
    kept: int = 0
    longest: int = 0
    held: dict[str, int] = field(default_factory=dict)

    @property
    def enforced(self) -> int | None:
        """The limit on the tokens of the whole job, where it is one."""
        return self.config.max_token_limit if self.config.enforce_token_limit else None

    def learn(self) -> None:
        """Take the rollouts so far, all of them with the baseline, for what inputs and answers add to a prompt."""
        done = self.stats.total_rollouts
        if done:
            self.overhead = max(0, math.ceil(self.stats.rollout_tokens.total / done) - self.baseline_tokens)

    def needed(self, prompt_tokens: int, rollouts: int) -> int:
        """Tokens of so many rollouts with a prompt of so many tokens."""
        return (prompt_tokens + self.overhead) * rollouts

    def _end(self, prompt_tokens: int) -> int:
        return self.needed(max(prompt_tokens, self.longest), self.kept) + self.needed(self.baseline_tokens, self.kept)

    def affords(self, prompt_tokens: int, rollouts: int) -> bool:
        """Whether the limits hold with these rollouts and those under way."""
        return self.refusal(prompt_tokens, rollouts) is None

    def refusal(self, prompt_tokens: int, rollouts: int) -> StopReason | None:
        """Which limit would be passed; None where none would."""
        ahead = sum(self.held.values()) + self.needed(prompt_tokens, rollouts)
        stats, config = self.stats, self.config
        total, limit = config.max_total_tokens, self.enforced
        if total is not None and stats.total_tokens + ahead > total:
            return StopReason.TOKEN_BUDGET
        if limit is not None and stats.total_tokens + ahead + self._end(prompt_tokens) > limit:
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

    def affords_call(self, prompt_tokens: int) -> bool:
        """Whether the limits on tokens hold a call of the meta-model, as far as its prompt alone tells."""
        ahead = self.stats.total_tokens + sum(self.held.values()) + prompt_tokens
        total, limit = self.config.max_total_tokens, self.enforced
        kept = self._end(self.baseline_tokens)
        return (total is None or ahead <= total) and (limit is None or ahead + kept <= limit)

    def held_by_limit(self, prompt_tokens: int, rollouts: int) -> int:
        """How many of so many rollouts max_token_limit holds; all of them where it is no limit."""
        if self.enforced is None or not rollouts:
            return rollouts
        each = max(1, self.needed(prompt_tokens, 1))
        room = self.enforced - self.stats.total_tokens - sum(self.held.values()) - self._end(prompt_tokens)
        return max(0, min(rollouts, room // each))

    def reserve(self, name: str, prompt_tokens: int, rollouts: int) -> None:
        self.held[name] = self.needed(prompt_tokens, rollouts)
        self.longest = max(self.longest, prompt_tokens)

    def reserve_call(self, name: str, prompt_tokens: int) -> None:
        self.held[name] = prompt_tokens

    def release(self, name: str) -> None:
        self.held.pop(name, None)
