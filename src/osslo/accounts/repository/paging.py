"""Lists in parts: newest first, after an entry that the caller names by its id."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from osslo.accounts.records import Page


def page_after(
    query: Select[Any],
    page: Page,
    moment: InstrumentedAttribute[datetime],
    identity: InstrumentedAttribute[str],
) -> Select[Any]:
    """`query` cut to `page`, plus one entry more, which tells that there is more.

    An unknown `after` gives an empty page: it may have been deleted, or be somebody else's.
    """
    if page.after is not None:
        last = select(moment).where(identity == page.after).scalar_subquery()
        query = query.where(or_(moment < last, and_(moment == last, identity < page.after)))
    return query.order_by(moment.desc(), identity.desc()).limit(page.limit + 1)
