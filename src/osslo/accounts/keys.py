"""API keys: making, changing, rotating and revoking them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.context import Context
from osslo.accounts.fields import amount_of, limits_of, models_of, name_of, networks_of
from osslo.accounts.permissions import manages, no_such_user
from osslo.accounts.records import (
    Actor,
    Key,
    KeyRules,
    KeyState,
    NewKey,
    Page,
    Role,
    User,
)
from osslo.accounts.repository import keys, users
from osslo.accounts.secrets import new_id, new_key, shown_prefix
from osslo.errors import (
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    RequestError,
)

DEFAULT_OVERLAP_S = 86_400
MAX_OVERLAP_S = 90 * 86_400
MAX_ACTIVE = 1000
_MAX_BULK = 1000


class KeyService:
    """Everything that is done to keys. A caller who may not see a key gets `NotFoundError`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, actor: Actor, user_id: str, rules: KeyRules) -> NewKey:
        """A new key for a user; its text is in the answer and nowhere else.

        Raises `RequestError` for rules that cannot be, `PermissionDeniedError` for a management key
        of a member, `ConflictError` for too many keys.
        """
        rules = self._checked(rules)
        async with self._context.change() as session:
            user = await _user(session, actor, user_id)
            _check_management(actor, user, rules)
            if len(await keys.of_user(session, user_id, active=True)) >= MAX_ACTIVE:
                raise ConflictError(f"A user has at most {MAX_ACTIVE} keys; revoke some first.")
            return await self._add(session, actor, user_id, rules, act="key.create")

    async def change(self, actor: Actor, key_id: str, rules: KeyRules) -> Key:
        """Replace what a key may do. Raises `ConflictError` if it is revoked."""
        async with self._context.change() as session:
            key, user = await _key(session, actor, key_id)
            _check_active(key)
            rules = self._checked(rules, before=key.rules)
            _check_management(actor, user, rules)
            await keys.set_rules(session, key_id, rules)
            await self._context.note(session, actor, "key.change", key_id, name=rules.name)
        return replace(key, rules=rules)

    async def rotate(
        self, actor: Actor, key_id: str, *, overlap_s: int = DEFAULT_OVERLAP_S
    ) -> NewKey:
        """A new key with the rules of an old one, which keeps working for `overlap_s` seconds.

        Raises `ConflictError` if the old key is revoked, was rotated already, or has ended.
        """
        amount_of(overlap_s, param="overlap_s", most=MAX_OVERLAP_S)
        async with self._context.change() as session:
            key, user = await _key(session, actor, key_id)
            _check_active(key)
            _check_management(actor, user, key.rules)
            if key.retires_at is not None:
                raise ConflictError(
                    "This key was rotated already; rotate the key that replaced it."
                )
            if _has_ended(key, self._context.now()):
                raise ConflictError("This key has expired; make a new one.")
            retires_at = self._context.now() + timedelta(seconds=overlap_s)
            await keys.retire(session, key_id, retires_at)
            return await self._add(
                session, actor, key.user_id, key.rules, act="key.rotate", rotated_from=key_id
            )

    async def revoke(self, actor: Actor, key_ids: Sequence[str]) -> list[Key]:
        """End keys for good, all or none; revoking one twice is no error."""
        if len(key_ids) > _MAX_BULK:
            raise RequestError(f"At most {_MAX_BULK} keys can be named at once.", param="ids")
        async with self._context.change() as session:
            found = [(await _key(session, actor, key_id))[0] for key_id in key_ids]
            await keys.revoke(session, key_ids)
            for key in found:
                await self._context.note(
                    session, actor, "key.revoke", key.id, name=key.rules.name, owner=key.user_id
                )
        return [replace(key, state=KeyState.REVOKED) for key in found]

    async def revoke_all(self, actor: Actor, user_id: str) -> int:
        """Revoke every key of a user; how many there were."""
        async with self._context.change() as session:
            await _user(session, actor, user_id)
            found = [key.id for key in await keys.of_user(session, user_id, active=True)]
            await keys.revoke(session, found)
            await self._context.note(session, actor, "key.revoke_all", user_id, keys=len(found))
        return len(found)

    async def get(self, actor: Actor, key_id: str) -> Key:
        """One key."""
        async with self._context.database.read() as session:
            key = await keys.by_id(session, key_id)
        if key is None or not _sees(actor, key.user_id):
            raise _no_such_key(key_id)
        return key

    async def page(self, actor: Actor, page: Page, *, user_id: str | None = None) -> Sequence[Key]:
        """Keys, newest first, one more than asked for if there are more. A member sees only the
        own ones; for admins `user_id` None is everybody."""
        if not _sees(actor, user_id):
            raise PermissionDeniedError("You may list your own keys only.", param="user_id")
        async with self._context.database.read() as session:
            return await keys.page(session, page, user_id=user_id)

    async def _add(
        self,
        session: AsyncSession,
        actor: Actor,
        user_id: str,
        rules: KeyRules,
        *,
        act: str,
        rotated_from: str | None = None,
    ) -> NewKey:
        text = new_key()
        key = Key(
            id=new_id("key"),
            user_id=user_id,
            prefix=shown_prefix(text),
            state=KeyState.ACTIVE,
            rules=rules,
            created_at=self._context.now(),
            last_used_at=None,
            retires_at=None,
            rotated_from=rotated_from,
        )
        await keys.add(session, key, hashed=self._context.pepper.hash(text))
        await self._context.note(
            session,
            actor,
            act,
            key.id,
            name=rules.name,
            owner=user_id,
            rotated_from=rotated_from,
            management=rules.management or None,
        )
        return NewKey(key, text)

    def _checked(self, rules: KeyRules, *, before: KeyRules | None = None) -> KeyRules:
        amount_of(rules.spending_limit_nanousd, param="spending_limit_nanousd")
        expires_at = rules.expires_at
        unchanged = before is not None and before.expires_at == expires_at
        if expires_at is not None and not unchanged and expires_at <= self._context.now():
            raise RequestError("A key cannot expire in the past.", param="expires_at")
        return replace(
            rules,
            name=name_of(rules.name),
            models=models_of(rules.models),
            networks=networks_of(rules.networks),
            limits=limits_of(rules.limits),
        )


