"""Usage as rows to take away: the same columns wherever usage is listed or exported."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol

from starlette.responses import Response, StreamingResponse

from osslo.accounts.ledger.reading import UsageFilter
from osslo.accounts.ledger.records import UsageRecord

COLUMNS = (
    "at",
    "id",
    "request_id",
    "user_id",
    "key_id",
    "model",
    "protocol",
    "batch",
    "status",
    "error",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cost_nanousd",
    "first_token_ms",
    "duration_ms",
    "tokens_per_second",
)
_AT_ONCE = 1000


def usage_row(record: UsageRecord) -> dict[str, Any]:
    """A request's row; `at` is ISO 8601 in UTC."""
    row = {name: getattr(record, name) for name in COLUMNS}
    return row | {"at": record.at.isoformat(), "status": record.status.value}


class UsageLog(Protocol):
    """Where requests are listed."""

    async def usage(
        self, wanted: UsageFilter, *, limit: int, after: str | None
    ) -> Sequence[UsageRecord]:
        """Requests, newest first, after the one called `after`; one more than `limit` if there are
        more."""
        ...


def download(log: UsageLog, wanted: UsageFilter, kind: Literal["csv", "json"]) -> Response:
    """Everything that the filter lets through, newest first, as a file: CSV or one JSON array."""
    return StreamingResponse(
        csv_lines(log, wanted) if kind == "csv" else json_lines(log, wanted),
        media_type="text/csv; charset=utf-8" if kind == "csv" else "application/json",
        headers={
            "content-disposition": f'attachment; filename="osslo-usage.{kind}"',
            "cache-control": "no-store",
        },
    )


async def csv_lines(log: UsageLog, wanted: UsageFilter) -> AsyncIterator[str]:
    """A table for spreadsheets, some rows at a time."""
    yield _csv([dict(zip(COLUMNS, COLUMNS, strict=True))])
    async for rows in _parts(log, wanted):
        yield _csv(rows)


async def json_lines(log: UsageLog, wanted: UsageFilter) -> AsyncIterator[str]:
    """One JSON array, a row on each line."""
    lead = "[\n"
    async for rows in _parts(log, wanted):
        yield lead + ",\n".join(json.dumps(row) for row in rows)
        lead = ",\n"
    yield "\n]\n" if lead == ",\n" else "[]\n"


async def _parts(log: UsageLog, wanted: UsageFilter) -> AsyncIterator[list[dict[str, Any]]]:
    after: str | None = None
    while found := await log.usage(wanted, limit=_AT_ONCE, after=after):
        shown = found[:_AT_ONCE]
        yield [usage_row(record) for record in shown]
        if len(found) <= _AT_ONCE:
            return
        after = shown[-1].id


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS)
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet does not take for a formula."""
    return "'" + value if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
