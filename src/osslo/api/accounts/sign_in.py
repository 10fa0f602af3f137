"""Signing in, up and out; passwords; one's own account. What comes before an account needs none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse

from osslo.accounts.backoff import network_of
from osslo.accounts.records import User
from osslo.accounts.service import Accounts
from osslo.api.accounts import replies
from osslo.api.accounts.replies import (
    CountReply,
    DoneReply,
    MeReply,
    SessionReply,
    SignedInReply,
    UserReply,
)
from osslo.api.accounts.requests import (
    BODY_BYTES,
    MeBody,
    PasswordBody,
    PasswordResetBody,
    SetupBody,
    SignInBody,
    SignUpBody,
)
from osslo.api.body import read_json
from osslo.api.openapi import operation
from osslo.api.services import services_of
from osslo.api.sessions import (
    Member,
    MemberReading,
    WithAccounts,
    anyone,
    browser_of,
    clear_session_cookie,
    set_session_cookie,
)
from osslo.api.shapes import Page
from osslo.errors import PermissionDeniedError

router = APIRouter(tags=["account"])

_PUBLIC_ERRORS = (400, 401, 403, 404, 409, 429, 500)
_NO_STORE = {"cache-control": "no-store"}

_PASSWORD = "correct horse battery staple"  # noqa: S105 - an example
_LINK_TOKEN = "what-the-link-ends-in"  # noqa: S105 - an example
_SIGN_IN = {"email": "ada@example.com", "password": _PASSWORD}


@contextmanager
def slowed(request: Request, accounts: Accounts) -> Iterator[None]:
    """Slow down an address that tries links which are not valid."""
    place = network_of(services_of(request).proxies.address(request))
    accounts.guesses.check(place)
    try:
        yield
    except PermissionDeniedError as error:
        if error.code == "invalid_link":
            accounts.guesses.failed(place)
        raise


async def _begin(request: Request, accounts: Accounts, user: User) -> JSONResponse:
    begun = await accounts.sessions.begin(user, browser_of(request))
    response = JSONResponse(replies.signed_in(begun.signed_in), 201, headers=_NO_STORE)
    set_session_cookie(request, response, begun)
    return response


@router.post(
    "/v1/setup",
    summary="Make the first owner",
    dependencies=[Depends(anyone)],
    openapi_extra=operation(
        body=SetupBody,
        reply=SignedInReply,
        status=201,
        public=True,
        errors=_PUBLIC_ERRORS,
        example={"token": _LINK_TOKEN, **_SIGN_IN, "name": "Ada"},
    ),
)
async def set_up(request: Request, accounts: WithAccounts) -> JSONResponse:
    """By the one-time link that the server printed at its start. Signs in."""
    body = await read_json(request, SetupBody, limit_bytes=BODY_BYTES)
    address = browser_of(request).address
    with slowed(request, accounts):
        user = await accounts.users.set_up(
            token=body.token,
            email=body.email,
            name=body.name,
            password=body.password,
            address=address,
        )
    return await _begin(request, accounts, user)


@router.post(
    "/v1/sign_up",
    summary="Make an account",
    dependencies=[Depends(anyone)],
    openapi_extra=operation(
        body=SignUpBody,
        reply=SignedInReply,
        status=201,
        public=True,
        errors=_PUBLIC_ERRORS,
        example={**_SIGN_IN, "name": "Ada"},
    ),
)
async def sign_up(request: Request, accounts: WithAccounts) -> JSONResponse:
    """Where sign-up is open, or with an invitation. Signs in."""
    body = await read_json(request, SignUpBody, limit_bytes=BODY_BYTES)
    address = browser_of(request).address
    with slowed(request, accounts):
        user = await accounts.users.sign_up(
            email=body.email,
            name=body.name,
            password=body.password,
            invitation=body.invitation,
            address=address,
        )
    return await _begin(request, accounts, user)


@router.post(
    "/v1/sessions",
    summary="Sign in",
    dependencies=[Depends(anyone)],
    openapi_extra=operation(
        body=SignInBody,
        reply=SignedInReply,
        status=201,
        public=True,
        errors=_PUBLIC_ERRORS,
        example=_SIGN_IN,
    ),
)
async def sign_in(request: Request, accounts: WithAccounts) -> JSONResponse:
    """By e-mail address and password. The session is in a cookie; its CSRF secret is in the
    answer."""
    body = await read_json(request, SignInBody, limit_bytes=BODY_BYTES)
    begun = await accounts.sessions.sign_in(
        email=body.email, password=body.password, browser=browser_of(request)
    )
    response = JSONResponse(replies.signed_in(begun.signed_in), 201, headers=_NO_STORE)
    set_session_cookie(request, response, begun)
    return response


@router.get(
    "/v1/sessions",
    summary="Where one is signed in",
    openapi_extra=operation(reply=Page[SessionReply]),
)
async def list_sessions(who: Member, accounts: WithAccounts) -> JSONResponse:
    """One's own sessions, last used first."""
    sessions = await accounts.sessions.of_user(who.user.id)
    return JSONResponse(replies.listed(sessions, len(sessions), replies.session))


