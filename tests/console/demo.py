"""A console to look at: people, keys and two weeks of usage over two scripted models.

Everything is the real application over a real database; only the models' answers are written down
here, so that every page has something to show and every kind of answer can be had at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from sqlalchemy import Table

from osslo.accounts.context import Context
from osslo.accounts.ledger.records import Counts, Rates
from osslo.accounts.ledger.service import Ledger, welcome
from osslo.accounts.ledger.tables import BalanceRow, DailyUsageRow, EntryRow, UsageRow
from osslo.accounts.records import (
    COMMAND_LINE,
    Actor,
    Key,
    KeyRules,
    Options,
    RateLimits,
    Role,
    SignUp,
    SpendingPeriod,
    User,
)
from osslo.accounts.service import Accounts, assemble
from osslo.api.accounts.keyring import AccountsKeyRing
from osslo.api.app import create_app
from osslo.api.auth import SingleKeyRing
from osslo.api.client_address import Proxies
from osslo.api.metering import LedgerMeter
from osslo.api.rate_limits import LimitedMeter
from osslo.api.services import Services
from osslo.chat.models import ModelRegistry, PromptProfile, ServedModel
from osslo.console.ledger_books import LedgerBooks
from osslo.console.pulls import Pulls
from osslo.console.site import install_console
from osslo.console.visit import Console, FixedSetting
from osslo.db.database import Database
from osslo.model.discovery import ModelRoots
from osslo.model.hub import Hub
from osslo.settings import FileSettings, load_settings, setting_values
from osslo.store.files import FileStore
from osslo.types import BackendStats, GenerationRequest
from tests.accounts.conftest import PEPPER, cheap_passwords
from tests.databases import migrated_sqlite
from tests.scripted import ByteVocabulary, Script, ScriptedBackend, serving

PASSWORD = "four unrelated words"
OWNER = "ingrid@fjord.example"
MEMBER = "jonas@fjord.example"
LONG = "a.person.with.a.rather.long.address@department.university.example"
SERVER_KEY = "sk-demo-server-key"
DAYS = 14

_VOCABULARY = ByteVocabulary()
_FINAL = "<|start|>assistant<|channel|>final<|message|>"
_THOUGHT = "<|channel|>analysis<|message|>"

ANSWERS = {
    "Norway": (
        f"{_THOUGHT}The user asks for a capital. Norway's capital is Oslo.<|end|>"
        f"{_FINAL}The capital of Norway is **Oslo**, at the head of the Oslofjord.\n\n"
        "| | |\n|---|---|\n| Inhabitants | about 720,000 |\n| Founded | around 1040 |\n\n"
        "A few things to know:\n\n- Parliament sits there: the *Storting*.\n"
        "- It was called Kristiania until 1925.\n\n"
        '```python\nprint("Hei, Oslo!")\n```<|return|>'
    ),
    "weather": (
        f"{_THOUGHT}I need the weather: call the function.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json"
        '<|message|>{"city": "Oslo", "unit": "celsius"}<|call|>'
    ),
    "attack": (
        f"{_THOUGHT}<img src=x onerror=\"document.title='owned'\"><|end|>{_FINAL}"
        "<script>document.title='owned'</script>\n\n"
        "[a link](javascript:document.title='owned') "
        "![an image](https://elsewhere.invalid/beacon.png) "
        "<img src=x onerror=\"document.title='owned'\">\n\n"
        "```html\n</code></pre><script>document.title='owned'</script>\n```\n\n"
        "[data](data:text/html,<script>document.title='owned'</script>)<|return|>"
    ),
}
"""What the models say, by a word of the prompt."""

_ELSE = f"{_THOUGHT}A greeting.<|end|>{_FINAL}Hello! What can I do for you?<|return|>"


def answer(request: GenerationRequest) -> Script:
    """The answer to the last thing that was said."""
    said = _VOCABULARY.text(tuple(request.prompt))
    last = said.rpartition("<|start|>user<|message|>")[2]
    for word, markup in ANSWERS.items():
        if word in last and "to=functions" not in last:
            return Script((_VOCABULARY.tokens(markup),), chunk=12)
    return Script((_VOCABULARY.tokens(_ELSE),), chunk=12)


@dataclass
class DemoBackend(ScriptedBackend):
    """A scripted backend that has something to do."""

    load: BackendStats = field(default_factory=lambda: BackendStats(0, 0, 64, 0, 4096))

    def stats(self) -> BackendStats:
        return self.load


class DemoAdapters:
    """One adapter that was trained here."""

    def offered(self) -> Sequence[tuple[str, int]]:
        return (("house-style", 1_794_000_000),)


@dataclass(frozen=True)
class Demo:
    """The application and who is in it."""

    app: FastAPI
    accounts: Accounts
    ledger: Ledger
    books: LedgerBooks
    people: dict[str, User]


@contextmanager
def demo_site(folder: Path, *, with_people: bool = True) -> Iterator[tuple[str, Demo]]:
    """The demo on a real server; its URL."""
    demo = asyncio.run(build(folder, with_people=with_people))
    with serving(demo.app) as url:
        yield url, demo


async def build(folder: Path, *, with_people: bool = True) -> Demo:
    """The application over a database in `folder`, with everybody and everything in it."""
    database = migrated_sqlite()
    context = Context(database, PEPPER, cheap_passwords())
    accounts = assemble(context, on_user_created=welcome)
    ledger = Ledger(accounts.context, accounts.prices)
    books = LedgerBooks(ledger, accounts)
    keys = AccountsKeyRing(accounts, SingleKeyRing(SERVER_KEY))
    services = Services(
        registry=ModelRegistry(_models()),
        keys=keys,
        database=database,
        accounts=accounts,
        ledger=ledger,
        proxies=Proxies(("127.0.0.1/32",)),
        meter=LimitedMeter(accounts, LedgerMeter(ledger)),
        files=FileStore(database, folder / "files", FileSettings()),
    )
    app = create_app(services)
    install_console(app, _console(folder, books))
    people = await _people(assemble(context), database) if with_people else {}
    await database.close()
    return Demo(app, accounts, ledger, books, people)


def _models() -> tuple[ServedModel, ...]:
    busy = BackendStats(
        running=3,
        waiting=1,
        max_waiting=64,
        pages_used=1742,
        pages_total=4096,
        prefix_hits_tokens=1_204_480,
        prompt_tokens=1_913_022,
        generated_tokens=402_118,
        forced_tokens=18_442,
    )
    return (
        ServedModel(
            id="gpt-oss-20b",
            backend=DemoBackend(answer, max_context_tokens=32_768, load=busy),
            adapters=DemoAdapters(),
            vocabulary=_VOCABULARY,
            created=1_790_000_000,
            prompt=PromptProfile(show_date=False),
        ),
        ServedModel(
            id="osslo-standin-135m",
            backend=DemoBackend(answer, max_context_tokens=8192),
            vocabulary=_VOCABULARY,
            note="A small stand-in in gpt-oss's architecture: for trying things out.",
            created=1_790_000_000,
            prompt=PromptProfile(show_date=False),
        ),
    )


def _console(folder: Path, books: LedgerBooks) -> Console:
    plan = (
        ("weights", "11.86 GiB"),
        ("KV for 32,768 tokens", "0.80 GiB"),
        ("scratch", "96 MiB"),
        ("process", "256 MiB"),
        ("in all", "13.00 GiB"),
        ("available", "22.60 GiB"),
        ("largest context that fits", "131,072 tokens"),
    )
    models = folder / "models"
    models.mkdir(exist_ok=True)
    return Console(
        books=books,
        fixed_settings=tuple(FixedSetting(*row) for row in setting_values(load_settings())),
        memory={"gpt-oss-20b": plan},
        pulls=Pulls(models, ModelRoots(models), Hub(offline=True)),
    )


# --- people and keys ------------------------------------------------------------------------------


async def _people(accounts: Accounts, database: Database) -> dict[str, User]:
    made = {}
    for email, role in (
        (OWNER, Role.OWNER),
        ("sigrid@fjord.example", Role.ADMIN),
        (MEMBER, Role.MEMBER),
        ("lars@fjord.example", Role.MEMBER),
        (LONG, Role.MEMBER),
    ):
        made[email] = await accounts.users.create(
            COMMAND_LINE, email=email, name=email.partition("@")[0], role=role, password=PASSWORD
        )
    owner = _acting(made[OWNER])
    await accounts.options.change(
        owner, Options(sign_up=SignUp.OPEN, welcome_credit_nanousd=5 * 10**9)
    )
    await accounts.prices.set(
        owner, "osslo-standin-135m", input_list_nanousd=10, output_list_nanousd=40
    )
    await accounts.links.invite(owner, role=Role.MEMBER, email="kari@fjord.example")
    await accounts.links.invite(owner, role=Role.ADMIN, email=None)
    keys = [*await _keys(accounts, made[OWNER]), *await _keys(accounts, made[MEMBER])]
    await _history(database, keys, list(made.values()))
    return made


async def _keys(accounts: Accounts, user: User) -> list[Key]:
    rules = (
        KeyRules(
            "production",
            spending_limit_nanousd=50 * 10**9,
            spending_period=SpendingPeriod.MONTHLY,
            limits=RateLimits(600, 200_000),
        ),
        KeyRules("laptop", expires_at=datetime.now(UTC) + timedelta(days=60)),
        KeyRules(
            "nightly evaluation",
            models=("osslo-standin-135m",),
            networks=("10.0.0.0/8", "192.168.0.0/16"),
        ),
    )
    actor = _acting(user)
    made = [(await accounts.keys.create(actor, user.id, each)).key for each in rules]
    old = (await accounts.keys.create(actor, user.id, KeyRules("old notebook"))).key
    await accounts.keys.revoke(actor, [old.id])
    replaced = (await accounts.keys.create(actor, user.id, KeyRules("agent"))).key
    fresh = (await accounts.keys.rotate(actor, replaced.id)).key
    return [*made, fresh]


def _acting(user: User) -> Actor:
    return Actor("user", user.role, user.id, address="192.0.2.17")


# --- history --------------------------------------------------------------------------------------


@dataclass
class _Books:
    """Rows of usage and of the ledger, as the journal would have written them day by day."""

    usage: list[dict[str, Any]] = field(default_factory=list)
    daily: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)
    balances: dict[str, int] = field(default_factory=dict)

    def move(self, user_id: str, kind: str, amount: int, at: datetime, note: str | None) -> None:
        self.balances[user_id] = self.balances.get(user_id, 0) + amount
        self.entries.append(
            {
                "user_id": user_id,
                "kind": kind,
                "amount_nanousd": amount,
                "balance_nanousd": self.balances[user_id],
                "idempotency_key": f"demo:{len(self.entries)}",
                "note": note,
                "at": at,
            }
        )

    def use(self, key: Key, model: str, at: datetime, draw: random.Random) -> None:
        status = draw.choices(
            ("completed", "length", "cancelled", "failed", "refused"), (90, 4, 3, 2, 1)
        )[0]
        row = _request(key, model, at, draw, status=status, number=len(self.usage))
        self.usage.append(row)
        names = ("day", "user_id", "key_id", "model", "protocol")
        place = (at.date(), key.user_id, key.id, model, row["protocol"])
        sums = self.daily.setdefault(place, dict(zip(names, place, strict=True)))
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"):
            sums[name] = sums.get(name, 0) + row[name]
        sums["requests"] = sums.get("requests", 0) + 1
        sums["cost_nanousd"] = sums.get("cost_nanousd", 0) + row["cost_nanousd"]
        if row["cost_nanousd"]:
            self.move(key.user_id, "end", -row["cost_nanousd"], at, None)


def _request(
    key: Key, model: str, at: datetime, draw: random.Random, *, status: str, number: int
) -> dict[str, Any]:
    ended = status in ("completed", "length", "cancelled")
    prompt = draw.randint(400, 24_000)
    output = draw.randint(40, 2600) if ended else 0
    counts = Counts(
        prompt, output, int(prompt * draw.choice((0, 0, 0.4, 0.8, 0.9))), int(output * 0.6)
    )
    rates = Rates(80, 80, 320) if model == "gpt-oss-20b" else Rates(10, 10, 40)
    fresh = prompt - (counts.cached_tokens or 0)
    first = 180 + fresh * draw.uniform(0.05, 0.09)
    speed = draw.uniform(28, 44) if model == "gpt-oss-20b" else draw.uniform(150, 240)
    return {
        "id": f"res_{number:08d}",
        "request_id": f"req_{draw.getrandbits(64):016x}",
        "at": at,
        "user_id": key.user_id,
        "key_id": key.id,
        "model": model,
        "protocol": draw.choice(("chat", "chat", "responses", "messages")),
        "status": status,
        "error": {"failed": "engine_error", "refused": "overloaded"}.get(status),
        "prompt_tokens": prompt,
        "cached_tokens": counts.cached_tokens,
        "completion_tokens": output,
        "reasoning_tokens": counts.reasoning_tokens,
        "cost_nanousd": rates.cost(counts),
        "first_token_ms": first if ended else None,
        "duration_ms": first + output / speed * 1000,
        "tokens_per_second": speed if ended else None,
    }


async def _history(database: Database, keys: list[Key], users: list[User]) -> None:
    """Two weeks: busy working days, quiet weekends, most of it by the key that is in production."""
    draw = random.Random(20)
    books = _Books()
    now = datetime.now(UTC)
    begin = datetime.combine(now.date() - timedelta(days=DAYS), time(7), UTC)
    for user in users:
        books.move(user.id, "topup", 25 * 10**9, begin, "Invoice 2026-118")
    moments = []
    for day in range(DAYS + 1):
        date = begin + timedelta(days=day)
        busy = 1 if date.weekday() >= 5 else draw.randint(5, 9)
        for key in keys:
            often = {"production": 5, "agent": 3, "nightly evaluation": 2}.get(key.rules.name, 1)
            for _ in range(busy * often):
                moments.append((date + timedelta(seconds=draw.randint(0, 54_000)), key))
    for at, key in sorted(moments, key=lambda moment: moment[0]):
        small = key.rules.models is not None or draw.random() < 0.1
        if at < now:
            books.use(key, "osslo-standin-135m" if small else "gpt-oss-20b", at, draw)
    async with database.write() as session:
        connection = await session.connection()
        balances = [
            {"user_id": user, "balance_nanousd": left} for user, left in books.balances.items()
        ]
        for table, rows in (
            (BalanceRow, balances),
            (EntryRow, books.entries),
            (UsageRow, books.usage),
            (DailyUsageRow, list(books.daily.values())),
        ):
            await connection.execute(cast(Table, table.__table__).insert(), rows)
