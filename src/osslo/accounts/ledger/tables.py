"""The ledger's tables, as `r0002_ledger` makes them. Only this folder uses them.

No row refers to users or keys by a foreign key: what was charged outlives whom it was charged to.
Moments are the database's own.
"""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    Float,
    Index,
    Integer,
    String,
    Text,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from osslo.db.base import Base, BigId, UtcDateTime

_ID = String(64)
_WORD = String(32)
_MODEL = String(200)


class BalanceRow(Base):
    """What a user can still spend: the sum of the user's ledger entries, always. Whoever changes
    anything of a user's money locks this row first."""

    __tablename__ = "balances"
    __table_args__ = (CheckConstraint("balance_nanousd >= 0", name="not_negative"),)

    user_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    balance_nanousd: Mapped[int] = mapped_column(BigInteger)


class EntryRow(Base):
    """One movement of money. Rows are only ever added: triggers refuse all else.

    `balance_nanousd` is the user's balance after it. `actor_id` is who made it, where a person or
    a payment system did.
    """

    __tablename__ = "ledger_entries"
    __table_args__ = (Index(None, "user_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[str] = mapped_column(_ID)
    kind: Mapped[str] = mapped_column(_WORD)
    amount_nanousd: Mapped[int] = mapped_column(BigInteger)
    balance_nanousd: Mapped[int] = mapped_column(BigInteger)
    idempotency_key: Mapped[str] = mapped_column(String(200), unique=True)
    request_id: Mapped[str | None] = mapped_column(String(128), index=True)
    actor_id: Mapped[str | None] = mapped_column(_ID)
    note: Mapped[str | None] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime())


class ReservationRow(Base):
    """One running request: what it may cost at most, at which prices, and how much of it is
    durably known to have been generated. The row goes when the request ends."""

    __tablename__ = "reservations"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    request_id: Mapped[str] = mapped_column(String(128))
    process_id: Mapped[str] = mapped_column(_ID, index=True)
    user_id: Mapped[str] = mapped_column(_ID)
    key_id: Mapped[str] = mapped_column(_ID, index=True)
    model: Mapped[str] = mapped_column(_MODEL)
    protocol: Mapped[str] = mapped_column(_WORD)
    reserved_nanousd: Mapped[int] = mapped_column(BigInteger)
    input_nanousd: Mapped[int] = mapped_column(BigInteger)
    cached_input_nanousd: Mapped[int] = mapped_column(BigInteger)
    output_nanousd: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(Integer)
    max_tokens: Mapped[int] = mapped_column(Integer)
    cached_tokens: Mapped[int | None] = mapped_column(Integer)
    completion_tokens: Mapped[int] = mapped_column(Integer)
    reasoning_tokens: Mapped[int] = mapped_column(Integer)
    batch: Mapped[bool] = mapped_column(Boolean, server_default=false())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())


class UsageRow(Base):
    """One ended request, under its reservation's id. No text of it is kept."""

    __tablename__ = "usage"
    __table_args__ = (Index(None, "user_id", "at"), Index(None, "key_id", "at"))

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    request_id: Mapped[str] = mapped_column(String(128), index=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime(), index=True)
    user_id: Mapped[str] = mapped_column(_ID)
    key_id: Mapped[str] = mapped_column(_ID)
    model: Mapped[str] = mapped_column(_MODEL)
    protocol: Mapped[str] = mapped_column(_WORD)
    status: Mapped[str] = mapped_column(_WORD)
    error: Mapped[str | None] = mapped_column(String(64))
    prompt_tokens: Mapped[int] = mapped_column(Integer)
    cached_tokens: Mapped[int] = mapped_column(Integer)
    completion_tokens: Mapped[int] = mapped_column(Integer)
    reasoning_tokens: Mapped[int] = mapped_column(Integer)
    cost_nanousd: Mapped[int] = mapped_column(BigInteger)
    first_token_ms: Mapped[float | None] = mapped_column(Float)
    duration_ms: Mapped[float | None] = mapped_column(Float)
    tokens_per_second: Mapped[float | None] = mapped_column(Float)
    batch: Mapped[bool] = mapped_column(Boolean, server_default=false())


class _Sums:
    """What requests used together."""

    requests: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger)
    cost_nanousd: Mapped[int] = mapped_column(BigInteger)


class DailyUsageRow(_Sums, Base):
    """The usage of a day (UTC), added up in the same transactions; it stays when the requests'
    own rows are deleted."""

    __tablename__ = "usage_daily"
    __table_args__ = (Index(None, "key_id", "day"), Index(None, "user_id", "day"))

    day: Mapped[date] = mapped_column(Date, primary_key=True)
    user_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    key_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    model: Mapped[str] = mapped_column(_MODEL, primary_key=True)
    protocol: Mapped[str] = mapped_column(_WORD, primary_key=True)


class HourlyUsageRow(_Sums, Base):
    """What the requests of an hour (UTC) used whose own rows were deleted: a request counts either
    here or by its row in `usage`, never by both."""

    __tablename__ = "usage_hourly"
    __table_args__ = (Index(None, "user_id", "hour"),)

    hour: Mapped[datetime] = mapped_column(UtcDateTime(), primary_key=True)
    user_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    key_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    model: Mapped[str] = mapped_column(_MODEL, primary_key=True)
    protocol: Mapped[str] = mapped_column(_WORD, primary_key=True)
    batch: Mapped[bool] = mapped_column(Boolean, primary_key=True)


class ProcessRow(Base):
    """A process that has reservations; `beat` goes up for as long as it lives."""

    __tablename__ = "ledger_processes"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    beat: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime())
