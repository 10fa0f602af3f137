"""Users: how they come to be, who may change whom, one-time links."""

from __future__ import annotations

import asyncio

import pytest

from osslo.accounts.records import (
    COMMAND_LINE,
    Options,
    Page,
    RateLimits,
    Role,
    SignUp,
    UserState,
)
from osslo.accounts.service import Accounts
from osslo.accounts.sessions import Browser
from osslo.errors import (
    AuthenticationError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    RequestError,
)
from tests.accounts.conftest import PASSWORD, Clock, actor, make_user

BROWSER = Browser("192.0.2.7")


async def set_up(accounts: Accounts, token: str, email: str = "own@example.com") -> None:
    await accounts.users.set_up(
        token=token, email=email, name="Own", password=PASSWORD, address=None
    )


async def test_the_first_owner_comes_by_the_setup_link(accounts: Accounts) -> None:
    link = await accounts.links.setup()
    assert link is not None
    await set_up(accounts, link.token)
    begun = await accounts.sessions.sign_in(
        email="OWN@example.com", password=PASSWORD, browser=BROWSER
    )
    assert begun.signed_in.user.role is Role.OWNER
    assert await accounts.links.setup() is None


async def test_of_two_setup_links_only_one_makes_an_owner(accounts: Accounts) -> None:
    links = [await accounts.links.setup(), await accounts.links.setup()]
    tries = [
        set_up(accounts, link.token, f"own{index}@example.com")
        for index, link in enumerate(links)
        if link is not None
    ]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes)[0] == "NoneType"
    assert sum(outcome is None for outcome in outcomes) == 1
    assert len(await accounts.users.page(COMMAND_LINE, Page())) == 1


async def test_a_link_works_once_for_its_purpose_and_for_its_time(
    accounts: Accounts, clock: Clock
) -> None:
    user = await make_user(accounts)
    link = await accounts.links.reset(COMMAND_LINE, user.id)
    with pytest.raises(PermissionDeniedError):
        await set_up(accounts, link.token)
    with pytest.raises(RequestError, match="password"):  # a weak one does not use the link up
        await accounts.users.reset_password(token=link.token, password="short", address=None)
    await accounts.users.reset_password(token=link.token, password=PASSWORD, address=None)
    for token in (link.token, "made up", ""):
        with pytest.raises(PermissionDeniedError):
            await accounts.users.reset_password(token=token, password=PASSWORD, address=None)
    late = await accounts.links.reset(COMMAND_LINE, user.id)
    clock.advance(days=2)
    with pytest.raises(PermissionDeniedError):
        await accounts.users.reset_password(token=late.token, password=PASSWORD, address=None)


async def test_a_newer_reset_link_voids_the_older(sqlite: Accounts) -> None:
    user = await make_user(sqlite)
    older = await sqlite.links.reset(COMMAND_LINE, user.id)
    await sqlite.links.reset(COMMAND_LINE, user.id)
    with pytest.raises(PermissionDeniedError):
        await sqlite.users.reset_password(token=older.token, password=PASSWORD, address=None)


async def test_a_reset_ends_every_session(accounts: Accounts) -> None:
    user = await make_user(accounts, password=PASSWORD)
    begun = await accounts.sessions.sign_in(email=user.email, password=PASSWORD, browser=BROWSER)
    link = await accounts.links.reset(COMMAND_LINE, user.id)
    await accounts.users.reset_password(token=link.token, password="another good one", address=None)
    assert await accounts.sessions.find(begun.token) is None
    with pytest.raises(AuthenticationError):
        await accounts.sessions.sign_in(email=user.email, password=PASSWORD, browser=BROWSER)


async def sign_up(accounts: Accounts, email: str, invitation: str | None = None) -> Role:
    user = await accounts.users.sign_up(
        email=email, name="New", password=PASSWORD, invitation=invitation, address="192.0.2.9"
    )
    return user.role


