"""One turn: render, generate, parse, until exactly one terminal event.

`prepare` does what needs a CPU (run it off the event loop, but where `prepared_at_once`);
`Turn.events` is the stream that protocols adapt. Closing the stream early aborts the generation at
once. The loop over server-side tools will run here, between two generations; callers' own tools end
the turn.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

from osslo.chat.assembler import TurnAssembler
from osslo.chat.backend_stream import as_osslo_error, close_stream
from osslo.chat.events import (
    PrefillProgressed,
    ReasoningDelta,
    TextDelta,
    ToolCallStarted,
    TurnEnd,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from osslo.chat.form import form_for
from osslo.chat.metering import Bill, Charge, FreeMeter, Meter, granted
from osslo.chat.models import AT_ONCE_CHARACTERS, ServedModel
from osslo.chat.prompt import output_limit, render_prompt
from osslo.chat.request import ChatRequest
from osslo.errors import EngineError, OssloError
from osslo.harmony.messages import ReasoningEffort
from osslo.harmony.vocabulary import Markers
from osslo.types import (
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    TokenDelta,
    TokenId,
    Usage,
)

_EACH_TEXT_CHARACTERS = 16
"""What a text costs, however short it is, in characters."""

OnEnded = Callable[[TurnEnded], None]

_OUTPUT = (ReasoningDelta, TextDelta, ToolCallStarted)


@dataclass(frozen=True, slots=True)
class PreparedTurn:
    """A turn ready to run: the backend's request, and how to read its output.

    `functions` are the names of all tools, `custom` of those with free input. `begun` is the part
    of the assistant's turn that the prompt holds already. `dropped_messages` were truncated away;
    `warnings` say what of the request is not enforced.
    """

    generation: GenerationRequest
    effort: ReasoningEffort
    stop: tuple[str, ...]
    functions: frozenset[str]
    custom: frozenset[str] = frozenset()
    begun: tuple[TokenId, ...] = ()
    dropped_messages: int = 0
    warnings: tuple[str, ...] = ()


def prepare(model: ServedModel, request: ChatRequest, *, today: str) -> PreparedTurn:
    """Render the prompt, choose the grammar and settle the token limit.

    Raises `ContextLengthError` where prompt and requested output do not fit, `GrammarError` for a
    schema that cannot be enforced, `RequestError` for a conversation that makes no sense.
    """
    prompt = render_prompt(model, request, today=today)
    form = form_for(model, request)
    markers = Markers.of(model.vocabulary)
    stop_ids = {markers.return_, markers.call, *request.sampling.stop_token_ids}
    sampling = replace(
        request.sampling,
        max_tokens=output_limit(model, request, len(prompt.tokens)),
        stop_token_ids=tuple(sorted(stop_ids)),
    )
    custom = frozenset(tool.name for tool in request.custom_tools)
    return PreparedTurn(
        generation=GenerationRequest(
            request_id=request.request_id,
            prompt=prompt.tokens,
            sampling=sampling,
            grammar=replace(form.grammar, read=prompt.begun) if form is not None else None,
            tenant=request.tenant,
            adapter=model.adapter,
        ),
        effort=prompt.effort,
        stop=request.stop,
        functions=custom | {tool.name for tool in request.tools},
        custom=custom,
        begun=prompt.begun,
        dropped_messages=prompt.dropped_messages,
        warnings=form.warnings if form is not None else (),
    )


def prepared_at_once(request: ChatRequest) -> bool:
    """Whether `prepare` takes no longer than handing it to another thread would: little text, and
    no grammar of the request's own."""
    if not request.is_free:
        return False
    room = AT_ONCE_CHARACTERS
    for text in request.texts():
        room -= len(text) + _EACH_TEXT_CHARACTERS
        if room < 0:
            return False
    return True