def _sees(actor: Actor, user_id: str | None) -> bool:
    own = actor.user_id is not None and actor.user_id == user_id
    return own or actor.role.covers(Role.ADMIN)


async def _user(session: AsyncSession, actor: Actor, user_id: str) -> User:
    """The user whose keys `actor` wants to change, who must be allowed to."""
    user = await users.by_id(session, user_id)
    if user is None or not (actor.user_id == user_id or _sees(actor, user_id)):
        raise no_such_user(user_id)
    if actor.user_id != user_id and not manages(actor, user):
        raise PermissionDeniedError("Only an owner may change the keys of an admin or an owner.")
    return user


async def _key(session: AsyncSession, actor: Actor, key_id: str) -> tuple[Key, User]:
    key = await keys.by_id(session, key_id)
    if key is None or not _sees(actor, key.user_id):
        raise _no_such_key(key_id)
    return key, await _user(session, actor, key.user_id)


def _check_active(key: Key) -> None:
    if key.state is KeyState.REVOKED:
        raise ConflictError("This key is revoked; make a new one.", code="key_revoked")


def _check_management(actor: Actor, user: User, rules: KeyRules) -> None:
    if rules.management and not (user.role.covers(Role.ADMIN) and actor.role.covers(Role.ADMIN)):
        raise PermissionDeniedError(
            "Only admins and owners have management keys.", param="management"
        )


def _has_ended(key: Key, now: datetime) -> bool:
    end = key.ends_at()
    return end is not None and end <= now


def _no_such_key(key_id: str) -> NotFoundError:
    return NotFoundError(f"There is no key {key_id[:80]!r}.", code="key_not_found")
