"""A model in this process, for scripts and notebooks: `osslo.load`.

Everything goes through the engine that serves, so that what is measured here is what a server
answers. The small sister of `serve`: the same parts, without HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from osslo.chat.events import (
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    TurnEnded,
    TurnEvent,
)
from osslo.chat.models import ServedModel
from osslo.chat.request import (
    AssistantTurn,
    ChatMessage,
    ChatRequest,
    DeveloperText,
    SystemText,
    UserText,
)
from osslo.chat.turn import Turn, prepare
from osslo.engine.adapters import AdapterPool
from osslo.engine.engine import Engine
from osslo.engine.limits import EngineLimits
from osslo.errors import ConfigurationError, RequestError
from osslo.harmony.messages import FunctionTool, ReasoningEffort
from osslo.model.adapters.catalogue import FOLDER, NAME
from osslo.model.pack import Precision
from osslo.model.packed_file import TOKENIZER
from osslo.model.tokenizer import Detokenizer, Tokenizer
from osslo.opening import (
    Progress,
    adapter_pool,
    find_adapters,
    locate,
    open_native,
    open_served,
    plan_memory,
)
from osslo.settings import load_settings
from osslo.types import (
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenDelta,
    TokenId,
    ToolCall,
    Usage,
)

T = TypeVar("T")

MARKER = "<|message|>"
"""A vocabulary that has it speaks harmony."""

Messages = str | Sequence[Mapping[str, str]] | Sequence[ChatMessage]


def load(
    model: str | Path | None = None,
    *,
    threads: int | None = None,
    context: int | None = None,
    precision: Precision = "default",
    progress: Progress | None = None,
) -> LocalModel:
    """Load a model into this process: a name, a checkpoint's folder or file, or a packed file.

    None takes what `osslo serve` would serve. A checkpoint is packed on its first load, which
    `progress(what, done, total)` reports. `context` None takes the largest that fits, within
    reason. `BASE:NAME` answers with the adapter NAME where nothing else is asked for. Raises
    `ConfigurationError` if there is no such model, `ModelError` for files that
    cannot be used, and `MemoryPlanError` for a context that does not fit.
    """
    name, adapter = _split_adapter(model)
    overrides = {
        "model": name,
        "threads": threads,
        "context": context,
        "precision": precision,
    }
    settings = load_settings(overrides=overrides)
    located = locate(settings, progress)
    native = open_native(settings, located, progress)
    adapters = find_adapters(settings, native)
    memory = plan_memory(settings, native, adapters)
    tokenizer = native.tokenizer if native.header.tensor(TOKENIZER) is not None else None
    if tokenizer is not None and MARKER in tokenizer.specials:
        opened = open_served(settings, located, native, memory, adapters)
        return LocalModel(
            opened.engine,
            name=located.id,
            tokenizer=tokenizer,
            served=opened.served,
            pool=opened.adapters,
            adapter=adapter,
        )
    limits = EngineLimits(
        context_tokens=memory.request.context_tokens,
        full_pages=memory.full_pages,
        window_pages=memory.window_pages,
        eos_token_ids=native.config.eos_token_ids,
        draft_tokens=memory.request.draft_tokens,
    )
    pool = adapter_pool(settings, native, adapters)
    engine = Engine(native, limits, adapters=pool)
    return LocalModel(
        engine, name=located.id, tokenizer=tokenizer, served=None, pool=pool, adapter=adapter
    )


def _split_adapter(model: str | Path | None) -> tuple[str | None, str | None]:
    """`BASE:NAME` as its two parts, where there is such an adapter; else all of it is the model."""
    if model is None:
        return None, None
    base, colon, name = str(model).rpartition(":")
    if not colon or not NAME.fullmatch(name) or Path(model).exists():
        return str(model), None
    known = (load_settings().folders.home / FOLDER / name).is_dir()
    return (base, name) if known else (str(model), None)


class Generation(Iterator[str]):
    """Text as it comes. Iterate over its pieces, or take the whole of it with `text`.

    `ids` are the tokens so far; `finish_reason` and `usage` are there once it has ended.
    """

    def __init__(
        self, events: Generator[Any, None, None], tokenizer: Tokenizer | None, stops: frozenset[int]
    ) -> None:
        self._events = events
        self._stops = stops
        self._detokenizer = Detokenizer(tokenizer) if tokenizer else None
        self.ids: list[TokenId] = []
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None

    def __next__(self) -> str:
        for event in self._events:
            if not isinstance(event, TokenDelta):
                continue
            if event.error is not None:
                raise event.error
            self.ids += event.tokens
            piece = self._decode(event)
            if event.finish_reason is not None:
                self.finish_reason, self.usage = event.finish_reason, event.usage
            if piece:
                return piece
        raise StopIteration

    @property
    def text(self) -> str:
        """All text from here on; waits for the end."""
        return "".join(self)

    def close(self) -> None:
        """Stop generating."""
        self._events.close()

    def _decode(self, delta: TokenDelta) -> str:
        if self._detokenizer is None:
            return ""
        shown = [token for token in delta.tokens if token not in self._stops]
        piece = self._detokenizer.feed(shown)
        return piece + self._detokenizer.finish() if delta.finish_reason is not None else piece


@dataclass(slots=True)
class Reply:
    """An answer to a chat, whole."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    ended: TurnEnded | None = None

    def add(self, event: TurnEvent) -> None:
        """Take in the next event of the turn."""
        match event:
            case TextDelta(text):
                self.text += text
            case ReasoningDelta(text):
                self.reasoning += text
            case ToolCallStarted(_, call_id, name, custom):
                self.calls.append(ToolCall(call_id, name, "", custom))
            case ToolCallDelta(index, arguments):
                call = self.calls[index]
                whole = call.arguments + arguments
                self.calls[index] = replace(call, arguments=whole)
            case TurnEnded():
                self.ended = event
            case _:
                pass


