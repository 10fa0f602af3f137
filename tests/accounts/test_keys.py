"""Keys: what may be done to them, and what the key ring makes of it on every replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.accounts.backoff import BackOff
from osslo.accounts.keyring import AHEAD_S, FRESH_S, Keyring
from osslo.accounts.records import (
    COMMAND_LINE,
    GuardMode,
    KeyRules,
    KeyState,
    Page,
    RateLimits,
    Role,
    SpendingPeriod,
    UserState,
)
from osslo.accounts.secrets import new_key
from osslo.accounts.service import Accounts
from osslo.db.database import Database
from osslo.errors import (
    AuthenticationError,
    ConflictError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
)
from tests.accounts.conftest import Clock, actor, make_key, make_user


def keyring(accounts: Accounts, clock: Clock, **options: object) -> Keyring:
    """A key ring of a replica of its own."""
    return Keyring(accounts.context, clock=clock.monotonic, **options)  # type: ignore[arg-type]  # the test's


class Queries:
    """Counts the queries of a database."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        event.listen(database.engine.sync_engine, "before_cursor_execute", self._counted)

    def _counted(self, *_: object) -> None:
        self.count += 1


async def test_a_key_keeps_its_rules(accounts: Accounts, clock: Clock) -> None:
    user = await make_user(accounts)
    rules = KeyRules(
        name="  laptop ",
        expires_at=clock.now() + timedelta(days=1),
        models=("gpt-oss-20b", "gpt-oss-20b"),
        networks=("192.0.2.0/24", "2001:db8::1"),
        guard=GuardMode.OFF,
        spending_limit_nanousd=5 * 10**9,
        spending_period=SpendingPeriod.MONTHLY,
        limits=RateLimits(60, 100_000),
    )
    made = await accounts.keys.create(actor(user), user.id, rules)
    kept = await accounts.keys.get(actor(user), made.key.id)
    assert kept == made.key
    assert kept.rules.name == "laptop"
    assert kept.rules.models == ("gpt-oss-20b",)
    assert kept.rules.networks == ("192.0.2.0/24", "2001:db8::1/128")
    assert made.text not in str(kept)


async def test_the_database_holds_no_key(accounts: Accounts, database: Database) -> None:
    made = await make_key(accounts, await make_user(accounts))
    async with database.read() as session:
        rows = [
            str((await session.execute(text(f"SELECT * FROM {table}"))).all())
            for table in ("keys", "audit_log")
        ]
    assert not any(made.text in row or made.text[20:] in row for row in rows)


@pytest.mark.parametrize(
    "rules",
    [
        {"name": ""},
        {"models": ()},
        {"networks": ("10.0.0.1/8",)},
        {"networks": ("everywhere",)},
        {"spending_limit_nanousd": -1},
        {"spending_limit_nanousd": 1 << 63},
        {"limits": RateLimits(0, None)},
        {"limits": RateLimits(None, 1 << 31)},
    ],
)
async def test_rules_that_cannot_be_are_refused(sqlite: Accounts, rules: dict[str, object]) -> None:
    user = await make_user(sqlite)
    with pytest.raises(RequestError):
        await make_key(sqlite, user, **rules)


async def test_a_key_cannot_be_made_to_expire_in_the_past(sqlite: Accounts, clock: Clock) -> None:
    user = await make_user(sqlite)
    with pytest.raises(RequestError):
        await make_key(sqlite, user, expires_at=clock.now())
    made = await make_key(sqlite, user, expires_at=clock.now() + timedelta(hours=1))
    clock.advance(hours=2)  # what has expired can still be renamed, and prolonged
    rules = made.key.rules
    await sqlite.keys.change(actor(user), made.key.id, KeyRules("x", rules.expires_at))


