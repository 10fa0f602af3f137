"""The overview: what is left, what was used, how fast it was, and how to begin."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Annotated

from fastapi import Depends
from starlette.datastructures import QueryParams
from starlette.responses import Response

from osslo.accounts.ledger.reading import FirstToken
from osslo.accounts.records import Page
from osslo.console.books import DayUse
from osslo.console.charts import BarChart, Series, top_series
from osslo.console.routing import page_router
from osslo.console.samples import first_request
from osslo.console.templating import money, short_number
from osslo.console.visit import Visit, go, visit

router = page_router()
Anybody = Annotated[Visit, Depends(visit)]

_CHOICES = (7, 30, 90)
_GROUPS = ("model", "key")


@dataclass(frozen=True, slots=True)
class View:
    """What the overview shows: the days, oldest first, and what bars are split by."""

    dates: tuple[date, ...]
    by: str

    @classmethod
    def of(cls, query: QueryParams) -> View:
        asked, by = query.get("days", ""), query.get("by", "")
        days = int(asked) if asked in map(str, _CHOICES) else 30
        today = datetime.now(UTC).date()
        dates = tuple(today - timedelta(days=back) for back in range(days - 1, -1, -1))
        return cls(dates, by if by in _GROUPS else "model")

    @property
    def days(self) -> int:
        return len(self.dates)

    def ranges(self) -> list[tuple[str, str, bool]]:
        """The links to other lengths: text, address, whether it is this one."""
        return [(f"{n} days", f"?days={n}&by={self.by}", n == self.days) for n in _CHOICES]

    def groups(self) -> list[tuple[str, str, bool]]:
        """The links to other splits."""
        return [(f"By {by}", f"?days={self.days}&by={by}", by == self.by) for by in _GROUPS]


@router.get("/console")
async def overview(here: Anybody) -> Response:
    """The first page. Strangers sign in; where nobody has an account they see how to begin."""
    if here.viewer.user is None:
        return go("/console/sign-in")
    view = View.of(here.request.query_params)
    since, user_id = view.dates[0], here.user.id
    keys = await here.accounts.keys.page(here.actor, Page(limit=200), user_id=user_id)
    charts = Charts(view, {key.id: key.rules.name for key in keys})
    return here.page(
        "overview.html",
        view=view,
        balance_nanousd=(await here.books.balances([user_id])).get(user_id, 0),
        totals=await here.books.totals(user_id, since=since),
        has_keys=bool(keys),
        samples=first_request(here, None),
        charts=charts.draw(
            await here.books.daily(user_id, since=since),
            await here.books.first_tokens(user_id, since=since),
        ),
    )


@dataclass(frozen=True, slots=True)
class Charts:
    """Draws what was used, day by day."""

    view: View
    key_names: Mapping[str, str]

    def draw(self, uses: Sequence[DayUse], firsts: Sequence[FirstToken]) -> list[BarChart]:
        """Cost, tokens, requests, and the median time to the first token."""
        return [
            self._sums("Cost", uses, lambda use: use.cost_nanousd, lambda v: money(round(v))),
            self._sums("Tokens", uses, lambda use: use.tokens, short_number),
            self._sums("Requests", uses, lambda use: use.requests, short_number),
            self._medians("First token, median", firsts),
        ]

    def _sums(
        self,
        title: str,
        uses: Sequence[DayUse],
        value: Callable[[DayUse], float],
        text: Callable[[float], str],
    ) -> BarChart:
        series: dict[str, list[float]] = defaultdict(lambda: [0.0] * self.view.days)
        places = self._places()
        for use in uses:
            if use.day in places:
                series[self._group(use)][places[use.day]] += value(use)
        return self._chart(title, top_series(series), text, stacked=True)

    def _medians(self, title: str, firsts: Sequence[FirstToken]) -> BarChart:
        places = self._places()
        seen: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in self.view.dates])
        for first in firsts:
            if first.day in places:
                seen[self._group(first)][places[first.day]].append(first.first_token_ms / 1000)
        series = _busiest(seen.items())
        return self._chart(title, series, lambda seconds: f"{seconds:.2f} s", stacked=False)

    def _chart(
        self,
        title: str,
        series: tuple[Series, ...],
        text: Callable[[float], str],
        *,
        stacked: bool,
    ) -> BarChart:
        labels = tuple(day.strftime("%d %b") for day in self.view.dates)
        return BarChart(title, labels, series, text, stacked=stacked)

    def _places(self) -> dict[date, int]:
        return {day: place for place, day in enumerate(self.view.dates)}

    def _group(self, use: DayUse | FirstToken) -> str:
        if self.view.by == "model":
            return use.model
        return self.key_names.get(use.key_id, "console" if not use.key_id else "an old key")


_SHOWN_MEDIANS = 3
"""Bars side by side get thin: medians are shown of so many groups, those with the most answers."""


def _busiest(seen: Iterable[tuple[str, list[list[float]]]]) -> tuple[Series, ...]:
    ordered = sorted(seen, key=lambda item: -sum(map(len, item[1])))
    return tuple(
        Series(name, tuple(median(times) if times else 0.0 for times in days))
        for name, days in ordered[:_SHOWN_MEDIANS]
    )
