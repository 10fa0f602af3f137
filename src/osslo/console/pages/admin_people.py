"""Administration of people: users, invitations, balances, the audit log."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends
from starlette.responses import Response

from osslo.accounts.records import (
    AuditEntry,
    Invitation,
    IssuedLink,
    KeyState,
    LinkKind,
    Page,
    RateLimits,
    Role,
    UserState,
)
from osslo.api.accounts.replies import link_url
from osslo.console.pages.keys import dollars_of, whole_of
from osslo.console.routing import page_router
from osslo.console.samples import base_url
from osslo.console.visit import Visit, admin, go, text_of
from osslo.errors import OssloError, RequestError

router = page_router()
Admin = Annotated[Visit, Depends(admin)]

_SHOWN = 50


@dataclass(frozen=True, slots=True)
class ShownLink:
    """A one-time link as it is shown, once."""

    title: str
    url: str
    expires_at: datetime


# --- users ----------------------------------------------------------------------------------------


@router.get("/console/admin/users")
async def users_page(here: Admin) -> Response:
    """All users."""
    return await _users(here)


@router.post("/console/admin/users/invite")
async def invite(here: Admin) -> Response:
    """Make an invitation; its link is on the page that answers."""
    form = await here.form()
    try:
        issued = await here.accounts.links.invite(
            here.actor, role=Role(text_of(form, "role")), email=text_of(form, "email") or None
        )
    except OssloError as error:
        return await _users(here, error=error)
    return await _users(here, link=_shown(here, issued))


@router.post("/console/admin/invitations/{invitation_id}/withdraw")
async def withdraw(invitation_id: str, here: Admin) -> Response:
    """Take an invitation back that nobody has used."""
    await here.form()
    try:
        await here.accounts.links.withdraw(here.actor, invitation_id)
    except OssloError as error:
        return await _users(here, error=error)
    return go("/console/admin/users", done="withdrawn")


@router.get("/console/admin/users/{user_id}")
async def user_page(user_id: str, here: Admin) -> Response:
    """One user."""
    return await _user(here, user_id)


@router.post("/console/admin/users/{user_id}")
async def change_user(user_id: str, here: Admin) -> Response:
    """Change a user's role or state."""
    form = await here.form()
    person = await here.accounts.users.get(here.actor, user_id)
    role, state = Role(text_of(form, "role")), UserState(text_of(form, "state"))
    try:
        if role is not person.role:
            await here.accounts.users.set_role(here.actor, user_id, role)
        if state is not person.state:
            await here.accounts.users.set_state(here.actor, user_id, state)
    except OssloError as error:
        return await _user(here, user_id, error=error)
    return go(f"/console/admin/users/{user_id}", done="saved")


@router.post("/console/admin/users/{user_id}/limits")
async def limit_user(user_id: str, here: Admin) -> Response:
    """Change how much a user may ask a minute, all keys together."""
    form = await here.form()
    try:
        limits = RateLimits(
            whole_of(text_of(form, "requests"), "Requests a minute"),
            whole_of(text_of(form, "tokens"), "Tokens a minute"),
        )
        await here.accounts.users.set_limits(here.actor, user_id, limits)
    except OssloError as error:
        return await _user(here, user_id, error=error)
    return go(f"/console/admin/users/{user_id}", done="saved")


@router.post("/console/admin/users/{user_id}/revoke-keys")
async def revoke_keys(user_id: str, here: Admin) -> Response:
    """Revoke every key of a user."""
    await here.form()
    try:
        await here.accounts.keys.revoke_all(here.actor, user_id)
    except OssloError as error:
        return await _user(here, user_id, error=error)
    return go(f"/console/admin/users/{user_id}", done="keys-revoked")


@router.post("/console/admin/users/{user_id}/top-up")
async def top_up(user_id: str, here: Admin) -> Response:
    """Add to a user's balance. The form's `once` makes a form that is sent twice count once."""
    form = await here.form()
    await here.accounts.users.get(here.actor, user_id)
    try:
        amount = dollars_of(text_of(form, "dollars"), "The amount")
        if not amount:
            raise RequestError("The amount must not be nothing.")
        await here.books.top_up(
            here.actor,
            user_id,
            amount,
            note=text_of(form, "note"),
            idempotency_key=text_of(form, "once"),
        )
    except OssloError as error:
        return await _user(here, user_id, error=error)
    return go(f"/console/admin/users/{user_id}", done="topped-up")


