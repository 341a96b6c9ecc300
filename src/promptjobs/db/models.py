"""The tables. Bodies are text and never jsonb, which would reorder keys and rewrite numbers."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Text,
    func,
    text,
)
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


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


def _zero() -> Mapped[int]:
    return mapped_column(Integer, server_default=text("0"))


def _no_tokens() -> Mapped[int]:
    return mapped_column(BigInteger, server_default=text("0"))


def _no_usd() -> Mapped[Decimal]:
    return mapped_column(server_default=text("0"))


def _tier() -> Mapped[str]:
    """Which of the job's models answers: `hi`, the one under optimization, or `lo`, its stand-in."""
    return mapped_column(server_default="hi")


def _job() -> Mapped[str]:
    """First part of the key. Tables that a running job writes have no foreign key to it: checking one for each row
    halves the rate of the journal, and the fence of its statement makes sure that the job exists."""
    return mapped_column(primary_key=True)


class Job(Base):
    """One optimization, its lease and its outcome. last_seq and last_group are allocated under this row's lock.

    labels: the client's own metadata as far as lists are filtered by it, each value as text. task_app_key: sealed.
    parent_id: the job that this one was forked from, which may have been deleted since.
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
    task_app_key: Mapped[str | None]
    error: Mapped[str | None]
    finish_reason: Mapped[str | None]
    best_score: Mapped[float | None]
    best_train_score: Mapped[float | None]
    best_validation_score: Mapped[float | None]
    best_snapshot_id: Mapped[str | None]
    progress: Mapped[str | None]
    search_version: Mapped[int | None]
    epoch: Mapped[int] = _zero()
    attempts: Mapped[int] = _zero()
    claimed_records: Mapped[int | None] = mapped_column(BigInteger)
    last_seq: Mapped[int] = _zero()
    last_group: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    worker_id: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    pause_requested_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    paused_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "status IN ('pending','queued','running','paused','succeeded','failed','cancelled')", name="status"
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
        Index("ix_jobs_parent_id", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
        {"postgresql_with": {"fillfactor": "50"}},
    )


class Event(Base):
    """The job's stream: seq is 1..n without a gap."""

    __tablename__ = "events"

    job_id: Mapped[str] = _job()
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    turn: Mapped[int | None]
    type: Mapped[str]
    message: Mapped[str]
    level: Mapped[str]
    data: Mapped[str]
    created_at: Mapped[datetime] = _now()


class CandidateRow(Base):
    """A prompt that was proposed. prompt is null for the task app's own messages, before their pattern is known."""

    __tablename__ = "candidates"

    job_id: Mapped[str] = _job()
    candidate_id: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int]
    baseline_id: Mapped[str | None]
    prompt: Mapped[str | None]
    parents: Mapped[str]
    operator: Mapped[str]
    generation: Mapped[int]
    turn: Mapped[int]
    created_at: Mapped[datetime] = _now()


class TrialRow(Base):
    """One candidate on a list of seeds; scores[i] belongs to seeds[i], null where the rollout failed."""

    __tablename__ = "trials"

    job_id: Mapped[str] = _job()
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    candidate_id: Mapped[str]
    phase: Mapped[str]
    is_baseline: Mapped[bool]
    seeds: Mapped[list[int]]
    scores: Mapped[str]
    score: Mapped[float | None]
    failed: Mapped[int]
    reused: Mapped[int]
    lane: Mapped[str]
    generation: Mapped[int]
    turn: Mapped[int]
    created_at: Mapped[datetime] = _now()

    __table_args__ = (CheckConstraint("score BETWEEN 0 AND 1", name="score"),)


class RolloutRow(Base):
    """An answer to a rollout ask: a score, or the reason why there is none."""

    __tablename__ = "rollouts"

    job_id: Mapped[str] = _job()
    key: Mapped[bytes] = mapped_column(primary_key=True)
    n: Mapped[int]
    candidate_id: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    draw: Mapped[int]
    phase: Mapped[str]
    is_baseline: Mapped[bool]
    tier: Mapped[str] = _tier()
    score: Mapped[float | None]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    unknown_tokens: Mapped[int]
    cost_usd: Mapped[float | None]
    seconds: Mapped[float]
    attempts: Mapped[int]
    body: Mapped[str]
    epoch: Mapped[int]
    created_at: Mapped[datetime] = _now()

    __table_args__ = (
        CheckConstraint("score BETWEEN 0 AND 1", name="score"),
        CheckConstraint("(score IS NULL) <> (reason IS NULL)", name="score_or_reason"),
        Index("ix_rollouts_job_id_candidate_id_seed", "job_id", "candidate_id", "seed"),
    )


class CompletionRow(Base):
    """An answer to a completion ask, with what was sent and what came back."""

    __tablename__ = "completions"

    job_id: Mapped[str] = _job()
    key: Mapped[bytes] = mapped_column(primary_key=True)
    n: Mapped[int]
    purpose: Mapped[str]
    provider: Mapped[str]
    model: Mapped[str]
    draw: Mapped[int]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    finish_reason: Mapped[str | None]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    unknown_tokens: Mapped[int]
    cost_usd: Mapped[float | None]
    seconds: Mapped[float]
    attempts: Mapped[int]
    request: Mapped[str]
    body: Mapped[str]
    epoch: Mapped[int]
    created_at: Mapped[datetime] = _now()


