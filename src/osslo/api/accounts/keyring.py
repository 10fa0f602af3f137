"""The key ring of a server with accounts: keys and sessions become callers.

As long as there are no users the server's own key works, for everybody and free; from the first
user on only users' keys do.
"""

from __future__ import annotations

from fastapi import Request

from osslo.accounts.records import KeyHolder
from osslo.accounts.service import Accounts
from osslo.api.auth import Caller, SingleKeyRing
from osslo.api.sessions import principal_by_session
from osslo.chat.moderation import GuardMode


class AccountsKeyRing:
    """Implements `osslo.api.auth.KeyRing`."""

    def __init__(self, accounts: Accounts, without_users: SingleKeyRing) -> None:
        self._accounts = accounts
        self._without_users = without_users

    async def identify(self, key: str, *, address: str | None = None) -> Caller | None:
        keyring = self._accounts.keyring
        if not await keyring.in_use():
            return await self._without_users.identify(key, address=address)
        holder = await keyring.identify(key, address=address)
        return caller_of(holder) if holder is not None else None

    async def of_session(self, request: Request) -> Caller | None:
        principal = await principal_by_session(request)
        if principal is None:
            return None
        return Caller(tenant=principal.user.id, user_id=principal.user.id)

    async def again(self, caller: Caller) -> Caller | None:
        keyring = self._accounts.keyring
        if caller.user_id is None:
            in_use = await keyring.in_use()
            return None if in_use else await self._without_users.again(caller)
        if caller.key_id is None:
            user = await keyring.user(caller.user_id)
            return Caller(tenant=user.id, user_id=user.id) if user is not None else None
        holder = await keyring.again(caller.key_id)
        return caller_of(holder) if holder is not None else None


def caller_of(holder: KeyHolder) -> Caller:
    """A key's holder as the API's caller. What a user keeps belongs to the user, not the key."""
    rules = holder.key.rules
    return Caller(
        tenant=holder.user.id,
        user_id=holder.user.id,
        key_id=holder.key.id,
        models=None if rules.models is None else frozenset(rules.models),
        guard=None if rules.guard is None else GuardMode(rules.guard.value),
    )
