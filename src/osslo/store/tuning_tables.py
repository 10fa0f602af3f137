"""Tables of fine-tuning jobs. Queries live in `fine_tuning`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from osslo.db.base import Base, UtcDateTime


class FineTuningRow(Base):
    """A fine-tuning job. `adapter` is the name that its result has or will have; `epochs` and
    `rate_factor` None stand for `auto`; `step` counts the steps whose metrics are recorded."""

    __tablename__ = "fine_tuning_jobs"
    __table_args__ = (Index(None, "tenant", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(255))
    model: Mapped[str] = mapped_column(String(255))
    adapter: Mapped[str] = mapped_column(String(64))
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    epochs: Mapped[int | None] = mapped_column(Integer)
    rate_factor: Mapped[float | None] = mapped_column(Float)
    seed: Mapped[int] = mapped_column(BigInteger)
    labels: Mapped[dict[str, str] | None] = mapped_column("metadata", JSON)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    result_files: Mapped[list[str]] = mapped_column(JSON)
    step: Mapped[int] = mapped_column(Integer)
    trained_tokens: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    estimated_finish: Mapped[datetime | None] = mapped_column(UtcDateTime)


class FineTuningEventRow(Base):
    """What happened to a job. `data` are a step's metrics; `number` orders a job's events."""

    __tablename__ = "fine_tuning_events"
    __table_args__ = (UniqueConstraint("job_id", "number"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(
        String(64), ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE")
    )
    number: Mapped[int] = mapped_column(Integer)
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
