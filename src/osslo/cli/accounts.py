"""What commands about accounts share: the database opened from the settings, users and amounts as
people write them, and records as JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from osslo.accounts.ledger.service import welcome
from osslo.accounts.records import COMMAND_LINE, User
from osslo.accounts.service import Accounts, open_accounts
from osslo.db.database import Database
from osslo.db.migrate import upgrade
from osslo.errors import RequestError
from osslo.serve import database_url
from osslo.settings import Settings, load_settings

T = TypeVar("T")

ConfigOption = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def with_accounts(config: Path | None, work: Callable[[Accounts], Awaitable[T]]) -> T:
    """Open the database that the settings name, bring it up to date, and do `work` on it."""
    return asyncio.run(_with_accounts(load_settings(config_path=config), work))


async def _with_accounts(settings: Settings, work: Callable[[Accounts], Awaitable[T]]) -> T:
    database = Database(database_url(settings))
    try:
        await upgrade(database)
        accounts = open_accounts(
            database, settings.accounts, settings.folders.home, on_user_created=welcome
        )
        await accounts.options.check_pepper()
        return await work(accounts)
    finally:
        await database.close()


def server_url(config: Path | None) -> str:
    """The server's address as far as the settings tell it."""
    settings = load_settings(config_path=config)
    if settings.accounts.public_url is not None:
        return settings.accounts.public_url
    return f"http://{settings.server.host}:{settings.server.port}"


async def find_user(accounts: Accounts, named: str) -> User:
    """The user with this id or e-mail address. Raises `NotFoundError`."""
    if "@" in named:
        return await accounts.users.by_email(COMMAND_LINE, named)
    return await accounts.users.get(COMMAND_LINE, named)


def per_token_nanousd(text: str, param: str) -> int:
    """US dollars a million tokens, as nano-dollars a token. Raises `RequestError` for what is not a
    whole number of them."""
    return _whole(text, 1000, param, "a price like 0.10, in steps of 0.001")


def discount_bp(text: str) -> int:
    """Percent, as hundredths of a percent."""
    return _whole(text, 100, "discount", "a percentage like 20, in steps of 0.01")


def moment_text(moment: datetime | None) -> str:
    """A moment as tables show it."""
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M")


def _whole(text: str, factor: int, param: str, wanted: str) -> int:
    try:
        amount = Decimal(text.strip().removeprefix("$").removesuffix("%")) * factor
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount != amount.to_integral_value() or amount < 0:
        raise RequestError(f"--{param} must be {wanted} (got {text!r})", param=param)
    return int(amount)
