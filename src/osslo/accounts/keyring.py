"""Whose key is this, in microseconds: a bounded cache over the database.

A cached key is believed for half a second at most; then one request reads the counter that every
change of accounts raises, and the cache is emptied if it moved. Where requests come all the time
the counter is read ahead, and none of them waits for it. So a key that is revoked on any replica is
refused everywhere within a second, and nothing polls while nobody calls. While the database cannot
be reached no key is accepted.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network

from osslo.accounts.backoff import BackOff, network_of
from osslo.accounts.context import Context
from osslo.accounts.fields import Network, in_networks
from osslo.accounts.options import options_from
from osslo.accounts.reachable import Reachable
from osslo.accounts.records import Key, KeyHolder, KeyState, Options, User, UserState
from osslo.accounts.repository import keys, settings, users
from osslo.accounts.secrets import well_formed
from osslo.errors import AuthenticationError, PermissionDeniedError

FRESH_S = 0.5
AHEAD_S = FRESH_S / 2
"""What is so old is read again beside the request that uses it."""

_CACHED = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    holder: KeyHolder
    networks: tuple[Network, ...]
    ends_at: datetime | None


class Keyring:
    """Identifies keys. One a process."""

    def __init__(
        self,
        context: Context,
        *,
        cached: int = _CACHED,
        fresh_s: float = FRESH_S,
        backoff: BackOff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._cached = cached
        self._fresh_s = fresh_s
        self._backoff = backoff or BackOff(free=20)
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._hash_of: dict[str, str] = {}
        self._used: dict[str, datetime] = {}
        self._version: int | None = None
        self._checked_at = float("-inf")
        self._checking = asyncio.Lock()
        self._ahead: asyncio.Task[None] | None = None
        self._any_users = False
        self._options = Options()

    async def in_use(self) -> bool:
        """Whether there are users, so that keys come from the database."""
        if not self._any_users:
            await self._look_again()
        return self._any_users

    async def options(self) -> Options:
        """The options, at most half a second old."""
        await self._look_again()
        return self._options

    async def identify(self, text: str, *, address: str | None) -> KeyHolder | None:
        """Whose key `text` is; None if it is nobody's. A typo costs no query.

        Raises `AuthenticationError` for a key that is revoked, expired or whose user is disabled,
        `PermissionDeniedError` for an address outside the key's networks, `RateLimitError` for an
        address that tried too many wrong keys, `OverloadedError` without the database.
        """
        if not well_formed(text):
            return None
        hashed = self._context.pepper.hash(text)
        await self._look_again()
        known = self._known.get(hashed)
        if known is None:
            place = network_of(address)
            self._backoff.check(place)
            known = await self._load(hashed)
            if known is None:
                self._backoff.failed(place)
                return None
        else:
            self._known.move_to_end(hashed)
        self._check(known, address)
        self._used[known.holder.key.id] = self._context.now()
        return known.holder

    async def again(self, key_id: str) -> KeyHolder | None:
        """The holder of a key that was identified before, if it still works; for work that goes on
        without the caller. Networks were checked when the work was asked for."""
        known = await self._by_id(key_id)
        if known is None:
            return None
        try:
            _check_works(known, self._context.now())
        except AuthenticationError:
            return None
        return known.holder

    async def holder(self, key_id: str) -> KeyHolder | None:
        """The holder of a key, whether or not it works still."""
        known = await self._by_id(key_id)
        return known.holder if known else None

    async def user(self, user_id: str) -> User | None:
        """An active user, as the database has it now; for work that goes on without a key."""
        async with Reachable(), self._context.database.read() as session:
            user = await users.by_id(session, user_id)
        return user if user is not None and user.state is UserState.ACTIVE else None

    async def write_last_used(self) -> None:
        """Store when keys were last used, all that changed since the last time in one go."""
        moments, self._used = self._used, {}
        if moments:
            async with self._context.database.write() as session:
                await keys.used(session, moments)

    async def _by_id(self, key_id: str) -> _Known | None:
        await self._look_again()
        hashed = self._hash_of.get(key_id)
        if hashed is None:
            async with Reachable(), self._context.database.read() as session:
                hashed = await keys.hash_of(session, key_id)
        if hashed is None:
            return None
        return self._known.get(hashed) or await self._load(hashed)

    async def _look_again(self) -> None:
        """Empty the cache if accounts have changed, unless that was asked just now."""
        age_s = self._clock() - self._checked_at
        if age_s >= self._fresh_s:
            await self._look(self._fresh_s)
        elif age_s >= AHEAD_S and self._ahead is None:
            self._ahead = asyncio.create_task(self._look(AHEAD_S))
            self._ahead.add_done_callback(self._looked_ahead)

    def _looked_ahead(self, task: asyncio.Task[None]) -> None:
        """What went wrong is met again, and told, once what is known is too old."""
        self._ahead = None
        if not task.cancelled():
            task.exception()

    async def _look(self, too_old_s: float) -> None:
        async with self._checking:
            if self._clock() - self._checked_at < too_old_s:
                return
            asked_at = self._clock()
            async with Reachable(), self._context.database.read() as session:
                version = await settings.version(session)
                if version != self._version:
                    self._any_users = await users.any_exist(session)
                    self._options = options_from(await settings.every(session))
            if version != self._version:
                self._known.clear()
                self._hash_of.clear()
                self._version = version
            self._checked_at = asked_at

    async def _load(self, hashed: str) -> _Known | None:
        version = self._version
        async with Reachable(), self._context.database.read() as session:
            holder = await keys.holder(session, hashed)
        if holder is None:
            return None
        rules = holder.key.rules
        networks = tuple(ip_network(block) for block in rules.networks)
        known = _Known(holder, networks, holder.key.ends_at())
        if version == self._version:  # else it may be older than the change that emptied the cache
            self._keep(hashed, known)
        return known

    def _keep(self, hashed: str, known: _Known) -> None:
        self._known[hashed] = known
        self._hash_of[known.holder.key.id] = hashed
        while len(self._known) > self._cached:
            _, oldest = self._known.popitem(last=False)
            self._hash_of.pop(oldest.holder.key.id, None)

    def _check(self, known: _Known, address: str | None) -> None:
        _check_works(known, self._context.now())
        if known.networks and not in_networks(address, known.networks):
            raise PermissionDeniedError(
                f"This key may not be used from {address or 'an unknown address'}; its owner can "
                "change the key's networks.",
                code="network_not_allowed",
            )


def _check_works(known: _Known, now: datetime) -> None:
    key: Key = known.holder.key
    if key.state is KeyState.REVOKED:
        raise AuthenticationError("This key was revoked; use another.", code="key_revoked")
    if known.ends_at is not None and known.ends_at <= now:
        raise AuthenticationError("This key has expired; use another.", code="key_expired")
    if known.holder.user.state is UserState.DISABLED:
        raise AuthenticationError("This key's account is disabled.", code="user_disabled")
