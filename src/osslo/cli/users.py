"""`osslo users …`: users, invitations and one-time links, without a running server."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from osslo.accounts.ledger.money import parse_usd, show_usd
from osslo.accounts.ledger.operations import Posted
from osslo.accounts.ledger.service import Ledger
from osslo.accounts.records import (
    COMMAND_LINE,
    IssuedLink,
    Page,
    RateLimits,
    Role,
    User,
    UserState,
)
from osslo.accounts.service import Accounts
from osslo.api.accounts import replies
from osslo.cli.accounts import (
    ConfigOption,
    JsonOption,
    find_user,
    moment_text,
    server_url,
    with_accounts,
)
from osslo.cli.output import Output
from osslo.errors import RequestError

_HELP = """Make and change users, on the server's machine.

Example:

    osslo users create ann@example.com
"""
group = typer.Typer(no_args_is_help=True, help=_HELP)

_MOST = 10_000
UserArgument = Annotated[
    str, typer.Argument(help="E-mail address or id of a user.", show_default=False)
]


class RoleChoice(StrEnum):
    """The roles, as a command line takes them."""

    MEMBER = "member"
    ADMIN = "admin"
    OWNER = "owner"


RoleOption = Annotated[RoleChoice | None, typer.Option(help="What the user may do.")]


@group.command("create")
def create(
    email: Annotated[str, typer.Argument(help="E-mail address.", show_default=False)],
    *,
    name: Annotated[str | None, typer.Option(help="Name; else from the address.")] = None,
    role: RoleOption = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from stdin.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a user. The first one becomes the owner.

    Without a password a one-time link is printed, by which the user sets one.

    Examples:

        osslo users create ann@example.com

        pass show osslo | osslo users create ann@example.com --role admin --password-stdin
    """
    password = sys.stdin.readline().rstrip("\n") if password_stdin else None
    wanted = Role(role.value) if role is not None else None

    async def work(accounts: Accounts) -> tuple[User, IssuedLink | None]:
        chosen = wanted or (Role.MEMBER if await accounts.users.any_exist() else Role.OWNER)
        user = await accounts.users.create(
            COMMAND_LINE,
            email=email,
            name=name or email.partition("@")[0],
            password=password,
            role=chosen,
        )
        link = await accounts.links.reset(COMMAND_LINE, user.id) if password is None else None
        return user, link

    user, link = with_accounts(config, work)
    base = server_url(config)
    output = Output()
    if as_json:
        made = {"user": replies.user(user), "link": replies.link(link, base) if link else None}
        output.json(made)
        return
    output.text(f"{user.role.value} {user.email} made: {user.id}")
    if link is not None:
        output.text(f"To set the password, once, until {moment_text(link.expires_at)} UTC:")
        output.text(f"  {replies.link_url(base, link)}")


