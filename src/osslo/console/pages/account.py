"""The own account: password, sessions, balance."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.responses import Response

from osslo.api.sessions import clear_session_cookie
from osslo.console.routing import page_router
from osslo.console.visit import Visit, go, member
from osslo.errors import OssloError

router = page_router()
Member = Annotated[Visit, Depends(member)]


@router.get("/console/account")
async def account_page(here: Member) -> Response:
    """Who one is, where one is signed in, what one has."""
    return await _page(here)


@router.post("/console/account/password")
async def change_password(here: Member) -> Response:
    """Change the own password; other sessions end."""
    form = await here.form()
    session = here.viewer.session
    try:
        await here.accounts.users.change_password(
            here.actor,
            old=str(form.get("current", "")),
            new=str(form.get("new", "")),
            keep_session=session.id if session else None,
        )
    except OssloError as error:
        return await _page(here, error=error)
    return go("/console/account", done="password")


@router.post("/console/account/sign-out-everywhere")
async def sign_out_everywhere(here: Member) -> Response:
    """End all own sessions."""
    await here.form()
    await here.accounts.sessions.sign_out_everywhere(here.actor, here.user.id)
    response = go("/console/sign-in", done="signed-out")
    clear_session_cookie(here.request, response)
    return response


async def _page(here: Visit, *, error: OssloError | None = None) -> Response:
    return here.page(
        "account.html",
        status=error.status if error else 200,
        sessions=await here.accounts.sessions.of_user(here.user.id),
        balance_nanousd=(await here.books.balances([here.user.id])).get(here.user.id, 0),
        entries=await here.books.movements(here.user.id),
        error=error.message if error else None,
    )
