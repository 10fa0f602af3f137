"""Signing in and out: one time for all failures, back-off, rotation, expiry."""

from __future__ import annotations

import asyncio

import pytest

from osslo.accounts.backoff import BackOff, network_of
from osslo.accounts.records import COMMAND_LINE, UserState
from osslo.accounts.service import Accounts
from osslo.accounts.sessions import Browser, SessionService, csrf_matches
from osslo.errors import AuthenticationError, NotFoundError, PermissionDeniedError, RateLimitError
from tests.accounts.conftest import PASSWORD, Clock, actor, make_user

HOME = Browser("192.0.2.7", "Browser/1.0\x1b[31m")


async def test_a_wrong_password_and_an_unknown_address_look_the_same(sqlite: Accounts) -> None:
    user = await make_user(sqlite, password=PASSWORD)
    without = await make_user(sqlite, "nopass")
    errors = set()
    for email in (user.email, without.email, "nobody@example.com", "no address", "\udcff"):
        with pytest.raises(AuthenticationError) as caught:
            await sqlite.sessions.sign_in(email=email, password="a wrong one", browser=HOME)
        errors.add((caught.value.message, caught.value.code))
    assert len(errors) == 1


async def test_a_session_is_found_by_its_token_only(accounts: Accounts, clock: Clock) -> None:
    user = await make_user(accounts, password=PASSWORD)
    begun = await accounts.sessions.sign_in(
        email=user.email.upper(), password=PASSWORD, browser=HOME
    )
    found = await accounts.sessions.find(begun.token)
    assert found is not None
    assert found.user.id == user.id
    assert found.session.user_agent == "Browser/1.0[31m"
    assert csrf_matches(found, begun.signed_in.csrf)
    for wrong in (None, "", found.csrf[:-1], "\udcff"):
        assert not csrf_matches(found, wrong)
    for token in ("", begun.token[:-1], found.session.id):
        assert await accounts.sessions.find(token) is None


async def test_sign_in_ends_the_session_that_the_browser_had(accounts: Accounts) -> None:
    """A token planted before the sign-in is worth nothing after it, and is never taken over."""
    user = await make_user(accounts, password=PASSWORD)
    first = await accounts.sessions.sign_in(email=user.email, password=PASSWORD, browser=HOME)
    again = await accounts.sessions.sign_in(
        email=user.email, password=PASSWORD, browser=Browser("192.0.2.7", token=first.token)
    )
    assert again.token != first.token
    assert again.signed_in.csrf != first.signed_in.csrf
    assert await accounts.sessions.find(first.token) is None
    planted = await accounts.sessions.sign_in(
        email=user.email, password=PASSWORD, browser=Browser("192.0.2.7", token="planted")
    )
    assert planted.token != "planted"
    assert await accounts.sessions.find("planted") is None


async def test_sessions_last_while_they_are_used_and_not_for_ever(
    accounts: Accounts, clock: Clock
) -> None:
    user = await make_user(accounts, password=PASSWORD)
    begun = await accounts.sessions.begin(user, HOME)
    idle = await accounts.sessions.begin(user, HOME)
    for _ in range(9):
        clock.advance(days=9)
        assert await accounts.sessions.find(begun.token) is not None
    assert await accounts.sessions.find(idle.token) is None
    clock.advance(days=9)
    assert await accounts.sessions.find(begun.token) is None
    await accounts.sessions.forget_expired()
    clock.advance(days=-90)
    assert await accounts.sessions.find(begun.token) is None


async def test_signing_out_here_there_and_everywhere(accounts: Accounts) -> None:
    user = await make_user(accounts)
    tokens = [(await accounts.sessions.begin(user, HOME)).token for _ in range(4)]
    other = await make_user(accounts, "oth")
    await accounts.sessions.sign_out(tokens[0])
    assert await accounts.sessions.find(tokens[0]) is None
    second = await accounts.sessions.find(tokens[1])
    assert second is not None
    with pytest.raises(NotFoundError):
        await accounts.sessions.end_one(other.id, second.session.id)
    await accounts.sessions.end_one(user.id, second.session.id)
    assert len(await accounts.sessions.of_user(user.id)) == 2
    assert await accounts.sessions.sign_out_everywhere(actor(user), user.id) == 2
    assert [await accounts.sessions.find(token) for token in tokens] == [None] * 4