async def test_members_have_no_management_keys_and_see_only_their_own(
    accounts: Accounts,
) -> None:
    admin = await make_user(accounts, "adm", Role.ADMIN)
    owner = await make_user(accounts, "own", Role.OWNER)
    ann, bob = await make_user(accounts, "ann"), await make_user(accounts, "bob")
    made = await make_key(accounts, ann)
    await make_key(accounts, admin, management=True)
    with pytest.raises(PermissionDeniedError):
        await make_key(accounts, ann, management=True)
    with pytest.raises(PermissionDeniedError):
        await accounts.keys.create(actor(admin), ann.id, KeyRules("x", management=True))
    for attempt in (
        accounts.keys.get(actor(bob), made.key.id),
        accounts.keys.change(actor(bob), made.key.id, KeyRules("mine")),
        accounts.keys.rotate(actor(bob), made.key.id),
        accounts.keys.revoke(actor(bob), [made.key.id]),
        accounts.keys.create(actor(bob), ann.id, KeyRules("for ann")),
        accounts.keys.revoke_all(actor(bob), ann.id),
    ):
        with pytest.raises(NotFoundError):
            await attempt
    with pytest.raises(PermissionDeniedError):
        await accounts.keys.page(actor(bob), Page(), user_id=ann.id)
    with pytest.raises(PermissionDeniedError):
        await accounts.keys.create(actor(admin), owner.id, KeyRules("x"))
    await accounts.keys.revoke(actor(admin), [made.key.id])
    assert len(await accounts.keys.page(actor(admin), Page())) == 2


async def test_revoking_many_is_all_or_nothing(accounts: Accounts) -> None:
    ann, bob = await make_user(accounts, "ann"), await make_user(accounts, "bob")
    mine = [(await make_key(accounts, ann)).key.id for _ in range(3)]
    other = (await make_key(accounts, bob)).key.id
    with pytest.raises(NotFoundError):
        await accounts.keys.revoke(actor(ann), [*mine, other])
    keys = await accounts.keys.page(actor(ann), Page(), user_id=ann.id)
    assert {key.state for key in keys} == {KeyState.ACTIVE}
    await accounts.keys.revoke(actor(ann), mine)
    with pytest.raises(ConflictError):
        await accounts.keys.change(actor(ann), mine[0], KeyRules("again"))
    assert await accounts.keys.revoke_all(COMMAND_LINE, bob.id) == 1


async def test_identify_needs_no_query_for_a_typo_nor_for_a_known_key(
    accounts: Accounts, clock: Clock, database: Database
) -> None:
    made = await make_key(accounts, await make_user(accounts))
    ring = keyring(accounts, clock)
    queries = Queries(database)
    assert await ring.identify(made.text[:-1] + "!", address=None) is None
    assert queries.count == 0
    holder = await ring.identify(made.text, address=None)
    assert holder is not None
    assert holder.key.id == made.key.id
    asked = queries.count
    for _ in range(100):
        assert await ring.identify(made.text, address=None) is holder
    assert queries.count == asked
    assert await ring.identify(new_key(), address=None) is None


async def test_a_change_reaches_every_replica_within_a_second(
    accounts: Accounts, clock: Clock
) -> None:
    user = await make_user(accounts)
    made = await make_key(accounts, user)
    replicas = [keyring(accounts, clock) for _ in range(3)]
    for ring in replicas:
        assert await ring.identify(made.text, address=None) is not None
    await accounts.keys.revoke(actor(user), [made.key.id])
    clock.advance(seconds=FRESH_S)
    assert FRESH_S < 1
    for ring in replicas:
        with pytest.raises(AuthenticationError, match="revoked"):
            await ring.identify(made.text, address=None)
        assert await ring.again(made.key.id) is None
        assert await ring.holder(made.key.id) is not None


async def test_who_calls_all_the_time_does_not_wait_for_the_database(
    accounts: Accounts, clock: Clock, database: Database
) -> None:
    made = await make_key(accounts, await make_user(accounts))
    ring = keyring(accounts, clock)
    await ring.identify(made.text, address=None)
    queries = Queries(database)
    for _ in range(8):
        clock.advance(seconds=AHEAD_S)
        before = queries.count
        assert not waits(ring.identify(made.text, address=None))
        assert ring._ahead is not None
        await ring._ahead
        await asyncio.sleep(0)  # until it is known to be done
        assert queries.count > before


