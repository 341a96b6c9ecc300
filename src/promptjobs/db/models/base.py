"""What all tables share: the registry, how constraints are named, and columns that stand in many of them."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import ARRAY, BigInteger, DateTime, Double, Integer, LargeBinary, MetaData, Numeric, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads this as a plain class attribute
        str: Text,
        float: Double,
        Decimal: Numeric,
        datetime: DateTime(timezone=True),
        bytes: LargeBinary,
        list[int]: ARRAY(BigInteger),
        list[str]: ARRAY(Text),
        dict[str, str]: JSONB,
    }


def now() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


def zero() -> Mapped[int]:
    return mapped_column(Integer, server_default=text("0"))


def no_tokens() -> Mapped[int]:
    return mapped_column(BigInteger, server_default=text("0"))


def no_usd() -> Mapped[Decimal]:
    return mapped_column(server_default=text("0"))


def tier() -> Mapped[str]:
    """Which of the job's models answers: `hi`, the one under optimization, or `lo`, its stand-in."""
    return mapped_column(server_default="hi")


def job_key() -> Mapped[str]:
    """First part of the key. Tables that a running job writes have no foreign key to it: checking one for each row
    halves the rate of the journal, and the fence of its statement makes sure that the job exists."""
    return mapped_column(primary_key=True)
