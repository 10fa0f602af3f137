"""Signing in and out. A session is a random token in a cookie; its hash is in the database.

Every sign-in makes a new session and ends the one that the browser had, so that a token planted
beforehand is worth nothing. Failures are slowed down for each address and each account.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from osslo.accounts.backoff import BackOff, network_of
from osslo.accounts.context import Context
from osslo.accounts.fields import email_of
from osslo.accounts.records import Actor, Session, SignedIn, User, UserState
from osslo.accounts.repository import links, sessions, users
from osslo.accounts.secrets import new_id, new_token, token_hash
from osslo.errors import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RequestError,
)

IDLE = timedelta(days=14)
LONGEST = timedelta(days=90)
_NOTED_EVERY = timedelta(minutes=1)
_MAX_AGENT = 300
_MAX_ADDRESS = 64


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session just begun, with the token for its cookie."""

    signed_in: SignedIn
    token: str


@dataclass(frozen=True, slots=True)
class Browser:
    """From where somebody signs in; `token` is the session cookie that came along, if any."""

    address: str | None
    user_agent: str = ""
    token: str | None = None


class SessionService:
    """Begins, finds and ends sessions."""

    def __init__(
        self,
        context: Context,
        *,
        addresses: BackOff | None = None,
        accounts: BackOff | None = None,
    ) -> None:
        self._context = context
        self._addresses = addresses or BackOff(free=10)
        # Short, for others can make it long: a stranger must not lock a user out.
        self._accounts = accounts or BackOff(free=5, longest_s=60)

    async def sign_in(self, *, email: str, password: str, browser: Browser) -> NewSession:
        """Begin a session by password. An unknown address and a wrong password look the same, and
        take the same time.

        Raises `AuthenticationError`, `RateLimitError` after too many failures, and
        `PermissionDeniedError` for a disabled user who knew the password.
        """
        place = network_of(browser.address)
        account = email.strip().lower()[:254]
        self._addresses.check(place)
        self._accounts.check(account)
        # Counted before the slow check, so that parallel guesses do not slip through.
        self._addresses.failed(place)
        self._accounts.failed(account)
        user = await self._verified(email, password)
        self._accounts.succeeded(account)
        # Not forgotten: who has an account could else go on guessing at others'.
        self._addresses.take_back(place)
        if user.state is UserState.DISABLED:
            raise PermissionDeniedError("This account is disabled.", code="user_disabled")
        return await self.begin(user, browser)

    async def begin(self, user: User, browser: Browser) -> NewSession:
        """Begin a session of a user who has just proved to be one; the browser's old one ends."""
        token, csrf = new_token(), new_token()
        now = self._context.now()
        begun = Session(
            id=new_id("session"),
            user_id=user.id,
            created_at=now,
            last_seen_at=now,
            expires_at=now + IDLE,
            user_agent=_printable(browser.user_agent)[:_MAX_AGENT],
            address=(browser.address or "")[:_MAX_ADDRESS],
        )
        async with self._context.database.write() as session:
            if browser.token is not None:
                await sessions.end(session, token_hash(browser.token))
            await sessions.add(session, begun, hashed=token_hash(token), csrf=csrf)
            await users.signed_in(session, user.id, now)
        return NewSession(SignedIn(user, begun, csrf), token)

    async def find(self, token: str) -> SignedIn | None:
        """The session whose cookie holds `token`, or None. Being seen prolongs it."""
        async with self._context.database.read() as session:
            found = await sessions.signed_in(session, token_hash(token))
        now = self._context.now()
        if found is None or found.session.expires_at <= now:
            return None
        if found.user.state is UserState.DISABLED:
            return None
        if now - found.session.last_seen_at > _NOTED_EVERY:
            until = min(now + IDLE, found.session.created_at + LONGEST)
            async with self._context.database.write() as session:
                await sessions.seen(session, found.session.id, at=now, until=until)
        return found

    async def sign_out(self, token: str) -> None:
        """End the session whose cookie holds `token`."""
        async with self._context.database.write() as session:
            await sessions.end(session, token_hash(token))

    async def sign_out_everywhere(
        self, actor: Actor, user_id: str, *, but: str | None = None
    ) -> int:
        """End all sessions of a user, but for the one with the id `but`; how many there were. The
        caller has checked that `actor` may."""
        async with self._context.change() as session:
            ended = await sessions.end_all(session, user_id, but=but)
            await self._context.note(session, actor, "user.sign_out", user_id, sessions=ended)
        return ended

    async def end_one(self, user_id: str, session_id: str) -> None:
        """End one of a user's own sessions. Raises `NotFoundError`."""
        async with self._context.database.write() as session:
            if not await sessions.end_one(session, user_id, session_id):
                raise NotFoundError(f"There is no session {session_id[:80]!r}.")

    async def of_user(self, user_id: str) -> Sequence[Session]:
        """A user's sessions, last used first."""
        async with self._context.database.read() as session:
            return await sessions.of_user(session, user_id, self._context.now())

    async def forget_expired(self) -> None:
        """Delete what has expired."""
        now = self._context.now()
        async with self._context.database.write() as session:
            await sessions.delete_expired(session, now)
            await links.delete_expired(session, now)

    async def _verified(self, email: str, password: str) -> User:
        user, stored = await self._stored(email)
        passwords = self._context.passwords
        if not await passwords.verify(stored, password) or user is None or stored is None:
            raise AuthenticationError(
                "The e-mail address or the password is wrong.", code="wrong_password"
            )
        if passwords.outdated(stored):
            hashed = await passwords.hash(password)
            async with self._context.database.write() as session:
                await users.change(session, user.id, password_hash=hashed)
        return user

    async def _stored(self, email: str) -> tuple[User | None, str | None]:
        try:
            known = email_of(email)
        except RequestError:
            return None, None
        async with self._context.database.read() as session:
            user = await users.by_email(session, known)
            stored = await users.password_hash(session, user.id) if user else None
        return user, stored


def csrf_matches(signed_in: SignedIn, presented: str | None) -> bool:
    """Whether a form or header carries the session's CSRF secret."""
    given = (presented or "").encode("utf-8", "surrogateescape")
    return hmac.compare_digest(given, signed_in.csrf.encode())


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())
