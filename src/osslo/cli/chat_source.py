"""Where a terminal chat gets its answers: a model in this process, or a server over HTTP. Both give
the events of `osslo.chat.events`."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from osslo.chat.events import (
    PrefillProgressed,
    ReasoningDelta,
    TextDelta,
    TurnEnd,
    TurnEnded,
    TurnEvent,
)
from osslo.chat.request import AssistantTurn, ChatMessage, SystemText, UserText
from osslo.errors import ConfigurationError, EngineError, RequestError
from osslo.harmony.messages import ReasoningEffort
from osslo.local import LocalModel
from osslo.types import Usage


@dataclass(frozen=True, slots=True)
class Question:
    """One turn of a chat: all messages so far, and how to answer. None leaves a default."""

    messages: tuple[ChatMessage, ...]
    effort: ReasoningEffort | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


class ChatSource(AbstractContextManager["ChatSource"], Protocol):
    """Answers questions. Closing the iterator early stops the generation."""

    @property
    def title(self) -> str:
        """Which model answers, for people."""
        ...

    def ask(self, question: Question) -> Generator[TurnEvent, None, None]:
        """The turn's events, of which the last is `TurnEnded`."""
        ...


class LocalSource:
    """Answers from a model in this process."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model

    @property
    def title(self) -> str:
        adapter = self._model.adapter
        return self._model.name if adapter is None else f"{self._model.name}:{adapter}"

    def ask(self, question: Question) -> Generator[TurnEvent, None, None]:
        return self._model.stream_chat(
            question.messages,
            effort=question.effort,
            max_tokens=question.max_tokens,
            temperature=1.0 if question.temperature is None else question.temperature,
            seed=question.seed,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._model.close()


class HttpSource:
    """Answers from the chat completions of the server at `url`.

    `model` None takes the first one that the server lists. Raises `ConfigurationError` if there is
    no server, `RequestError` with the server's own message if it refuses.
    """

    def __init__(self, url: str, *, api_key: str | None = None, model: str | None = None) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        base = url.rstrip("/").removesuffix("/v1")
        self._client = httpx.Client(base_url=base, headers=headers, timeout=httpx.Timeout(600.0))
        self._url = base
        try:
            self._model = model or self._first_model()
        except BaseException:
            self._client.close()
            raise

    @property
    def title(self) -> str:
        return f"{self._model} at {self._url}"

    def ask(self, question: Question) -> Generator[TurnEvent, None, None]:
        body = {
            "model": self._model,
            "messages": chat_messages(question.messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "reasoning_effort": question.effort.value if question.effort else None,
            "temperature": question.temperature,
            "max_tokens": question.max_tokens,
            "seed": question.seed,
        }
        given = {name: value for name, value in body.items() if value is not None}
        with (
            self._reachable(),
            self._client.stream("POST", "/v1/chat/completions", json=given) as reply,
        ):
            if reply.status_code != httpx.codes.OK:
                reply.read()
                raise _refusal(reply)
            yield from read_stream(reply.iter_lines())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def _first_model(self) -> str:
        with self._reachable():
            reply = self._client.get("/v1/models")
        if reply.status_code != httpx.codes.OK:
            raise _refusal(reply)
        listed = reply.json().get("data") or []
        if not listed:
            raise ConfigurationError(f"the server at {self._url} lists no model")
        return str(listed[0]["id"])

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConfigurationError(
                f"no answer from {self._url} ({error or type(error).__name__}); "
                "start a server with `osslo serve`, or leave --url out",
                param="url",
            ) from error


def chat_messages(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """The messages in OpenAI's spelling. A terminal chat has no tools."""
    spelled: list[dict[str, str]] = []
    for message in messages:
        match message:
            case SystemText(text):
                spelled.append({"role": "system", "content": text})
            case UserText(text):
                spelled.append({"role": "user", "content": text})
            case AssistantTurn(text, _reasoning, _calls):
                spelled.append({"role": "assistant", "content": text})
            case _:
                raise AssertionError(f"a terminal chat has no {type(message).__name__}")
    return spelled


def read_stream(lines: Iterator[str]) -> Iterator[TurnEvent]:
    """Server-sent events to turn events. Comments carry the progress of a long prompt.

    Raises `EngineError` where the stream reports an error or breaks off.
    """
    reason: str | None = None
    usage = Usage(0, 0)
    for line in lines:
        if line.startswith(": prefill "):
            done, _, total = line.removeprefix(": prefill ").partition("/")
            yield PrefillProgressed(int(done), int(total))
        elif line == "data: [DONE]":
            yield TurnEnded(TurnEnd(reason or "stop"), usage)
            return
        elif line.startswith("data: "):
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise EngineError(str(chunk["error"].get("message", "the server failed")))
            usage = _usage(chunk.get("usage")) or usage
            for choice in chunk.get("choices", ()):
                reason = choice.get("finish_reason") or reason
                yield from _deltas(choice.get("delta") or {})
    raise EngineError("the server ended the stream without saying why")


def _deltas(delta: dict[str, Any]) -> Iterator[TurnEvent]:
    if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
        yield ReasoningDelta(reasoning)
    if text := delta.get("content"):
        yield TextDelta(text)


def _usage(spelled: dict[str, Any] | None) -> Usage | None:
    if not spelled:
        return None
    return Usage(
        prompt_tokens=spelled.get("prompt_tokens", 0),
        completion_tokens=spelled.get("completion_tokens", 0),
        cached_tokens=(spelled.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        reasoning_tokens=(spelled.get("completion_tokens_details") or {}).get("reasoning_tokens")
        or 0,
    )


def _refusal(reply: httpx.Response) -> RequestError:
    try:
        message = str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {reply.status_code} {reply.reason_phrase}"
    return RequestError(message)
