"""All services of the accounts, wired, and what they do in the background."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

from osslo.accounts.backoff import BackOff
from osslo.accounts.context import Context
from osslo.accounts.keyring import Keyring
from osslo.accounts.keys import KeyService
from osslo.accounts.links import LinkService
from osslo.accounts.options import OptionsService
from osslo.accounts.permissions import check_least
from osslo.accounts.prices import PriceService
from osslo.accounts.rates import RateLimiter
from osslo.accounts.records import Actor, AuditEntry, Role
from osslo.accounts.repository import audit
from osslo.accounts.secrets import load_pepper
from osslo.accounts.sessions import SessionService
from osslo.accounts.users import UserCreated, UserService
from osslo.db.database import Database
from osslo.settings import AccountsSettings
from osslo.telemetry import LOGGER_NAME

_WRITE_EVERY_S = 10.0
_SWEEP_EVERY = 360  # writes

_log = logging.getLogger(LOGGER_NAME + ".accounts")


@dataclass(frozen=True, slots=True)
class Accounts:
    """The services of one process. `open_accounts` makes it."""

    context: Context
    users: UserService
    sessions: SessionService
    links: LinkService
    keys: KeyService
    keyring: Keyring
    prices: PriceService
    options: OptionsService
    rates: RateLimiter
    guesses: BackOff

    async def audit_log(
        self,
        actor: Actor,
        *,
        limit: int = 100,
        before: int | None = None,
        act: str | None = None,
        actor_id: str | None = None,
        target: str | None = None,
    ) -> list[AuditEntry]:
        """Acts, newest first, with ids below `before`; one more than `limit` if there are more."""
        check_least(actor, Role.ADMIN)
        async with self.context.database.read() as session:
            entries = await audit.page(
                session, limit=limit, before=before, act=act, actor_id=actor_id, target=target
            )
        return list(entries)

    async def run(self, stop: asyncio.Event, *, every_s: float = _WRITE_EVERY_S) -> None:
        """Until `stop` is set: write when keys were last used, and forget what has expired."""
        turn = 0
        while not stop.is_set():  # the last round comes after the end, for what was used till then
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every_s)
            try:
                await self.keyring.write_last_used()
                if turn % _SWEEP_EVERY == 0:
                    await self.sessions.forget_expired()
            except Exception:
                _log.warning("accounts could not be tended", exc_info=True)
            turn += 1
        await self.rates.close()


def open_accounts(
    database: Database,
    settings: AccountsSettings,
    home: Path,
    *,
    on_user_created: UserCreated | None = None,
) -> Accounts:
    """The services over a database, which is migrated before the first of them is used. Raises
    `ConfigurationError` if the pepper cannot be had."""
    context = Context(database, load_pepper(home, settings.key_pepper))
    return assemble(context, redis_url=settings.redis_url, on_user_created=on_user_created)


def assemble(
    context: Context,
    *,
    redis_url: str | None = None,
    on_user_created: UserCreated | None = None,
) -> Accounts:
    """The services over a context."""
    guesses = BackOff(free=10)
    created = {} if on_user_created is None else {"on_created": on_user_created}
    return Accounts(
        context=context,
        users=UserService(context, **created),
        sessions=SessionService(context, addresses=guesses),
        links=LinkService(context),
        keys=KeyService(context),
        keyring=Keyring(context),
        prices=PriceService(context),
        options=OptionsService(context),
        rates=RateLimiter(redis_url),
        guesses=guesses,
    )
