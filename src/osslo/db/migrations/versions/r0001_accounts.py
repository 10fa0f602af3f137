"""Users, sessions, keys and prices."""

from __future__ import annotations

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""


def downgrade() -> None:
    """Drop the tables."""
