"""Slowing down who guesses: after a few failures each further try has to wait, twice as long each
time. Counts are in this process's memory, bounded, and forgotten after an hour of quiet.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from osslo.errors import RateLimitError

_NAMES = 10_000
_FORGOTTEN_AFTER_S = 3600.0


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float


class BackOff:
    """Counts failures by name (an address, an account). The first `free` cost nothing; then the
    wait doubles from one second up to `longest_s`."""

    def __init__(
        self,
        *,
        free: int = 5,
        longest_s: float = 900.0,
        names: int = _NAMES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free = free
        self._longest_s = longest_s
        self._names = names
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def check(self, name: str) -> None:
        """Raise `RateLimitError` if `name` has to wait."""
        wait_s = self.wait_s(name)
        if wait_s > 0:
            raise RateLimitError(
                f"Too many failed attempts; try again in {wait_s:.0f} s.",
                code="too_many_attempts",
                retry_after_s=wait_s,
            )

    def wait_s(self, name: str) -> float:
        """How long `name` has to wait from now; 0 if not at all."""
        failures = self._current(name)
        if failures is None or failures.count < self._free:
            return 0.0
        pause = min(self._longest_s, 2.0 ** min(failures.count - self._free, 30))
        return max(0.0, failures.last_at + pause - self._clock())

    def failed(self, name: str) -> None:
        """Count a failure of `name`."""
        failures = self._current(name)
        count = failures.count + 1 if failures else 1
        self._failures[name] = _Failures(count, self._clock())
        self._failures.move_to_end(name)
        while len(self._failures) > self._names:
            self._failures.popitem(last=False)

    def take_back(self, name: str) -> None:
        """Uncount one failure of `name`, which was counted in advance and turned out to be none."""
        failures = self._failures.get(name)
        if failures is not None:
            failures.count -= 1
            if failures.count <= 0:
                del self._failures[name]

    def succeeded(self, name: str) -> None:
        """Forget the failures of `name`."""
        self._failures.pop(name, None)

    def _current(self, name: str) -> _Failures | None:
        failures = self._failures.get(name)
        if failures and self._clock() - failures.last_at > _FORGOTTEN_AFTER_S:
            del self._failures[name]
            return None
        return failures


def network_of(address: str | None) -> str:
    """What counts as one place: an IPv4 address, or an IPv6 network of 64 bits, since whoever has
    one address of it has them all."""
    try:
        where = ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(where, IPv6Address) and where.ipv4_mapped is None:
        return str(ip_network((where, 64), strict=False))
    return str(where)
