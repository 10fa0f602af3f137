"""What accounts add to a request: `make bench-accounts` writes build/bench-accounts.json.

The parts are those that serve, wired as `osslo.serve` wires them: `AccountsKeyRing`, and
`LimitedMeter` over `LedgerMeter`, on a SQLite file and on a PostgreSQL server of the run's own,
both on the disk of `--folder` with every safety of a served database. 32 requests are open at any
time; each one authenticates, reserves, generates for `GENERATION_S` without the ledger (no engine
can answer faster), and settles. A request's time is what its caller waits for: the key, the
reservation, and handing over what was used, which is written while the caller has the answer
already. `durable_p50_ms_*` is the same up to the moment at which the charge has reached the disk,
and `disk_flush_p50_ms` what that disk needs for one flush alone. `limited_*` has keys with limits
of every kind. `saturated_*` is the same with no generation at all, so that the requests do nothing
but wait for each other. `auth_p50_ms` is the worse of the two databases'.

    python -m bench.accounts --out build/bench-accounts.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from pathlib import Path
from statistics import median

from bench import machine
from osslo.accounts.ledger.records import Counts, Outcome, Status
from osslo.accounts.ledger.service import Ledger
from osslo.accounts.records import COMMAND_LINE, KeyRules, RateLimits, Role
from osslo.accounts.service import Accounts, open_accounts
from osslo.api.accounts.keyring import AccountsKeyRing
from osslo.api.auth import Caller, SingleKeyRing
from osslo.api.metering import LedgerMeter
from osslo.api.rate_limits import LimitedMeter
from osslo.chat.events import TurnEnd, TurnEnded
from osslo.chat.metering import Bill, Meter
from osslo.db.database import Database, sqlite_url
from osslo.db.migrate import upgrade
from osslo.settings import AccountsSettings
from osslo.types import Usage
from tests.databases import postgres_server

CONCURRENT = 32
USERS = 8
GENERATION_S = 0.1
"""On average: drawn from half to one and a half of it, for all alike would march in step."""

WARM_UP = 0.2
"""The share of a run's requests that comes first and is not counted."""

