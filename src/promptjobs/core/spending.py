"""What the limits on money and tokens still hold, by what rollouts have cost so far: the end's part is kept back."""

import math
from dataclasses import dataclass, field
from typing import Protocol

from promptjobs.core.asks import Answer, Rollout, Tier
from promptjobs.core.config_search import SearchConfig
from promptjobs.core.stats import Statistics, Tokens
from promptjobs.core.stops import StopReason
from promptjobs.core.trial import Phase

FEW = 4
"""A candidate's own mean is looked at from so many answers on."""

DEVIATIONS = 2.0
"""The end may cost so many standard deviations more than it is reckoned at: about one in 44 costs more than that."""

LARGEST_SHARE = 0.1
"""Of a limit, at most, is kept for the call that is reserved last: a small limit is there to be searched with."""

OUTPUT_PRICE = 5.0
"""What a completion token costs, as a multiple of a prompt token: 4 to 8 with most providers."""

BYTES_PER_TOKEN = 4
"""The ledger counts a prompt by its bytes before it is sent."""

UNLIMITED = 10**12

EXACT = 1e-9
"""A quotient of sums of dollars that is a whole number but for this is one."""


class Spender(Protocol):
    """The search whose money it is."""

    @property
    def calls_under_way(self) -> int:
        """Calls of the meta-model that are not answered yet."""

    def end_rollouts(self, total: int) -> int:
        """Rollouts of the end, validation and test, of a search that has so many in all."""


