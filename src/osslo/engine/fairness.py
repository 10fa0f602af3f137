"""Fair shares between tenants: a virtual token counter.

After Sheng et al., "Fairness in Serving Large Language Models" (arXiv 2401.00588): each tenant has
a counter of the service it got, the tenant with the lowest counter is served next, and a tenant
that comes back from idleness starts no lower than the lowest active one, so that being idle earns
no credit. An output token counts `OUTPUT_WEIGHT` input tokens, as in the list prices.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

OUTPUT_WEIGHT = 4


class TenantClock:
    """Service counters of tenants; only those that matter are remembered."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._live: Counter[str] = Counter()

    def enter(self, tenant: str) -> None:
        """A request of `tenant` arrived."""
        if not self._live[tenant]:
            floor = min((self._served[t] for t in self._live if self._live[t]), default=0)
            self._served[tenant] = max(self._served.get(tenant, 0), floor)
        self._live[tenant] += 1

    def leave(self, tenant: str) -> None:
        """A request of `tenant` ended. Counters that the floor would lift anyway are forgotten."""
        self._live[tenant] -= 1
        if self._live[tenant]:
            return
        del self._live[tenant]
        floor = min((self._served[t] for t in self._live), default=math.inf)
        self._served = {t: s for t, s in self._served.items() if t in self._live or s > floor}

    def charge(self, tenant: str, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
        self._served[tenant] += input_tokens + OUTPUT_WEIGHT * output_tokens

    def served(self, tenant: str) -> int:
        return self._served.get(tenant, 0)

    def neediest(self, tenants: Iterable[str]) -> str | None:
        """The tenant with the least service; the first one of equals."""
        return min(tenants, key=self.served, default=None)
