"""Parts of a list, by a key that orders it: no offset, so that new rows shift nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, literal, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and whether more follows."""

    items: tuple[T, ...]
    has_more: bool


async def page_of(
    session: AsyncSession,
    wanted: Select[T],
    key: Sequence[Any],
    *,
    after: Sequence[Any] | None,
    limit: int,
    descending: bool,
) -> Page[T]:
    """Up to `limit` rows of `wanted`, ordered by the columns `key`, that follow the values
    `after`."""
    if after is not None:
        place = tuple_(*key)
        values = tuple_(*(literal(v, column.type) for column, v in zip(key, after, strict=True)))
        wanted = wanted.where(place < values if descending else place > values)
    order = [column.desc() if descending else column.asc() for column in key]
    rows = (await session.scalars(wanted.order_by(*order).limit(limit + 1))).all()
    return Page(tuple(rows[:limit]), len(rows) > limit)
