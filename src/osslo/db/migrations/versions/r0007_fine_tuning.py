"""Fine-tuning jobs and their events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from osslo.db.base import UtcDateTime

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "fine_tuning_jobs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("adapter", sa.String(64), nullable=False),
        sa.Column("training_file", sa.String(64), nullable=False),
        sa.Column("validation_file", sa.String(64)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("epochs", sa.Integer),
        sa.Column("rate_factor", sa.Float),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("metadata", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("result_files", sa.JSON, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("trained_tokens", sa.BigInteger, nullable=False),
        sa.Column("metrics", sa.JSON),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime),
        sa.Column("estimated_finish", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_fine_tuning_jobs"),
    )
    op.create_index(
        "ix_fine_tuning_jobs_tenant_created_at_id",
        "fine_tuning_jobs",
        ["tenant", "created_at", "id"],
    )
    op.create_table(
        "fine_tuning_events",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column(
            "job_id",
            sa.String(64),
            sa.ForeignKey(
                "fine_tuning_jobs.id",
                name="fk_fine_tuning_events_job_id_fine_tuning_jobs",
                ondelete="CASCADE",
            ),
            nullable=False,
        ),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.JSON),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fine_tuning_events"),
        sa.UniqueConstraint("job_id", "number", name="uq_fine_tuning_events_job_id_number"),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("fine_tuning_events", "fine_tuning_jobs"):
        op.drop_table(table)
