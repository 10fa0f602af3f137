"""Prices, each valid for a time; a model's never overlap."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.records import Price
from osslo.accounts.tables import PriceRow


def record(row: PriceRow) -> Price:
    """A row as it is handed out."""
    return Price(
        id=row.id,
        model=row.model,
        input_list_nanousd=row.input_list_nanousd,
        cached_input_list_nanousd=row.cached_input_list_nanousd,
        output_list_nanousd=row.output_list_nanousd,
        discount_bp=row.discount_bp,
        valid_from=row.valid_from,
        valid_to=row.valid_to,
    )


async def add(session: AsyncSession, price: Price) -> None:
    """Store a new price."""
    session.add(
        PriceRow(
            id=price.id,
            model=price.model,
            input_list_nanousd=price.input_list_nanousd,
            cached_input_list_nanousd=price.cached_input_list_nanousd,
            output_list_nanousd=price.output_list_nanousd,
            discount_bp=price.discount_bp,
            valid_from=price.valid_from,
            valid_to=price.valid_to,
        )
    )
    await session.flush()


async def by_id(session: AsyncSession, price_id: str) -> Price | None:
    """The price with this id."""
    row = await session.get(PriceRow, price_id)
    return record(row) if row is not None else None


async def valid(session: AsyncSession, at: datetime) -> Sequence[Price]:
    """The prices that are valid at a moment, by model."""
    query = select(PriceRow).where(_valid(at)).order_by(PriceRow.model)
    return [record(row) for row in await session.scalars(query)]


async def every(session: AsyncSession) -> Sequence[Price]:
    """All prices, past and future ones too: by model, newest first."""
    query = select(PriceRow).order_by(PriceRow.model, PriceRow.valid_from.desc())
    return [record(row) for row in await session.scalars(query)]


async def end_at(session: AsyncSession, model: str, at: datetime) -> None:
    """End whatever price of `model` would be valid at `at`, and drop the ones planned from then."""
    later = delete(PriceRow).where(PriceRow.model == model, PriceRow.valid_from >= at)
    await session.execute(later)
    query = update(PriceRow).where(PriceRow.model == model, _valid(at))
    await session.execute(query.values(valid_to=at))


def _valid(at: datetime) -> ColumnElement[bool]:
    open_ended = or_(PriceRow.valid_to.is_(None), PriceRow.valid_to > at)
    return and_(PriceRow.valid_from <= at, open_ended)