def waits(asked: Coroutine[object, object, object]) -> bool:
    """Whether it needs the event loop before it is done."""
    try:
        asked.send(None)
    except StopIteration:
        return False
    asked.close()
    return True


async def test_reading_ahead_in_vain_is_told_once_it_matters(
    sqlite: Accounts, clock: Clock
) -> None:
    made = await make_key(sqlite, await make_user(sqlite))
    ring = keyring(sqlite, clock)
    await ring.identify(made.text, address=None)
    away = Database("postgresql://osslo@127.0.0.1:1/none")
    ring._context = replace(ring._context, database=away)
    clock.advance(seconds=AHEAD_S)
    assert await ring.identify(made.text, address=None) is not None
    assert ring._ahead is not None
    await asyncio.wait({ring._ahead})
    clock.advance(seconds=AHEAD_S)
    with pytest.raises(OverloadedError):
        await ring.identify(made.text, address=None)
    await away.close()


async def test_what_was_read_before_a_change_is_not_kept_after_it(
    accounts: Accounts, clock: Clock, database: Database
) -> None:
    """A key is read, then revoked elsewhere, then the cache is emptied, then the reader goes on."""
    user = await make_user(accounts)
    made = await make_key(accounts, user)
    ring = keyring(accounts, clock)
    await ring.in_use()
    clock.advance(seconds=1)
    read_it, go_on = asyncio.Event(), asyncio.Event()

    class Held(Database):
        """Holds the reader up after its query."""

        @asynccontextmanager
        async def read(self) -> AsyncIterator[AsyncSession]:
            async with database.read() as session:
                yield session
            read_it.set()
            await go_on.wait()

    held = Held(str(database.engine.url.render_as_string(hide_password=False)))
    plain = ring._context
    ring._checked_at = clock.monotonic()
    ring._context = replace(plain, database=held)
    reading = asyncio.create_task(ring.identify(made.text, address=None))
    await read_it.wait()
    ring._context = plain
    await accounts.keys.revoke(actor(user), [made.key.id])
    clock.advance(seconds=1)
    with pytest.raises(AuthenticationError):
        await ring.identify(made.text, address=None)
    ring._known.clear()
    go_on.set()
    assert await reading is not None  # it was asked for before the key was revoked
    with pytest.raises(AuthenticationError):
        await ring.identify(made.text, address=None)
    await held.close()


async def test_many_at_once_ask_the_database_little(
    sqlite: Accounts, clock: Clock, database: Database
) -> None:
    made = await make_key(sqlite, await make_user(sqlite))
    ring = keyring(sqlite, clock)
    await ring.identify(made.text, address=None)
    clock.advance(seconds=5)
    queries = Queries(database)
    await asyncio.gather(*(ring.identify(made.text, address=None) for _ in range(50)))
    assert queries.count <= 4


async def test_the_cache_is_bounded(sqlite: Accounts, clock: Clock) -> None:
    user = await make_user(sqlite)
    keys = [await make_key(sqlite, user) for _ in range(6)]
    ring = keyring(sqlite, clock, cached=3)
    for key in keys:
        assert await ring.identify(key.text, address=None) is not None
    assert len(ring._known) == len(ring._hash_of) == 3


