"""Experiments: what was asked for. Their jobs stand among the jobs; all that an experiment tells is read from those."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from promptjobs.db.models.base import Base, now


class Experiment(Base):
    """Jobs that belong together, of which at most `parallelism` run at a time.

    sent: what was asked for, JSON text without secrets. metadata_json: the client's own. cancel_requested_at: when all
    its jobs were cancelled together.
    """

    __tablename__ = "experiments"

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation: Mapped[str]
    name: Mapped[str]
    description: Mapped[str | None]
    parallelism: Mapped[int]
    sent: Mapped[str]
    metadata_json: Mapped[str] = mapped_column("metadata", server_default="{}")
    created_at: Mapped[datetime] = now()
    cancel_requested_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("parallelism BETWEEN 1 AND 64", name="parallelism"),
        Index("ix_experiments_organisation_created_at_id", "organisation", "created_at", "id"),
    )