async def test_a_disabled_user_is_out_at_once(accounts: Accounts) -> None:
    user = await make_user(accounts, password=PASSWORD)
    begun = await accounts.sessions.begin(user, HOME)
    await accounts.users.set_state(COMMAND_LINE, user.id, UserState.DISABLED)
    assert await accounts.sessions.find(begun.token) is None
    with pytest.raises(PermissionDeniedError):
        await accounts.sessions.sign_in(email=user.email, password=PASSWORD, browser=HOME)
    with pytest.raises(AuthenticationError):
        await accounts.sessions.sign_in(email=user.email, password="a wrong one", browser=HOME)


async def test_guessing_is_slowed_down_for_address_and_account(
    sqlite: Accounts, clock: Clock
) -> None:
    user = await make_user(sqlite, password=PASSWORD)
    sessions = SessionService(
        sqlite.context,
        addresses=BackOff(free=4, clock=clock.monotonic),
        accounts=BackOff(free=3, longest_s=60, clock=clock.monotonic),
    )

    async def guess(address: str, email: str = user.email, password: str = "a wrong one") -> None:
        await sessions.sign_in(email=email, password=password, browser=Browser(address))

    outcomes = await asyncio.gather(
        *(guess(f"192.0.2.{n}") for n in range(10)), return_exceptions=True
    )
    wrong = sum(isinstance(outcome, AuthenticationError) for outcome in outcomes)
    assert wrong == 3, "parallel guesses count before they are checked"
    with pytest.raises(RateLimitError) as caught:
        await guess("192.0.2.200", password=PASSWORD)
    assert caught.value.retry_after_s is not None
    clock.advance(seconds=61)
    await guess("192.0.2.200", password=PASSWORD)  # a stranger locks nobody out for long
    for number in range(4):
        with pytest.raises(AuthenticationError):
            await guess("198.51.100.1", f"user{number}@example.com")
    with pytest.raises(RateLimitError):
        await guess("198.51.100.1", "user9@example.com")


async def test_many_people_behind_one_address_sign_in_and_guesses_among_them_still_count(
    sqlite: Accounts, clock: Clock
) -> None:
    """An office, a family, a proxy that was not named: only what fails is a failure."""
    user = await make_user(sqlite, password=PASSWORD)
    slow = BackOff(free=3, clock=clock.monotonic)
    sessions = SessionService(sqlite.context, addresses=slow)
    office = Browser("192.0.2.7")
    for _ in range(5):
        await sessions.sign_in(email=user.email, password=PASSWORD, browser=office)
    for number in range(3):
        with pytest.raises(AuthenticationError):
            await sessions.sign_in(
                email=f"user{number}@example.com", password="a wrong one", browser=office
            )
        if number < 2:  # an account of one's own does not wipe the slate
            await sessions.sign_in(email=user.email, password=PASSWORD, browser=office)
    with pytest.raises(RateLimitError):
        await sessions.sign_in(email=user.email, password=PASSWORD, browser=office)


def test_waits_double_and_are_forgotten() -> None:
    clock = Clock()
    slow = BackOff(free=2, longest_s=8, names=3, clock=clock.monotonic)
    waits = []
    for _ in range(7):
        slow.failed("a")
        waits.append(slow.wait_s("a"))
    assert waits == [0, 1, 2, 4, 8, 8, 8]
    clock.advance(seconds=8)
    assert slow.wait_s("a") == 0
    clock.advance(hours=2)
    slow.failed("a")
    assert slow.wait_s("a") == 0
    for name in ("b", "c", "d"):
        slow.failed(name)
    assert list(slow._failures) == ["b", "c", "d"]
    slow.succeeded("b")
    assert list(slow._failures) == ["c", "d"]


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, "unknown"),
        ("x", "unknown"),
    ],
)
def test_one_place(address: str | None, place: str) -> None:
    assert network_of(address) == place
