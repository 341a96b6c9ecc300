"""A job, and what it publishes."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from promptjobs.db.models.base import Base, job_key, now, zero


class Job(Base):
    """One optimization, its lease and its outcome. last_seq and last_group are allocated under this row's lock.

    labels: the client's own metadata as far as lists are filtered by it, each value as text. task_app_key: sealed.
    parent_id: the job that this one was forked from, which may have been deleted since.

    experiment_*: null for a job of its own. _position: 1, 2, … in the experiment, the order in which its jobs start.
    _settings: JSON text of what tells the job from the others; _group: the same for jobs that differ in their random
    seed alone. _slot: 0, 1, … below the experiment's parallelism, which of its places the job has taken when it was
    last claimed; two that run never share one. Null where it needs none, for it runs only to publish a cancellation.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation: Mapped[str] = mapped_column(server_default="default")
    algorithm: Mapped[str]
    status: Mapped[str]
    config_sent: Mapped[str]
    config: Mapped[str]
    warnings: Mapped[str] = mapped_column(server_default="[]")
    metadata_json: Mapped[str] = mapped_column("metadata", server_default="{}")
    labels: Mapped[dict[str, str]] = mapped_column(server_default="{}")
    parent_id: Mapped[str | None]
    config_name: Mapped[str | None]
    experiment_id: Mapped[str | None] = mapped_column(ForeignKey("experiments.id"))
    experiment_position: Mapped[int | None]
    experiment_label: Mapped[str | None]
    experiment_group: Mapped[str | None]
    experiment_settings: Mapped[str | None]
    experiment_slot: Mapped[int | None]
    task_app_key: Mapped[str | None]
    error: Mapped[str | None]
    finish_reason: Mapped[str | None]
    best_score: Mapped[float | None]
    best_train_score: Mapped[float | None]
    best_validation_score: Mapped[float | None]
    best_snapshot_id: Mapped[str | None]
    progress: Mapped[str | None]
    search_version: Mapped[int | None]
    epoch: Mapped[int] = zero()
    attempts: Mapped[int] = zero()
    claimed_records: Mapped[int | None] = mapped_column(BigInteger)
    last_seq: Mapped[int] = zero()
    last_group: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    worker_id: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    pause_requested_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    paused_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "status IN ('pending','queued','running','paused','succeeded','failed','cancelled')", name="status"
        ),
        CheckConstraint(
            "status <> 'running' OR experiment_id IS NULL OR experiment_slot IS NOT NULL"
            " OR cancel_requested_at IS NOT NULL",
            name="experiment_slot",
        ),
        CheckConstraint("best_score BETWEEN 0 AND 1", name="best_score"),
        CheckConstraint("best_train_score BETWEEN 0 AND 1", name="best_train_score"),
        CheckConstraint("best_validation_score BETWEEN 0 AND 1", name="best_validation_score"),
        Index("ix_jobs_queue", "created_at", postgresql_where=text("status IN ('queued','running')")),
        Index("ix_jobs_organisation_created_at_id", "organisation", "created_at", "id"),
        Index("ix_jobs_organisation_status_created_at_id", "organisation", "status", "created_at", "id"),
        Index("ix_jobs_organisation_algorithm_created_at_id", "organisation", "algorithm", "created_at", "id"),
        Index("ix_jobs_labels", "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
        Index(
            "ix_jobs_organisation_config_name_created_at_id",
            "organisation",
            "config_name",
            "created_at",
            "id",
            postgresql_where=text("config_name IS NOT NULL"),
        ),
        Index(
            "ix_jobs_experiment_id_experiment_position",
            "experiment_id",
            "experiment_position",
            unique=True,
            postgresql_where=text("experiment_id IS NOT NULL"),
        ),
        Index(
            "ix_jobs_experiment_id_experiment_slot",
            "experiment_id",
            "experiment_slot",
            unique=True,
            postgresql_where=text("status = 'running' AND experiment_slot IS NOT NULL"),
        ),
        Index(
            "ix_jobs_queue_alone",
            "created_at",
            "id",
            postgresql_where=text("status = 'queued' AND experiment_id IS NULL"),
        ),
        Index(
            "ix_jobs_queue_experiments",
            "experiment_id",
            "experiment_position",
            postgresql_where=text("status = 'queued' AND experiment_id IS NOT NULL"),
        ),
        Index(
            "ix_jobs_queue_cancelled",
            "created_at",
            postgresql_where=text(
                "status = 'queued' AND experiment_id IS NOT NULL AND cancel_requested_at IS NOT NULL"
            ),
        ),
        Index("ix_jobs_parent_id", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
        {"postgresql_with": {"fillfactor": "50"}},
    )


class Event(Base):
    """The job's stream: seq is 1..n without a gap."""

    __tablename__ = "events"

    job_id: Mapped[str] = job_key()
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    turn: Mapped[int | None]
    type: Mapped[str]
    message: Mapped[str]
    level: Mapped[str]
    data: Mapped[str]
    created_at: Mapped[datetime] = now()


class Snapshot(Base):
    """A published result: its payload is what users export. score_seeds: on how many seeds the score rests."""

    __tablename__ = "snapshots"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    label: Mapped[str]
    score: Mapped[float | None]
    score_seeds: Mapped[int | None]
    payload: Mapped[str]
    created_at: Mapped[datetime] = now()

    __table_args__ = (CheckConstraint("score BETWEEN 0 AND 1", name="score"),)


class Artifact(Base):
    """A named product of a job, linked to the snapshot that holds its content."""

    __tablename__ = "artifacts"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id", ondelete="CASCADE"))
    label: Mapped[str]
    kind: Mapped[str]
    score: Mapped[float | None]
    score_seeds: Mapped[int | None]
    created_at: Mapped[datetime] = now()

    __table_args__ = (CheckConstraint("score BETWEEN 0 AND 1", name="score"),)
