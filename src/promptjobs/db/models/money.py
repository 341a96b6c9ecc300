"""What jobs have spent and hold, and what organisations may spend."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from promptjobs.db.models.base import Base, no_tokens, no_usd, now, zero


class LedgerRow(Base):
    """What a job has spent and holds in one category. A job has a row for each category from its creation on.

    usd, tokens: of settled calls. held: reserved for calls under way. unsettled: the most that calls can have used
    whose usage will never be known. unpriced_calls: settled, but at a price that is unknown.
    """

    __tablename__ = "ledger"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    category: Mapped[str] = mapped_column(primary_key=True)
    calls: Mapped[int] = zero()
    unpriced_calls: Mapped[int] = zero()
    tokens: Mapped[int] = no_tokens()
    usd: Mapped[Decimal] = no_usd()
    held_tokens: Mapped[int] = no_tokens()
    held_usd: Mapped[Decimal] = no_usd()
    unsettled_tokens: Mapped[int] = no_tokens()
    unsettled_usd: Mapped[Decimal] = no_usd()

    __table_args__ = (
        CheckConstraint("usd >= 0 AND held_usd >= 0 AND unsettled_usd >= 0", name="usd"),
        CheckConstraint("tokens >= 0 AND held_tokens >= 0 AND unsettled_tokens >= 0", name="tokens"),
        {"postgresql_with": {"fillfactor": "50"}},
    )


class HoldRow(Base):
    """What is reserved for one call under way. One that outlives expires_at was left by a process that died.

    holder: the advisory lock that the reserving process holds for as long as it lives and is connected; null where
    only the time counts.
    """

    __tablename__ = "holds"

    id: Mapped[bytes] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(index=True)
    organisation: Mapped[str]
    category: Mapped[str]
    tokens: Mapped[int] = mapped_column(BigInteger)
    usd: Mapped[Decimal]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    holder: Mapped[int | None] = mapped_column(BigInteger)


class BalanceRow(Base):
    """What an organisation may still spend. One without a row may spend without a limit."""

    __tablename__ = "balances"

    organisation: Mapped[str] = mapped_column(primary_key=True)
    usd: Mapped[Decimal]
    held_usd: Mapped[Decimal] = no_usd()
    updated_at: Mapped[datetime] = now()

    __table_args__ = (CheckConstraint("held_usd >= 0", name="held_usd"),)