async def test_who_may_sign_up(accounts: Accounts) -> None:
    with pytest.raises(PermissionDeniedError, match="setup link"):
        await sign_up(accounts, "first@example.com")
    owner = await make_user(accounts, "own", Role.OWNER)
    with pytest.raises(PermissionDeniedError, match="invitation"):
        await sign_up(accounts, "a@example.com")
    await accounts.options.change(actor(owner), Options(sign_up=SignUp.CLOSED))
    with pytest.raises(PermissionDeniedError, match="closed"):
        await sign_up(accounts, "a@example.com")
    await accounts.options.change(actor(owner), Options(sign_up=SignUp.OPEN))
    assert await sign_up(accounts, "a@example.com") is Role.MEMBER
    with pytest.raises(ConflictError):
        await sign_up(accounts, "A@Example.com")


async def test_invitations_carry_a_role_and_may_name_an_address(accounts: Accounts) -> None:
    owner = await make_user(accounts, "own", Role.OWNER)
    open_one = await accounts.links.invite(actor(owner), role=Role.ADMIN)
    assert await sign_up(accounts, "b@example.com", open_one.token) is Role.ADMIN
    with pytest.raises(PermissionDeniedError):
        await sign_up(accounts, "c@example.com", open_one.token)
    for_dan = await accounts.links.invite(actor(owner), email="Dan@example.com")
    with pytest.raises(PermissionDeniedError, match="another"):
        await sign_up(accounts, "eve@example.com", for_dan.token)
    assert await sign_up(accounts, "dan@example.com", for_dan.token) is Role.MEMBER
    withdrawn = await accounts.links.invite(actor(owner))
    assert withdrawn.invitation is not None
    await accounts.links.withdraw(actor(owner), withdrawn.invitation.id)
    with pytest.raises(PermissionDeniedError):
        await sign_up(accounts, "f@example.com", withdrawn.token)
    used = [i.used_at is not None for i in await accounts.links.invitations(actor(owner), Page())]
    assert used == [True, True]