class LocalModel:
    """A loaded model with its engine. Close it, or use it in a `with` statement.

    `served` is None for a model that cannot chat: one without a tokenizer, or without harmony's
    special tokens. `tokenizer` is None for one that takes and gives ids only. `pool` finds
    adapters, `adapter` is the one that answers where none is asked for.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        tokenizer: Tokenizer | None,
        served: ServedModel | None,
        pool: AdapterPool | None = None,
        adapter: str | None = None,
    ) -> None:
        self.name = name
        self._engine = engine
        self._tokenizer = tokenizer
        self._served = served
        self._pool = pool
        self.adapter = adapter
        self._loop: LoopThread | None = None

    @property
    def context_tokens(self) -> int:
        """Prompt and answer together may have so many tokens."""
        return self._engine.max_context_tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises `ConfigurationError` if it has none."""
        if self._tokenizer is None:
            raise ConfigurationError(f"{self.name} was saved without a tokenizer; pass token ids")
        return self._tokenizer

    def logits(self, ids: Sequence[TokenId]) -> NDArray[np.float32]:
        """Logits `[T, V]` float32 after each of the T tokens, by the path that serves.

        Raises `RequestError` for ids outside the vocabulary, `ContextLengthError` for too many.
        """
        return self._engine.score(ids)

    def generate(
        self,
        prompt: str | Sequence[TokenId],
        *,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop_token_ids: Sequence[TokenId] = (),
        ignore_eos: bool = False,
        adapter: str | None = None,
    ) -> Generation:
        """Continue a text, or token ids, without any chat format. `adapter` names a LoRA adapter in
        `OSSLO_HOME/adapters`.

        Iterating gives text as it comes; `.text` waits for all of it, `.ids` has the tokens.
        """
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        room = max(1, self.context_tokens - len(ids))
        sampling = SamplingParams(
            max_tokens=min(max_tokens, room),
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop_token_ids=tuple(stop_token_ids),
            ignore_eos=ignore_eos,
        )
        wanted = self._find_adapter(adapter)
        request = GenerationRequest(_request_id(), tuple(ids), sampling, adapter=wanted)
        events = _as_generator(self._engine.generate_blocking(request))
        hidden = frozenset(stop_token_ids)
        if self._tokenizer is not None:
            hidden |= frozenset(self._tokenizer.specials.values())
        return Generation(events, self._tokenizer, hidden)

    def chat(self, messages: Messages, **options: Any) -> Reply:
        """Answer a chat and wait for the whole answer; see `stream_chat` for the options."""
        reply = Reply()
        for event in self.stream_chat(messages, **options):
            reply.add(event)
        if reply.ended is not None and reply.ended.error is not None:
            raise reply.ended.error
        return reply

    def stream_chat(
        self,
        messages: Messages,
        *,
        effort: ReasoningEffort | str | None = None,
        tools: Sequence[FunctionTool] = (),
        max_tokens: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        adapter: str | None = None,
    ) -> Generator[TurnEvent, None, None]:
        """Answer a chat as a stream of events. Closing the generator stops the answer.

        `messages` is one question, or records with `role` (system, developer, user, assistant) and
        `content`. `adapter` names a LoRA adapter in `OSSLO_HOME/adapters`. Raises
        `ConfigurationError` for a model that cannot chat, `RequestError` for messages that make no
        sense or an adapter that is not there.
        """
        served = self._served
        if served is None:
            raise ConfigurationError(
                f"{self.name} cannot chat: it has no tokenizer with harmony's special tokens; "
                "use generate() or logits()"
            )
        wanted = self._find_adapter(adapter)
        if wanted is not None:
            served = served.with_adapter(wanted)
        cap = max_tokens if max_tokens is not None else self.context_tokens
        request = ChatRequest(
            request_id=_request_id(),
            messages=as_chat_messages(messages),
            sampling=SamplingParams(cap, temperature=temperature, top_p=top_p, seed=seed),
            max_tokens=max_tokens,
            stop=tuple(stop),
            tools=tuple(tools),
            effort=_effort(effort),
        )
        today = datetime.now(UTC).date().isoformat()
        turn = Turn(served, prepare(served, request, today=today), clock=time.monotonic)
        return self._events(turn)

    def _find_adapter(self, name: str | None) -> str | None:
        """Look again, so that one added a moment ago is found; the engine says if it is not."""
        wanted = name or self.adapter
        if wanted is not None and self._pool is not None:
            self._pool.catalogue.refresh()
        return wanted

    def close(self) -> None:
        """Stop what runs and free the memory."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        self._engine.close_blocking()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _events(self, turn: Turn) -> Generator[TurnEvent, None, None]:
        self._loop = self._loop or LoopThread()
        yield from self._loop.iterate(turn.events())


class LoopThread:
    """An event loop in a thread of its own, so that blocking callers can use asynchronous streams,
    also where a loop runs already, as in a notebook."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="osslo-local")
        self._thread.daemon = True
        self._thread.start()

    def iterate(self, stream: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """The items of `stream`; closing this generator closes it too."""
        try:
            while True:
                try:
                    item = self._run(_next(stream))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._run(_close(stream))

    def close(self) -> None:
        """End the loop and its thread."""
        self._run(self._loop.shutdown_asyncgens())
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise


async def _next(stream: AsyncGenerator[T, None]) -> T:
    return await anext(stream)


async def _close(stream: AsyncGenerator[T, None]) -> None:
    await stream.aclose()


def as_chat_messages(messages: Messages) -> tuple[ChatMessage, ...]:
    """A question, OpenAI's records or neutral messages as neutral messages.

    Raises `RequestError` naming the first that is none.
    """
    if isinstance(messages, str):
        return (UserText(messages),)
    return tuple(_chat_message(index, message) for index, message in enumerate(messages))


def _chat_message(index: int, message: Mapping[str, str] | ChatMessage) -> ChatMessage:
    if not isinstance(message, Mapping):
        return message
    match message:
        case {"role": "system", "content": str(text)}:
            return SystemText(text)
        case {"role": "developer", "content": str(text)}:
            return DeveloperText(text)
        case {"role": "user", "content": str(text)}:
            return UserText(text)
        case {"role": "assistant", "content": str(text)}:
            return AssistantTurn(text)
        case _:
            raise RequestError(
                f"messages[{index}] needs a role (system, developer, user or assistant) and a "
                f"content that is text; it has {', '.join(map(str, message)) or 'nothing'}",
                param=f"messages[{index}]",
            )


def _effort(effort: ReasoningEffort | str | None) -> ReasoningEffort | None:
    if effort is None:
        return None
    try:
        return ReasoningEffort(effort)
    except ValueError:
        raise RequestError(
            f"effort is one of {', '.join(ReasoningEffort)}, not {effort!r}", param="effort"
        ) from None


def _request_id() -> str:
    return f"local-{secrets.token_hex(8)}"


def _as_generator(events: Iterator[T]) -> Generator[T, None, None]:
    """An iterator with the `close` that the engine's one has, as its type says."""
    yield from events