async def test_expiry_rotation_and_disabling(accounts: Accounts, clock: Clock) -> None:
    user = await make_user(accounts)
    ring = keyring(accounts, clock)
    short = await make_key(accounts, user, expires_at=clock.now() + timedelta(seconds=30))
    old = await make_key(accounts, user, name="rotating", models=("m",))
    assert await ring.identify(short.text, address=None) is not None
    clock.advance(seconds=30)
    with pytest.raises(AuthenticationError, match="expired"):
        await ring.identify(short.text, address=None)
    with pytest.raises(ConflictError, match="expired"):
        await accounts.keys.rotate(actor(user), short.key.id)
    new = await accounts.keys.rotate(actor(user), old.key.id, overlap_s=60)
    assert new.key.rules == old.key.rules
    assert new.key.rotated_from == old.key.id
    with pytest.raises(ConflictError, match="rotated"):
        await accounts.keys.rotate(actor(user), old.key.id)
    clock.advance(seconds=59)
    assert await ring.identify(old.text, address=None) is not None
    clock.advance(seconds=1)
    with pytest.raises(AuthenticationError, match="expired"):
        await ring.identify(old.text, address=None)
    assert await ring.identify(new.text, address=None) is not None
    await accounts.users.set_state(COMMAND_LINE, user.id, UserState.DISABLED)
    clock.advance(seconds=1)
    with pytest.raises(AuthenticationError, match="disabled"):
        await ring.identify(new.text, address=None)
    assert await ring.again(new.key.id) is None
    assert await ring.user(user.id) is None


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("192.0.2.77", True),
        ("::ffff:192.0.2.77", True),
        ("2001:db8::5", True),
        ("192.0.3.1", False),
        ("2001:db9::5", False),
        (None, False),
        ("nonsense", False),
    ],
)
async def test_networks(
    sqlite: Accounts, clock: Clock, address: str | None, *, allowed: bool
) -> None:
    user = await make_user(sqlite)
    made = await make_key(sqlite, user, networks=("192.0.2.0/24", "2001:db8::/32"))
    ring = keyring(sqlite, clock)
    if allowed:
        assert await ring.identify(made.text, address=address) is not None
    else:
        with pytest.raises(PermissionDeniedError, match="may not be used from"):
            await ring.identify(made.text, address=address)


async def test_when_keys_were_used_is_written_in_one_go(sqlite: Accounts, clock: Clock) -> None:
    user = await make_user(sqlite)
    made = await make_key(sqlite, user)
    ring = keyring(sqlite, clock)
    clock.advance(minutes=1)
    await ring.identify(made.text, address=None)
    assert (await sqlite.keys.get(actor(user), made.key.id)).last_used_at is None
    await ring.write_last_used()
    assert (await sqlite.keys.get(actor(user), made.key.id)).last_used_at == clock.now()


async def test_guessing_keys_is_slowed_down(sqlite: Accounts, clock: Clock) -> None:
    made = await make_key(sqlite, await make_user(sqlite))
    slow = BackOff(free=3, clock=clock.monotonic)
    ring = keyring(sqlite, clock, backoff=slow)
    await ring.identify(made.text, address="192.0.2.1")
    for _ in range(3):
        assert await ring.identify(new_key(), address="192.0.2.1") is None
    with pytest.raises(RateLimitError):
        await ring.identify(new_key(), address="192.0.2.1")
    assert await ring.identify(made.text, address="192.0.2.1") is not None  # known: not slowed
    assert await ring.identify(new_key(), address="192.0.2.2") is None


async def test_without_the_database_no_key_is_accepted(sqlite: Accounts, clock: Clock) -> None:
    made = await make_key(sqlite, await make_user(sqlite))
    ring = keyring(sqlite, clock)
    assert await ring.identify(made.text, address=None) is not None
    away = Database("postgresql://osslo@127.0.0.1:1/none")
    ring._context = replace(ring._context, database=away)
    assert await ring.identify(made.text, address=None) is not None  # believed for half a second
    clock.advance(seconds=FRESH_S)
    with pytest.raises(OverloadedError) as caught:
        await ring.identify(made.text, address=None)
    assert caught.value.retry_after_s
    await away.close()


async def test_there_are_users_or_there_are_not(accounts: Accounts, clock: Clock) -> None:
    ring = keyring(accounts, clock)
    assert not await ring.in_use()
    await make_user(accounts)
    clock.advance(seconds=1)
    assert await ring.in_use()
