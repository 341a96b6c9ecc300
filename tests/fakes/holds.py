"""Amounts, holds and settlements in short, and balances of organisations."""

import os
from decimal import Decimal
from typing import Any

import asyncpg

from promptjobs.core.ledger import Account, Amount, Caps, Category
from promptjobs.db.ledger import MARGIN_SECONDS, Hold, Settlement


def amount(usd: str | int, tokens: int = 0) -> Amount:
    return Amount(Decimal(usd), tokens)


def hold(wanted: Amount, caps: Caps, *, seconds: float = 10.0, **more: Any) -> Hold:
    given = {"job_id": "pl_1", "organisation": "default", "category": Category.POLICY, **more}
    return Hold(os.urandom(16), amount=wanted, caps=caps, lifetime_seconds=seconds + MARGIN_SECONDS, **given)


def settled(held: Hold, actual: Amount | None, **more: Any) -> Settlement:
    return Settlement(held.job_id, held.category, held.id, actual, **more)


def account(settled: Amount = Amount(), held: Amount = Amount(), unsettled: Amount = Amount()) -> Account:  # noqa: B008
    return Account(settled, held, unsettled)


async def open_balance(connection: asyncpg.Connection, usd: str, organisation: str = "default") -> None:
    await connection.execute("INSERT INTO balances(organisation, usd) VALUES ($1, $2)", organisation, Decimal(usd))


async def balance_of(connection: asyncpg.Connection, organisation: str = "default") -> tuple[Decimal, Decimal]:
    """What is left, and what of it is held."""
    row = await connection.fetchrow("SELECT usd, held_usd FROM balances WHERE organisation = $1", organisation)
    return row["usd"], row["held_usd"]
