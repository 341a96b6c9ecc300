"""tiers: which of a job's models answers a rollout

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("rollouts", "tokens"):
        op.add_column(table, sa.Column("tier", sa.Text(), server_default="hi", nullable=False))


def downgrade() -> None:
    for table in ("tokens", "rollouts"):
        op.drop_column(table, "tier")