PROMPT_TOKENS, OUTPUT_TOKENS, MAX_TOKENS = 300, 40, 400
MODEL = "gpt-oss-20b"
PEPPER = "a pepper for this measurement, and for nothing else"
USAGE = Usage(prompt_tokens=PROMPT_TOKENS, completion_tokens=OUTPUT_TOKENS)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report; `target` None has none."""

    name: str
    value: float
    target: str | None
    samples: int


@dataclass(frozen=True, slots=True)
class Bench:
    """Accounts and ledger on one database, and keys to call with."""

    accounts: Accounts
    ledger: Ledger
    keys: AccountsKeyRing
    meter: Meter
    texts: tuple[str, ...]


@dataclass(slots=True)
class Samples:
    """Milliseconds, in the order in which requests began."""

    auth: list[float] = field(default_factory=list)
    request: list[float] = field(default_factory=list)


@asynccontextmanager
async def bench_on(url: str, home: Path, *, limited: bool) -> AsyncIterator[Bench]:
    """Accounts on an empty database, with money; with `limited`, keys have limits of every kind."""
    database = Database(url)
    await upgrade(database)
    accounts = open_accounts(database, AccountsSettings(key_pepper=PEPPER), home)
    ledger = Ledger(accounts.context, accounts.prices)
    await ledger.start()
    stop = asyncio.Event()
    tending = asyncio.create_task(accounts.run(stop))
    try:
        yield Bench(
            accounts,
            ledger,
            AccountsKeyRing(accounts, SingleKeyRing("none")),
            LimitedMeter(accounts, LedgerMeter(ledger)),
            tuple([await _new_key(accounts, ledger, n, limited=limited) for n in range(USERS)]),
        )
    finally:
        await ledger.close()
        stop.set()
        await tending
        await database.close()


async def _new_key(accounts: Accounts, ledger: Ledger, number: int, *, limited: bool) -> str:
    user = await accounts.users.create(
        COMMAND_LINE, email=f"u{number}@example.com", name="u", role=Role.MEMBER, password=None
    )
    await ledger.top_up(COMMAND_LINE, user.id, 10**12, note=None, idempotency_key="once")
    rules = KeyRules(name="bench")
    if limited:
        rules = KeyRules(
            name="bench",
            networks=("127.0.0.0/8",),
            models=(MODEL,),
            spending_limit_nanousd=10**12,
            limits=RateLimits(10**6, 10**9),
        )
    return (await accounts.keys.create(COMMAND_LINE, user.id, rules)).text


async def authenticate(bench: Bench, text: str) -> Caller:
    caller = await bench.keys.identify(text, address="127.0.0.1")
    assert caller is not None
    return caller


async def serve_one(bench: Bench, text: str, samples: Samples, generation_s: float) -> None:
    """A request as `osslo.chat.turn` makes it, timed as its caller waits for it."""
    begun = time.perf_counter()
    caller = await authenticate(bench, text)
    known = time.perf_counter()
    bill = Bill(MODEL, "chat.completions", user_id=caller.user_id, key_id=caller.key_id)
    charge = await bench.meter.open(
        bill, request_id="bench", prompt_tokens=PROMPT_TOKENS, max_tokens=MAX_TOKENS
    )
    opened = time.perf_counter()
    if generation_s:
        await asyncio.sleep(generation_s)
    generated = time.perf_counter()
    charge.settle(TurnEnded(TurnEnd.STOP, USAGE, first_output_s=0.01))
    settled = time.perf_counter()
    samples.auth.append(1000 * (known - begun))
    samples.request.append(1000 * (opened - begun + settled - generated))


async def serve_durably(bench: Bench, text: str, samples: Samples, generation_s: float) -> None:
    """The same, timed until the charge is on the disk."""
    begun = time.perf_counter()
    caller = await authenticate(bench, text)
    assert caller.user_id is not None
    charge = await bench.ledger.charging.open(
        user_id=caller.user_id,
        key_id=caller.key_id,
        model=MODEL,
        protocol="chat.completions",
        request_id="bench",
        prompt_tokens=PROMPT_TOKENS,
        max_tokens=MAX_TOKENS,
    )
    opened = time.perf_counter()
    await asyncio.sleep(generation_s)
    generated = time.perf_counter()
    ended = charge.end(Counts(PROMPT_TOKENS, OUTPUT_TOKENS, 0), Outcome(Status.COMPLETED))
    assert ended is not None
    await ended
    samples.request.append(1000 * (opened - begun + time.perf_counter() - generated))


One = Callable[[Bench, str, Samples, float], Awaitable[None]]


async def run(bench: Bench, requests: int, generation_s: float, one: One = serve_one) -> Samples:
    """`requests` requests, `CONCURRENT` at any time; those that warm up are left out."""
    samples = Samples()
    texts = cycle(bench.texts)
    drawn = random.Random(7)
    numbers = iter(range(requests))

    async def client(number: int) -> None:
        await asyncio.sleep(generation_s * number / CONCURRENT)  # not all in one moment
        for _ in numbers:
            await one(bench, next(texts), samples, generation_s * drawn.uniform(0.5, 1.5))

    async with asyncio.TaskGroup() as group:
        for number in range(CONCURRENT):
            group.create_task(client(number))
    skipped = round(WARM_UP * requests)
    return Samples(samples.auth[skipped:], samples.request[skipped:])


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, list[str]]]:
    """Fresh databases by name, the files under `folder`."""
    old, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        with tempfile.TemporaryDirectory(prefix="b-") as sqlite, postgres_server() as server:
            yield {
                "sqlite": [sqlite_url(Path(sqlite) / f"{n}.db") for n in range(2)],
                "postgres": [server.new_database() for _ in range(2)],
            }
    finally:
        tempfile.tempdir = old


async def measure(name: str, url: str, home: Path, requests: int) -> list[Row]:
    """All rows of one database."""
    rows = []
    async with bench_on(url, home, limited=False) as bench:
        paced = await run(bench, requests, GENERATION_S)
        rows.append(_row(f"request_p50_ms_{name}", paced.request, "<= 2"))
        rows.append(_row(f"request_p99_ms_{name}", paced.request, None, 0.99))
        rows.append(_row(f"auth_p50_ms_{name}", paced.auth, None))
        durable = await run(bench, requests, GENERATION_S, serve_durably)
        rows.append(_row(f"durable_p50_ms_{name}", durable.request, None))
        begun = time.perf_counter()
        full = await run(bench, requests, 0.0)
        rows.append(_row(f"saturated_p50_ms_{name}", full.request, None))
        rate = requests / (time.perf_counter() - begun)
        rows.append(Row(f"saturated_requests_per_s_{name}", round(rate, 1), None, requests))
    return rows


async def measure_limited(name: str, url: str, home: Path, requests: int) -> list[Row]:
    """Requests by keys that have networks, models, a spending limit, and limits a minute."""
    async with bench_on(url, home, limited=True) as bench:
        limited = await run(bench, requests, GENERATION_S)
    return [_row(f"limited_p50_ms_{name}", limited.request, None)]


def _row(name: str, values: list[float], target: str | None, quantile: float = 0.5) -> Row:
    ranked = sorted(values)
    value = median(ranked) if quantile == 0.5 else ranked[int(quantile * len(ranked))]
    return Row(name, round(value, 4), target, len(ranked))


def flush_ms(folder: Path, times: int = 200) -> Row:
    """What the disk under `folder` needs to make 16 KiB durable."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for number in range(times):
            os.pwrite(file.fileno(), bytes(16384), number * 16384)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(1000 * (time.perf_counter() - begun))
    return _row("disk_flush_p50_ms", taken, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench-accounts.json"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--requests", type=int, default=4000)
    wanted = parser.parse_args()
    rows = [flush_ms(wanted.folder)]
    with databases(wanted.folder) as urls, tempfile.TemporaryDirectory() as home:
        for name, (plain, limited) in urls.items():
            rows += asyncio.run(measure(name, plain, Path(home), wanted.requests))
            rows += asyncio.run(measure_limited(name, limited, Path(home), wanted.requests))
    worse = max((row for row in rows if row.name.startswith("auth_")), key=lambda row: row.value)
    rows.append(replace(worse, name="auth_p50_ms", target="<= 0.2"))
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine.describe(), "rows": [asdict(row) for row in rows]}
    wanted.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row.name:36} {row.value:10.4f}  {row.target or '':8} {row.samples}")


if __name__ == "__main__":
    main()
