"""What a job may spend: accounts by category, caps over them, and which cap a further call would pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_UP, Decimal
from enum import StrEnum
from typing import Any

from promptjobs.core.config import JobConfig
from promptjobs.core.trial import Phase

QUANTUM = Decimal("1e-12")
"""Smallest amount of USD that is told apart: a millionth of what a token of the cheapest model costs."""


class Category(StrEnum):
    """What a call is for. POLICY: rollouts that steer the search."""

    BOOTSTRAP = "bootstrap"
    POLICY = "policy"
    VALIDATION = "validation"
    TEST = "test"
    PROPOSAL = "proposal"
    JUDGE = "judge"

    @property
    def is_rollout(self) -> bool:
        return self not in (Category.PROPOSAL, Category.JUDGE)


def category_of(phase: Phase) -> Category:
    """That of the calls of a rollout in this phase."""
    return Category.POLICY if phase is Phase.OPTIMIZATION else Category(phase)


class Cap(StrEnum):
    """A limit on spending. The values are finish reasons of jobs, and so part of the API."""

    TOTAL = "cost_budget"
    ROLLOUTS = "rollout_cost_budget"
    PROPOSALS = "proposal_cost_budget"
    TOKENS = "token_budget"
    BALANCE = "balance_empty"


@dataclass(frozen=True, slots=True)
class Caps:
    """The limits of one job; None where there is none. proposal_usd: on the calls of the meta-model."""

    total_usd: Decimal | None = None
    rollout_usd: Decimal | None = None
    proposal_usd: Decimal | None = None
    tokens: int | None = None

    @property
    def are_any(self) -> bool:
        return self != Caps()

    @staticmethod
    def of(config: JobConfig) -> "Caps":
        """Those of a resolved config."""
        search = config.search
        return Caps(
            None if search.max_spend_usd is None else usd(search.max_spend_usd),
            None if search.max_rollout_spend_usd is None else usd(search.max_rollout_spend_usd),
            None if search.max_proposal_spend_usd is None else usd(search.max_proposal_spend_usd),
            search.token_cap,
        )

    @staticmethod
    def stored(search: Mapping[str, Any]) -> "Caps":
        """`of` for a search's part of a stored config, also by another version: what an earlier one lacks is no cap."""
        enforced = search.get("max_token_limit") if search.get("enforce_token_limit") else None
        tokens = [limit for limit in (search.get("max_total_tokens"), enforced) if limit is not None]
        names = ("max_spend_usd", "max_rollout_spend_usd", "max_proposal_spend_usd")
        total, rollouts, proposals = (None if search.get(name) is None else usd(search[name]) for name in names)
        return Caps(total, rollouts, proposals, min(tokens, default=None))

    def to_json(self) -> dict[str, float | int | None]:
        """By the names that clients read; None where there is no limit."""
        in_usd = {"total_usd": self.total_usd, "rollout_usd": self.rollout_usd, "proposal_usd": self.proposal_usd}
        return {name: None if cap is None else float(cap) for name, cap in in_usd.items()} | {"tokens": self.tokens}


@dataclass(frozen=True, slots=True)
class Amount:
    """USD and tokens, both at least 0."""

    usd: Decimal = Decimal(0)
    tokens: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.usd + other.usd, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class Account:
    """What one category has come to.

    settled: known to be spent. held: reserved for calls under way. unsettled: the most that calls can have used whose
    usage will never be known: a crash took it, or the provider did not say.
    """

    settled: Amount = Amount()
    held: Amount = Amount()
    unsettled: Amount = Amount()

    @property
    def taken(self) -> Amount:
        """What counts against the caps."""
        return self.settled + self.held + self.unsettled


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that a cap does not hold. may_pass_later: what other calls have reserved may come back."""

    cap: Cap
    limit: Decimal
    taken: Decimal
    wanted: Decimal
    may_pass_later: bool

    def __str__(self) -> str:
        unit = "tokens" if self.cap is Cap.TOKENS else "USD"
        what = {
            Cap.TOTAL: "the job's limit",
            Cap.ROLLOUTS: "the limit on rollouts",
            Cap.PROPOSALS: "the limit on proposals",
            Cap.TOKENS: "the job's limit",
            Cap.BALANCE: "the organisation's balance",
        }[self.cap]
        return (
            f"{what} of {self.limit:f} {unit} does not hold a call of up to {self.wanted:f}: {self.taken:f} are taken"
        )


def refusal(
    accounts: Mapping[Category, Account], caps: Caps, category: Category, wanted: Amount, balance: Account | None = None
) -> Refusal | None:
    """The first cap that would be passed if `wanted` were reserved in this category; None where all hold.

    balance: of the organisation: settled is what it has left, held what its calls under way have reserved; None where
    it has no limit.
    """
    scopes = [(Cap.TOTAL, caps.total_usd, frozenset(Category))]
    if category.is_rollout:
        scopes.append((Cap.ROLLOUTS, caps.rollout_usd, frozenset(c for c in Category if c.is_rollout)))
    if category is Category.PROPOSAL:
        scopes.append((Cap.PROPOSALS, caps.proposal_usd, frozenset({Category.PROPOSAL})))
    for cap, limit, scope in scopes:
        if limit is None:
            continue
        within = [accounts[each] for each in Category if each in scope and each in accounts]
        taken = sum((account.taken.usd for account in within), Decimal(0))
        if taken + wanted.usd > limit:
            return Refusal(cap, limit, taken, wanted.usd, any(account.held.usd for account in within))
    if caps.tokens is not None:
        used = sum(account.taken.tokens for account in accounts.values())
        if used + wanted.tokens > caps.tokens:
            may_pass = any(account.held.tokens for account in accounts.values())
            return Refusal(Cap.TOKENS, Decimal(caps.tokens), Decimal(used), Decimal(wanted.tokens), may_pass)
    if balance is not None and balance.held.usd + wanted.usd > balance.settled.usd:
        return Refusal(Cap.BALANCE, balance.settled.usd, balance.held.usd, wanted.usd, bool(balance.held.usd))
    return None


def usd(value: float) -> Decimal:
    """A sum of dollars, to the nearest QUANTUM."""
    return Decimal(repr(value)).quantize(QUANTUM, ROUND_HALF_EVEN)


def usd_at_most(value: float) -> Decimal:
    """An upper bound in dollars, which stays one."""
    return Decimal(repr(value)).quantize(QUANTUM, ROUND_UP)
