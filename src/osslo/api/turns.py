"""How every protocol starts turns: the model that a caller may use, the prepared prompt, metering,
and the count of what ended. The adapters translate before and after; none generates by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from osslo.api.auth import Caller
from osslo.api.guard import Guard, raw_text
from osslo.api.services import Services
from osslo.chat.choices import BeginTurns, IndexedEvents, interleave
from osslo.chat.events import TurnEnd, TurnEnded, TurnEvent
from osslo.chat.judge import RunTurn
from osslo.chat.metering import Bill, Meter
from osslo.chat.models import ServedModel
from osslo.chat.raw import RawEvent, RawRequest, RawTurn, prepare_raw, prepared_raw_at_once
from osslo.chat.request import ChatRequest
from osslo.chat.turn import OnEnded, PreparedTurn, Turn, prepare, prepared_at_once
from osslo.errors import OssloError, OverloadedError, PermissionDeniedError, ShuttingDownError
from osslo.telemetry import LOGGER_NAME

T = TypeVar("T")

_log = logging.getLogger(LOGGER_NAME + ".turn")

IndexedRawEvents = AsyncGenerator[tuple[int, RawEvent], None]
"""The events of raw completions, each with the index of its own."""


@dataclass(frozen=True, slots=True)
class RunningTurns:
    """Turns that begin when `events` is first read. Closing `events` aborts them."""

    prepared: PreparedTurn
    events: IndexedEvents


@dataclass(frozen=True, slots=True)
class PreparedTurns:
    """Turns that can be begun, and begun again if the backend refused them."""

    prepared: PreparedTurn
    begin: BeginTurns


def served_model(services: Services, caller: Caller, name: str) -> ServedModel:
    """The model called `name`. Raises `ModelNotFoundError`, or `PermissionDeniedError` where the
    caller's key does not allow it, or `OverloadedError` for a background caller while others wait
    for the model."""
    model = services.registry.get(name)
    if caller.models is not None and not caller.models & _names_allowing(name, model):
        raise PermissionDeniedError(
            f"This key may not use the model {name!r}; it may use: "
            f"{', '.join(sorted(caller.models))}.",
            param="model",
            code="model_not_allowed",
        )
    if caller.background and model.backend.stats().waiting:
        raise OverloadedError("Requests of batches wait while others do.", retry_after_s=1)
    return model


def check_room(model: ServedModel) -> None:
    """Raise `OverloadedError` if the backend is full at this moment. Rendering a prompt, compiling
    a grammar and reserving money would be for nothing, many times over under overload; and a stream
    would have begun by the time that the backend itself says no."""
    full_for_s = model.backend.stats().full_for_s
    if full_for_s is not None:
        raise OverloadedError(
            "As many requests are running or waiting as the server takes; try again later.",
            retry_after_s=full_for_s,
        )


def _names_allowing(name: str, model: ServedModel) -> set[str]:
    """What a key may hold to be let in. A base's name does not open its adapters, which may know
    what others taught them; `BASE:*` opens all of them."""
    if model.adapter is None:
        return {name, model.id}
    return {name, model.id, f"{name.removesuffix(model.adapter)}*", f"{model.base_id}:*"}


async def start_turns(
    services: Services,
    caller: Caller,
    model: ServedModel,
    asked: ChatRequest,
    *,
    protocol: str,
    choices: int = 1,
) -> RunningTurns:
    """`prepare_turns`, set up to begin under the server's meter. Raises `OverloadedError` before
    any work is done if the backend is full already."""
    check_room(model)
    turns = await prepare_turns(services, caller, model, asked, protocol=protocol, choices=choices)
    return RunningTurns(turns.prepared, turns.begin(services.meter, None))


async def prepare_turns(
    services: Services,
    caller: Caller,
    model: ServedModel,
    asked: ChatRequest,
    *,
    protocol: str,
    choices: int = 1,
) -> PreparedTurns:
    """Prepare `asked` for `choices` turns of it, each with an id and, if seeded, a seed of its own.
    `protocol` is what usage is listed under. Raises what `prepare` raises."""
    prepared = await _prepared(
        partial(prepare, model, asked, today=services.today()), at_once=prepared_at_once(asked)
    )
    bill = Bill(
        model.id,
        protocol,
        caller.user_id,
        caller.key_id,
        may_lower=asked.max_tokens is None,
        batch=caller.background,
    )
    guard = guard_of(services, caller, model)
    await guard.check_input(asked.texts())

    def begin(meter: Meter, also: OnEnded | None) -> IndexedEvents:
        on_ended = count_turns(model, services, also)
        return interleave(
            [
                guard.watched(
                    Turn(model, choice, meter=meter, bill=bill, on_ended=on_ended).events()
                )
                for choice in _copies(prepared, choices)
            ]
        )

    return PreparedTurns(prepared, begin)


async def _prepared(work: Callable[[], T], *, at_once: bool) -> T:
    """What `work` gives, here if that takes no longer than a hand-over, or in another thread."""
    return work() if at_once else await asyncio.to_thread(work)


async def start_raw_turns(
    services: Services,
    caller: Caller,
    model: ServedModel,
    asked: Sequence[RawRequest],
    *,
    protocol: str,
) -> IndexedRawEvents:
    """Prepare raw completions and set them up to run side by side. Raises what `prepare_raw`
    raises; the events begin when they are first read."""
    check_room(model)
    prepared = await _prepared(
        lambda: [prepare_raw(model, request) for request in asked],
        at_once=prepared_raw_at_once(asked),
    )
    bill = Bill(model.id, protocol, caller.user_id, caller.key_id, batch=caller.background)
    guard = guard_of(services, caller, model)
    await guard.check_input(raw_text(model, request.prompt) for request in asked)
    on_ended = count_turns(model, services)
    return interleave(
        [
            guard.watched_raw(
                RawTurn(model, one, meter=services.meter, bill=bill, on_ended=on_ended).events()
            )
            for one in prepared
        ]
    )


def guard_of(services: Services, caller: Caller, model: ServedModel) -> Guard:
    """What guards a caller's requests: what the server asks for, and what the key adds."""
    return Guard(
        judge=services.judge,
        mode=services.guard.with_(caller.guard),
        model=model,
        tenant=caller.tenant,
        run=judge_turns(services, caller, model, protocol="guard"),
        clean=services.clean_texts,
    )


