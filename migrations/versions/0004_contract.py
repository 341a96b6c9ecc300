"""contract: keys and secrets of organisations, saved configs, idempotency keys, webhooks, labels and forks of jobs

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _now(name: str) -> sa.Column[object]:
    default = sa.text("clock_timestamp()")
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=False)


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=True)


def _text(name: str, *, is_nullable: bool = False, default: str | None = None) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=is_nullable, server_default=default)


def upgrade() -> None:
    _extend_jobs()
    op.create_table(
        "api_keys",
        _text("id"),
        _text("organisation"),
        _text("name"),
        _text("purpose", default="api"),
        _text("prefix"),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        _now("created_at"),
        _time("last_used_at"),
        _time("revoked_at"),
        sa.CheckConstraint("purpose IN ('api','metrics')", name=op.f("ck_api_keys_purpose")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_table(
        "secrets",
        _text("organisation"),
        _text("kind"),
        _text("name"),
        _text("id"),
        _text("sealed"),
        _now("created_at"),
        _now("updated_at"),
        sa.CheckConstraint("kind IN ('provider','environment')", name=op.f("ck_secrets_kind")),
        sa.PrimaryKeyConstraint("organisation", "kind", "name", name=op.f("pk_secrets")),
        sa.UniqueConstraint("id", name=op.f("uq_secrets_id")),
    )
    op.create_table(
        "saved_configs",
        _text("organisation"),
        _text("name"),
        _text("algorithm"),
        _text("description", is_nullable=True),
        _text("config_body"),
        _now("created_at"),
        _now("updated_at"),
        sa.PrimaryKeyConstraint("organisation", "name", name=op.f("pk_saved_configs")),
    )
    op.create_table(
        "idempotency_keys",
        _text("organisation"),
        _text("route"),
        _text("key"),
        sa.Column("body_digest", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        _text("content_type"),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("organisation", "route", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    _create_webhooks()


def _extend_jobs() -> None:
    op.add_column("jobs", sa.Column("labels", postgresql.JSONB(), server_default="{}", nullable=False))
    op.add_column("jobs", _text("parent_id", is_nullable=True))
    op.add_column("jobs", _text("config_name", is_nullable=True))
    op.drop_index("ix_jobs_created_at_id", table_name="jobs")
    op.drop_index("ix_jobs_status_created_at_id", table_name="jobs")
    # Every list is that of an organisation.
    for filtered in ([], ["status"], ["algorithm"]):
        columns = ["organisation", *filtered, "created_at", "id"]
        op.create_index(f"ix_jobs_{'_'.join(columns)}", "jobs", columns, unique=False)
    op.create_index(
        "ix_jobs_labels",
        "jobs",
        ["labels"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
    )
    has_name = sa.text("config_name IS NOT NULL")
    columns = ["organisation", "config_name", "created_at", "id"]
    op.create_index(f"ix_jobs_{'_'.join(columns)}", "jobs", columns, unique=False, postgresql_where=has_name)
    has_parent = sa.text("parent_id IS NOT NULL")
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"], unique=False, postgresql_where=has_parent)


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        _text("id"),
        _text("organisation"),
        _text("url"),
        _text("description", is_nullable=True),
        _text("secret"),
        sa.Column("event_types", sa.ARRAY(sa.Text()), nullable=False),
        _now("created_at"),
        _now("updated_at"),
        _time("disabled_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_organisation"), "webhooks", ["organisation"], unique=False)
    op.create_table(
        "webhook_deliveries",
        _text("id"),
        _text("webhook_id"),
        _text("job_id"),
        _text("event_type"),
        _text("payload"),
        _text("status", default="pending"),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _time("next_attempt_at"),
        sa.Column("response_status", sa.Integer(), nullable=True),
        _text("error", is_nullable=True),
        _now("created_at"),
        _time("delivered_at"),
        sa.CheckConstraint("status IN ('pending','delivered','failed')", name=op.f("ck_webhook_deliveries_status")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(
        "ix_webhook_deliveries_webhook_id_created_at_id", "webhook_deliveries", ["webhook_id", "created_at", "id"]
    )
    is_pending = sa.text("status = 'pending'")
    op.create_index(
        "ix_webhook_deliveries_next_attempt_at", "webhook_deliveries", ["next_attempt_at"], postgresql_where=is_pending
    )


def downgrade() -> None:
    for table in (
        "webhook_deliveries",
        "webhooks",
        "idempotency_keys",
        "saved_configs",
        "secrets",
        "api_keys",
    ):
        op.drop_table(table)
    for index in (
        "ix_jobs_parent_id",
        "ix_jobs_organisation_config_name_created_at_id",
        "ix_jobs_labels",
        "ix_jobs_organisation_algorithm_created_at_id",
        "ix_jobs_organisation_status_created_at_id",
        "ix_jobs_organisation_created_at_id",
    ):
        op.drop_index(index, table_name="jobs")
    op.create_index("ix_jobs_created_at_id", "jobs", ["created_at", "id"], unique=False)
    op.create_index("ix_jobs_status_created_at_id", "jobs", ["status", "created_at", "id"], unique=False)
    for column in ("config_name", "parent_id", "labels"):
        op.drop_column("jobs", column)
