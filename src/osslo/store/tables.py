"""The tables of stored responses and conversations. `responses` and `conversations` query them.

Bodies are JSON as text: they are read and written whole, and never searched.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from osslo.db.base import Base, UtcDateTime

ID = String(160)
OWNER = String(160)


class ResponseRow(Base):
    """A response. `lease_until` is set while a process runs it in the background; `log` is what a
    finished background response's stream is played again from."""

    __tablename__ = "responses"
    __table_args__ = (
        Index(None, "tenant", "created_at"),
        Index(None, "expires_at"),
        Index(None, "lease_until"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    tenant: Mapped[str] = mapped_column(OWNER)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    status: Mapped[str] = mapped_column(String(16))
    background: Mapped[bool]
    previous_id: Mapped[str | None] = mapped_column(ID)
    conversation_id: Mapped[str | None] = mapped_column(ID)
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[str] = mapped_column(Text)
    log: Mapped[str | None] = mapped_column(Text)


class ResponseItemRow(Base):
    """An item that a response was given or gave, in the order in which a model reads them."""

    __tablename__ = "response_items"
    __table_args__ = (Index(None, "item_id"),)

    response_id: Mapped[str] = mapped_column(
        ForeignKey("responses.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    is_output: Mapped[bool]
    item_id: Mapped[str] = mapped_column(ID)
    body: Mapped[str] = mapped_column(Text)


class ConversationRow(Base):
    """A conversation. `next_position` is the place of the item that comes next; whoever appends
    locks this row."""

    __tablename__ = "conversations"
    __table_args__ = (Index(None, "tenant", "created_at"), Index(None, "expires_at"))

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    tenant: Mapped[str] = mapped_column(OWNER)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    next_position: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    meta: Mapped[str] = mapped_column(Text)


class ConversationItemRow(Base):
    """An item of a conversation."""

    __tablename__ = "conversation_items"
    __table_args__ = (UniqueConstraint("conversation_id", "item_id"), Index(None, "item_id"))

    conversation_id: Mapped[str] = mapped_column(
        ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[str] = mapped_column(ID)
    body: Mapped[str] = mapped_column(Text)
