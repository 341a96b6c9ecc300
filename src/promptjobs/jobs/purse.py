"""What a job pays for its completions: reserved before each attempt, settled after it, whatever came of it."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import orjson

from promptjobs.clients.llm import Completed
from promptjobs.clients.pricing import Price, most_usd
from promptjobs.clients.worst_case import most_prompt_tokens
from promptjobs.core.asks import Completion
from promptjobs.core.ledger import Amount, Cap, Caps, Category, usd, usd_at_most
from promptjobs.core.verifier import PURPOSE as JUDGE
from promptjobs.db.ledger import MARGIN_SECONDS, Hold, Ledger, Settlement
from promptjobs.errors import (
    BudgetExhausted,
    ConnectionLost,
    DatabaseUnavailable,
    DeadlineExceeded,
    PromptjobsError,
    ProviderCallFailed,
)


@dataclass(slots=True)
class Attempt:
    """One attempt that is being paid. completed: what came of it, None as long as nothing has."""

    completed: Completed | None = None


@dataclass(frozen=True, slots=True)
class Purse:
    """The money of one job. has_balance: what its organisation may spend is limited."""

    ledger: Ledger
    job_id: str
    organisation: str
    caps: Caps
    has_balance: bool

    @property
    def is_limited(self) -> bool:
        """Else nothing is reserved, only settled."""
        return self.caps.are_any or self.has_balance

    @asynccontextmanager
    async def paying(self, ask: Completion, price: Price | None, timeout_seconds: float) -> AsyncIterator[Attempt]:
        """Reserve the most that an attempt can cost, let the block make it, and settle what it has cost.

        price: None where the price list decides. Raises BudgetExhausted where a cap does not hold the attempt, and
        DatabaseUnavailable where nothing can be reserved; the block is not entered then. Raises what the block raises:
        it tells what was paid.
        """
        category = category_of(ask)
        hold_id = await self._reserve(ask, category, price, timeout_seconds) if self.is_limited else None
        attempt = Attempt()
        try:
            yield attempt
        except asyncio.CancelledError:
            # Who cancels does not wait for the database. What the provider has done by now is not known.
            self.ledger.put(Settlement(self.job_id, category, hold_id, None))
            raise
        except BaseException as error:
            await self._settle(_of_failure(self.job_id, category, hold_id, error))
            raise
        await self._settle(_of_reply(self.job_id, category, hold_id, attempt.completed))

    async def _reserve(self, ask: Completion, category: Category, price: Price | None, timeout_seconds: float) -> bytes:
        body = {"messages": [message.to_json() for message in ask.messages]}
        model, tokens = ask.model, most_prompt_tokens(body, len(orjson.dumps(body)))
        cost = most_usd(model.provider, model.model, tokens, model.max_tokens, price)
        cap = self._cap_in_usd(category)
        if cost is None and cap is not None:
            # It had a price when the job was created, or the organisation was given its balance later.
            raise BudgetExhausted(cap, f"the price of {model.provider}/{model.model} is not known")
        amount = Amount(usd_at_most(cost or 0.0), tokens + model.max_tokens)
        lifetime = timeout_seconds + MARGIN_SECONDS
        hold = Hold(secrets.token_bytes(16), self.job_id, self.organisation, category, amount, self.caps, lifetime)
        await self.ledger.reserve(hold)
        return hold.id

    def _cap_in_usd(self, category: Category) -> Cap | None:
        """A cap for which the cost of a call of this category has to be known."""
        if self.caps.total_usd is not None:
            return Cap.TOTAL
        if category is Category.PROPOSAL and self.caps.proposal_usd is not None:
            return Cap.PROPOSALS
        return Cap.BALANCE if self.has_balance else None

    async def _settle(self, settlement: Settlement) -> None:
        """An outage is not waited out: the ledger keeps what it could not store yet."""
        with suppress(DatabaseUnavailable):
            await self.ledger.settle(settlement)


def category_of(ask: Completion) -> Category:
    return Category.JUDGE if ask.purpose == JUDGE else Category.PROPOSAL


def _of_reply(job_id: str, category: Category, hold_id: bytes | None, done: Completed | None) -> Settlement:
    """A provider that does not say what was used may have used all that was reserved, also where it is free."""
    if done is None:
        return Settlement(job_id, category, hold_id, None)
    tokens = done.usage.total_tokens
    is_known = done.cost_usd is not None and done.usage.is_reported
    settled = Amount(usd(done.cost_usd), tokens) if done.cost_usd is not None and is_known else None
    return Settlement(job_id, category, hold_id, settled, tokens)


def _of_failure(job_id: str, category: Category, hold_id: bytes | None, error: BaseException) -> Settlement:
    match error:
        case ProviderCallFailed(cost_usd=cost):
            tokens = error.prompt_tokens + error.completion_tokens + error.unknown_tokens
            settled = None if cost is None else Amount(usd(cost), tokens)
            return Settlement(job_id, category, hold_id, settled, tokens)
        case ConnectionLost() | DeadlineExceeded():
            return Settlement(job_id, category, hold_id, None)
        case PromptjobsError():
            # Everything else that is raised on purpose is raised before anything is sent.
            return Settlement(job_id, category, hold_id, Amount(), calls=0)
        case _:
            return Settlement(job_id, category, hold_id, None)
