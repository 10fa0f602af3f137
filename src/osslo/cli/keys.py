"""`osslo keys …`: API keys, without a running server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from osslo.accounts.keys import DEFAULT_OVERLAP_S
from osslo.accounts.ledger.money import parse_usd, show_usd
from osslo.accounts.records import (
    COMMAND_LINE,
    GuardMode,
    Key,
    KeyRules,
    KeyState,
    NewKey,
    Page,
    RateLimits,
    SpendingPeriod,
)
from osslo.accounts.service import Accounts
from osslo.api.accounts import replies
from osslo.cli.accounts import (
    ConfigOption,
    JsonOption,
    find_user,
    moment_text,
    with_accounts,
)
from osslo.cli.output import Output
from osslo.errors import RequestError

_HELP = """Make, rotate and revoke API keys, on the server's machine.

Example:

    osslo keys create ann@example.com --name laptop
"""
group = typer.Typer(no_args_is_help=True, help=_HELP)

_MOST = 10_000


class PeriodChoice(StrEnum):
    """When a spending limit begins anew."""

    NONE = "none"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class GuardChoice(StrEnum):
    """What is judged of a key's requests."""

    OFF = "off"
    INPUT = "input"
    OUTPUT = "output"
    BOTH = "both"


KeysArgument = Annotated[list[str], typer.Argument(help="Ids of keys.", show_default=False)]


@group.command("create")
def create(
    user: Annotated[
        str, typer.Argument(help="E-mail address or id of its user.", show_default=False)
    ],
    *,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "key",
    days: Annotated[int | None, typer.Option(help="Expires after so many days.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use; repeat for more.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="A CIDR block that it works from; repeat for more.")
    ] = None,
    limit: Annotated[str | None, typer.Option(help="US dollars that it may spend.")] = None,
    period: Annotated[
        PeriodChoice, typer.Option(help="After which the spending limit begins anew.")
    ] = PeriodChoice.NONE,
    requests: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens a minute.")] = None,
    guard: Annotated[GuardChoice | None, typer.Option(help="What is moderated.")] = None,
    management: Annotated[
        bool, typer.Option("--management", help="May call the management API; admins only.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a key, and print it: this once.

    Examples:

        osslo keys create ann@example.com --name laptop

        osslo keys create ann@example.com --name ci --days 90 --limit 5 --period monthly

        osslo keys create ann@example.com --network 10.0.0.0/8 --model gpt-oss-20b
    """
    if days is not None and not 1 <= days <= 36_500:
        raise RequestError("--days must be from 1 to 36500", param="days")
    rules = KeyRules(
        name=name,
        expires_at=None if days is None else datetime.now(UTC) + timedelta(days=days),
        models=tuple(model) if model else None,
        networks=tuple(network or ()),
        guard=None if guard is None else GuardMode(guard.value),
        management=management,
        spending_limit_nanousd=None if limit is None else parse_usd(limit),
        spending_period=SpendingPeriod(period.value),
        limits=RateLimits(requests, tokens),
    )

    async def work(accounts: Accounts) -> NewKey:
        found = await find_user(accounts, user)
        return await accounts.keys.create(COMMAND_LINE, found.id, rules)

    _print_new(with_accounts(config, work), as_json=as_json)


@group.command("list")
def list_(
    user: Annotated[str | None, typer.Argument(help="Only this user's.")] = None,
    *,
    revoked: Annotated[bool, typer.Option("--revoked", help="Revoked ones too.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List keys, newest first.

    Example:

        osslo keys list ann@example.com
    """

    async def work(accounts: Accounts) -> list[Key]:
        user_id = (await find_user(accounts, user)).id if user is not None else None
        return list(await accounts.keys.page(COMMAND_LINE, Page(_MOST), user_id=user_id))

    keys = [key for key in with_accounts(config, work) if revoked or _is_active(key)]
    output = Output()
    if as_json:
        output.json([replies.key(key) for key in keys])
        return
    output.table(
        ("id", "key", "name", "state", "ends", "spends", "last used", "user"),
        [
            (
                key.id,
                key.prefix,
                key.rules.name,
                key.state.value,
                moment_text(key.ends_at()),
                _spending(key.rules),
                moment_text(key.last_used_at),
                key.user_id,
            )
            for key in keys
        ],
    )


@group.command("revoke")
def revoke(keys: KeysArgument, *, config: ConfigOption = None) -> None:
    """End keys for good, all or none.

    Example:

        osslo keys revoke key_0123456789abcdef01234567
    """
    revoked = with_accounts(config, lambda accounts: accounts.keys.revoke(COMMAND_LINE, keys))
    for key in revoked:
        Output().text(f"{key.prefix} {key.rules.name}: revoked")


@group.command("rotate")
def rotate(
    key: Annotated[str, typer.Argument(help="Id of a key.", show_default=False)],
    *,
    overlap_hours: Annotated[
        float, typer.Option(help="How long the old key keeps working.")
    ] = DEFAULT_OVERLAP_S / 3600,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a new key with the same rules; the old one works a while longer.

    Example:

        osslo keys rotate key_0123456789abcdef01234567 --overlap-hours 2
    """
    overlap_s = round(overlap_hours * 3600)
    made = with_accounts(
        config, lambda accounts: accounts.keys.rotate(COMMAND_LINE, key, overlap_s=overlap_s)
    )
    _print_new(made, as_json=as_json)


def _print_new(made: NewKey, *, as_json: bool) -> None:
    output = Output()
    if as_json:
        output.json(replies.new_key(made))
        return
    output.text(made.text)
    output.note(f"{made.key.rules.name} ({made.key.id}); it is shown this once: keep it now")


def _is_active(key: Key) -> bool:
    end = key.ends_at()
    return key.state is KeyState.ACTIVE and (end is None or end > datetime.now(UTC))


def _spending(rules: KeyRules) -> str:
    if rules.spending_limit_nanousd is None:
        return "no limit"
    period = "" if rules.spending_period is SpendingPeriod.NONE else rules.spending_period.value
    return f"{show_usd(rules.spending_limit_nanousd)} {period}".strip()
