"""experiments: jobs that belong together, of which so many run at a time

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

POSITIONS, PLACES = "ix_jobs_experiment_id_experiment_position", "ix_jobs_experiment_id_experiment_slot"
PLACED = "ck_jobs_experiment_slot"
QUEUES = (
    ("ix_jobs_queue_alone", ["created_at", "id"], "experiment_id IS NULL"),
    ("ix_jobs_queue_experiments", ["experiment_id", "experiment_position"], "experiment_id IS NOT NULL"),
    ("ix_jobs_queue_cancelled", ["created_at"], "experiment_id IS NOT NULL AND cancel_requested_at IS NOT NULL"),
)
COLUMNS = (
    ("experiment_id", sa.Text),
    ("experiment_position", sa.Integer),
    ("experiment_label", sa.Text),
    ("experiment_group", sa.Text),
    ("experiment_settings", sa.Text),
    ("experiment_slot", sa.Integer),
)


def upgrade() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organisation", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("parallelism", sa.Integer(), nullable=False),
        sa.Column("sent", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), server_default="{}", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("parallelism BETWEEN 1 AND 64", name=op.f("ck_experiments_parallelism")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
    )
    op.create_index(
        "ix_experiments_organisation_created_at_id", "experiments", ["organisation", "created_at", "id"], unique=False
    )
    for name, kind in COLUMNS:
        op.add_column("jobs", sa.Column(name, kind(), nullable=True))
    op.create_foreign_key(op.f("fk_jobs_experiment_id"), "jobs", "experiments", ["experiment_id"], ["id"])
    op.create_index(
        POSITIONS,
        "jobs",
        ["experiment_id", "experiment_position"],
        unique=True,
        postgresql_where=sa.text("experiment_id IS NOT NULL"),
    )
    op.create_index(
        PLACES,
        "jobs",
        ["experiment_id", "experiment_slot"],
        unique=True,
        postgresql_where=sa.text("status = 'running' AND experiment_slot IS NOT NULL"),
    )
    for name, columns, condition in QUEUES:
        op.create_index(
            name, "jobs", columns, unique=False, postgresql_where=sa.text(f"status = 'queued' AND {condition}")
        )
    op.create_check_constraint(
        op.f(PLACED),
        "jobs",
        "status <> 'running' OR experiment_id IS NULL OR experiment_slot IS NOT NULL"
        " OR cancel_requested_at IS NOT NULL",
    )


def downgrade() -> None:
    op.drop_constraint(op.f(PLACED), "jobs", type_="check")
    for index in (*(name for name, _, _ in QUEUES), PLACES, POSITIONS):
        op.drop_index(index, table_name="jobs")
    op.drop_constraint(op.f("fk_jobs_experiment_id"), "jobs", type_="foreignkey")
    for name, _ in reversed(COLUMNS):
        op.drop_column("jobs", name)
    op.drop_table("experiments")
