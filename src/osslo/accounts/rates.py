"""Requests and tokens a minute, for each key and each user, counted by the `limits` library: in
this process, or in Redis where several servers share one count.

Requests are counted when a turn starts, by a sliding window. Tokens are counted when they are
known: the prompt's at the start, the answer's at the end; until then an estimate is held back, so
that many requests at once do not all slip through one gap.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string

from osslo.accounts.records import Key, RateLimits, User
from osslo.errors import ConfigurationError, RateLimitError, RequestError
from osslo.telemetry import LOGGER_NAME

WINDOW_S = 60
ESTIMATED_OUTPUT_TOKENS = 1024
"""What an answer is taken to have at most until its end is known."""

_REDIS_TIMEOUT_S = 1.0
_log = logging.getLogger(LOGGER_NAME + ".limits")


@dataclass(frozen=True, slots=True)
class Window:
    """One limit as it stands: how many there may be, are left, and when it is whole again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Standing:
    """The tightest limits of a caller. None where there is no limit."""

    requests: Window | None = None
    tokens: Window | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a limit is about, by a name, and the limits."""

    name: str
    limits: RateLimits


@dataclass(frozen=True, slots=True)
class Admitted:
    """A turn that was let in. Hand it back to `RateLimiter.finish` when it has ended."""

    subjects: tuple[Subject, ...]
    standing: Standing
    held_tokens: int


def subjects_of(user: User, defaults: RateLimits, key: Key | None = None) -> tuple[Subject, ...]:
    """The user, and the key if one was used, as far as they have limits; where a user has none of
    their own, the defaults hold."""
    limits = RateLimits(
        user.limits.requests_per_minute or defaults.requests_per_minute,
        user.limits.tokens_per_minute or defaults.tokens_per_minute,
    )
    named = [Subject(user.id, limits)]
    if key is not None:
        named.append(Subject(key.id, key.rules.limits))
    return tuple(subject for subject in named if subject.limits != RateLimits())


class RateLimiter:
    """Lets turns in, or refuses them. Where Redis cannot be reached turns are let in, with a
    warning: the ledger still guards what they cost."""

    def __init__(self, redis_url: str | None = None, *, window_s: int = WINDOW_S) -> None:
        self._storage = _storage(redis_url)
        self._sliding = SlidingWindowCounterRateLimiter(self._storage)
        self._fixed = FixedWindowRateLimiter(self._storage)
        self._window_s = window_s
        self._held: Counter[str] = Counter()
        self._admitting = asyncio.Lock()  # looking and counting belong together

    async def admit(
        self,
        subjects: Sequence[Subject],
        *,
        prompt_tokens: int,
        max_tokens: int,
        counts_request: bool = True,
    ) -> Admitted:
        """Let a turn in. With `counts_request` off it belongs to a request counted before.

        Raises `RateLimitError` where a limit is reached; nothing of the turn is counted then.
        Raises `RequestError` for a prompt that no waiting would let in.
        """
        held = min(max_tokens, ESTIMATED_OUTPUT_TOKENS)
        try:
            async with self._admitting:
                await self._check_tokens(subjects, prompt_tokens, held)
                if counts_request:
                    await self._count_request(subjects)
                for subject in subjects:
                    if subject.limits.tokens_per_minute is not None:
                        item = self._tokens(subject)
                        await self._fixed.hit(item, subject.name, cost=prompt_tokens)
                        self._held[subject.name] += held
            standing = await self._standing(subjects)
        except StorageError as error:
            _log.warning(
                "rate limits are not counted: Redis is out of reach: %s", error.storage_error
            )
            return Admitted((), Standing(), 0)
        return Admitted(tuple(subjects), standing, held)

    async def finish(self, admitted: Admitted, *, completion_tokens: int) -> None:
        """Count what an admitted turn generated. Call it once for each."""
        for subject in admitted.subjects:
            if subject.limits.tokens_per_minute is None:
                continue
            self._held[subject.name] -= admitted.held_tokens
            if self._held[subject.name] <= 0:
                del self._held[subject.name]
            if completion_tokens > 0:
                await self._count_tokens(subject, completion_tokens)

    async def standing(self, subjects: Sequence[Subject]) -> Standing:
        """The tightest limits as they are now."""
        try:
            return await self._standing(subjects)
        except StorageError:
            return Standing()

    async def close(self) -> None:
        """Let go of Redis."""
        bridge = getattr(self._storage, "bridge", None)
        if bridge is not None:
            await bridge.storage.aclose()

    async def _check_tokens(
        self, subjects: Sequence[Subject], prompt_tokens: int, held: int
    ) -> None:
        for subject in subjects:
            limit = subject.limits.tokens_per_minute
            if limit is None:
                continue
            if prompt_tokens > limit:
                raise RequestError(
                    f"The prompt's {prompt_tokens} tokens are more than the {limit} a minute that "
                    "this key may use; shorten it.",
                    code="tokens_per_minute_exceeded",
                )
            window = await self._token_window(subject)
            # An answer longer than the whole limit is let in when nothing else runs.
            wanted = min(limit, prompt_tokens + held)
            if wanted > window.remaining:
                raise _reached("tokens", limit, window.reset_s, used=limit - window.remaining)

    async def _count_request(self, subjects: Sequence[Subject]) -> None:
        counted = [s for s in subjects if s.limits.requests_per_minute is not None]
        for subject in counted:
            if not await self._sliding.test(self._requests(subject), subject.name):
                window = await self._request_window(subject)
                raise _reached("requests", window.limit, window.reset_s, used=window.limit)
        for subject in counted:
            if not await self._sliding.hit(self._requests(subject), subject.name):
                window = await self._request_window(subject)
                raise _reached("requests", window.limit, window.reset_s, used=window.limit)

    async def _count_tokens(self, subject: Subject, tokens: int) -> None:
        try:
            await self._fixed.hit(self._tokens(subject), subject.name, cost=tokens)
        except StorageError as error:
            _log.warning(
                "rate limits are not counted: Redis is out of reach: %s", error.storage_error
            )

    async def _standing(self, subjects: Sequence[Subject]) -> Standing:
        requests = [await self._request_window(s) for s in subjects if s.limits.requests_per_minute]
        tokens = [await self._token_window(s) for s in subjects if s.limits.tokens_per_minute]
        return Standing(
            min(requests, key=lambda window: window.remaining, default=None),
            min(tokens, key=lambda window: window.remaining, default=None),
        )

    async def _request_window(self, subject: Subject) -> Window:
        item = self._requests(subject)
        stats = await self._sliding.get_window_stats(item, subject.name)
        return Window(item.amount, stats.remaining, max(0.0, stats.reset_time - time.time()))

    async def _token_window(self, subject: Subject) -> Window:
        item = self._tokens(subject)
        stats = await self._fixed.get_window_stats(item, subject.name)
        remaining = max(0, stats.remaining - self._held[subject.name])
        return Window(item.amount, remaining, max(0.0, stats.reset_time - time.time()))

    def _requests(self, subject: Subject) -> RateLimitItemPerSecond:
        amount = subject.limits.requests_per_minute or 0
        return RateLimitItemPerSecond(amount, self._window_s, namespace="osslo-requests")

    def _tokens(self, subject: Subject) -> RateLimitItemPerSecond:
        amount = subject.limits.tokens_per_minute or 0
        return RateLimitItemPerSecond(amount, self._window_s, namespace="osslo-tokens")


def _storage(redis_url: str | None) -> Storage:
    if redis_url is None:
        return MemoryStorage()
    if not redis_url.startswith(("redis://", "rediss://", "redis+unix://")):
        raise ConfigurationError(
            "the Redis URL cannot be read; it looks like redis://host:6379/0", param="redis_url"
        )
    options: dict[str, Any] = {
        "implementation": "redispy",
        "wrap_exceptions": True,
        "socket_connect_timeout": _REDIS_TIMEOUT_S,
        "socket_timeout": _REDIS_TIMEOUT_S,
    }
    return cast(Storage, storage_from_string("async+" + redis_url, **options))


def _reached(what: str, limit: int, reset_s: float, *, used: int) -> RateLimitError:
    return RateLimitError(
        f"Rate limit reached for {what}: {used} of {limit} a minute are used. Try again in "
        f"{max(reset_s, 0.001):.3g} s.",
        code="rate_limit_exceeded",
        retry_after_s=max(reset_s, 0.001),
    )
