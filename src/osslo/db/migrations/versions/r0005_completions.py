"""Stored chat completions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from osslo.db.base import UtcDateTime

revision = "0005"
down_revision = "0004"

_ID = sa.String(length=160)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "completions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", _ID, nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("messages", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_completions"),
    )
    _index("completions", "tenant", "created_at", "id")
    _index("completions", "expires_at")
    op.create_table(
        "completion_metadata",
        sa.Column("completion_id", _ID, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        sa.PrimaryKeyConstraint("completion_id", "key", name="pk_completion_metadata"),
        sa.ForeignKeyConstraint(
            ["completion_id"],
            ["completions.id"],
            name="fk_completion_metadata_completion_id_completions",
            ondelete="CASCADE",
        ),
    )
    _index("completion_metadata", "key", "value")


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("completion_metadata")
    op.drop_table("completions")


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))
