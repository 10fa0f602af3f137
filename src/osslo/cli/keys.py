"""`osslo keys …`: API keys, without a running server."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

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


@group.command("change")
def change(
    key: Annotated[str, typer.Argument(help="Id of a key.", show_default=False)],
    *,
    name: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    days: Annotated[
        int | None, typer.Option(help="Expires so many days from now; 0 never.", min=0, max=36_500)
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="The models that it may use; 'all' for all.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="The CIDR blocks that it works from; 'all' for all.")
    ] = None,
    limit: Annotated[
        str | None, typer.Option(help="US dollars that it may spend; 'none' for no limit.")
    ] = None,
    period: Annotated[
        PeriodChoice | None, typer.Option(help="After which the spending limit begins anew.")
    ] = None,
    requests: Annotated[int | None, typer.Option(help="Requests a minute; 0 for any.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens a minute; 0 for any.")] = None,
    guard: Annotated[GuardChoice | None, typer.Option(help="What is moderated.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Change what a key may do; what is not given stays, and so does its text.

    Examples:

        osslo keys change key_0123456789abcdef01234567 --limit 20 --period monthly

        osslo keys change key_0123456789abcdef01234567 --network all --requests 0
    """

    def changed(rules: KeyRules) -> KeyRules:
        changes: dict[str, Any] = {"name": name, "guard": guard and GuardMode(guard.value)}
        changes["spending_period"] = period and SpendingPeriod(period.value)
        changes = {field: value for field, value in changes.items() if value is not None}
        if days is not None:
            changes["expires_at"] = datetime.now(UTC) + timedelta(days=days) if days else None
        if model:
            changes["models"] = None if model == ["all"] else tuple(model)
        if network:
            changes["networks"] = () if network == ["all"] else tuple(network)
        if limit is not None:
            changes["spending_limit_nanousd"] = None if limit == "none" else parse_usd(limit)
        limits = RateLimits(
            rules.limits.requests_per_minute if requests is None else requests or None,
            rules.limits.tokens_per_minute if tokens is None else tokens or None,
        )
        return replace(rules, limits=limits, **changes)

    async def work(accounts: Accounts) -> Key:
        before = await accounts.keys.get(COMMAND_LINE, key)
        return await accounts.keys.change(COMMAND_LINE, key, changed(before.rules))

    after = with_accounts(config, work)
    if as_json:
        Output().json(replies.key(after))
        return
    Output().text(f"{after.prefix} {after.rules.name}: {_spending(after.rules)}")


@group.command("revoke")
def revoke(
    keys: Annotated[list[str] | None, typer.Argument(help="Ids of keys.")] = None,
    *,
    user: Annotated[str | None, typer.Option(help="All keys of this user.")] = None,
    config: ConfigOption = None,
) -> None:
    """End keys for good, all or none.

    Examples:

        osslo keys revoke key_0123456789abcdef01234567

        osslo keys revoke --user ann@example.com
    """
    if bool(keys) == bool(user):
        raise RequestError("name keys, or a user by --user")

    async def all_of(accounts: Accounts) -> int:
        return await accounts.keys.revoke_all(
            COMMAND_LINE, (await find_user(accounts, user or "")).id
        )

    if user:
        Output().text(f"{with_accounts(config, all_of)} keys revoked")
        return
    named = keys or []
    for key in with_accounts(config, lambda accounts: accounts.keys.revoke(COMMAND_LINE, named)):
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
