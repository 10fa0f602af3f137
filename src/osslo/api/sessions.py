"""Browsers' sessions, and who may call what of the management API and the console.

A session is a cookie that scripts cannot read and other sites' forms do not send. Whatever changes
something by a session also needs the session's CSRF secret, in the header `x-csrf-token` or the
form field `csrf`, and must come from our own pages where the browser says where it comes from.

A route says its least role by one dependency, `requires(Role.…)`, or that it has none, by
`anyone`; both can be read from the route table.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.responses import Response

from osslo.accounts.records import Actor, Key, KeyHolder, Role, SignedIn, User
from osslo.accounts.secrets import new_token
from osslo.accounts.service import Accounts
from osslo.accounts.sessions import IDLE, Browser, NewSession, csrf_matches
from osslo.api.auth import presented_key
from osslo.api.services import services_of
from osslo.errors import AuthenticationError, NotFoundError, PermissionDeniedError

CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"
_COOKIE = "osslo_session"
_FORM_COOKIE = "osslo_form"
_HOST_ONLY = "__Host-"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls a management route: a user, in a session or by a key."""

    actor: Actor
    user: User
    signed_in: SignedIn | None = None
    key: Key | None = None


# --- cookies ------------------------------------------------------------------------------------


def session_token(request: Request) -> str | None:
    """The token in the session cookie. Over https only the cookie that https set counts, so that
    nobody on the way can plant one."""
    return request.cookies.get(_cookie_name(request, _COOKIE)) or None


def set_session_cookie(request: Request, response: Response, begun: NewSession) -> None:
    """Let the browser keep a session that has just begun."""
    _set_cookie(request, response, _COOKIE, begun.token, int(IDLE.total_seconds()))


def clear_session_cookie(request: Request, response: Response) -> None:
    """Let the browser forget its session."""
    _set_cookie(request, response, _COOKIE, "", 0)


def form_csrf(request: Request) -> str:
    """The CSRF secret for a form of somebody who is not signed in (sign-in, sign-up). It is kept in
    a cookie of its own by `set_form_csrf`, and compared with the form's field."""
    return request.cookies.get(_cookie_name(request, _FORM_COOKIE)) or new_token()


def set_form_csrf(request: Request, response: Response, secret: str) -> None:
    """Let the browser keep the secret that `form_csrf` gave for a page."""
    _set_cookie(request, response, _FORM_COOKIE, secret, 86_400)


def browser_of(request: Request) -> Browser:
    """From where somebody signs in."""
    services = services_of(request)
    return Browser(
        address=services.proxies.address(request),
        user_agent=request.headers.get("user-agent", ""),
        token=session_token(request),
    )


def _cookie_name(request: Request, name: str) -> str:
    return _HOST_ONLY + name if services_of(request).proxies.is_https(request) else name


def _set_cookie(
    request: Request, response: Response, name: str, value: str, max_age_s: int
) -> None:
    response.set_cookie(
        _cookie_name(request, name),
        value,
        max_age=max_age_s,
        path="/",
        secure=services_of(request).proxies.is_https(request),
        httponly=True,
        samesite="lax",
    )


# --- forged requests ----------------------------------------------------------------------------


