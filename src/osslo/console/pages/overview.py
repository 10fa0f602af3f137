"""The overview: what is left, what was used, how fast it was, and how to begin."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import Depends
from starlette.responses import Response

from osslo.accounts.records import Page
from osslo.console.books import DayUse
from osslo.console.charts import BarChart, top_series
from osslo.console.routing import page_router
from osslo.console.samples import first_request
from osslo.console.templating import money, short_number
from osslo.console.visit import Visit, go, visit

router = page_router()
Anybody = Annotated[Visit, Depends(visit)]

_CHOICES = (7, 30, 90)


@router.get("/console")
async def overview(here: Anybody) -> Response:
    """The first page. Strangers sign in; where nobody has an account they see how to begin."""
    if here.viewer.user is None:
        return go("/console/sign-in")
    asked = here.request.query_params.get("days", "")
    days = int(asked) if asked in map(str, _CHOICES) else 30
    today = datetime.now(UTC).date()
    dates = [today - timedelta(days=back) for back in range(days - 1, -1, -1)]
    uses = await here.books.daily(here.user.id, since=dates[0])
    keys = await here.accounts.keys.page(here.actor, Page(limit=200), user_id=here.user.id)
    names = {key.id: key.rules.name for key in keys}
    return here.page(
        "overview.html",
        days=days,
        balance_nanousd=(await here.books.balances([here.user.id])).get(here.user.id, 0),
        totals=await here.books.totals(here.user.id, since=dates[0]),
        has_keys=bool(keys),
        first_request=first_request(here, "$OSSLO_API_KEY"),
        charts=_charts(uses, dates, names),
    )


def _charts(
    uses: Sequence[DayUse], dates: Sequence[date], key_names: Mapping[str, str]
) -> list[BarChart]:
    def chart(
        title: str,
        name: Callable[[DayUse], str],
        value: Callable[[DayUse], float],
        text: Callable[[float], str],
    ) -> BarChart:
        return BarChart(
            title,
            tuple(day.strftime("%d %b") for day in dates),
            top_series(_series(uses, dates, name, value)),
            text,
        )

    def key_of(use: DayUse) -> str:
        return key_names.get(use.key_id, "console" if not use.key_id else "an old key")

    return [
        chart("Tokens by model", lambda use: use.model, lambda use: use.tokens, short_number),
        chart("Cost by key", key_of, lambda use: use.cost_nanousd, lambda v: money(round(v))),
        chart("Requests by key", key_of, lambda use: use.requests, short_number),
    ]


def _series(
    uses: Sequence[DayUse],
    dates: Sequence[date],
    name: Callable[[DayUse], str],
    value: Callable[[DayUse], float],
) -> dict[str, list[float]]:
    places = {day: place for place, day in enumerate(dates)}
    series: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(dates))
    for use in uses:
        if use.day in places:
            series[name(use)][places[use.day]] += value(use)
    return dict(series)
