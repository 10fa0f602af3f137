"""Coming in: signing in and out, signing up, one-time links (owner, invitation, reset)."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import Response

from osslo.accounts.records import SignUp, User
from osslo.api.sessions import (
    browser_of,
    clear_session_cookie,
    session_token,
    set_session_cookie,
)
from osslo.console.routing import page_router
from osslo.console.visit import Visit, go, safe_next, text_of, visit
from osslo.errors import OssloError

router = page_router()
Anybody = Annotated[Visit, Depends(visit)]


# --- signing in and out -------------------------------------------------------------------------


@router.get("/console/sign-in")
async def sign_in_page(here: Anybody) -> Response:
    """The sign-in form; whoever is signed in goes on."""
    if here.viewer.user is not None:
        return go("/console")
    if not await here.accounts.users.any_exist():
        return _not_set_up(here)
    return await _sign_in_form(here, next_path=here.request.query_params.get("next", ""))


@router.post("/console/sign-in")
async def sign_in(request: Request, here: Anybody) -> Response:
    """Sign in by password."""
    form = await here.form()
    email, next_path = text_of(form, "email"), safe_next(text_of(form, "next"))
    password = form.get("password")
    try:
        begun = await here.accounts.sessions.sign_in(
            email=email,
            password=password if isinstance(password, str) else "",
            browser=browser_of(request),
        )
    except OssloError as error:
        return await _sign_in_form(here, next_path=next_path, email=email, error=error)
    response = go(next_path)
    set_session_cookie(request, response, begun)
    return response


@router.post("/console/sign-out")
async def sign_out(request: Request, here: Anybody) -> Response:
    """End this session."""
    await here.form()
    token = session_token(request)
    if token is not None:
        await here.accounts.sessions.sign_out(token)
    response = go("/console/sign-in", done="signed-out")
    clear_session_cookie(request, response)
    return response


async def _sign_in_form(
    here: Visit, *, next_path: str, email: str = "", error: OssloError | None = None
) -> Response:
    options = await here.accounts.options.get()
    return here.page(
        "sign_in.html",
        status=error.status if error else 200,
        email=email,
        next=safe_next(next_path),
        error=error.message if error else None,
        sign_up_open=options.sign_up is SignUp.OPEN,
    )


def _not_set_up(here: Visit) -> Response:
    return here.page(
        "message.html",
        heading="Make the owner's account",
        text=(
            "Nobody has an account yet. The server printed a link when it started, on the terminal "
            "or in its log: open it to make the owner's account. The link lasts a day; a restart "
            "prints a new one. Until then the printed key works in the "
            "playground."
        ),
        link="/console/playground",
        link_text="Open the playground",
    )


# --- making an account ---------------------------------------------------------------------------


@router.get("/console/sign-up")
async def sign_up_page(here: Anybody) -> Response:
    """The form for an account of one's own, or for whoever was invited."""
    token = here.request.query_params.get("invitation", "")
    return _link_form(here, "invitation", token) if token else _sign_up_form(here)


@router.post("/console/sign-up")
async def sign_up(request: Request, here: Anybody) -> Response:
    """Make an account."""
    form = await here.form()
    email, password = text_of(form, "email"), str(form.get("password", ""))
    try:
        user = await here.accounts.users.sign_up(
            email=email,
            name=email.partition("@")[0],
            password=password,
            address=browser_of(request).address,
        )
    except OssloError as error:
        return _sign_up_form(here, email=email, error=error)
    return await _enter(request, here, user)


def _sign_up_form(here: Visit, *, email: str = "", error: OssloError | None = None) -> Response:
    return here.page(
        "sign_up.html",
        status=error.status if error else 200,
        heading="Make an account",
        explanation="",
        action="/console/sign-up",
        first=False,
        token="",
        ask_email=True,
        email=email,
        button="Make the account",
        error=error.message if error else None,
    )


# --- one-time links -------------------------------------------------------------------------------


@router.get("/console/setup")
async def setup_page(here: Anybody) -> Response:
    """The form for the first owner, reached by the link that the server printed."""
    if await here.accounts.users.any_exist():
        return go("/console/sign-in")
    token = here.request.query_params.get("token", "")
    return _link_form(here, "setup", token) if token else _not_set_up(here)


@router.get("/console/reset")
async def reset_page(here: Anybody) -> Response:
    """The form for a new password."""
    return _link_form(here, "reset", here.request.query_params.get("token", ""))


@router.post("/console/setup")
async def set_up(request: Request, here: Anybody) -> Response:
    """Make the first owner."""
    form = await here.form()
    email, token = text_of(form, "email"), text_of(form, "token")
    try:
        user = await here.accounts.users.set_up(
            token=token,
            email=email,
            name=email.partition("@")[0],
            password=str(form.get("password", "")),
            address=browser_of(request).address,
        )
    except OssloError as error:
        return _link_form(here, "setup", token, email=email, error=error)
    return await _enter(request, here, user)


@router.post("/console/invitation")
async def accept_invitation(request: Request, here: Anybody) -> Response:
    """Make an account by invitation."""
    form = await here.form()
    email, token = text_of(form, "email"), text_of(form, "token")
    try:
        user = await here.accounts.users.sign_up(
            email=email,
            name=email.partition("@")[0],
            password=str(form.get("password", "")),
            invitation=token,
            address=browser_of(request).address,
        )
    except OssloError as error:
        return _link_form(here, "invitation", token, email=email, error=error)
    return await _enter(request, here, user)


@router.post("/console/reset")
async def reset(request: Request, here: Anybody) -> Response:
    """Set a new password by a reset link."""
    form = await here.form()
    token = text_of(form, "token")
    try:
        await here.accounts.users.reset_password(
            token=token,
            password=str(form.get("password", "")),
            address=browser_of(request).address,
        )
    except OssloError as error:
        return _link_form(here, "reset", token, error=error)
    return go("/console/sign-in", done="reset")


_LINK_FORMS = {
    "setup": (
        "Make the owner's account",
        "The first account owns this server: it invites others, sets prices and tops up balances.",
        "Make the account",
    ),
    "invitation": (
        "You are invited",
        "Choose a password to make your account.",
        "Make the account",
    ),
    "reset": ("Choose a new password", "You are signed out everywhere.", "Set the password"),
}


def _link_form(
    here: Visit, kind: str, token: str, *, email: str = "", error: OssloError | None = None
) -> Response:
    heading, explanation, button = _LINK_FORMS[kind]
    return here.page(
        "sign_up.html",
        status=error.status if error else 200,
        heading=heading,
        explanation=explanation,
        action=f"/console/{kind}",
        first=kind == "setup",
        token=token,
        ask_email=kind != "reset",
        email=email,
        button=button,
        error=error.message if error else None,
    )


async def _enter(request: Request, here: Visit, user: User) -> Response:
    """Sign a new user in."""
    begun = await here.accounts.sessions.begin(user, browser_of(request))
    response = go("/console")
    set_session_cookie(request, response, begun)
    return response