@router.delete(
    "/v1/sessions",
    summary="Sign out everywhere",
    openapi_extra=operation(reply=CountReply),
)
async def sign_out_everywhere(
    request: Request, who: Member, accounts: WithAccounts
) -> JSONResponse:
    """Every session of one's own ends, this one too."""
    count = await accounts.sessions.sign_out_everywhere(who.actor, who.user.id)
    response = JSONResponse({"object": "count", "count": count})
    clear_session_cookie(request, response)
    return response


@router.delete("/v1/sessions/current", summary="Sign out", openapi_extra=operation(reply=DoneReply))
async def sign_out(request: Request, who: Member, accounts: WithAccounts) -> JSONResponse:
    """This browser's session ends."""
    token = browser_of(request).token
    if who.signed_in is not None and token is not None:
        await accounts.sessions.sign_out(token)
    response = JSONResponse({"object": "done"})
    clear_session_cookie(request, response)
    return response


@router.delete(
    "/v1/sessions/{session_id}", summary="End a session", openapi_extra=operation(reply=DoneReply)
)
async def end_session(session_id: str, who: Member, accounts: WithAccounts) -> JSONResponse:
    """One of one's own sessions ends."""
    await accounts.sessions.end_one(who.user.id, session_id)
    return JSONResponse({"object": "done"})


@router.put(
    "/v1/password",
    summary="Change one's password",
    openapi_extra=operation(
        body=PasswordBody,
        reply=DoneReply,
        example={"old_password": _PASSWORD, "new_password": "another one, just as long"},
    ),
)
async def change_password(request: Request, who: Member, accounts: WithAccounts) -> JSONResponse:
    """Every other session ends."""
    body = await read_json(request, PasswordBody, limit_bytes=BODY_BYTES)
    await accounts.users.change_password(
        who.actor,
        old=body.old_password,
        new=body.new_password,
        keep_session=who.signed_in.session.id if who.signed_in else None,
    )
    return JSONResponse({"object": "done"})


@router.post(
    "/v1/password_resets",
    summary="Set a password by a link",
    dependencies=[Depends(anyone)],
    openapi_extra=operation(
        body=PasswordResetBody,
        reply=SignedInReply,
        status=201,
        public=True,
        errors=_PUBLIC_ERRORS,
        example={"token": _LINK_TOKEN, "password": _PASSWORD},
    ),
)
async def reset_password(request: Request, accounts: WithAccounts) -> JSONResponse:
    """By a one-time link from an admin. Every session ends, and a new one begins."""
    body = await read_json(request, PasswordResetBody, limit_bytes=BODY_BYTES)
    with slowed(request, accounts):
        user = await accounts.users.reset_password(
            token=body.token, password=body.password, address=browser_of(request).address
        )
    return await _begin(request, accounts, user)


@router.get("/v1/me", summary="Who one is", openapi_extra=operation(reply=MeReply))
async def me(who: MemberReading) -> JSONResponse:
    """The user, by session or key."""
    reply = {
        "object": "me",
        "user": replies.user(who.user),
        "by": "session" if who.signed_in else "key",
        "key_id": who.key.id if who.key else None,
        "csrf": who.signed_in.csrf if who.signed_in else None,
    }
    return JSONResponse(reply, headers=_NO_STORE)


@router.patch(
    "/v1/me",
    summary="Change one's name",
    openapi_extra=operation(body=MeBody, reply=UserReply, example={"name": "Ada"}),
)
async def change_me(request: Request, who: Member, accounts: WithAccounts) -> JSONResponse:
    """The name that others see."""
    body = await read_json(request, MeBody, limit_bytes=BODY_BYTES)
    user = await accounts.users.rename(who.actor, who.user.id, body.name)
    return JSONResponse(replies.user(user))
