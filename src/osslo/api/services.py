"""What the API needs, built once by the composition root and handed over explicitly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, cast

from fastapi import Depends, Request

from osslo.accounts.ledger.service import Ledger
from osslo.accounts.service import Accounts
from osslo.api.auth import Delegation, KeyRing
from osslo.api.client_address import Proxies
from osslo.api.delegation import NoDelegation
from osslo.api.guard import CleanTexts
from osslo.api.replays import Replays
from osslo.api.responses.background import BackgroundResponses
from osslo.api.seal import Seal
from osslo.chat.judge import Judge
from osslo.chat.metering import FreeMeter, Meter
from osslo.chat.models import ModelRegistry
from osslo.chat.moderation import GuardMode, load_policy
from osslo.db.database import Database
from osslo.engine.adapters import AdapterPool
from osslo.errors import ShuttingDownError
from osslo.settings import AccountsSettings, JobSettings, LimitSettings, StoreSettings
from osslo.store.files import FileStore
from osslo.telemetry import Metrics


class Lifecycle:
    """Whether the server still takes new work. Only `drain` changes it, and only once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._drained_at: float | None = None

    @property
    def draining(self) -> bool:
        return self._drained_at is not None

    def drain(self) -> None:
        """Take no new work from now on. Safe to call from a signal handler."""
        if self._drained_at is None:
            self._drained_at = self._clock()

    def rest_of(self, drain_s: float) -> float:
        """How much of the time to drain is left, in seconds."""
        if self._drained_at is None:
            return drain_s
        return max(0.0, drain_s - (self._clock() - self._drained_at))

    def check(self) -> None:
        """Raise `ShuttingDownError` if new work is no longer taken."""
        if self.draining:
            raise ShuttingDownError(
                "The server is shutting down and takes no new requests.", retry_after_s=5
            )


def utc_today() -> str:
    """The date in UTC, ISO."""
    return datetime.now(UTC).date().isoformat()


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that routes use. The application migrates `database` when it starts and closes it
    when it ends. `heartbeat_s` is the silence after which a stream sends a
    comment; `start_grace_s` is how long a stream waits for the engine to accept or refuse before
    it commits to status 200. `guard` is what `judge` looks at of every request; a key may add to
    it. `tunable` are the ids of models that the worker can fine-tune."""

    registry: ModelRegistry
    keys: KeyRing
    database: Database
    meter: Meter = field(default_factory=FreeMeter)
    seal: Seal = field(default_factory=Seal.ephemeral)
    metrics: Metrics = field(default_factory=Metrics)
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    accounts: Accounts | None = None
    ledger: Ledger | None = None
    usage_days: int = AccountsSettings().usage_days
    proxies: Proxies = field(default_factory=Proxies)
    public_url: str | None = None
    delegation: Delegation = field(default_factory=NoDelegation)
    limits: LimitSettings = field(default_factory=LimitSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    files: FileStore | None = None
    adapters: AdapterPool | None = None
    jobs: JobSettings = field(default_factory=JobSettings)
    tunable: frozenset[str] = frozenset()
    background: BackgroundResponses = field(default_factory=BackgroundResponses)
    judge: Judge = field(default_factory=lambda: Judge(load_policy(None)))
    guard: GuardMode = GuardMode.OFF
    clean_texts: CleanTexts = field(default_factory=CleanTexts)
    replays: Replays = field(default_factory=lambda: Replays(ttl_s=600, max_bytes=1 << 26))
    cors_origins: tuple[str, ...] = ()
    heartbeat_s: float = 10.0
    start_grace_s: float = 10.0
    drain_s: float = 30.0
    today: Callable[[], str] = utc_today
    clock: Callable[[], float] = time.time


def services_of(request: Request) -> Services:
    """The services that `create_app` put into the application's state."""
    return cast(Services, request.app.state.services)


async def _services(request: Request) -> Services:
    """The same for routes. FastAPI takes a plain function to a thread and back, which a request
    would wait for."""
    return services_of(request)


WithServices = Annotated[Services, Depends(_services)]