def judge_turns(
    services: Services, caller: Caller, model: ServedModel, *, protocol: str
) -> RunTurn:
    """Runs the judge's turns, metered and charged like others."""
    bill = Bill(model.id, protocol, caller.user_id, caller.key_id, batch=caller.background)

    def run(prepared: PreparedTurn) -> AsyncGenerator[TurnEvent, None]:
        on_ended = count_turns(model, services)
        return Turn(model, prepared, meter=services.meter, bill=bill, on_ended=on_ended).events()

    return run


def _copies(turn: PreparedTurn, count: int) -> list[PreparedTurn]:
    if count == 1:
        return [turn]
    generation = turn.generation
    seed = generation.sampling.seed
    return [
        replace(
            turn,
            generation=replace(
                generation,
                request_id=f"{generation.request_id}-{index}",
                sampling=replace(generation.sampling, seed=None if seed is None else seed + index),
            ),
        )
        for index in range(count)
    ]


def count_turns(model: ServedModel, services: Services, also: OnEnded | None = None) -> OnEnded:
    """Counts a turn when it ends, whatever the reason, and tells `also`."""

    def on_ended(ended: TurnEnded) -> None:
        if also is not None:
            also(ended)
        services.metrics.turn_ended(
            model=model.id,
            reason=ended.reason.value,
            usage=ended.usage,
            first_output_s=ended.first_output_s,
        )
        for kind in ended.deviations:
            services.metrics.malformed_output(kind)
        _log.info(
            "turn",
            extra={
                "model": model.id,
                "reason": ended.reason.value,
                "prompt_tokens": ended.usage.prompt_tokens,
                "cached_tokens": ended.usage.cached_tokens,
                "completion_tokens": ended.usage.completion_tokens,
                "error": ended.error.code if ended.error is not None else None,
            },
        )

    return on_ended


def failure_of(ended: TurnEnded) -> OssloError | None:
    """What the caller of a turn that did not end well is told; None if it did."""
    if ended.error is not None or ended.reason is not TurnEnd.ABORT:
        return ended.error
    return ShuttingDownError("The server stopped the request before it was done.", code="aborted")