class Turn:
    """Runs one prepared turn on a model's backend. Good for one use.

    `meter` opens a charge before the backend is asked; the charge is settled, or released if the
    backend refuses. `on_ended` is called exactly once for every turn that was not refused. Both
    hold also when the caller closes the stream early.
    """

    def __init__(
        self,
        model: ServedModel,
        prepared: PreparedTurn,
        *,
        meter: Meter | None = None,
        bill: Bill | None = None,
        on_ended: OnEnded | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = model.backend
        self._generation = prepared.generation
        self._assembler = TurnAssembler(
            model.vocabulary,
            stop=prepared.stop,
            functions=prepared.functions,
            custom=prepared.custom,
        )
        self._begun = prepared.begun
        self._meter = meter or FreeMeter()
        self._bill = bill or Bill(model=model.id, protocol="local")
        self._charge: Charge | None = None
        self._on_ended = on_ended
        self._clock = clock
        self._started_at = clock()
        self._first_output_s: float | None = None
        self._last: TokenDelta | None = None
        self._cached_tokens: int | None = None
        self._failure: OssloError | None = None

    async def events(self) -> AsyncGenerator[TurnEvent, None]:
        """The turn's events, the last of them `TurnEnded`.

        Raises the meter's or the backend's `RequestError` or `OverloadedError` before the first
        event if one of them refuses the request; after that nothing is raised, an error is in the
        terminal event.
        """
        self._charge = charge = await self._open_charge()
        self._generation = granted(self._generation, charge.max_tokens)
        stream = self._backend.generate(self._generation)
        accepted = False
        try:
            async for item in stream:
                if not accepted:
                    accepted = True
                    yield TurnStarted(len(self._generation.prompt))
                    for event in self._assembler.begin(self._begun):
                        yield event
                for event in self._adapt(item):
                    yield event
                if self._last is not None:
                    break
                await charge.keep_up()
        except (GeneratorExit, CancelledError):
            self._report(self._ended(TurnEnd.ABORT))
            raise
        except Exception as error:
            self._failure = as_osslo_error(error)
            if not accepted:
                charge.release(self._failure)
                raise self._failure from error
        finally:
            await close_stream(stream)
        rest = self._note(self._assembler.finish())
        ended = self._conclude()
        self._report(ended)  # before the last events: the caller may not come back for them
        for event in rest:
            yield event
        yield ended

    def _adapt(self, item: TokenDelta | PrefillProgress) -> list[TurnEvent]:
        if isinstance(item, PrefillProgress):
            self._cached_tokens = item.cached_tokens
            return [PrefillProgressed(item.done_tokens, item.total_tokens)]
        events: list[TurnEvent] = []
        known = len(item.logprobs) == len(item.tokens)
        for index, token in enumerate(item.tokens):
            events += self._assembler.feed(token, item.logprobs[index] if known else None)
        if item.finish_reason is not None:
            self._last = item
        elif self._assembler.stopped:
            self._backend.abort(self._generation.request_id)
        if self._charge is not None and item.tokens:
            known = self._cached_tokens is not None
            self._charge.progress(self._usage(item.usage), cached_known=known)
        return self._note(events)

    def _note(self, events: list[TurnEvent]) -> list[TurnEvent]:
        if self._first_output_s is None and any(isinstance(event, _OUTPUT) for event in events):
            self._first_output_s = self._clock() - self._started_at
        return events

    def _conclude(self) -> TurnEnded:
        """The terminal event, from the backend's last delta or from what went wrong."""
        last = self._last
        if last is None:
            silent = EngineError("The engine ended the request without saying why.")
            return self._ended(TurnEnd.ERROR, self._failure or silent)
        if last.finish_reason is FinishReason.ERROR:
            vague = EngineError("The engine failed while running the request.")
            return self._ended(TurnEnd.ERROR, last.error or vague)
        if self._assembler.stopped:
            return self._ended(TurnEnd.STOP)
        match last.finish_reason:
            case FinishReason.LENGTH:
                return self._ended(TurnEnd.LENGTH)
            case FinishReason.ABORT:
                return self._ended(TurnEnd.ABORT)
            case _:
                return self._ended(TurnEnd.TOOL_CALLS if self._assembler.calls else TurnEnd.STOP)

    def _ended(self, reason: TurnEnd, error: OssloError | None = None) -> TurnEnded:
        last = self._last or TokenDelta(self._generation.request_id)
        return TurnEnded(
            reason=reason,
            usage=self._usage(last.usage),
            timings=last.timings,
            error=error,
            deviations=tuple(self._assembler.deviations),
            first_output_s=self._first_output_s,
            stop_string=self._assembler.stop_string,
            cached_known=last.usage is not None or self._cached_tokens is not None,
        )

    def _usage(self, counted: Usage | None) -> Usage:
        """The backend's count, except that a turn cut at a stop string counts up to it."""
        cached = self._cached_tokens or 0
        own = Usage(len(self._generation.prompt), self._assembler.tokens, cached_tokens=cached)
        counted = counted or own
        return Usage(
            prompt_tokens=own.prompt_tokens,
            completion_tokens=(own if self._assembler.stopped else counted).completion_tokens,
            cached_tokens=counted.cached_tokens,
            reasoning_tokens=self._assembler.reasoning_tokens,
        )

    async def _open_charge(self) -> Charge:
        generation = self._generation
        return await self._meter.open(
            self._bill,
            request_id=generation.request_id,
            prompt_tokens=len(generation.prompt),
            max_tokens=generation.sampling.max_tokens,
        )

    def _report(self, ended: TurnEnded) -> None:
        if self._charge is not None:
            self._charge.settle(ended)
        if self._on_ended is not None:
            self._on_ended(ended)
