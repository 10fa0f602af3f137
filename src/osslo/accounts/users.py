"""Users: how they come to be, what they and others may change about them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.context import Context
from osslo.accounts.fields import email_of, limits_of, name_of
from osslo.accounts.links import redeem
from osslo.accounts.options import options_from
from osslo.accounts.passwords import check_password
from osslo.accounts.permissions import (
    check_gives,
    check_least,
    check_manages,
    no_such_user,
)
from osslo.accounts.records import (
    Actor,
    LinkKind,
    Page,
    RateLimits,
    Role,
    SignUp,
    User,
    UserState,
)
from osslo.accounts.repository import links, sessions, settings, users
from osslo.accounts.secrets import new_id
from osslo.errors import AuthenticationError, ConflictError, PermissionDeniedError

UserCreated = Callable[[AsyncSession, User], Awaitable[None]]
"""Called in the transaction that makes a user: the ledger gives the welcome credit there."""


async def _nothing_more(_session: AsyncSession, _user: User) -> None:
    """Nothing follows a new user."""


class UserService:
    """Everything that is done to users."""

    def __init__(self, context: Context, *, on_created: UserCreated = _nothing_more) -> None:
        self._context = context
        self._on_created = on_created

    # --- coming to be ---------------------------------------------------------------------------

    async def any_exist(self) -> bool:
        """Whether there is a user at all."""
        async with self._context.database.read() as session:
            return await users.any_exist(session)

    async def create(
        self,
        actor: Actor,
        *,
        email: str,
        name: str,
        password: str | None = None,
        role: Role = Role.MEMBER,
    ) -> User:
        """Make a user. Without a password nobody can sign in until a reset link was used.

        Raises `ConflictError` if the e-mail address has an account.
        """
        check_least(actor, Role.ADMIN)
        check_gives(actor, role)
        user, hashed = await self._new(email, name, password, role)
        async with self._context.change() as session:
            await self._add(session, actor, user, hashed, act="user.create")
        return user

    async def set_up(
        self, *, token: str, email: str, name: str, password: str, address: str | None
    ) -> User:
        """Make the first owner, by the link that was printed at the start."""
        user, hashed = await self._new(email, name, password, Role.OWNER)
        async with self._context.change() as session:
            await redeem(session, self._context, LinkKind.SETUP, token)
            if await users.any_exist(session):
                raise ConflictError("There is an owner already; sign in.", code="already_set_up")
            await links.void(session, LinkKind.SETUP, self._context.now())
            await self._add(session, _self(user, address), user, hashed, act="user.set_up")
        return user

    async def sign_up(
        self,
        *,
        email: str,
        name: str,
        password: str,
        invitation: str | None = None,
        address: str | None,
    ) -> User:
        """Make oneself an account, where the options let one. An invitation's role is given.

        Raises `PermissionDeniedError` if sign-up is closed, needs an invitation, or the invitation
        is not valid or another address's; `ConflictError` if the address has an account.
        """
        user, hashed = await self._new(email, name, password, Role.MEMBER)
        async with self._context.change() as session:
            if not await users.any_exist(session):
                raise PermissionDeniedError(
                    "The first account is made by the setup link that the server printed, or by "
                    "`osslo users create`.",
                    code="not_set_up",
                )
            await self._check_sign_up(session, invitation)
            if invitation is not None:
                link = await redeem(session, self._context, LinkKind.INVITATION, invitation)
                invited = link.invitation
                if invited is not None:
                    if invited.email not in (None, user.email):
                        raise PermissionDeniedError(
                            "This invitation is for another e-mail address.", param="email"
                        )
                    user = replace(user, role=invited.role)
            await self._add(session, _self(user, address), user, hashed, act="user.sign_up")
        return user

    # --- seeing ---------------------------------------------------------------------------------

    async def get(self, actor: Actor, user_id: str) -> User:
        """A user; members see themselves only. Raises `NotFoundError`."""
        async with self._context.database.read() as session:
            user = await users.by_id(session, user_id)
        if user is None or not (actor.user_id == user_id or actor.role.covers(Role.ADMIN)):
            raise no_such_user(user_id)
        return user

    async def by_email(self, actor: Actor, email: str) -> User:
        """The user with an e-mail address. Raises `NotFoundError`."""
        check_least(actor, Role.ADMIN)
        async with self._context.database.read() as session:
            user = await users.by_email(session, email_of(email))
        if user is None:
            raise no_such_user(email)
        return user

    async def page(self, actor: Actor, page: Page, *, search: str | None = None) -> Sequence[User]:
        """Users, newest first, one more than asked for if there are more."""
        check_least(actor, Role.ADMIN)
        async with self._context.database.read() as session:
            return await users.page(session, page, search=search)

    # --- changing -------------------------------------------------------------------------------

    async def rename(self, actor: Actor, user_id: str, name: str) -> User:
        """Change a user's name; one's own always."""
        name = name_of(name)
        async with self._context.change() as session:
            user = await _find(session, user_id)
            if actor.user_id != user_id:
                check_manages(actor, user)
            await users.change(session, user_id, name=name)
            await self._context.note(session, actor, "user.rename", user_id, name=name)
        return replace(user, name=name)

    async def set_role(self, actor: Actor, user_id: str, role: Role) -> User:
        """Change a user's role. There is always an active owner: `ConflictError` otherwise."""
        async with self._context.change() as session:
            user = await _find(session, user_id)
            check_manages(actor, user)
            check_gives(actor, role)
            if role is not Role.OWNER:
                await _check_not_last_owner(session, user)
            await users.change(session, user_id, role=role.value)
            await self._context.note(
                session, actor, "user.role", user_id, before=user.role.value, after=role.value
            )
        return replace(user, role=role)

    async def set_state(self, actor: Actor, user_id: str, state: UserState) -> User:
        """Disable a user, which ends the sessions, or let one in again."""
        async with self._context.change() as session:
            user = await _find(session, user_id)
            check_manages(actor, user)
            if state is UserState.DISABLED:
                await _check_not_last_owner(session, user)
                await sessions.end_all(session, user_id)
            await users.change(session, user_id, state=state.value)
            await self._context.note(session, actor, f"user.{state.value}", user_id)
        return replace(user, state=state)

    async def set_limits(self, actor: Actor, user_id: str, limits: RateLimits) -> User:
        """Change how much a user may ask a minute, all keys together."""
        limits_of(limits)
        async with self._context.change() as session:
            user = await _find(session, user_id)
            check_manages(actor, user)
            await users.change(
                session,
                user_id,
                requests_per_minute=limits.requests_per_minute,
                tokens_per_minute=limits.tokens_per_minute,
            )
            await self._context.note(
                session,
                actor,
                "user.limits",
                user_id,
                requests_per_minute=limits.requests_per_minute,
                tokens_per_minute=limits.tokens_per_minute,
            )
        return replace(user, limits=limits)

    # --- passwords ------------------------------------------------------------------------------

    async def change_password(
        self, actor: Actor, *, old: str, new: str, keep_session: str | None
    ) -> None:
        """Change one's own password; every other session ends. Raises `AuthenticationError` if the
        old one is wrong."""
        user_id = actor.user_id or ""
        async with self._context.database.read() as session:
            user = await _find(session, user_id)
            stored = await users.password_hash(session, user_id)
        if not await self._context.passwords.verify(stored, old):
            raise AuthenticationError(
                "The old password is wrong.", param="old_password", code="wrong_password"
            )
        check_password(new, email=user.email, name=user.name)
        hashed = await self._context.passwords.hash(new)
        async with self._context.change() as session:
            await users.change(session, user_id, password_hash=hashed)
            await sessions.end_all(session, user_id, but=keep_session)
            await self._context.note(session, actor, "user.password", user_id)

    async def reset_password(self, *, token: str, password: str, address: str | None) -> User:
        """Set a new password by a reset link; every session ends."""
        check_password(password, email="", name="")
        hashed = await self._context.passwords.hash(password)
        async with self._context.change() as session:
            link = await redeem(session, self._context, LinkKind.RESET, token)
            user = await _find(session, link.user_id or "")
            check_password(password, email=user.email, name=user.name)
            await users.change(session, user.id, password_hash=hashed)
            await sessions.end_all(session, user.id)
            await self._context.note(session, _self(user, address), "user.password_reset", user.id)
        return user

    # --- helpers --------------------------------------------------------------------------------

    async def _new(
        self, email: str, name: str, password: str | None, role: Role
    ) -> tuple[User, str | None]:
        """A checked user and password hash. Hashing is slow, so it comes before any transaction."""
        user = User(
            id=new_id("user"),
            email=email_of(email),
            name=name_of(name),
            role=role,
            state=UserState.ACTIVE,
            limits=RateLimits(),
            created_at=self._context.now(),
            last_sign_in_at=None,
        )
        if password is None:
            return user, None
        check_password(password, email=user.email, name=user.name)
        return user, await self._context.passwords.hash(password)

    async def _add(
        self, session: AsyncSession, actor: Actor, user: User, hashed: str | None, *, act: str
    ) -> None:
        if await users.by_email(session, user.email) is not None:
            raise ConflictError(
                "This e-mail address has an account; sign in.", param="email", code="email_taken"
            )
        await users.add(session, user, password_hash=hashed)
        await self._on_created(session, user)
        await self._context.note(
            session, actor, act, user.id, email=user.email, role=user.role.value
        )

    async def _check_sign_up(self, session: AsyncSession, invitation: str | None) -> None:
        """Who has an invitation may come in even where sign-up is closed to others."""
        if invitation is not None:
            return
        match options_from(await settings.every(session)).sign_up:
            case SignUp.OPEN:
                return
            case SignUp.INVITATION:
                raise PermissionDeniedError(
                    "An account takes an invitation here; ask an admin for one.",
                    code="invitation_needed",
                )
            case SignUp.CLOSED:
                raise PermissionDeniedError("Sign-up is closed here.", code="sign_up_closed")


def _self(user: User, address: str | None) -> Actor:
    """A user who acts before being signed in."""
    return Actor(kind="user", role=user.role, user_id=user.id, address=address)


async def _find(session: AsyncSession, user_id: str) -> User:
    user = await users.by_id(session, user_id)
    if user is None:
        raise no_such_user(user_id)
    return user


async def _check_not_last_owner(session: AsyncSession, user: User) -> None:
    is_owner = user.role is Role.OWNER and user.state is UserState.ACTIVE
    if is_owner and await users.count_owners(session) <= 1:
        raise ConflictError("This is the last owner; make another one first.", code="last_owner")
