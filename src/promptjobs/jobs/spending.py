"""What a job has spent, as JSON: one shape for jobs that run and for those that are over."""

from collections.abc import Iterable
from typing import Any

from promptjobs.core.ledger import Account, Caps, Category
from promptjobs.db.ledger import Spending


def spending_json(spending: Spending, caps: Caps) -> dict[str, Any]:
    """The whole, the same by category, and the caps over it, None where there is none.

    USD are numbers. usd and tokens: settled; held: reserved for calls under way; unsettled: the most that calls can
    have used whose usage will never be known. unpriced_calls: calls whose price is unknown: usd is without them.
    """
    return {
        **_figures(spending, Category),
        "categories": {category.value: _figures(spending, [category]) for category in Category},
        "caps": caps.to_json(),
    }


def _figures(spending: Spending, categories: Iterable[Category]) -> dict[str, Any]:
    chosen = list(categories)
    total = Account()
    for category in chosen:
        each = spending.accounts[category]
        total = Account(total.settled + each.settled, total.held + each.held, total.unsettled + each.unsettled)
    return {
        "usd": float(total.settled.usd),
        "tokens": total.settled.tokens,
        "calls": sum(spending.calls[category] for category in chosen),
        "unpriced_calls": sum(spending.unpriced[category] for category in chosen),
        "held_usd": float(total.held.usd),
        "held_tokens": total.held.tokens,
        "unsettled_usd": float(total.unsettled.usd),
        "unsettled_tokens": total.unsettled.tokens,
    }
