"""ledger: what a job has spent and holds, by category; balances of organisations; pauses

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CATEGORIES = ("bootstrap", "policy", "validation", "test", "proposal", "judge")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("organisation", sa.Text(), server_default="default", nullable=False))
    op.add_column("jobs", sa.Column("pause_requested_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("paused_seconds", sa.Double(), server_default=sa.text("0"), nullable=False))
    for table in ("snapshots", "artifacts"):
        op.add_column(table, sa.Column("score_seeds", sa.Integer(), nullable=True))
    op.create_index("ix_jobs_status_created_at_id", "jobs", ["status", "created_at", "id"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("unpriced_calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("usd", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("held_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("held_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("unsettled_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("unsettled_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("usd >= 0 AND held_usd >= 0 AND unsettled_usd >= 0", name=op.f("ck_ledger_usd")),
        sa.CheckConstraint("tokens >= 0 AND held_tokens >= 0 AND unsettled_tokens >= 0", name=op.f("ck_ledger_tokens")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_ledger_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "category", name=op.f("pk_ledger")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("organisation", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("usd", sa.Numeric(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("holder", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
    )
    op.create_index(op.f("ix_holds_job_id"), "holds", ["job_id"], unique=False)
    op.create_index(op.f("ix_holds_expires_at"), "holds", ["expires_at"], unique=False)
    op.create_table(
        "balances",
        sa.Column("organisation", sa.Text(), nullable=False),
        sa.Column("usd", sa.Numeric(), nullable=False),
        sa.Column("held_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("held_usd >= 0", name=op.f("ck_balances_held_usd")),
        sa.PrimaryKeyConstraint("organisation", name=op.f("pk_balances")),
    )
    # Jobs of earlier versions get an account too, with what they are known to have spent.
    for category in CATEGORIES:
        op.execute(f"INSERT INTO ledger(job_id, category) SELECT id, '{category}' FROM jobs")
    op.execute(_SPENT_ON_CALLS)
    op.execute(_SPENT_ON_COMPLETIONS)


_SUMS = (
    "count(*) AS calls, "
    "count(*) FILTER (WHERE cost_usd IS NULL AND prompt_tokens + completion_tokens + unknown_tokens > 0) AS unpriced, "
    "sum(prompt_tokens + completion_tokens + unknown_tokens) AS tokens, "
    "coalesce(sum(cost_usd::numeric), 0) AS usd"
)
_TAKEN_OVER = "UPDATE ledger l SET calls = s.calls, unpriced_calls = s.unpriced, tokens = s.tokens, usd = s.usd FROM"
_SPENT_ON_CALLS = (
    f"{_TAKEN_OVER} (SELECT job_id, CASE phase WHEN 'optimization' THEN 'policy' ELSE phase END AS category, {_SUMS} "
    "FROM calls GROUP BY 1, 2) s WHERE l.job_id = s.job_id AND l.category = s.category"
)
_SPENT_ON_COMPLETIONS = (
    f"{_TAKEN_OVER} (SELECT job_id, CASE purpose WHEN 'judge' THEN 'judge' ELSE 'proposal' END AS category, {_SUMS} "
    "FROM completions WHERE purpose <> 'task_info' GROUP BY 1, 2) s "
    "WHERE l.job_id = s.job_id AND l.category = s.category"
)


def downgrade() -> None:
    op.drop_table("balances")
    op.drop_table("holds")
    op.drop_table("ledger")
    op.drop_index("ix_jobs_status_created_at_id", table_name="jobs")
    for table in ("artifacts", "snapshots"):
        op.drop_column(table, "score_seeds")
    for column in ("paused_seconds", "paused_at", "pause_requested_at", "organisation"):
        op.drop_column("jobs", column)
