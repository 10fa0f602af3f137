"""The whole application for the rows: accounts, ledger, rate limits and metrics, over any backend.

What `osslo serve` builds, except for the model: a user with money and a key, in a database of its
own. In this process over ASGI, or behind a socket.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import FastAPI

from osslo.accounts.ledger.service import Ledger, welcome
from osslo.accounts.records import COMMAND_LINE, Actor, KeyRules, Role
from osslo.accounts.service import Accounts, open_accounts
from osslo.api.accounts.keyring import AccountsKeyRing
from osslo.api.app import create_app
from osslo.api.auth import SingleKeyRing
from osslo.api.metering import LedgerMeter
from osslo.api.rate_limits import LimitedMeter
from osslo.api.services import Services
from osslo.chat.models import ModelRegistry, PromptProfile, ServedModel
from osslo.db.database import Database, sqlite_url
from osslo.db.migrate import upgrade
from osslo.engine.backend import Backend
from osslo.harmony.vocabulary import Vocabulary
from osslo.settings import AccountsSettings, FileSettings
from osslo.store.files import FileStore

MONEY_NANOUSD = 10**15
MODEL = "gpt-oss-20b"


@dataclass(frozen=True, slots=True)
class World:
    """An application and the key of its only user, who owns it."""

    app: FastAPI
    services: Services
    accounts: Accounts
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client with the key that talks ASGI to the application. An error that the application
        lets out is a 500, as it is behind a socket."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://osslo", headers=self.headers, timeout=120
        ) as client:
            yield client


async def make_world(backend: Backend, vocabulary: Vocabulary, folder: Path) -> World:
    """The application over `backend`; nothing runs in it until its lifespan begins."""
    database = Database(sqlite_url(folder / "osslo.db"))
    await upgrade(database)
    accounts = open_accounts(database, AccountsSettings(), folder, on_user_created=welcome)
    user = await accounts.users.create(
        COMMAND_LINE, email="world@example.org", name="World", role=Role.OWNER, password=None
    )
    actor = Actor("user", user.role, user.id)
    key = await accounts.keys.create(actor, user.id, KeyRules(name="conformance"))
    ledger = Ledger(accounts.context, accounts.prices)
    model = ServedModel(
        id="conformance-model",
        backend=backend,
        vocabulary=vocabulary,
        aliases=(MODEL,),
        note="Not a model: it tests the server.",
        prompt=PromptProfile(show_date=False),
    )
    services = Services(
        registry=ModelRegistry((model,)),
        keys=AccountsKeyRing(accounts, SingleKeyRing("sk-nobody")),
        database=database,
        accounts=accounts,
        ledger=ledger,
        meter=LimitedMeter(accounts, LedgerMeter(ledger)),
        files=FileStore(database, folder / "files", FileSettings()),
    )
    await ledger.start()
    try:
        for number in range(5):
            await ledger.top_up(
                COMMAND_LINE,
                user.id,
                MONEY_NANOUSD,
                note="for the tests",
                idempotency_key=f"conformance-{number}",
            )
    finally:
        await ledger.close()
    return World(create_app(services), services, accounts, key.text)


@asynccontextmanager
async def world(backend: Backend, vocabulary: Vocabulary) -> AsyncIterator[World]:
    """The application with its background tasks running, for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="osslo-conformance-") as folder:
        made = await make_world(backend, vocabulary, Path(folder))
        async with made.app.router.lifespan_context(made.app):
            yield made
