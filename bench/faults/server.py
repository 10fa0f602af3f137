"""The server's process under fault injection: the real composition (`osslo.serve.build`), engine,
ledger and database, with a witness where tokens leave the engine and one where the ledger commits.

Nothing of it slows a phase down or changes what a request does; only the time without a beat after
which a process counts as dead is shorter than in production.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.faults import clock
from bench.faults.blackbox import Recorder
from osslo import serve as composition
from osslo.accounts.ledger import service
from osslo.accounts.ledger.service import Ledger
from osslo.accounts.ledger.writer import LedgerWriter
from osslo.engine.backend import Backend
from osslo.opening import open_served
from osslo.settings import load_settings
from osslo.types import BackendStats, GenerationRequest, PrefillProgress, TokenDelta


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """What one server is started with. `box` is its black box, `clock` its own wall clock."""

    model: Path
    home: Path
    database_url: str
    box: Path
    clock: Path
    lease_s: float
    concurrent: int


def run(plan: ServerPlan) -> None:
    """Serve until a signal ends it. The main function of a process of its own."""
    with plan.box.with_suffix(".log").open("ab") as log:
        os.dup2(log.fileno(), 2)
    clock.attach(plan.clock)
    recorder = Recorder(plan.box)
    service.LedgerWriter = partial(LedgerWriter, observer=recorder.observe)
    composition.Ledger = partial(Ledger, lease_s=plan.lease_s)
    composition.open_served = partial(_open_witnessed, recorder)
    settings = load_settings(
        environment={"HOME": str(plan.home)},
        overrides={
            "model": str(plan.model),
            "home": plan.home,
            "database_url": plan.database_url,
            "port": 0,
            "threads": 1,
            "max_running": plan.concurrent,
            "context": 16_384,
            "worker": False,
            "offline": True,
            "log_level": "warning",
        },
    )
    composition.run(composition.build(settings), lambda url: recorder.line(f"up {url}"))


def _open_witnessed(recorder: Recorder, *arguments: Any) -> Any:
    opened = open_served(*arguments)
    served = replace(opened.served, backend=WitnessedBackend(opened.served.backend, recorder))
    return replace(opened, served=served)


@dataclass(frozen=True, slots=True)
class WitnessedBackend:
    """A `Backend` that writes down each token before it hands it on."""

    inner: Backend
    recorder: Recorder

    @property
    def max_context_tokens(self) -> int:
        return self.inner.max_context_tokens

    @property
    def ready(self) -> bool:
        return self.inner.ready

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncIterator[TokenDelta | PrefillProgress]:
        name, note = request.request_id, self.recorder.line
        note(f"a {name} {len(request.prompt)} {request.sampling.max_tokens}")
        handed, stream = 0, self.inner.generate(request)
        try:
            async for event in stream:
                if isinstance(event, PrefillProgress):
                    note(f"p {name} {event.cached_tokens}")
                else:
                    self.recorder.streams(bool(event.tokens) and not handed)
                    handed += len(event.tokens)
                    if event.tokens:
                        note(f"t {name} {handed}")
                    if event.usage is not None:
                        used = event.usage
                        counts = (used.prompt_tokens, used.cached_tokens, used.completion_tokens)
                        note("u {} {} {} {}".format(name, *counts))
                yield event
        finally:
            note(f"c {name}")
            self.recorder.streams(-bool(handed))
            await stream.aclose()

    def abort(self, request_id: str) -> None:
        self.inner.abort(request_id)

    def stats(self) -> BackendStats:
        return self.inner.stats()

    async def drain(self, timeout_s: float) -> None:
        await self.inner.drain(timeout_s)

    async def close(self) -> None:
        await self.inner.close()