class Turn(Base):
    """The order in which lanes were resumed: with the answers it determines the run."""

    __tablename__ = "turns"

    job_id: Mapped[str] = _job()
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    lane: Mapped[str]
    cause: Mapped[str]
    chain: Mapped[bytes]
    search_version: Mapped[int]
    detail: Mapped[str | None]
    epoch: Mapped[int]
    created_at: Mapped[datetime] = _now()


class Token(Base):
    """A capability to call the interceptor for one attempt at one ask; only its SHA-256 is stored."""

    __tablename__ = "tokens"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(index=True)
    key: Mapped[bytes]
    candidate_id: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    phase: Mapped[str]
    tier: Mapped[str] = _tier()
    attempt: Mapped[int]
    epoch: Mapped[int]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()


class Call(Base):
    """One call of a task app's LLM through the interceptor: what was sent, what came back, what it cost."""

    __tablename__ = "calls"

    token: Mapped[bytes] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    job_id: Mapped[str]
    key: Mapped[bytes]
    candidate_id: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    phase: Mapped[str]
    attempt: Mapped[int]
    provider: Mapped[str]
    model: Mapped[str]
    streamed: Mapped[bool]
    status: Mapped[int]
    error: Mapped[str | None]
    messages: Mapped[str]
    reply: Mapped[str | None]
    finish_reason: Mapped[str | None]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    unknown_tokens: Mapped[int]
    cost_usd: Mapped[float | None]
    seconds: Mapped[float]
    created_at: Mapped[datetime] = _now()

    __table_args__ = (Index("ix_calls_job_id_key", "job_id", "key"),)


class Snapshot(Base):
    """A published result: its payload is what users export. score_seeds: on how many seeds the score rests."""

    __tablename__ = "snapshots"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    label: Mapped[str]
    score: Mapped[float | None]
    score_seeds: Mapped[int | None]
    payload: Mapped[str]
    created_at: Mapped[datetime] = _now()

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
    created_at: Mapped[datetime] = _now()

    __table_args__ = (CheckConstraint("score BETWEEN 0 AND 1", name="score"),)


class LedgerRow(Base):
    """What a job has spent and holds in one category. A job has a row for each category from its creation on.

    usd, tokens: of settled calls. held: reserved for calls under way. unsettled: the most that calls can have used
    whose usage will never be known. unpriced_calls: settled, but at a price that is unknown.
    """

    __tablename__ = "ledger"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    category: Mapped[str] = mapped_column(primary_key=True)
    calls: Mapped[int] = _zero()
    unpriced_calls: Mapped[int] = _zero()
    tokens: Mapped[int] = _no_tokens()
    usd: Mapped[Decimal] = _no_usd()
    held_tokens: Mapped[int] = _no_tokens()
    held_usd: Mapped[Decimal] = _no_usd()
    unsettled_tokens: Mapped[int] = _no_tokens()
    unsettled_usd: Mapped[Decimal] = _no_usd()

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
    held_usd: Mapped[Decimal] = _no_usd()
    updated_at: Mapped[datetime] = _now()

    __table_args__ = (CheckConstraint("held_usd >= 0", name="held_usd"),)


class ApiKey(Base):
    """A key of an organisation. digest: SHA-256 of the key, which is shown once and never stored.

    prefix: its first characters, by which people tell keys apart. purpose: `api`, or `metrics` for /metrics alone.
    """

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation: Mapped[str]
    name: Mapped[str]
    purpose: Mapped[str] = mapped_column(server_default="api")
    prefix: Mapped[str]
    digest: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = _now()
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("purpose IN ('api','metrics')", name="purpose"),)


class SecretRow(Base):
    """A secret that an organisation has left with us; `sealed` can only be opened with the service's secret key.

    kind: `provider` (name: the provider's), or `environment` (name: of an environment variable of task apps).
    """

    __tablename__ = "secrets"

    organisation: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    sealed: Mapped[str]
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()

    __table_args__ = (CheckConstraint("kind IN ('provider','environment')", name="kind"),)


class SavedConfig(Base):
    """A config under a name, for jobs to be created by it. config_body: JSON text without secrets."""

    __tablename__ = "saved_configs"

    organisation: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[str]
    description: Mapped[str | None]
    config_body: Mapped[str]
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()


class IdempotencyKey(Base):
    """A request that must not be carried out twice: what it was answered, committed with what it has done.

    body_digest: SHA-256 of what was asked. body: what was answered, sealed, since a secret may be shown in it once.
    """

    __tablename__ = "idempotency_keys"

    organisation: Mapped[str] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_digest: Mapped[bytes]
    status: Mapped[int]
    content_type: Mapped[str]
    body: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)


class Webhook(Base):
    """An address that is told of an organisation's events. secret: sealed. event_types: empty for all."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation: Mapped[str] = mapped_column(index=True)
    url: Mapped[str]
    description: Mapped[str | None]
    secret: Mapped[str]
    event_types: Mapped[list[str]]
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()
    disabled_at: Mapped[datetime | None]


class WebhookDelivery(Base):
    """A message to a webhook, and what has come of it. id: the message's, the same in every attempt.

    payload: the body as it is signed and sent. next_attempt_at: when it is tried, null once it is over.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[str]
    event_type: Mapped[str]
    payload: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="pending")
    attempts: Mapped[int] = _zero()
    next_attempt_at: Mapped[datetime | None]
    response_status: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = _now()
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("status IN ('pending','delivered','failed')", name="status"),
        Index("ix_webhook_deliveries_webhook_id_created_at_id", "webhook_id", "created_at", "id"),
        Index("ix_webhook_deliveries_next_attempt_at", "next_attempt_at", postgresql_where=text("status = 'pending'")),
    )