@dataclass(slots=True)
class Moments:
    """Of values that come one by one. spread: the sum of their squared distances from the mean (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    spread: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.spread += before * (value - self.mean)

    @property
    def deviation(self) -> float:
        """0 with fewer than two values."""
        return math.sqrt(self.spread / (self.count - 1)) if self.count > 1 else 0.0


@dataclass(slots=True)
class PerRollout:
    """What an answered rollout has taken, in dollars or tokens."""

    all: Moments = field(default_factory=Moments)
    by_candidate: dict[str, Moments] = field(default_factory=dict)

    def learn(self, candidate_id: str, value: float) -> None:
        self.all.add(value)
        self.by_candidate.setdefault(candidate_id, Moments()).add(value)

    @property
    def dearest(self) -> float:
        """Of the candidate with the dearest rollouts, which may win: prompts grow, and a mean of all is too low."""
        own = (found.mean for found in self.by_candidate.values() if found.count >= FEW)
        return max(self.all.mean, *own, 0.0)


@dataclass(frozen=True, slots=True)
class Limit:
    """most: in tokens or in dollars. is_of_all: of the meta-model's and the judge's calls too."""

    reason: StopReason
    most: float
    is_tokens: bool = False
    is_of_all: bool = True


class Purse:
    """Tells a search how many further rollouts the limits hold beside those of its end.

    It is an estimate, for ending in time: that no limit is passed is the ledger's work. What has no known cost is
    reckoned at the mean of the known. Nothing is held back before the first answer, nor for the calls of the meta-model
    that go out before the first of them is answered.
    """

    def __init__(self, config: SearchConfig, completion_tokens: int, stats: Statistics, spender: Spender) -> None:
        """completion_tokens: most of one reply of the policy."""
        self._limits = limits_of(config)
        self._most_of_proposals = config.max_proposal_spend_usd
        self._reply_tokens = config.meta_model.max_tokens
        self._completion_tokens = completion_tokens
        self._stats = stats
        self._spender = spender
        self._usd, self._tokens = PerRollout(), PerRollout()
        self._kept: int | None = None
        self._abandoned = 0

    def learn(self, ask: Rollout, answer: Answer) -> None:
        if answer.is_failure or ask.tier is not Tier.HI:
            return
        self._tokens.learn(ask.candidate_id, answer.prompt_tokens + answer.completion_tokens + answer.unknown_tokens)
        if answer.cost_usd is not None:
            self._usd.learn(ask.candidate_id, answer.cost_usd)

    def begin_end(self, kept: int, taken: int) -> None:
        """From now on so many rollouts are kept, for the test, and nothing for luck.

        taken: of the budget: those of them that are not answered were given up with their lanes.
        """
        self._kept = kept
        self._abandoned = self._under_way(taken)

    def holds(self, taken: int, calls: int = 0) -> tuple[int, StopReason]:
        """How many further rollouts can be paid beside `calls` of the meta-model, and by which limit no more than that.

        taken: rollouts of the budget, answered or under way. Below 0 where not even the end is paid.
        """
        under_way = self._under_way(taken)
        found = [(self._room(limit, calls) - under_way, limit.reason) for limit in self._limits]
        return min(found, key=lambda one: one[0], default=(UNLIMITED, StopReason.ROLLOUT_BUDGET))

    def refusal(self, taken: int, rollouts: int) -> StopReason | None:
        """Which limit does not hold a proposal and so many rollouts for it; None where all do."""
        if not self.may_propose:
            return StopReason.PROPOSAL_COST_BUDGET
        most, reason = self.holds(taken, calls=1)
        return reason if most < rollouts else None

    @property
    def may_propose(self) -> bool:
        """Whether the limit on proposals holds another call, however long its reply, as the ledger will ask."""
        part = self._stats.mutation_tokens
        if self._most_of_proposals is None or not self._stats.completions:
            return True
        called = self._stats.completions
        worst = _rate(part) * (BYTES_PER_TOKEN * part.prompt / called + OUTPUT_PRICE * self._reply_tokens)
        under_way = self._spender.calls_under_way * _spent(part) / called
        most = self._most_of_proposals
        return _spent(part) + under_way + max(_spent(part) / called, worst) <= most

    # --- one limit ---------------------------------------------------------------------------------------------------

    def _under_way(self, taken: int) -> int:
        stats = self._stats
        return max(0, taken - (stats.total_rollouts - stats.rollouts[Phase.TEST]) - self._abandoned)

    def _room(self, limit: Limit, calls: int) -> int:
        """Rollouts that one limit holds, those under way included."""
        unit, stats = self._tokens if limit.is_tokens else self._usd, self._stats
        price = unit.dearest
        if price <= 0.0:
            return UNLIMITED
        ahead = 0.0
        if limit.is_of_all:
            price += _used(stats.judge_tokens, limit.is_tokens) / max(1, unit.all.count)
            if stats.completions:
                each = _used(stats.mutation_tokens, limit.is_tokens) / stats.completions
                ahead = (calls + self._spender.calls_under_way) * each
        left = limit.most - self._spent_of(limit) - ahead - self._end(limit, unit, price)
        return math.floor(left / price + EXACT)

    def _spent_of(self, limit: Limit) -> float:
        stats, parts = self._stats, [self._stats.rollout_tokens]
        if limit.is_of_all:
            parts += [stats.mutation_tokens, stats.judge_tokens]
        return sum(_used(part, limit.is_tokens) for part in parts)

    def _end(self, limit: Limit, unit: PerRollout, price: float) -> float:
        """What is kept: the end's rollouts, some bad luck with them, and room to reserve the last of their calls."""
        if self._kept is not None:
            return self._kept * price
        rollouts = self._spender.end_rollouts(math.floor(limit.most / price))
        luck = DEVIATIONS * unit.all.deviation * math.sqrt(rollouts)
        return rollouts * price + luck + min(self._largest(limit), LARGEST_SHARE * limit.most)

    def _largest(self, limit: Limit) -> float:
        """What the ledger reserves for a call of the policy, about: a prompt by its bytes, and the longest reply."""
        part = self._stats.rollout_tokens
        prompt = BYTES_PER_TOKEN * part.prompt / max(1, self._stats.total_rollouts)
        if limit.is_tokens:
            return prompt + self._completion_tokens
        return _rate(part) * (prompt + OUTPUT_PRICE * self._completion_tokens)


def purse_of(config: SearchConfig, completion_tokens: int, stats: Statistics, spender: Spender) -> Purse | None:
    """None where nothing limits money and tokens."""
    if not limits_of(config) and config.max_proposal_spend_usd is None:
        return None
    return Purse(config, completion_tokens, stats, spender)


def limits_of(config: SearchConfig) -> list[Limit]:
    """Those that end a search, but for the one on proposals."""
    found = []
    if config.max_spend_usd is not None:
        found.append(Limit(StopReason.COST_BUDGET, config.max_spend_usd))
    if config.max_rollout_spend_usd is not None:
        found.append(Limit(StopReason.ROLLOUT_COST_BUDGET, config.max_rollout_spend_usd, is_of_all=False))
    if config.token_cap is not None:
        found.append(Limit(StopReason.TOKEN_BUDGET, config.token_cap, is_tokens=True))
    return found


def _used(part: Tokens, is_tokens: bool) -> float:
    return part.total if is_tokens else _spent(part)


def _spent(part: Tokens) -> float:
    """Dollars; what has no known cost at the mean of what has."""
    return part.cost_usd * (1 + part.unpriced / part.priced) if part.priced else part.cost_usd


def _rate(part: Tokens) -> float:
    """Dollars of a prompt token, by what all of them have cost."""
    weight = part.prompt + part.unknown + OUTPUT_PRICE * part.completion
    return _spent(part) / weight if weight else 0.0