async def test_there_is_always_an_owner(accounts: Accounts) -> None:
    owner = await make_user(accounts, "own", Role.OWNER)
    with pytest.raises(ConflictError, match="last owner"):
        await accounts.users.set_role(actor(owner), owner.id, Role.MEMBER)
    with pytest.raises(ConflictError, match="last owner"):
        await accounts.users.set_state(actor(owner), owner.id, UserState.DISABLED)
    other = await make_user(accounts, "two", Role.OWNER)
    outcomes = await asyncio.gather(
        accounts.users.set_role(actor(owner), owner.id, Role.ADMIN),
        accounts.users.set_role(actor(other), other.id, Role.ADMIN),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 1


async def test_admins_change_members_only(sqlite: Accounts) -> None:
    owner = await make_user(sqlite, "own", Role.OWNER)
    admin = await make_user(sqlite, "adm", Role.ADMIN)
    member = await make_user(sqlite, "mem")
    other = await make_user(sqlite, "oth")
    for target in (owner, admin):
        with pytest.raises(PermissionDeniedError):
            await sqlite.users.set_state(actor(admin), target.id, UserState.DISABLED)
        with pytest.raises(PermissionDeniedError):
            await sqlite.links.reset(actor(admin), target.id)
    for role in (Role.ADMIN, Role.OWNER):
        with pytest.raises(PermissionDeniedError):
            await sqlite.users.set_role(actor(admin), member.id, role)
        with pytest.raises(PermissionDeniedError):
            await sqlite.links.invite(actor(admin), role=role)
    changed = await sqlite.users.set_limits(actor(admin), member.id, RateLimits(5, 1000))
    assert changed.limits == RateLimits(5, 1000)
    with pytest.raises(NotFoundError):
        await sqlite.users.rename(actor(member), other.id, "Mallory")
    with pytest.raises(NotFoundError):
        await sqlite.users.get(actor(member), other.id)
    with pytest.raises(PermissionDeniedError):
        await sqlite.users.page(actor(member), Page())


async def test_a_user_changes_the_own_password(accounts: Accounts) -> None:
    user = await make_user(accounts, password=PASSWORD)
    here = await accounts.sessions.sign_in(email=user.email, password=PASSWORD, browser=BROWSER)
    there = await accounts.sessions.sign_in(email=user.email, password=PASSWORD, browser=BROWSER)
    with pytest.raises(AuthenticationError):
        await accounts.users.change_password(
            actor(user), old="wrong one", new="another good one", keep_session=None
        )
    await accounts.users.change_password(
        actor(user),
        old=PASSWORD,
        new="another good one",
        keep_session=here.signed_in.session.id,
    )
    assert await accounts.sessions.find(here.token) is not None
    assert await accounts.sessions.find(there.token) is None


async def test_users_are_listed_in_pages_and_found(accounts: Accounts, clock: Clock) -> None:
    for name in ("ann", "bob", "cleo", "dan"):
        clock.advance(seconds=1)
        await make_user(accounts, name)
    first = await accounts.users.page(COMMAND_LINE, Page(limit=2))
    assert [user.name for user in first] == ["dan", "cleo", "bob"]
    rest = await accounts.users.page(COMMAND_LINE, Page(limit=2, after=first[1].id))
    assert [user.name for user in rest] == ["bob", "ann"]
    found = await accounts.users.page(COMMAND_LINE, Page(), search="CLE")
    assert [user.name for user in found] == ["cleo"]
    assert await accounts.users.page(COMMAND_LINE, Page(), search="%") == []
    assert await accounts.users.page(COMMAND_LINE, Page(after="user_none")) == []


HOSTILE = [
    "Robert'); DROP TABLE users;--",
    "<script>alert(1)</script>",
    '"; DELETE FROM keys; "',
    "' OR '1'='1",
    "{{7*7}}${7*7}",
    "\\'; SELECT pg_sleep(9)--",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_text_is_data_wherever_it_goes(accounts: Accounts, text: str) -> None:
    user = await accounts.users.create(COMMAND_LINE, email="bobby@example.com", name=text)
    assert (await accounts.users.get(actor(user), user.id)).name == text
    assert len(await accounts.users.page(COMMAND_LINE, Page(), search=text)) == 1
    assert await accounts.users.page(COMMAND_LINE, Page(), search=text + "x") == []
    with pytest.raises(NotFoundError):
        await accounts.users.get(COMMAND_LINE, text)
    with pytest.raises(AuthenticationError):
        await accounts.sessions.sign_in(email=text, password=text, browser=BROWSER)
    with pytest.raises(RequestError):
        await accounts.users.create(COMMAND_LINE, email=text, name="x")


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "two\nlines", "nul\0", "\ud800"])
async def test_names_are_one_line(sqlite: Accounts, name: str) -> None:
    with pytest.raises(RequestError):
        await sqlite.users.create(COMMAND_LINE, email="a@example.com", name=name)


async def test_every_act_is_in_the_audit_log(accounts: Accounts) -> None:
    owner = await make_user(accounts, "own", Role.OWNER, PASSWORD)
    member = await make_user(accounts, "mem")
    await accounts.users.rename(actor(owner), member.id, "Mem")
    await accounts.users.set_state(actor(owner), member.id, UserState.DISABLED)
    await accounts.links.reset(actor(owner), member.id)
    await accounts.options.change(actor(owner), Options(sign_up=SignUp.OPEN))
    entries = await accounts.audit_log(actor(owner))
    assert [entry.act for entry in reversed(entries)] == [
        "user.create",
        "user.create",
        "user.rename",
        "user.disabled",
        "user.reset_link",
        "settings.change",
    ]
    assert entries[0].details == {"sign_up": "open"}
    assert (entries[1].actor_id, entries[1].target) == (owner.id, member.id)
    assert entries[1].address == "192.0.2.1"
    assert [e.act for e in await accounts.audit_log(actor(owner), act="user.rename")] == [
        "user.rename"
    ]
    older = await accounts.audit_log(actor(owner), before=entries[-1].id)
    assert older == []
    assert PASSWORD not in str(entries)
    with pytest.raises(PermissionDeniedError):
        await accounts.audit_log(actor(member))


async def test_a_refused_act_leaves_no_trace(accounts: Accounts) -> None:
    owner = await make_user(accounts, "own", Role.OWNER)
    with pytest.raises(ConflictError):
        await accounts.users.create(actor(owner), email=owner.email, name="Twin")
    assert len(await accounts.audit_log(COMMAND_LINE)) == 1
