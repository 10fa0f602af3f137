"""`osslo usage`: the usage log, to read or to take away, without a running server."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from osslo.accounts.ledger.money import show_usd
from osslo.accounts.ledger.reading import LedgerReader, UsageFilter
from osslo.accounts.ledger.records import UsageRecord
from osslo.accounts.service import Accounts
from osslo.api.accounts.usage_export import csv_lines, json_lines
from osslo.cli.accounts import ConfigOption, find_user, moment_text, with_accounts
from osslo.cli.output import Output
from osslo.errors import RequestError


class FormatChoice(StrEnum):
    """How usage is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def command(
    user: Annotated[str | None, typer.Argument(help="Only this user's.")] = None,
    *,
    since: Annotated[str | None, typer.Option(help="First day (UTC), like 2026-03-01.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day (UTC).")] = None,
    key: Annotated[str | None, typer.Option(help="Id of a key.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model.")] = None,
    limit: Annotated[
        int, typer.Option(help="Rows of the table; the other formats have all.", min=1, max=10_000)
    ] = 50,
    form: Annotated[
        FormatChoice, typer.Option("--format", help="How to print it.")
    ] = FormatChoice.TABLE,
    config: ConfigOption = None,
) -> None:
    """Print the usage log, newest first.

    Examples:

        osslo usage ann@example.com

        osslo usage --since 2026-03-01 --until 2026-03-31 --format csv > march.csv
    """
    first, last = _day(since, "since"), _day(until, "until")

    async def work(accounts: Accounts) -> list[UsageRecord]:
        reader = LedgerReader(accounts.context.database)
        wanted = UsageFilter(
            user_id=None if user is None else (await find_user(accounts, user)).id,
            since=first,
            until=None if last is None else last + timedelta(days=1),
            key_id=key,
            model=model,
        )
        if form is FormatChoice.TABLE:
            return list(await reader.usage(wanted, limit=limit))[:limit]
        lines = csv_lines if form is FormatChoice.CSV else json_lines
        await _write(lines(reader, wanted))
        return []

    records = with_accounts(config, work)
    if form is FormatChoice.TABLE:
        Output().table(_HEADINGS, [_cells(record) for record in records])


_HEADINGS = ("time", "model", "protocol", "status", "input", "cached", "output", "cost", "user")


def _cells(record: UsageRecord) -> tuple[str, ...]:
    return (
        moment_text(record.at),
        record.model,
        record.protocol,
        record.status.value,
        f"{record.prompt_tokens:,}",
        f"{record.cached_tokens:,}",
        f"{record.completion_tokens:,}",
        show_usd(record.cost_nanousd),
        record.user_id,
    )


async def _write(lines: AsyncIterator[str]) -> None:
    async for part in lines:
        sys.stdout.write(part)


def _day(text: str | None, param: str) -> datetime | None:
    try:
        return None if text is None else datetime.combine(date.fromisoformat(text), time(), UTC)
    except ValueError as error:
        raise RequestError(f"--{param} must be a day like 2026-03-01", param=param) from error
