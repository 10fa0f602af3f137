"""The usage log: every request with what it used and cost, filtered, and to take away."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends
from starlette.datastructures import QueryParams
from starlette.responses import Response

from osslo.accounts.ledger.reading import FAILURES, UsageFilter
from osslo.accounts.ledger.records import Status, UsageRecord
from osslo.accounts.records import Page
from osslo.api.accounts.usage_export import download
from osslo.console.routing import page_router
from osslo.console.visit import Visit, member

router = page_router()
Member = Annotated[Visit, Depends(member)]

_SHOWN = 50
_FIELDS = ("since", "until", "key", "model", "status")


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters as they stand in the form."""

    since: str
    until: str
    key: str
    model: str
    status: str

    @classmethod
    def of(cls, query: QueryParams) -> Filters:
        return cls(*(query.get(name, "")[:100] for name in _FIELDS))

    @property
    def any_set(self) -> bool:
        return any(asdict(self).values())

    def query(self, **more: str) -> str:
        """The filters as a query string."""
        given = {name: value for name, value in asdict(self).items() if value}
        return urlencode(given | more)

    def wanted(self, user_id: str) -> UsageFilter:
        """The filters as the ledger takes them. A date that cannot be read filters nothing."""
        failed = {"ok": False, "failed": True}.get(self.status)
        until = _start_of(self.until)
        return UsageFilter(
            user_id=user_id,
            since=_start_of(self.since),
            until=until + timedelta(days=1) if until else None,
            key_id=self.key or None,
            model=self.model or None,
            failed=failed,
        )


@router.get("/console/usage")
async def usage_page(here: Member) -> Response:
    """The newest requests that the filters let through."""
    filters = Filters.of(here.request.query_params)
    after = here.request.query_params.get("after")
    found = await here.books.usage(filters.wanted(here.user.id), limit=_SHOWN, after=after)
    names = await _key_names(here)
    shown = found[:_SHOWN]
    more = len(found) > _SHOWN
    return here.page(
        "usage.html",
        rows=[_row(record, names) for record in shown],
        filters=filters,
        filtered=filters.any_set,
        key_options=[("", "all"), *names.items()],
        model_options=[("", "all"), *((m.id, m.id) for m in here.services.registry)],
        query=filters.query(),
        next_page=filters.query(after=shown[-1].id) if more else None,
    )


@router.get("/console/usage.csv")
async def usage_csv(here: Member) -> Response:
    """The same, all of it, as a table for spreadsheets."""
    return download(here.books, _wanted(here), "csv")


@router.get("/console/usage.json")
async def usage_json(here: Member) -> Response:
    """The same as JSON."""
    return download(here.books, _wanted(here), "json")


def _wanted(here: Visit) -> UsageFilter:
    return Filters.of(here.request.query_params).wanted(here.user.id)


async def _key_names(here: Visit) -> dict[str, str]:
    keys = await here.accounts.keys.page(here.actor, Page(limit=200), user_id=here.user.id)
    return {key.id: key.rules.name for key in keys}


def _row(record: UsageRecord, names: dict[str, str]) -> dict[str, Any]:
    return {
        "at": record.at,
        "request_id": record.request_id,
        "model": record.model,
        "key_name": names.get(record.key_id, "an old key") if record.key_id else "console",
        "protocol": record.protocol,
        "input_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "output_tokens": record.completion_tokens,
        "reasoning_tokens": record.reasoning_tokens,
        "ttft_ms": record.first_token_ms,
        "tokens_per_second": record.tokens_per_second,
        "cost_nanousd": record.cost_nanousd,
        "status": record.status.value,
        "error": record.error,
        "badge": _badge(record.status),
    }


def _badge(status: Status) -> str:
    if status in FAILURES:
        return "bad"
    return "" if status is Status.COMPLETED else "warn"


def _start_of(text: str) -> datetime | None:
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    except ValueError:
        return None
