"""Balances, ledger, reservations and usage.

Triggers keep the ledger append-only, whoever is connected.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from osslo.db.base import BigId, UtcDateTime

revision = "0002"
down_revision = "0001"

_TABLES = (
    "ledger_processes",
    "usage_daily",
    "usage",
    "reservations",
    "ledger_entries",
    "balances",
)


def upgrade() -> None:
    """Create the tables and the triggers."""
    _create_money()
    _create_reservations()
    _create_usage()
    op.create_table(
        "ledger_processes",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_processes"),
    )
    if op.get_bind().dialect.name == "postgresql":
        _protect_on_postgresql()
    else:
        _protect_on_sqlite()


def downgrade() -> None:
    """Drop the tables."""
    for table in _TABLES:
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION osslo_append_only()")


def _create_money() -> None:
    op.create_table(
        "balances",
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("balance_nanousd", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("balance_nanousd >= 0", name="ck_balances_not_negative"),
        sa.PrimaryKeyConstraint("user_id", name="pk_balances"),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("id", BigId, nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("amount_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("balance_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("actor_id", sa.String(length=64), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_entries"),
        sa.UniqueConstraint("idempotency_key", name="uq_ledger_entries_idempotency_key"),
    )
    op.create_index("ix_ledger_entries_user_id_id", "ledger_entries", ["user_id", "id"])
    op.create_index("ix_ledger_entries_request_id", "ledger_entries", ["request_id"])


def _create_reservations() -> None:
    op.create_table(
        "reservations",
        *_request_columns(),
        sa.Column("process_id", sa.String(length=64), nullable=False),
        sa.Column("reserved_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("input_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("output_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("max_tokens", sa.Integer(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("cached_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("reasoning_tokens", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reservations"),
    )
    op.create_index("ix_reservations_process_id", "reservations", ["process_id"])
    op.create_index("ix_reservations_key_id", "reservations", ["key_id"])


def _create_usage() -> None:
    op.create_table(
        "usage",
        *_request_columns(),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("error", sa.String(length=64), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("cached_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("reasoning_tokens", sa.Integer(), nullable=False),
        sa.Column("cost_nanousd", sa.BigInteger(), nullable=False),
        sa.Column("first_token_ms", sa.Float(), nullable=True),
        sa.Column("duration_ms", sa.Float(), nullable=True),
        sa.Column("tokens_per_second", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_usage"),
    )
    op.create_index("ix_usage_request_id", "usage", ["request_id"])
    op.create_index("ix_usage_at", "usage", ["at"])
    op.create_index("ix_usage_user_id_at", "usage", ["user_id", "at"])
    op.create_index("ix_usage_key_id_at", "usage", ["key_id", "at"])
    counted = (
        "requests",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "cost_nanousd",
    )
    op.create_table(
        "usage_daily",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("protocol", sa.String(length=32), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in counted),
        sa.PrimaryKeyConstraint(
            "day", "user_id", "key_id", "model", "protocol", name="pk_usage_daily"
        ),
    )
    op.create_index("ix_usage_daily_key_id_day", "usage_daily", ["key_id", "day"])
    op.create_index("ix_usage_daily_user_id_day", "usage_daily", ["user_id", "day"])


def _request_columns() -> tuple[sa.Column[str], ...]:
    return (
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("protocol", sa.String(length=32), nullable=False),
    )


def _protect_on_sqlite() -> None:
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER ledger_entries_no_{act.lower()} BEFORE {act} ON ledger_entries "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        )


def _protect_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION osslo_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE ON ledger_entries "
        "FOR EACH ROW EXECUTE FUNCTION osslo_append_only()"
    )