@group.command("list")
def list_(
    *,
    search: Annotated[str | None, typer.Option(help="Part of an address or name.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List users, newest first.

    Example:

        osslo users list --search example.com
    """
    users = with_accounts(
        config, lambda accounts: accounts.users.page(COMMAND_LINE, Page(_MOST), search=search)
    )
    output = Output()
    if as_json:
        output.json([replies.user(user) for user in users])
        return
    output.table(
        ("e-mail", "name", "role", "state", "made", "last sign-in", "id"),
        [
            (
                user.email,
                user.name,
                user.role.value,
                user.state.value,
                moment_text(user.created_at),
                moment_text(user.last_sign_in_at),
                user.id,
            )
            for user in users
        ],
    )


@group.command("role")
def role_(
    user: UserArgument,
    role: Annotated[RoleChoice, typer.Argument(help="The new role.", show_default=False)],
    *,
    config: ConfigOption = None,
) -> None:
    """Give a user another role.

    Example:

        osslo users role ann@example.com admin
    """

    async def work(accounts: Accounts) -> User:
        found = await find_user(accounts, user)
        return await accounts.users.set_role(COMMAND_LINE, found.id, Role(role.value))

    changed = with_accounts(config, work)
    Output().text(f"{changed.email} is now {changed.role.value}")


@group.command("disable")
def disable(user: UserArgument, *, config: ConfigOption = None) -> None:
    """Keep a user out: sessions end, keys stop working.

    Example:

        osslo users disable ann@example.com
    """
    _set_state(user, UserState.DISABLED, config)


@group.command("enable")
def enable(user: UserArgument, *, config: ConfigOption = None) -> None:
    """Let a disabled user in again.

    Example:

        osslo users enable ann@example.com
    """
    _set_state(user, UserState.ACTIVE, config)


@group.command("limits")
def limits(
    user: UserArgument,
    *,
    requests: Annotated[
        int | None, typer.Option(help="Requests a minute; 0 is no limit of the user's own.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens a minute; 0 is no limit of the user's own.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Limit how much a user may ask a minute, all keys together.

    Example:

        osslo users limits ann@example.com --requests 60 --tokens 100000
    """
    if requests is None and tokens is None:
        raise RequestError("say what to limit: --requests, --tokens or both")

    async def work(accounts: Accounts) -> User:
        found = await find_user(accounts, user)
        wanted = RateLimits(
            found.limits.requests_per_minute if requests is None else requests or None,
            found.limits.tokens_per_minute if tokens is None else tokens or None,
        )
        return await accounts.users.set_limits(COMMAND_LINE, found.id, wanted)

    changed = with_accounts(config, work).limits
    Output().text(
        f"requests a minute: {changed.requests_per_minute or 'no limit'}, "
        f"tokens a minute: {changed.tokens_per_minute or 'no limit'}"
    )


@group.command("reset")
def reset(user: UserArgument, *, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Print a one-time link by which a user sets a new password. Osslo sends no e-mail.

    Example:

        osslo users reset ann@example.com
    """

    async def work(accounts: Accounts) -> IssuedLink:
        found = await find_user(accounts, user)
        return await accounts.links.reset(COMMAND_LINE, found.id)

    _print_link(with_accounts(config, work), config, as_json=as_json)


@group.command("invite")
def invite(
    *,
    email: Annotated[str | None, typer.Option(help="Only this address may use it.")] = None,
    role: RoleOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Print a one-time link by which somebody makes an account. Osslo sends no e-mail.

    Example:

        osslo users invite --email ann@example.com --role admin
    """
    given = Role(role.value) if role is not None else Role.MEMBER
    issued = with_accounts(
        config, lambda accounts: accounts.links.invite(COMMAND_LINE, role=given, email=email)
    )
    _print_link(issued, config, as_json=as_json)


@group.command("top-up")
def top_up(
    user: UserArgument,
    dollars: Annotated[
        str, typer.Argument(help="US dollars; negative takes them back.", show_default=False)
    ],
    *,
    note: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    once: Annotated[
        str | None, typer.Option(help="A name of the payment: with the same it counts once.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Add to a user's balance.

    Examples:

        osslo users top-up ann@example.com 12.50 --note "invoice 7"

        osslo users top-up ann@example.com -- -1.25
    """
    amount = parse_usd(dollars)

    async def work(accounts: Accounts) -> Posted:
        found = await find_user(accounts, user)
        ledger = Ledger(accounts.context, accounts.prices)
        await ledger.start()
        try:
            return await ledger.top_up(
                COMMAND_LINE, found.id, amount, note=note, idempotency_key=once or ""
            )
        finally:
            await ledger.close()

    posted = with_accounts(config, work)
    told = "" if posted.new else "; this payment had been counted before"
    Output().text(f"the balance is {show_usd(posted.balance_nanousd)}{told}")


@group.command("sign-out")
def sign_out(user: UserArgument, *, config: ConfigOption = None) -> None:
    """End all sessions of a user.

    Example:

        osslo users sign-out ann@example.com
    """

    async def work(accounts: Accounts) -> int:
        found = await find_user(accounts, user)
        return await accounts.sessions.sign_out_everywhere(COMMAND_LINE, found.id)

    Output().text(f"{with_accounts(config, work)} sessions ended")


def _set_state(user: str, state: UserState, config: ConfigOption) -> None:
    async def work(accounts: Accounts) -> User:
        found = await find_user(accounts, user)
        return await accounts.users.set_state(COMMAND_LINE, found.id, state)

    changed = with_accounts(config, work)
    Output().text(f"{changed.email} is now {changed.state.value}")


def _print_link(issued: IssuedLink, config: ConfigOption, *, as_json: bool) -> None:
    output, base = Output(), server_url(config)
    if as_json:
        output.json(replies.link(issued, base))
        return
    output.text(f"Once, until {moment_text(issued.expires_at)} UTC:")
    output.text(f"  {replies.link_url(base, issued)}")
