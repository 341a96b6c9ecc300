"""What organisations may still spend: read, set, added to, removed."""

from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from sqlalchemy import Row, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.models import BalanceRow, HoldRow
from promptjobs.db.statements import Statement
from promptjobs.errors import BalanceEmpty

DEFAULT_ORGANISATION = "default"
"""To which every job belongs that names no other."""


@dataclass(frozen=True, slots=True)
class Balance:
    """usd: what is left, below 0 where it was lowered by more than that. held_usd: reserved by calls under way."""

    organisation: str
    usd: Decimal
    held_usd: Decimal


_COLUMNS = (BalanceRow.organisation, BalanceRow.usd, BalanceRow.held_usd)


async def read(connection: AsyncConnection, organisation: str) -> Balance | None:
    """None where the organisation may spend without a limit."""
    found = await _one().row(connection, organisation=organisation)
    return None if found is None else Balance(*found.values())


@cache
def _one() -> Statement:
    return Statement(select(*_COLUMNS).where(BalanceRow.organisation == bindparam("organisation")))


def require_money(balance: Balance | None) -> None:
    """Raises BalanceEmpty where the organisation's spending has a limit, and nothing of it is left."""
    if balance is not None and balance.usd <= 0:
        raise BalanceEmpty(balance.organisation, float(balance.usd))


async def put(connection: AsyncConnection, organisation: str, usd: Decimal) -> Balance:
    """Set what is left, whatever it was; what calls under way have reserved stays reserved.

    Also where there was no balance: they will give back what they hold. The lock keeps calls from settling between
    our look at their holds and the new row.
    """
    await connection.execute(text("LOCK TABLE balances IN SHARE ROW EXCLUSIVE MODE"))
    held = select(func.coalesce(func.sum(HoldRow.usd), 0)).where(HoldRow.organisation == organisation)
    row = insert(BalanceRow).values(organisation=organisation, usd=usd, held_usd=held.scalar_subquery())
    changes = {"usd": row.excluded.usd, "updated_at": func.clock_timestamp()}
    query = row.on_conflict_do_update(index_elements=[BalanceRow.organisation], set_=changes).returning(*_COLUMNS)
    return Balance(*(await connection.execute(query)).one())


async def add(connection: AsyncConnection, organisation: str, usd: Decimal) -> Balance | None:
    """Add to what is left, or take from it where `usd` is below 0.

    None where the organisation has no balance: adding to one that is not there would limit it.
    """
    query = (
        update(BalanceRow)
        .where(BalanceRow.organisation == organisation)
        .values(usd=BalanceRow.usd + usd, updated_at=func.clock_timestamp())
        .returning(*_COLUMNS)
    )
    return _balance((await connection.execute(query)).first())


async def remove(connection: AsyncConnection, organisation: str) -> Balance | None:
    """Lift the limit; returns what was left, None where there was none."""
    query = delete(BalanceRow).where(BalanceRow.organisation == organisation).returning(*_COLUMNS)
    return _balance((await connection.execute(query)).first())


def _balance(row: Row[str, Decimal, Decimal] | None) -> Balance | None:
    return None if row is None else Balance(row[0], row[1], row[2])
