"""Requests and tokens a minute: in memory, and in a real Redis shared by two servers."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from osslo.accounts.rates import (
    ESTIMATED_OUTPUT_TOKENS,
    RateLimiter,
    Standing,
    Subject,
    Window,
    subjects_of,
)
from osslo.accounts.records import RateLimits
from osslo.accounts.service import Accounts
from osslo.api.rate_limits import go_duration, rate_headers
from osslo.errors import ConfigurationError, RateLimitError, RequestError
from tests.accounts.conftest import make_key, make_user


def key(requests: int | None = None, tokens: int | None = None, name: str = "key") -> Subject:
    return Subject(name, RateLimits(requests, tokens))


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis of the test run's own, on a Unix socket."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("platform: redis-server is not installed")
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "s"
    arguments = [program, "--port", "0", "--unixsocket", str(socket), "--save", ""]
    server = subprocess.Popen([*arguments, "--dir", str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if "ready to accept connections" in line.lower():
                break
        yield f"redis+unix://{socket}"
    finally:
        server.terminate()
        server.wait(20)
        if server.stdout is not None:
            server.stdout.close()


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where limits are counted."""
    return None if request.param == "memory" else str(request.getfixturevalue("redis"))


async def admit(
    limiter: RateLimiter, *subjects: Subject, prompt: int = 1, most: int = 1, counts: bool = True
) -> object:
    return await limiter.admit(
        subjects, prompt_tokens=prompt, max_tokens=most, counts_request=counts
    )


async def test_requests_are_counted(url: str | None, tmp_path: Path) -> None:
    limiter, subject = RateLimiter(url), key(3, name=str(tmp_path))
    left = []
    for _ in range(3):
        admitted = await limiter.admit([subject], prompt_tokens=1, max_tokens=1)
        assert admitted.standing.requests is not None
        left.append(admitted.standing.requests.remaining)
    assert left == [2, 1, 0]
    with pytest.raises(RateLimitError, match="requests") as caught:
        await admit(limiter, subject)
    assert 0 < (caught.value.retry_after_s or 0) <= 60
    await admit(limiter, subject, counts=False)  # belongs to a request that was counted
    await limiter.close()


async def test_at_once_no_more_get_in_than_may(url: str | None, tmp_path: Path) -> None:
    limiter, subject = RateLimiter(url), key(5, name=str(tmp_path))
    outcomes = await asyncio.gather(
        *(admit(limiter, subject) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, RateLimitError) for outcome in outcomes) == 15
    await limiter.close()


async def test_tokens_are_held_back_while_a_turn_runs_and_counted_when_it_ends(
    url: str | None, tmp_path: Path
) -> None:
    limiter, subject = RateLimiter(url), key(None, 4000, name=str(tmp_path))
    first = await limiter.admit([subject], prompt_tokens=1000, max_tokens=5000)
    standing = (await limiter.standing([subject])).tokens
    assert standing is not None
    assert standing.remaining == 4000 - 1000 - ESTIMATED_OUTPUT_TOKENS
    with pytest.raises(RateLimitError, match="tokens"):
        await admit(limiter, subject, prompt=1500, most=5000)
    await limiter.finish(first, completion_tokens=10)
    standing = (await limiter.standing([subject])).tokens
    assert standing is not None
    assert standing.remaining == 4000 - 1010
    second = await limiter.admit([subject], prompt_tokens=1500, max_tokens=5000)
    await limiter.finish(second, completion_tokens=9000)  # longer than was held back
    with pytest.raises(RateLimitError):
        await admit(limiter, subject)
    assert limiter._held == {}
    await limiter.close()


async def test_a_refusal_counts_nothing() -> None:
    limiter = RateLimiter()
    tight, wide = key(1, name="tight"), key(10, 10_000, name="wide")
    await admit(limiter, tight)
    for _ in range(3):
        with pytest.raises(RateLimitError):
            await admit(limiter, wide, tight)
    standing = await limiter.standing([wide])
    assert standing.requests == replace(standing.requests, remaining=10)  # type: ignore[type-var]  # not None
    assert standing.tokens is not None
    assert standing.tokens.remaining == 10_000


async def test_what_no_waiting_helps_is_said_so() -> None:
    with pytest.raises(RequestError, match="shorten") as caught:
        await admit(RateLimiter(), key(None, 100), prompt=101)
    assert caught.value.status == 400


async def test_a_long_answer_is_let_in_when_nothing_else_runs() -> None:
    limiter = RateLimiter()
    await admit(limiter, key(None, 100), prompt=50, most=100_000)


async def test_windows_pass() -> None:
    limiter, subject = RateLimiter(window_s=1), key(1, 10)
    first = await limiter.admit([subject], prompt_tokens=5, max_tokens=1)
    await limiter.finish(first, completion_tokens=5)
    with pytest.raises(RateLimitError) as caught:
        await admit(limiter, subject)
    for _ in range(5):  # as a client does that is told to wait
        await asyncio.sleep(caught.value.retry_after_s or 0)
        try:
            await admit(limiter, subject)
        except RateLimitError as error:
            caught.value.retry_after_s = error.retry_after_s
        else:
            return
    pytest.fail("the window never passed")


async def test_two_servers_share_one_count(redis: str, tmp_path: Path) -> None:
    servers = [RateLimiter(redis), RateLimiter(redis)]
    subject = key(2, 1000, name=str(tmp_path))
    for server in servers:
        await admit(server, subject)
    for server in servers:
        with pytest.raises(RateLimitError):
            await admit(server, subject)
        await server.close()


async def test_without_redis_turns_are_let_in_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = RateLimiter(f"redis+unix://{tmp_path}/none")
    admitted = await limiter.admit([key(1, 1)], prompt_tokens=1, max_tokens=1)
    await limiter.finish(admitted, completion_tokens=1)
    assert admitted.standing == await limiter.standing([key(1, 1)]) == Standing()
    assert "out of reach" in caplog.text
    await limiter.close()


@pytest.mark.parametrize("url", ["http://x", "x", "memory://"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://"):
        RateLimiter(url)


async def test_whose_limits_hold(sqlite: Accounts) -> None:
    user = await make_user(sqlite)
    made = await make_key(sqlite, user, limits=RateLimits(5, None))
    defaults = RateLimits(60, 1000)
    assert subjects_of(user, RateLimits(), None) == ()
    assert subjects_of(user, defaults, made.key) == (
        Subject(user.id, defaults),
        Subject(made.key.id, RateLimits(5, None)),
    )
    own = replace(user, limits=RateLimits(None, 7))
    assert subjects_of(own, defaults) == (Subject(user.id, RateLimits(60, 7)),)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0ms"),
        (0.0204, "20ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9996, "1m0s"),
        (60, "1m0s"),
        (83.25, "1m23.25s"),
    ],
)
def test_durations_as_openai_spells_them(seconds: float, shown: str) -> None:
    assert go_duration(seconds) == shown


def test_headers_of_both_kinds() -> None:
    standing = Standing(Window(60, 59, 1.0), None)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert dict(rate_headers(standing, anthropic=False, now=now)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
    }
    assert dict(rate_headers(standing, anthropic=True, now=now)) == {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:01Z",
    }
