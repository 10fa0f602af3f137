"""A background response while it runs here: its log so far, and whoever follows it.

Followers have builders of their own over the one log, so that each may begin anywhere and none can
hold the response up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any

from osslo.api.responses.builder import Event, ResponseBuilder, ResponseHead, SealReasoning
from osslo.api.responses.log import Step, advance, encode_log, is_shown
from osslo.chat.choices import BeginTurns
from osslo.chat.metering import Meter
from osslo.store.responses import ResponseStore, StoredResponse


@dataclass(frozen=True, slots=True)
class BackgroundJob:
    """What it takes to run a response in the background. `record` is what is kept of it at first;
    `clock` gives Unix time in seconds."""

    record: StoredResponse
    head: ResponseHead
    seal: SealReasoning | None
    turns: BeginTurns
    meter: Meter
    store: ResponseStore
    clock: Callable[[], float]

    @property
    def at(self) -> float:
        return int(self.clock())


class LiveResponse:
    """One response's log. `BackgroundResponses` runs it; nobody else writes."""

    def __init__(self, job: BackgroundJob) -> None:
        self.job = job
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ending = False
        self._seals: dict[str, str] = {}
        self._steps: list[tuple[Step, float]] = []
        self._builder = self._new_builder()
        self._builder.begin()
        self._ended = False
        self._ended_at: float | None = None
        self._news = asyncio.Event()

    @property
    def begun(self) -> bool:
        """The engine has taken it."""
        return bool(self._steps)

    def response(self) -> dict[str, Any]:
        """The Response object as it is now; while it is `ending`, only the store knows."""
        return self._builder.response()

    # --- writing --------------------------------------------------------------------------------

    def publish(self, step: Step) -> None:
        """One more step, not the last."""
        if is_shown(step):
            at = self.job.at
            advance(self._builder, step, at)
            self._append(step, at)

    def finished(self, last: Step) -> StoredResponse:
        """What is to be kept once `last` has ended it. The followers do not know of it yet."""
        self._ended_at = at = self.job.at
        advance(self._builder, last, at)
        body = self._builder.response()
        return replace(
            self.job.record,
            status=body["status"],
            body=body,
            log=encode_log(self.job.head, [*(step for step, _ in self._steps), last], at),
        )

    def end(self, last: Step) -> None:
        """The last step, kept by now: followers get it and end."""
        self._ended = True
        self._append(last, self._ended_at or self.job.at)

    def _append(self, step: Step, at: float) -> None:
        self._steps.append((step, at))
        news, self._news = self._news, asyncio.Event()
        news.set()

    # --- reading --------------------------------------------------------------------------------

    async def follow(self, starting_after: int | None) -> AsyncGenerator[Event, None]:
        """The stream's events behind number `starting_after`, and further ones as they come."""
        after = -1 if starting_after is None else starting_after
        builder = self._new_builder()
        for event in builder.begin():
            if event["sequence_number"] > after:
                yield event
        read = 0
        while True:
            news = self._news
            while read < len(self._steps):
                step, at = self._steps[read]
                read += 1
                for event in advance(builder, step, at):
                    if event["sequence_number"] > after:
                        yield event
            if self._ended and read == len(self._steps):
                return
            if news is self._news:
                await news.wait()

    def _new_builder(self) -> ResponseBuilder:
        seal = self.job.seal
        return ResponseBuilder(self.job.head, seal=None if seal is None else self._sealed)

    def _sealed(self, item_id: str, text: str) -> str:
        """The same seal in every follower's stream and in what is kept."""
        seal = self.job.seal
        if seal is None:
            raise AssertionError("nothing is to be sealed")
        if item_id not in self._seals:
            self._seals[item_id] = seal(item_id, text)
        return self._seals[item_id]