@router.post("/console/admin/users/{user_id}/reset")
async def reset_link(user_id: str, here: Admin) -> Response:
    """Make a link with which a user sets a new password."""
    await here.form()
    try:
        issued = await here.accounts.links.reset(here.actor, user_id)
    except OssloError as error:
        return await _user(here, user_id, error=error)
    return await _user(here, user_id, link=_shown(here, issued))


async def _users(
    here: Visit, *, link: ShownLink | None = None, error: OssloError | None = None
) -> Response:
    page = Page(limit=_SHOWN, after=here.request.query_params.get("after"))
    search = here.request.query_params.get("search", "")[:100].strip()
    found = await here.accounts.users.page(here.actor, page, search=search or None)
    shown = found[:_SHOWN]
    balances = await here.books.balances([user.id for user in shown])
    return here.page(
        "admin/users.html",
        status=error.status if error else 200,
        users=[{"user": user, "balance_nanousd": balances.get(user.id, 0)} for user in shown],
        next_page=urlencode({"search": search, "after": shown[-1].id})
        if len(found) > _SHOWN
        else "",
        search=search,
        invitations=await _open_invitations(here),
        roles=_roles(here),
        link=link,
        error=error.message if error else None,
    )


async def _open_invitations(here: Visit) -> list[Invitation]:
    """Those that can still be used, of the newest."""
    found = await here.accounts.links.invitations(here.actor, Page(limit=_SHOWN))
    now = here.accounts.context.now()
    return [each for each in found if each.used_at is None and each.expires_at > now]


async def _user(
    here: Visit,
    user_id: str,
    *,
    link: ShownLink | None = None,
    error: OssloError | None = None,
) -> Response:
    person = await here.accounts.users.get(here.actor, user_id)
    balances = await here.books.balances([user_id])
    keys = await here.accounts.keys.page(here.actor, Page(limit=_SHOWN), user_id=user_id)
    since = here.accounts.context.now().date() - timedelta(days=29)
    return here.page(
        "admin/user.html",
        status=error.status if error else 200,
        person=person,
        balance_nanousd=balances.get(user_id, 0),
        roles=_roles(here, person.role),
        keys=[key for key in keys if key.state is KeyState.ACTIVE],
        totals=await here.books.totals(user_id, since=since),
        once=secrets.token_urlsafe(16),
        link=link,
        error=error.message if error else None,
        current="/console/admin/users",
    )


def _roles(here: Visit, held: Role | None = None) -> list[tuple[str, str]]:
    """The roles that the viewer may give, and the one that is held."""
    mine = here.user.role
    return [(role.value, role.value) for role in Role if mine.covers(role) or role is held]


def _shown(here: Visit, issued: IssuedLink) -> ShownLink:
    title = "Invitation" if issued.kind is LinkKind.INVITATION else "Link for a new password"
    return ShownLink(title, link_url(base_url(here), issued), issued.expires_at)


# --- the audit log -------------------------------------------------------------------------------


@router.get("/console/admin/audit")
async def audit_page(here: Admin) -> Response:
    """Who did what."""
    after = here.request.query_params.get("after", "")
    before = int(after) if after.isascii() and after.isdigit() and len(after) < 19 else None
    found = await here.accounts.audit_log(here.actor, limit=_SHOWN, before=before)
    shown = found[:_SHOWN]
    people = await here.books.emails(_ids(shown))
    return here.page(
        "admin/audit.html",
        entries=[_row(entry, people) for entry in shown],
        next_page=shown[-1].id if len(found) > _SHOWN else None,
    )


def _ids(entries: Sequence[AuditEntry]) -> set[str]:
    """The users that entries speak of."""
    named = {entry.actor_id for entry in entries} | {entry.target for entry in entries}
    owners = {entry.details.get("owner") for entry in entries}
    return {each for each in named | owners if isinstance(each, str) and each.startswith("user_")}


def _row(entry: AuditEntry, people: dict[str, str]) -> dict[str, object]:
    target = entry.target or ""
    return {
        "at": entry.at,
        "who": people.get(entry.actor_id or "", entry.actor_id or entry.actor),
        "act": entry.act,
        "target": people.get(target, target),
        "details": [(name, _told(value, people)) for name, value in entry.details.items()],
        "address": entry.address,
    }


def _told(value: object, people: dict[str, str]) -> str:
    return people.get(value, value) if isinstance(value, str) else json.dumps(value)
