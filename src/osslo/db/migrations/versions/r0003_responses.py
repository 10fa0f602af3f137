"""Stored responses and conversations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from osslo.db.base import UtcDateTime

revision = "0003"
down_revision = "0002"

_ID = sa.String(length=160)


def upgrade() -> None:
    """Create the tables."""
    _create_responses()
    _create_conversations()


def downgrade() -> None:
    """Drop the tables."""
    for table in (
        "conversation_items",
        "conversations",
        "response_items",
        "responses",
    ):
        op.drop_table(table)


def _create_responses() -> None:
    op.create_table(
        "responses",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", _ID, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("background", sa.Boolean(), nullable=False),
        sa.Column("previous_id", _ID, nullable=True),
        sa.Column("conversation_id", _ID, nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("log", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_responses"),
    )
    _index("responses", "tenant", "created_at")
    _index("responses", "expires_at")
    _index("responses", "lease_until")
    op.create_table(
        "response_items",
        sa.Column("response_id", _ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("is_output", sa.Boolean(), nullable=False),
        sa.Column("item_id", _ID, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("response_id", "position", name="pk_response_items"),
        sa.ForeignKeyConstraint(
            ["response_id"],
            ["responses.id"],
            name="fk_response_items_response_id_responses",
            ondelete="CASCADE",
        ),
    )
    _index("response_items", "item_id")


def _create_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", _ID, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("next_position", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("meta", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
    )
    _index("conversations", "tenant", "created_at")
    _index("conversations", "expires_at")
    op.create_table(
        "conversation_items",
        sa.Column("conversation_id", _ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("item_id", _ID, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "position", name="pk_conversation_items"),
        sa.UniqueConstraint(
            "conversation_id",
            "item_id",
            name="uq_conversation_items_conversation_id_item_id",
        ),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name="fk_conversation_items_conversation_id_conversations",
            ondelete="CASCADE",
        ),
    )
    _index("conversation_items", "item_id")


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))
