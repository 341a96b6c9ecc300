"""What organisations leave with the service: keys, secrets, configs, webhooks."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from promptjobs.db.models.base import Base, now, zero


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
    created_at: Mapped[datetime] = now()
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
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()

    __table_args__ = (CheckConstraint("kind IN ('provider','environment')", name="kind"),)


class SavedConfig(Base):
    """A config under a name, for jobs to be created by it. config_body: JSON text without secrets."""

    __tablename__ = "saved_configs"

    organisation: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[str]
    description: Mapped[str | None]
    config_body: Mapped[str]
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()


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
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()
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
    attempts: Mapped[int] = zero()
    next_attempt_at: Mapped[datetime | None]
    response_status: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = now()
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("status IN ('pending','delivered','failed')", name="status"),
        Index("ix_webhook_deliveries_webhook_id_created_at_id", "webhook_id", "created_at", "id"),
        Index("ix_webhook_deliveries_next_attempt_at", "next_attempt_at", postgresql_where=text("status = 'pending'")),
    )
