"""Prices: setting them, and finding the one that holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from osslo.accounts.context import Context
from osslo.accounts.fields import amount_of, name_of
from osslo.accounts.permissions import check_least
from osslo.accounts.records import Actor, Price, Role
from osslo.accounts.repository import prices
from osslo.accounts.secrets import new_id
from osslo.errors import NotFoundError, RequestError

ANY_MODEL = "*"
_LARGEST_PRICE = 10**9  # a dollar a token; far below what could overflow
_CLOCKS_MAY_DIFFER = timedelta(minutes=1)


class PriceService:
    """Sets and finds prices."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def set(
        self,
        actor: Actor,
        model: str,
        *,
        input_list_nanousd: int,
        output_list_nanousd: int,
        cached_input_list_nanousd: int | None = None,
        discount_bp: int = 0,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
    ) -> Price:
        """Give `model` a new price from `valid_from` (now) on. The price that held until then ends;
        prices planned for later are dropped. Cached input costs as much as input unless told.

        Raises `RequestError` for numbers out of range or a time that has passed.
        """
        check_least(actor, Role.ADMIN)
        now = self._context.now()
        price = _checked(
            Price(
                id=new_id("price"),
                model=name_of(model, param="model"),
                input_list_nanousd=input_list_nanousd,
                cached_input_list_nanousd=(
                    input_list_nanousd
                    if cached_input_list_nanousd is None
                    else cached_input_list_nanousd
                ),
                output_list_nanousd=output_list_nanousd,
                discount_bp=discount_bp,
                valid_from=valid_from or now,
                valid_to=valid_to,
            )
        )
        if price.valid_from < now - _CLOCKS_MAY_DIFFER:
            raise RequestError("A price cannot begin in the past.", param="valid_from")
        async with self._context.change() as session:
            await prices.end_at(session, price.model, price.valid_from)
            await prices.add(session, price)
            await self._context.note(session, actor, "price.set", price.model, **_told(price))
        return price

    async def end(self, actor: Actor, model: str) -> None:
        """End a model's price now, and drop the ones planned for it; the price of `*` then holds.
        Raises `NotFoundError` if it has none."""
        check_least(actor, Role.ADMIN)
        now = self._context.now()
        async with self._context.change() as session:
            known = [price for price in await prices.every(session) if price.model == model]
            if not any(price.valid_to is None or price.valid_to > now for price in known):
                raise NotFoundError(f"{model[:80]!r} has no price of its own.")
            await prices.end_at(session, model, now)
            await self._context.note(session, actor, "price.end", model)

    async def current(self) -> Sequence[Price]:
        """The prices that hold now, by model."""
        async with self._context.database.read() as session:
            return await prices.valid(session, self._context.now())

    async def every(self) -> Sequence[Price]:
        """All prices, past and planned ones too."""
        async with self._context.database.read() as session:
            return await prices.every(session)

    async def of(self, *names: str) -> Price | None:
        """The price that holds for the first of `names` that has one, else the one for `*`."""
        return price_for(await self.current(), *names)


def price_for(current: Sequence[Price], *names: str) -> Price | None:
    """Among prices that hold now: that of the first of `names` that has one, else that of `*`. A
    model with an adapter, `MODEL:NAME`, without a price of its own costs what the model does."""
    by_model = {price.model: price for price in current}
    bases = [base for base, colon, _ in (name.rpartition(":") for name in names) if colon]
    for name in (*names, *bases, ANY_MODEL):
        if name in by_model:
            return by_model[name]
    return None


def _checked(price: Price) -> Price:
    for name in ("input_list_nanousd", "cached_input_list_nanousd", "output_list_nanousd"):
        amount_of(getattr(price, name), param=name, most=_LARGEST_PRICE)
    amount_of(price.discount_bp, param="discount_bp", most=10_000)
    if price.cached_input_list_nanousd > price.input_list_nanousd:
        raise RequestError(
            "Cached input cannot cost more than input.", param="cached_input_list_nanousd"
        )
    if price.valid_to is not None and price.valid_to <= price.valid_from:
        raise RequestError("A price cannot end before it begins.", param="valid_to")
    return price


def _told(price: Price) -> dict[str, int | str]:
    return {
        "input_list_nanousd": price.input_list_nanousd,
        "cached_input_list_nanousd": price.cached_input_list_nanousd,
        "output_list_nanousd": price.output_list_nanousd,
        "discount_bp": price.discount_bp,
        "valid_from": price.valid_from.isoformat(),
    }
