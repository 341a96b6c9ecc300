"""Reserves the most that a call can use before it is made, where its job or its organisation is limited."""

import asyncio
import secrets

import orjson

from promptjobs.clients.pricing import most_usd
from promptjobs.clients.worst_case import most_prompt_tokens
from promptjobs.core.ledger import Amount, Cap, category_of, usd_at_most
from promptjobs.core.trial import Phase
from promptjobs.db.ledger import MARGIN_SECONDS, Hold, Ledger, Settlement
from promptjobs.errors import BudgetExhausted, CallBudgetExhausted, CallerGone
from promptjobs.interceptor.grants import Grants
from promptjobs.interceptor.meter import Call
from promptjobs.interceptor.request import LIMITS
from promptjobs.interceptor.rewrite import JsonObject
from promptjobs.interceptor.terms import Terms
from promptjobs.interceptor.wire import Receive

ID_BYTES = 16


class Reservations:
    """timeout_seconds: of a call, and the longest that it waits for what others have reserved to come back."""

    def __init__(self, ledger: Ledger, grants: Grants, timeout_seconds: float) -> None:
        self._ledger, self._grants, self._timeout_seconds = ledger, grants, timeout_seconds

    async def make(self, call: Call, body: JsonObject, size: int, receive: Receive) -> None:
        """Reserve for `call`, then make sure again that it may be made: the wait may have outlasted the lease.

        body: what will be sent, of `size` bytes; its messages are those of `call`. Raises CallBudgetExhausted,
        DatabaseUnavailable, TokenRevoked, CallerGone; nothing is reserved then.
        """
        hold = self._hold(call, body, size)
        reserving = asyncio.ensure_future(self._ledger.reserve(hold))
        try:
            await _unless_gone(reserving, receive)
        except BudgetExhausted as exc:
            raise CallBudgetExhausted(exc.cap, exc.words) from exc
        except BaseException:
            if not reserving.cancelled() and reserving.exception() is None:
                # It was reserved at the very moment when nobody waited any more.
                self._ledger.put(Settlement.released(hold))
            raise
        try:
            call.grant = await self._grants.get(call.grant.digest)
            call.hold = hold
        finally:
            if call.hold is None:
                self._ledger.put(Settlement.released(hold))

    def _hold(self, call: Call, body: JsonObject, size: int) -> Hold:
        grant, policy = call.grant, call.policy
        caps = grant.terms.caps
        prompt = most_prompt_tokens({**body, "messages": orjson.loads(call.messages)}, size)
        completion: int = next(body[name] for name in LIMITS if name in body)
        most = most_usd(policy.provider, policy.model, prompt, completion, policy.price)
        cap = _cap_in_usd(grant.terms)
        if most is None and cap is not None:
            # Jobs are checked when they are posted; a balance may have been opened, or a price gone, since then.
            raise CallBudgetExhausted(cap, f"the price of {policy.provider}/{policy.model} is not known")
        return Hold(
            id=secrets.token_bytes(ID_BYTES),
            job_id=grant.job_id,
            organisation=grant.terms.organisation,
            category=category_of(Phase(grant.phase)),
            amount=Amount(usd_at_most(most or 0.0), prompt + completion),
            caps=caps,
            lifetime_seconds=self._timeout_seconds + MARGIN_SECONDS,
        )


async def _unless_gone(working: "asyncio.Future[None]", receive: Receive) -> None:
    """Wait for the work, and end it where the caller goes before. Raises CallerGone, and what the work raises."""
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerGone("the task app has gone while its call waited for money")
        working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _cap_in_usd(terms: Terms) -> Cap | None:
    """A cap for which the cost of a rollout's call has to be known."""
    if terms.caps.total_usd is not None:
        return Cap.TOTAL
    if terms.caps.rollout_usd is not None:
        return Cap.ROLLOUTS
    return Cap.BALANCE if terms.has_balance else None
