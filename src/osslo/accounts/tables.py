"""The accounts' tables, as `r0001_accounts` makes them. Only repositories use them.

Secrets are stored as hashes: passwords by argon2id, keys by HMAC-SHA256 under the server's pepper,
the random tokens of sessions and links by SHA-256.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from osslo.db.base import Base, BigId, UtcDateTime

_ID = String(64)
_WORD = String(16)
_HASH = String(64)


class UserRow(Base):
    """A user."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    password_hash: Mapped[str | None] = mapped_column(Text)
    role: Mapped[str] = mapped_column(_WORD)
    state: Mapped[str] = mapped_column(_WORD)
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    last_sign_in_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class LinkRow(Base):
    """A one-time link: setup, password reset (with `user_id`) or invitation."""

    __tablename__ = "one_time_links"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    kind: Mapped[str] = mapped_column(_WORD)
    token_hash: Mapped[str] = mapped_column(_HASH, unique=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    invitation_id: Mapped[str | None] = mapped_column(ForeignKey("invitations.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime())
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class InvitationRow(Base):
    """An invitation; the secret is in its link."""

    __tablename__ = "invitations"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    email: Mapped[str | None] = mapped_column(String(254))
    role: Mapped[str] = mapped_column(_WORD)
    invited_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime())
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime())


class SessionRow(Base):
    """A signed-in browser."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    token_hash: Mapped[str] = mapped_column(_HASH, unique=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    csrf: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime())
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime())
    user_agent: Mapped[str] = mapped_column(String(300))
    address: Mapped[str] = mapped_column(String(64))


class KeyRow(Base):
    """An API key."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    prefix: Mapped[str] = mapped_column(String(32))
    hash: Mapped[str] = mapped_column(_HASH, unique=True)
    state: Mapped[str] = mapped_column(_WORD)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime())
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    networks: Mapped[list[str]] = mapped_column(JSON)
    guard: Mapped[str | None] = mapped_column(_WORD)
    management: Mapped[bool] = mapped_column(Boolean)
    spending_limit_nanousd: Mapped[int | None] = mapped_column(BigInteger)
    spending_period: Mapped[str] = mapped_column(_WORD)
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    retires_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    rotated_from: Mapped[str | None] = mapped_column(ForeignKey("keys.id"))


class PriceRow(Base):
    """A model's price for a time."""

    __tablename__ = "prices"
    __table_args__ = (Index(None, "model", "valid_from", unique=True),)

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    model: Mapped[str] = mapped_column(String(200))
    input_list_nanousd: Mapped[int] = mapped_column(BigInteger)
    cached_input_list_nanousd: Mapped[int] = mapped_column(BigInteger)
    output_list_nanousd: Mapped[int] = mapped_column(BigInteger)
    discount_bp: Mapped[int] = mapped_column(Integer)
    valid_from: Mapped[datetime] = mapped_column(UtcDateTime())
    valid_to: Mapped[datetime | None] = mapped_column(UtcDateTime())


class SettingRow(Base):
    """One of the settings that owners change while the server runs."""

    __tablename__ = "settings"

    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[Any] = mapped_column(JSON)


class VersionRow(Base):
    """Counts changes, so that every replica learns of them by reading one row."""

    __tablename__ = "account_version"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(BigInteger)


class AuditRow(Base):
    """One administrative act. Rows are only ever added."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime(), index=True)
    actor: Mapped[str] = mapped_column(_WORD)
    actor_id: Mapped[str | None] = mapped_column(_ID)
    act: Mapped[str] = mapped_column(String(64))
    target: Mapped[str | None] = mapped_column(String(254))
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    address: Mapped[str | None] = mapped_column(String(64))
