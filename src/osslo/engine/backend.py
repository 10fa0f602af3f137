"""The narrow waist: token ids in, `TokenDelta`s out. The native engine is one implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from osslo.types import BackendStats, GenerationRequest, PrefillProgress, TokenDelta


class Backend(Protocol):
    """Runs generation requests for one model.

    `generate` raises `RequestError`/`OverloadedError` before its first event if the request is not
    accepted. Once accepted it yields any number of events and ends with exactly one `TokenDelta`
    that has a `finish_reason`. Closing the iterator early (client gone) aborts the request: its
    generation stops within one step and its pages are freed.
    """

    @property
    def max_context_tokens(self) -> int: ...

    def generate(
        self, request: GenerationRequest
    ) -> AsyncIterator[TokenDelta | PrefillProgress]: ...

    def abort(self, request_id: str) -> None:
        """Stop a request; it then ends with ABORT. Unknown ids are ignored."""
        ...

    def stats(self) -> BackendStats: ...

    @property
    def ready(self) -> bool:
        """Weights are loaded and new requests are taken."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Take no new work; let running requests finish, then abort what is left."""
        ...

    async def close(self) -> None: ...
