"""Usage by the hour, which stays when requests' own rows are deleted; and which requests were a
batch's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from osslo.db.base import UtcDateTime

revision = "0006"
down_revision = "0005"

_LABELS = ("hour", "user_id", "key_id", "model", "protocol", "batch")
_COUNTED = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cost_nanousd",
)


def upgrade() -> None:
    """Create the table and add the columns; what was before is no batch's."""
    for table in ("reservations", "usage"):
        op.add_column(
            table, sa.Column("batch", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    op.create_table(
        "usage_hourly",
        sa.Column("hour", UtcDateTime(), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("protocol", sa.String(length=32), nullable=False),
        sa.Column("batch", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTED),
        sa.PrimaryKeyConstraint(*_LABELS, name="pk_usage_hourly"),
    )
    op.create_index("ix_usage_hourly_user_id_hour", "usage_hourly", ["user_id", "hour"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("usage_hourly")
    for table in ("reservations", "usage"):
        with op.batch_alter_table(table) as changed:
            changed.drop_column("batch")
