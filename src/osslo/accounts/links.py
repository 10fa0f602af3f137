"""One-time links: the first owner's setup, password resets, invitations.

Osslo sends no e-mail. Whoever makes a link gets it in the answer and hands it over. A link is a
random token that works once, for a time; the database holds its hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.context import Context
from osslo.accounts.fields import email_of
from osslo.accounts.permissions import check_gives, check_least, check_manages, no_such_user
from osslo.accounts.records import Actor, Invitation, IssuedLink, LinkKind, Page, Role
from osslo.accounts.repository import links, users
from osslo.accounts.secrets import new_id, new_token, token_hash
from osslo.errors import ConflictError, NotFoundError, PermissionDeniedError

SETUP_LASTS = timedelta(days=1)
RESET_LASTS = timedelta(hours=24)
INVITATION_LASTS = timedelta(days=7)


class LinkService:
    """Makes links. `UserService` is where they are redeemed."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def setup(self) -> IssuedLink | None:
        """A link to make the first owner with, or None if there are users already."""
        async with self._context.database.write() as session:
            if await users.any_exist(session):
                return None
            await links.delete_expired(session, self._context.now())
            return await self._issue(session, LinkKind.SETUP, SETUP_LASTS)

    async def reset(self, actor: Actor, user_id: str) -> IssuedLink:
        """A link with which a user sets a new password. Earlier ones stop working."""
        async with self._context.change() as session:
            user = await users.by_id(session, user_id)
            if user is None:
                raise no_such_user(user_id)
            check_manages(actor, user)
            await links.void(session, LinkKind.RESET, self._context.now(), user_id=user_id)
            await self._context.note(session, actor, "user.reset_link", user_id)
            return await self._issue(session, LinkKind.RESET, RESET_LASTS, user_id=user_id)

    async def invite(
        self, actor: Actor, *, role: Role = Role.MEMBER, email: str | None = None
    ) -> IssuedLink:
        """An invitation, for one e-mail address or for whoever has the link."""
        check_least(actor, Role.ADMIN)
        check_gives(actor, role)
        address = email_of(email) if email is not None else None
        now = self._context.now()
        invitation = Invitation(
            id=new_id("invite"),
            email=address,
            role=role,
            invited_by=actor.user_id,
            created_at=now,
            expires_at=now + INVITATION_LASTS,
            used_at=None,
        )
        async with self._context.change() as session:
            if address is not None and await users.by_email(session, address) is not None:
                raise ConflictError("This e-mail address has an account.", param="email")
            await self._context.note(
                session, actor, "invitation.create", invitation.id, email=address, role=role.value
            )
            return await self._issue(
                session, LinkKind.INVITATION, INVITATION_LASTS, invitation=invitation
            )

    async def withdraw(self, actor: Actor, invitation_id: str) -> None:
        """Take an unused invitation back. Raises `NotFoundError`, or `ConflictError` if used."""
        check_least(actor, Role.ADMIN)
        async with self._context.change() as session:
            invitation = await links.invitation_by_id(session, invitation_id)
            if invitation is None:
                raise NotFoundError(f"There is no invitation {invitation_id[:80]!r}.")
            if invitation.used_at is not None:
                raise ConflictError("This invitation was used; disable the user instead.")
            check_gives(actor, invitation.role)
            await links.withdraw(session, invitation_id)
            await self._context.note(session, actor, "invitation.withdraw", invitation_id)

    async def invitations(self, actor: Actor, page: Page) -> Sequence[Invitation]:
        """Invitations, newest first, one more than asked for if there are more."""
        check_least(actor, Role.ADMIN)
        async with self._context.database.read() as session:
            return await links.invitations(session, page)

    async def _issue(
        self,
        session: AsyncSession,
        kind: LinkKind,
        lasts: timedelta,
        *,
        user_id: str | None = None,
        invitation: Invitation | None = None,
    ) -> IssuedLink:
        token = new_token()
        now = self._context.now()
        link = links.Link(new_id("link"), kind, user_id, invitation, now + lasts, None)
        await links.add(session, link, hashed=token_hash(token), at=now)
        return IssuedLink(kind, token, link.expires_at, invitation)


async def redeem(session: AsyncSession, context: Context, kind: LinkKind, token: str) -> links.Link:
    """Use a link up, in the transaction that does what it is for. Raises `PermissionDeniedError`
    if it is unknown, of another kind, used or too old: which of these is not told."""
    link = await links.find(session, token_hash(token))
    now = context.now()
    if link is None or link.kind is not kind or link.used_at is not None or link.expires_at <= now:
        raise PermissionDeniedError(
            "This link was used, has expired, or is incomplete. Ask for a new one.",
            code="invalid_link",
        )
    await links.use(session, link, now)
    return link
