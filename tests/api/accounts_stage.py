"""The application with accounts, and people of every role who call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
from fastapi import FastAPI

from osslo.accounts.ledger.service import Ledger
from osslo.accounts.records import COMMAND_LINE, SYSTEM, Actor, KeyRules, NewKey, Role, User
from osslo.accounts.service import Accounts
from osslo.accounts.sessions import Browser
from osslo.api.accounts.keyring import AccountsKeyRing
from osslo.api.app import charged, create_app
from osslo.api.auth import SingleKeyRing
from osslo.api.client_address import Proxies
from osslo.api.rate_limits import LimitedMeter
from osslo.api.sessions import CSRF_HEADER
from osslo.chat.metering import FreeMeter
from tests.accounts.conftest import PASSWORD, make_accounts
from tests.api.conftest import KEY, Stage, make_stage

ORIGIN = "http://osslo"


@dataclass(frozen=True)
class Person:
    """Somebody who calls: their headers, and who they are (None is nobody)."""

    user: User | None
    headers: Mapping[str, str]
    key: str | None = None


@dataclass
class People:
    """Calls the application as different people, over one connection."""

    stage: Stage
    accounts: Accounts
    client: httpx.AsyncClient
    system: Actor = SYSTEM

    @property
    def ledger(self) -> Ledger:
        assert self.stage.services.ledger is not None
        return self.stage.services.ledger

    @property
    def app(self) -> FastAPI:
        return self.stage.app

    async def make(self, name: str, role: Role = Role.MEMBER, *, password: bool = False) -> User:
        return await self.accounts.users.create(
            COMMAND_LINE,
            email=f"{name}@example.com",
            name=name,
            role=role,
            password=PASSWORD if password else None,
        )

    async def in_session(self, user: User) -> Person:
        begun = await self.accounts.sessions.begin(user, Browser("192.0.2.1"))
        cookie = f"osslo_session={begun.token}"
        return Person(user, {"cookie": cookie, CSRF_HEADER: begun.signed_in.csrf})

    async def key(self, user: User, **rules: Any) -> NewKey:
        actor = Actor("user", user.role, user.id)
        return await self.accounts.keys.create(
            actor, user.id, KeyRules(**({"name": "a key"} | rules))
        )

    async def with_key(self, user: User, **rules: Any) -> Person:
        made = await self.key(user, **rules)
        return Person(user, {"authorization": f"Bearer {made.text}"}, made.key.id)

    async def call(
        self, person: Person | None, method: str, path: str, **options: Any
    ) -> httpx.Response:
        headers = dict(person.headers if person else {}) | options.pop("headers", {})
        return await self.client.request(method, path, headers=headers, **options)


NOBODY = Person(None, {})
SERVER_KEY = Person(None, {"authorization": f"Bearer {KEY}"})


@asynccontextmanager
async def people(
    *,
    proxies: tuple[str, ...] = (),
    base_url: str = ORIGIN,
    ledger: bool = False,
    **stage_options: Any,
) -> AsyncIterator[People]:
    """The application over a scripted backend, with accounts and nobody in them yet; with `ledger`,
    with one that has started, and that gives nothing to new users."""
    plain = make_stage(**stage_options)
    accounts = make_accounts(plain.services.database)
    books = Ledger(accounts.context, accounts.prices) if ledger else None
    services = replace(
        plain.services,
        accounts=accounts,
        ledger=books,
        keys=AccountsKeyRing(accounts, SingleKeyRing(KEY)),
        meter=LimitedMeter(accounts, FreeMeter()),
        proxies=Proxies(proxies),
        clock=lambda: datetime.now(UTC).timestamp(),
    )
    stage = Stage(create_app(services), services, plain.backend)
    transport = httpx.ASGITransport(
        stage.app, raise_app_exceptions=False, client=("127.0.0.1", 5000)
    )
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
        try:
            async with charged(books):
                yield People(stage, accounts, client)
        finally:
            await services.database.close()
