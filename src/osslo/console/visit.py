"""One visit of a page: who looks, what every page shows them, and forms that are checked.

A page is rendered or a form is answered by a redirect; both go through a `Visit`. Forms of the
signed-in carry the session's CSRF secret, those of strangers the secret of a cookie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import quote, urlencode

from fastapi import Request
from starlette.datastructures import FormData
from starlette.responses import RedirectResponse, Response

import osslo
from osslo.accounts.records import Actor, Role, Session, SignedIn, User
from osslo.accounts.service import Accounts
from osslo.api.services import Services, services_of
from osslo.api.sessions import (
    CSRF_FIELD,
    accounts_of,
    actor_of,
    check_csrf,
    check_form_csrf,
    form_csrf,
    set_form_csrf,
    signed_in_of,
)
from osslo.console.books import Books
from osslo.console.navigation import navigation
from osslo.console.pulls import Pulls
from osslo.console.templating import Pages
from osslo.errors import BodyTooLargeError, PermissionDeniedError

MAX_FORM_BYTES = 64_000

_PAGES = Pages()

DONE: Mapping[str, str] = MappingProxyType(
    {
        "saved": "Saved.",
        "key-changed": "The key was changed.",
        "keys-revoked": "Revoked. It takes effect within a second.",
        "password": "Your password was changed; other sessions were signed out.",
        "reset": "Your password was set. Sign in with it.",
        "withdrawn": "The invitation was taken back.",
        "topped-up": "The balance was changed.",
        "price": "The price was set.",
        "signed-out": "You are signed out.",
        "pulling": "Fetching has begun.",
    }
)
"""What a page may be told to say after a redirect; nothing else can be put into its address."""


@dataclass(frozen=True, slots=True)
class FixedSetting:
    """A setting of the server's start, as it is shown: secrets are not."""

    variable: str
    value: str
    help: str


@dataclass(frozen=True, slots=True)
class Console:
    """What pages show beyond the API's services. `memory` is each model's plan, by id: what takes
    how much."""

    books: Books
    fixed_settings: tuple[FixedSetting, ...] = ()
    memory: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    pulls: Pulls | None = None


class SignInNeeded(Exception):  # noqa: N818 - not an error: it leads to the sign-in page
    """The page is for people who are signed in."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a page; `user` and `session` are None for strangers."""

    user: User | None = None
    session: Session | None = None

    @property
    def is_admin(self) -> bool:
        return self.user is not None and self.user.role.covers(Role.ADMIN)


class Visit:
    """One request for a page."""

    def __init__(self, request: Request, signed_in: SignedIn | None) -> None:
        self.request = request
        self.services: Services = services_of(request)
        self._signed_in = signed_in
        self.viewer = Viewer(signed_in.user, signed_in.session) if signed_in else Viewer()
        self._stranger_csrf = "" if signed_in else form_csrf(request)

    @property
    def accounts(self) -> Accounts:
        return accounts_of(self.request)

    @property
    def console(self) -> Console:
        return cast(Console, self.request.app.state.console)

    @property
    def books(self) -> Books:
        return self.console.books

    @property
    def user(self) -> User:
        """The signed-in user; only for pages that need one."""
        if self.viewer.user is None:
            raise SignInNeeded
        return self.viewer.user

    @property
    def actor(self) -> Actor:
        """The signed-in user as one who acts."""
        if self._signed_in is None:
            raise SignInNeeded
        return actor_of(self.request, self._signed_in)

    @property
    def csrf(self) -> str:
        return self._signed_in.csrf if self._signed_in else self._stranger_csrf

    def page(self, template: str, *, status: int = 200, **context: Any) -> Response:
        """`template` with what every page knows and `context`."""
        known = {
            "viewer": self.viewer,
            "csrf": self.csrf,
            "navigation": navigation(
                signed_in=self.viewer.user is not None, admin=self.viewer.is_admin
            ),
            "current": self.request.url.path,
            "flashes": self._flashes(),
            "version": osslo.__version__,
            "error": None,
        }
        response = _PAGES.render(template, known | context, status=status)
        if self._signed_in is None:
            set_form_csrf(self.request, response, self._stranger_csrf)
        return response

    async def form(self) -> FormData:
        """The form's fields, after its CSRF secret was checked.

        Raises `PermissionDeniedError` for a forged form, `BodyTooLargeError` for a huge one.
        """
        length = self.request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_FORM_BYTES:
            raise BodyTooLargeError(f"A form has at most {MAX_FORM_BYTES} bytes.")
        form = await self.request.form(max_files=0, max_fields=200)
        presented = form.get(CSRF_FIELD)
        secret = presented if isinstance(presented, str) else None
        if self._signed_in is not None:
            check_csrf(self.request, self._signed_in, secret)
        else:
            check_form_csrf(self.request, secret)
        return form

    def _flashes(self) -> list[dict[str, str]]:
        text = DONE.get(self.request.query_params.get("done", ""))
        return [{"kind": "good", "text": text}] if text else []


async def visit(request: Request) -> Visit:
    """A visit by anybody."""
    return Visit(request, await signed_in_of(request))


async def member(request: Request) -> Visit:
    """A visit by somebody who is signed in. Raises `SignInNeeded`."""
    made = Visit(request, await signed_in_of(request))
    if made.viewer.user is None:
        raise SignInNeeded
    return made


async def admin(request: Request) -> Visit:
    """A visit by an admin or owner. Raises `SignInNeeded` or `PermissionDeniedError`."""
    made = await member(request)
    if not made.viewer.is_admin:
        raise PermissionDeniedError("This page is for administrators.")
    return made


def go(path: str, **query: str) -> RedirectResponse:
    """Lead on after a form was dealt with."""
    address = f"{path}?{urlencode(query)}" if query else path
    return RedirectResponse(address, status_code=303)


def to_sign_in(request: Request) -> RedirectResponse:
    """Lead to the sign-in page, and back afterwards if the page was only looked at."""
    path = request.url.path if request.method == "GET" else "/console"
    return RedirectResponse(f"/console/sign-in?next={quote(path)}", status_code=303)


def text_of(form: FormData, name: str) -> str:
    """A field's text without surrounding space; empty if it is not there."""
    value = form.get(name, "")
    return value.strip() if isinstance(value, str) else ""


def safe_next(path: str) -> str:
    """A path of the console to go to after signing in, never another site."""
    ours = path.startswith("/console") and "\\" not in path and "//" not in path
    return path if ours else "/console"
