"""How long a refusal takes must not tell how close a guess was, nor who has an account.

Measured by turns and compared by medians, so that what else the machine does falls on both sides;
the bounds are wide, for what would leak (a query, a hash left out) is ten times the rest.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from statistics import median

from argon2 import PasswordHasher

from osslo.accounts.backoff import BackOff
from osslo.accounts.context import Context
from osslo.accounts.keyring import Keyring
from osslo.accounts.passwords import Passwords
from osslo.accounts.secrets import (
    CHECKSUM_LENGTH,
    KEY_PREFIX,
    checksum,
    new_key,
    well_formed,
)
from osslo.accounts.service import Accounts, assemble
from osslo.accounts.sessions import Browser, SessionService
from osslo.errors import AuthenticationError
from tests.accounts.conftest import PASSWORD, PEPPER, make_key, make_user

Act = Callable[[], Awaitable[object]]


async def by_turns(first: Act, second: Act, rounds: int) -> float:
    """The median time of `first` over that of `second`."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for act, taken in zip((first, second), times, strict=True):
            begun = time.perf_counter()
            await act()
            taken.append(time.perf_counter() - begun)
    return median(times[0]) / median(times[1])


def near_miss(key: str) -> str:
    """A well-formed key that differs from `key` only at its end."""
    body = key.removeprefix(KEY_PREFIX)[:-CHECKSUM_LENGTH]
    body = body[:-1] + ("a" if body[-1] != "a" else "b")
    return KEY_PREFIX + body + checksum(body)


async def test_a_near_miss_takes_as_long_as_any_wrong_key(sqlite: Accounts) -> None:
    made = await make_key(sqlite, await make_user(sqlite))
    ring = Keyring(sqlite.context, backoff=BackOff(free=1 << 30), fresh_s=60)
    near, far = near_miss(made.text), new_key()
    assert well_formed(near)
    assert near[:40] == made.text[:40]
    ratio = await by_turns(
        lambda: ring.identify(near, address=None), lambda: ring.identify(far, address=None), 150
    )
    assert 0.6 < ratio < 1.7


async def test_an_unknown_address_takes_as_long_as_a_wrong_password(sqlite: Accounts) -> None:
    hasher = PasswordHasher(time_cost=2, memory_cost=4096, parallelism=1)
    context = Context(sqlite.context.database, PEPPER, Passwords(hasher))
    user = await make_user(assemble(context), password=PASSWORD)
    never = BackOff(free=1 << 30)
    sessions = SessionService(context, addresses=never, accounts=never)

    def guess(email: str) -> Act:
        async def act() -> None:
            try:
                await sessions.sign_in(email=email, password="wrong one", browser=Browser(None))
            except AuthenticationError:
                return
            raise AssertionError

        return act

    await guess("nobody@example.com")()  # makes the hash that stands in for nobody's
    ratio = await by_turns(guess("nobody@example.com"), guess(user.email), 25)
    assert 0.6 < ratio < 1.7


async def test_a_known_key_costs_next_to_nothing(sqlite: Accounts) -> None:
    """The target is 0.2 ms at the median (`make bench-accounts`); here only that it needs no
    database."""
    made = await make_key(sqlite, await make_user(sqlite))
    ring = Keyring(sqlite.context)
    await ring.identify(made.text, address="192.0.2.1")
    taken = []
    for _ in range(500):
        begun = time.perf_counter()
        await ring.identify(made.text, address="192.0.2.1")
        taken.append(time.perf_counter() - begun)
    assert median(taken) < 0.001
