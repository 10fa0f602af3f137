"""Raw completions: text or token ids in, text out, without any chat format.

Owns `/v1/completions`' share of the work below HTTP: encoding the prompt (its text never becomes a
special token), decoding, stop strings, echo, log-probabilities with their places in the text. One
stream like a turn's: any number of events, exactly one end.
"""

from __future__ import annotations

import codecs
import time
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

from osslo.chat.backend_stream import as_osslo_error, close_stream
from osslo.chat.events import PrefillProgressed, TurnEnd, TurnEnded, TurnStarted
from osslo.chat.held_text import HeldText, Piece
from osslo.chat.metering import Bill, Charge, FreeMeter, Meter, granted
from osslo.chat.models import AT_ONCE_CHARACTERS, ServedModel
from osslo.errors import ContextLengthError, EngineError, OssloError, RequestError
from osslo.harmony.vocabulary import Vocabulary
from osslo.types import (
    FinishReason,
    GenerationRequest,
    Grammar,
    PrefillProgress,
    SamplingParams,
    TokenDelta,
    TokenId,
    TokenLogprob,
    Usage,
)

OnEnded = Callable[[TurnEnded], None]


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One completion to run; several prompts or choices are several requests.

    `prompt` is text, or token ids as they are. `max_tokens` is the caller's limit, 0 to read the
    prompt only; None takes what the context leaves, up to `sampling.max_tokens`, the server's cap.
    `sampling.logprobs` asks for those of the output, and with `echo` of the prompt too. With
    `echo` the prompt's text comes first. `special_tokens` writes out the special tokens that the
    model generates; otherwise they are left out of the text. `grammar` binds the output.
    """

    request_id: str
    prompt: str | tuple[TokenId, ...]
    sampling: SamplingParams
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    echo: bool = False
    special_tokens: bool = False
    grammar: Grammar | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class RawToken:
    """A token of the text with its log-probability (nats) and alternatives, best first.

    `text` has U+FFFD where the bytes `raw` are not whole characters. `offset` counts the characters
    of the whole text, the echo included, that stand before the token. `logprob` is None for the
    first token of a prompt, which follows nothing.
    """

    text: str
    raw: bytes
    offset: int
    logprob: float | None
    top: tuple[RawAlternative, ...] = ()


@dataclass(frozen=True, slots=True)
class RawAlternative:
    """A token that could have stood here, and its log-probability."""

    text: str
    raw: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class RawDelta:
    """More text, and the tokens that begin in it if log-probabilities were asked for."""

    text: str
    tokens: tuple[RawToken, ...] = ()


RawEvent = TurnStarted | PrefillProgressed | RawDelta | TurnEnded
"""`TurnStarted`, any number of the middle ones, exactly one `TurnEnded`."""


@dataclass(frozen=True, slots=True)
class PreparedRaw:
    """A completion ready to run."""

    request: RawRequest
    generation: GenerationRequest


def prepare_raw(model: ServedModel, request: RawRequest) -> PreparedRaw:
    """Encode the prompt and settle the token limit. Does what needs a CPU: run it off the loop,
    but where `prepared_raw_at_once`.

    Raises `ContextLengthError` where prompt and requested output do not fit, `RequestError` for an
    empty prompt or an id that is no token.
    """
    prompt = _prompt_ids(model.vocabulary, request)
    scores = request.sampling.logprobs if request.echo else None
    sampling = replace(
        request.sampling,
        max_tokens=_output_limit(model.context_tokens, request, len(prompt)),
        prompt_logprobs=scores,
    )
    return PreparedRaw(
        request,
        GenerationRequest(
            request_id=request.request_id,
            prompt=prompt,
            sampling=sampling,
            grammar=request.grammar,
            tenant=request.tenant,
            adapter=model.adapter,
        ),
    )


def prepared_raw_at_once(requests: Sequence[RawRequest]) -> bool:
    """Whether `prepare_raw` takes no longer than handing it to another thread would."""
    return len(requests) == 1 and len(requests[0].prompt) <= AT_ONCE_CHARACTERS


class RawTurn:
    """Runs one prepared completion on a model's backend. Good for one use.

    `meter` opens a charge before the backend is asked; the charge is settled, or released if the
    backend refuses. `on_ended` is called exactly once for every completion that was not refused.
    Both hold also when the caller closes the stream early.
    """

    def __init__(
        self,
        model: ServedModel,
        prepared: PreparedRaw,
        *,
        meter: Meter | None = None,
        bill: Bill | None = None,
        on_ended: OnEnded | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = model.backend
        self._generation = prepared.generation
        self._writer = _Writer(model.vocabulary, prepared.request)
        self._prompt_left = list(reversed(prepared.generation.prompt))
        self._echo = prepared.request.echo
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

    async def events(self) -> AsyncGenerator[RawEvent, None]:
        """The completion's events, the last of them `TurnEnded`.

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
                    for event in self._begin():
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
        rest = self._echo_rest() + _delta(self._writer.finish())
        ended = self._conclude()
        self._report(ended)  # before the last events: the caller may not come back for them
        for event in rest:
            yield event
        yield ended

    # --- events ---------------------------------------------------------------------------------

    def _begin(self) -> list[RawEvent]:
        """Without log-probabilities the echo needs nothing from the backend."""
        started: list[RawEvent] = [TurnStarted(len(self._generation.prompt))]
        if not self._echo:
            return started
        if self._generation.sampling.prompt_logprobs is None:
            return started + self._echo_rest()
        first = self._prompt_left.pop()
        return started + _delta(self._writer.echo(first, TokenLogprob(first, 0.0), scored=False))

    def _adapt(self, item: TokenDelta | PrefillProgress) -> list[RawEvent]:
        if isinstance(item, PrefillProgress):
            self._cached_tokens = item.cached_tokens
            return [PrefillProgressed(item.done_tokens, item.total_tokens)]
        events: list[RawEvent] = []
        for record in item.prompt_logprobs:
            if self._prompt_left:
                events += _delta(self._writer.echo(self._prompt_left.pop(), record))
        if item.tokens:
            events += self._echo_rest()
        known = len(item.logprobs) == len(item.tokens)
        for index, token in enumerate(item.tokens):
            events += _delta(self._writer.feed(token, item.logprobs[index] if known else None))
        if self._first_output_s is None and item.tokens:
            self._first_output_s = self._clock() - self._started_at
        if self._charge is not None and item.tokens:
            known = self._cached_tokens is not None
            self._charge.progress(self._usage(item.usage), cached_known=known)
        if item.finish_reason is not None:
            self._last = item
        elif self._writer.stopped:
            self._backend.abort(self._generation.request_id)
        return events

    def _echo_rest(self) -> list[RawEvent]:
        """What of the prompt has not been echoed yet."""
        events: list[RawEvent] = []
        while self._echo and self._prompt_left:
            events += _delta(self._writer.echo(self._prompt_left.pop(), None))
        self._echo = False
        return events

    # --- the end --------------------------------------------------------------------------------

    def _conclude(self) -> TurnEnded:
        last = self._last
        if last is None:
            silent = EngineError("The engine ended the request without saying why.")
            return self._ended(TurnEnd.ERROR, self._failure or silent)
        if last.finish_reason is FinishReason.ERROR:
            vague = EngineError("The engine failed while running the request.")
            return self._ended(TurnEnd.ERROR, last.error or vague)
        if self._writer.stopped:
            return self._ended(TurnEnd.STOP)
        match last.finish_reason:
            case FinishReason.LENGTH:
                return self._ended(TurnEnd.LENGTH)
            case FinishReason.ABORT:
                return self._ended(TurnEnd.ABORT)
            case _:
                return self._ended(TurnEnd.STOP)

    def _ended(self, reason: TurnEnd, error: OssloError | None = None) -> TurnEnded:
        counted = self._last.usage if self._last is not None else None
        return TurnEnded(
            reason=reason,
            usage=self._usage(counted),
            timings=self._last.timings if self._last is not None else None,
            error=error,
            first_output_s=self._first_output_s,
            stop_string=self._writer.stop_string,
            cached_known=counted is not None or self._cached_tokens is not None,
        )

    def _usage(self, counted: Usage | None) -> Usage:
        """The backend's count, except that a completion cut at a stop string counts up to it."""
        cached = self._cached_tokens or 0
        own = Usage(len(self._generation.prompt), self._writer.tokens, cached_tokens=cached)
        whole = own if counted is None or self._writer.stopped else counted
        return Usage(
            own.prompt_tokens,
            whole.completion_tokens,
            cached_tokens=(counted or own).cached_tokens,
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


class _Writer:
    """Tokens to text, with stop strings in the output and the places of tokens in the whole."""

    def __init__(self, vocabulary: Vocabulary, request: RawRequest) -> None:
        self._vocabulary = vocabulary
        self._hidden = frozenset[TokenId]()
        if not request.special_tokens:
            self._hidden = frozenset(vocabulary.specials.values())
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = HeldText[RawToken](request.stop)
        self._echoed_chars = 0
        self.tokens = 0
        self.stopped = False

    @property
    def stop_string(self) -> str | None:
        return self._held.hit

    def echo(
        self, token: TokenId, record: TokenLogprob | None, *, scored: bool = True
    ) -> Piece[RawToken]:
        """A token of the prompt, special ones written out; `scored` False: it follows nothing."""
        records: tuple[RawToken, ...] = ()
        if record is not None:
            told = self._record(replace(record, token=token), self._echoed_chars)
            records = (told if scored else replace(told, logprob=None),)
        text = self._decoder.decode(self._vocabulary.token_bytes(token))
        self._echoed_chars += len(text)
        return Piece(text, records)

    def feed(self, token: TokenId, record: TokenLogprob | None) -> Piece[RawToken]:
        """A generated token."""
        if self.stopped:
            return Piece("")
        self.tokens += 1
        if token in self._hidden:
            return Piece("")
        if record is not None:
            self._held.expect(self._record(record, self._echoed_chars + self._held.fed_chars))
        text = self._decoder.decode(self._vocabulary.token_bytes(token))
        shown, self.stopped = self._held.feed(text)
        return shown

    def finish(self) -> Piece[RawToken]:
        """What is held back, and U+FFFD for a character that never became whole."""
        if self.stopped:
            return Piece("")
        shown, self.stopped = self._held.feed(self._decoder.decode(b"", final=True))
        rest = Piece("") if self.stopped else self._held.finish()
        return Piece(shown.text + rest.text, shown.records + rest.records)

    def _record(self, record: TokenLogprob, offset: int) -> RawToken:
        def one(token: TokenId, logprob: float) -> RawAlternative:
            raw = self._vocabulary.token_bytes(token)
            return RawAlternative(raw.decode("utf-8", "replace"), raw, logprob)

        chosen = one(record.token, record.logprob)
        top = tuple(one(token, value) for token, value in record.top)
        return RawToken(chosen.text, chosen.raw, offset, chosen.logprob, top)


def _delta(piece: Piece[RawToken]) -> list[RawEvent]:
    return [RawDelta(piece.text, piece.records)] if piece else []


def _prompt_ids(vocabulary: Vocabulary, request: RawRequest) -> tuple[TokenId, ...]:
    if isinstance(request.prompt, str):
        ids: Sequence[TokenId] = vocabulary.encode(request.prompt)
    else:
        ids = request.prompt
    if not ids:
        raise RequestError("The prompt is empty; send at least one token.", param="prompt")
    if min(ids) < 0 or max(ids) >= vocabulary.vocab_size:
        raise RequestError(
            f"Token ids of a prompt go from 0 to {vocabulary.vocab_size - 1}.", param="prompt"
        )
    return tuple(ids)


def _output_limit(context: int, request: RawRequest, prompt_tokens: int) -> int:
    room = context - prompt_tokens
    wanted = request.max_tokens
    if wanted is not None and wanted < 0:
        raise RequestError("max_tokens must be 0 or more.", param="max_tokens")
    if room < (1 if wanted is None else wanted):
        asked = "" if wanted is None else f" and {wanted} more are asked for as output"
        raise ContextLengthError(
            f"This model's context is {context} tokens, but the prompt takes {prompt_tokens}"
            f"{asked}. Shorten the prompt or ask for less output.",
            param="prompt",
        )
    return min(room, request.sampling.max_tokens) if wanted is None else wanted
