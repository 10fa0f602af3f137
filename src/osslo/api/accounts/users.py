"""Users and invitations over HTTP, for admins."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from osslo.accounts.permissions import check_manages
from osslo.accounts.records import Role, User, UserState
from osslo.accounts.service import Accounts
from osslo.api.accounts import replies
from osslo.api.accounts.replies import (
    CountReply,
    DoneReply,
    InvitationReply,
    LinkReply,
    UserReply,
)
from osslo.api.accounts.requests import (
    BODY_BYTES,
    InvitationBody,
    UserBody,
    UserChangeBody,
    UsersQuery,
    changed_limits,
    page_of,
)
from osslo.api.body import read_json
from osslo.api.openapi import operation
from osslo.api.query import PageQuery, read_query
from osslo.api.services import services_of
from osslo.api.sessions import Admin, Principal, WithAccounts
from osslo.api.shapes import Page

router = APIRouter(tags=["users"])

_ERRORS = (400, 401, 403, 404, 409, 429, 500)
_NO_STORE = {"cache-control": "no-store"}


def base_url(request: Request) -> str:
    """The server's address as the one who asks sees it."""
    services = services_of(request)
    if services.public_url is not None:
        return services.public_url
    scheme = "https" if services.proxies.is_https(request) else "http"
    return f"{scheme}://{request.url.netloc}"


@router.get(
    "/v1/users",
    summary="List users",
    openapi_extra=operation(query=UsersQuery, reply=Page[UserReply]),
)
async def list_users(request: Request, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """Newest first."""
    query = read_query(request, UsersQuery)
    users = await accounts.users.page(who.actor, page_of(query), search=query.search)
    return JSONResponse(replies.listed(users, query.limit, replies.user))


@router.post(
    "/v1/users",
    summary="Make a user",
    openapi_extra=operation(
        body=UserBody,
        reply=UserReply,
        status=201,
        errors=_ERRORS,
        example={"email": "ben@example.com", "name": "Ben", "role": "member"},
    ),
)
async def create_user(request: Request, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """Owners make users of every role, admins members."""
    body = await read_json(request, UserBody, limit_bytes=BODY_BYTES)
    user = await accounts.users.create(
        who.actor,
        email=body.email,
        name=body.name,
        password=body.password,
        role=Role(body.role),
    )
    return JSONResponse(replies.user(user), 201)


@router.get("/v1/users/{user_id}", summary="One user", openapi_extra=operation(reply=UserReply))
async def get_user(user_id: str, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """A user."""
    return JSONResponse(replies.user(await accounts.users.get(who.actor, user_id)))


@router.patch(
    "/v1/users/{user_id}",
    summary="Change a user",
    openapi_extra=operation(
        body=UserChangeBody,
        reply=UserReply,
        errors=_ERRORS,
        example={"requests_per_minute": 60},
    ),
)
async def change_user(
    user_id: str, request: Request, who: Admin, accounts: WithAccounts
) -> JSONResponse:
    """What is not given stays. Disabling ends the user's sessions, and the keys stop working."""
    body = await read_json(request, UserChangeBody, limit_bytes=BODY_BYTES)
    user = await accounts.users.get(who.actor, user_id)
    return JSONResponse(replies.user(await _changed(accounts, who, user, body)))


async def _changed(accounts: Accounts, who: Principal, user: User, body: UserChangeBody) -> User:
    actor, users = who.actor, accounts.users
    if body.name is not None:
        user = await users.rename(actor, user.id, body.name)
    if body.model_fields_set & {"requests_per_minute", "tokens_per_minute"}:
        limits = changed_limits(
            user.limits,
            body.model_fields_set,
            body.requests_per_minute,
            body.tokens_per_minute,
        )
        user = await users.set_limits(actor, user.id, limits)
    if body.role is not None:
        user = await users.set_role(actor, user.id, Role(body.role))
    if body.state is not None:
        user = await users.set_state(actor, user.id, UserState(body.state))
    return user


@router.post(
    "/v1/users/{user_id}/password_reset",
    summary="Make a password link",
    openapi_extra=operation(reply=LinkReply, status=201, errors=_ERRORS),
)
async def make_reset_link(
    user_id: str, request: Request, who: Admin, accounts: WithAccounts
) -> JSONResponse:
    """A one-time link with which the user sets a password. Hand it over yourself."""
    issued = await accounts.links.reset(who.actor, user_id)
    return JSONResponse(replies.link(issued, base_url(request)), 201, headers=_NO_STORE)


@router.delete(
    "/v1/users/{user_id}/sessions",
    summary="Sign a user out everywhere",
    openapi_extra=operation(reply=CountReply),
)
async def end_sessions(user_id: str, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """Every session of the user ends."""
    check_manages(who.actor, await accounts.users.get(who.actor, user_id))
    count = await accounts.sessions.sign_out_everywhere(who.actor, user_id)
    return JSONResponse({"object": "count", "count": count})


@router.delete(
    "/v1/users/{user_id}/keys",
    summary="Revoke all keys of a user",
    openapi_extra=operation(reply=CountReply),
)
async def revoke_all(user_id: str, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """Every key of the user ends for good."""
    count = await accounts.keys.revoke_all(who.actor, user_id)
    return JSONResponse({"object": "count", "count": count})


@router.get(
    "/v1/invitations",
    summary="List invitations",
    openapi_extra=operation(query=PageQuery, reply=Page[InvitationReply]),
)
async def list_invitations(request: Request, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """Newest first, used ones too."""
    query = read_query(request, PageQuery)
    invitations = await accounts.links.invitations(who.actor, page_of(query))
    return JSONResponse(replies.listed(invitations, query.limit, replies.invitation))


@router.post(
    "/v1/invitations",
    summary="Invite somebody",
    openapi_extra=operation(
        body=InvitationBody,
        reply=LinkReply,
        status=201,
        errors=_ERRORS,
        example={"email": "ben@example.com", "role": "member"},
    ),
)
async def invite(request: Request, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """A one-time link to sign up with. Hand it over yourself."""
    body = await read_json(request, InvitationBody, limit_bytes=BODY_BYTES)
    issued = await accounts.links.invite(who.actor, role=Role(body.role), email=body.email)
    return JSONResponse(replies.link(issued, base_url(request)), 201, headers=_NO_STORE)


@router.delete(
    "/v1/invitations/{invitation_id}",
    summary="Withdraw an invitation",
    openapi_extra=operation(reply=DoneReply, errors=_ERRORS),
)
async def withdraw(invitation_id: str, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """Its link stops working."""
    await accounts.links.withdraw(who.actor, invitation_id)
    return JSONResponse({"object": "done"})