def check_same_origin(request: Request) -> None:
    """Raise `PermissionDeniedError` if a browser says that another site made the request. Clients
    that are no browsers say nothing, and hold no cookie that somebody else could use."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site not in ("same-origin", "none"):
            raise _forged()
        return
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != _host(request):
        raise _forged()


def check_csrf(request: Request, signed_in: SignedIn, presented: str | None) -> None:
    """Raise `PermissionDeniedError` unless `presented` is the session's CSRF secret and the request
    comes from our own pages."""
    check_same_origin(request)
    if not csrf_matches(signed_in, presented):
        raise _forged()


def check_form_csrf(request: Request, presented: str | None) -> None:
    """The same for the form of somebody who is not signed in."""
    check_same_origin(request)
    known = request.cookies.get(_cookie_name(request, _FORM_COOKIE), "")
    given = (presented or "").encode("utf-8", "surrogateescape")
    matches = hmac.compare_digest(given, known.encode("utf-8", "surrogateescape"))
    if not known or not matches:
        raise _forged()


def _host(request: Request) -> str:
    return request.headers.get("host", "").lower()


def _forged() -> PermissionDeniedError:
    return PermissionDeniedError(
        f"This request may come from another site: send the session's secret as {CSRF_HEADER}, "
        "or reload the page.",
        code="csrf",
    )


# --- who calls ----------------------------------------------------------------------------------


def accounts_of(request: Request) -> Accounts:
    """The accounts. Raises `NotFoundError` where the server runs without."""
    accounts = services_of(request).accounts
    if accounts is None:
        raise NotFoundError("This server runs without accounts.", code="no_accounts")
    return accounts


WithAccounts = Annotated[Accounts, Depends(accounts_of)]


async def signed_in_of(request: Request) -> SignedIn | None:
    """The session of the browser, or None. Nothing is checked against CSRF: for pages, and for
    what checks it itself."""
    accounts = services_of(request).accounts
    token = session_token(request)
    if accounts is None or token is None:
        return None
    return await accounts.sessions.find(token)


def actor_of(request: Request, signed_in: SignedIn) -> Actor:
    """A signed-in user as one who acts."""
    address = services_of(request).proxies.address(request)
    user = signed_in.user
    return Actor(kind="user", role=user.role, user_id=user.id, address=address)


async def principal_by_session(request: Request) -> Principal | None:
    """Who is signed in. Raises `PermissionDeniedError` for a change that may be forged."""
    signed_in = await signed_in_of(request)
    if signed_in is None:
        return None
    if request.method not in _SAFE:
        check_csrf(request, signed_in, request.headers.get(CSRF_HEADER))
    return Principal(actor_of(request, signed_in), signed_in.user, signed_in)


class Requires:
    """A dependency that lets in who has at least the role `least`.

    In a session that is all. A management key has its user's role. Any other key only reads
    (`any_key`), and never more than a member sees.
    """

    def __init__(self, least: Role, *, any_key: bool = False) -> None:
        self.least = least
        self.any_key = any_key

    async def __call__(self, request: Request) -> Principal:
        principal = await self._identify(request)
        if not principal.actor.role.covers(self.least):
            raise PermissionDeniedError(f"This takes the role {self.least.value}.")
        return principal

    async def _identify(self, request: Request) -> Principal:
        accounts = accounts_of(request)
        text = presented_key(request.headers)
        if text:
            return await self._by_key(request, accounts, text)
        principal = await principal_by_session(request)
        if principal is not None:
            return principal
        await _check_set_up(accounts)
        raise AuthenticationError("Sign in, or send a key.", code="not_signed_in")

    async def _by_key(self, request: Request, accounts: Accounts, text: str) -> Principal:
        address = services_of(request).proxies.address(request)
        holder = await accounts.keyring.identify(text, address=address)
        if holder is None:
            await _check_set_up(accounts)
            raise AuthenticationError("Incorrect API key provided.")
        if holder.key.rules.management:
            return _by_key(holder, holder.user.role, address)
        if not (self.any_key and request.method in _SAFE):
            raise PermissionDeniedError(
                "This takes a management key, or signing in to the console; this key is for "
                "generating only.",
                code="management_key_needed",
            )
        return _by_key(holder, Role.MEMBER, address)


async def _check_set_up(accounts: Accounts) -> None:
    """Raise `AuthenticationError` where nobody can call yet: the server's key only generates."""
    if not await accounts.keyring.in_use():
        raise AuthenticationError(
            "There are no users yet: open the setup link that the server printed when it "
            "started, or run `osslo users create`.",
            code="not_set_up",
        )


def _by_key(holder: KeyHolder, role: Role, address: str | None) -> Principal:
    user, key = holder.user, holder.key
    actor = Actor(kind="key", role=role, user_id=user.id, key_id=key.id, address=address)
    return Principal(actor, user, key=key)


def requires(least: Role, *, any_key: bool = False) -> Requires:
    """The dependency that a management route declares; see `Requires`."""
    return Requires(least, any_key=any_key)


async def anyone(request: Request) -> None:
    """The dependency of a management route that needs nobody's account. What it changes must still
    come from our own pages, where a browser says so."""
    if request.method not in _SAFE:
        check_same_origin(request)


Member = Annotated[Principal, Depends(requires(Role.MEMBER))]
MemberReading = Annotated[Principal, Depends(requires(Role.MEMBER, any_key=True))]
Admin = Annotated[Principal, Depends(requires(Role.ADMIN))]
Owner = Annotated[Principal, Depends(requires(Role.OWNER))]
