"""One turn over a scripted backend: order of events, ends, limits, aborts."""

from __future__ import annotations

import asyncio

import pytest

from osslo.chat.events import (
    PrefillProgressed,
    TextDelta,
    TurnEnd,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from osslo.chat.models import ServedModel
from osslo.chat.request import ChatRequest, UserText
from osslo.chat.turn import Turn, prepare
from osslo.errors import ContextLengthError, EngineError, OverloadedError
from osslo.harmony.messages import FunctionTool
from osslo.types import FinishReason, Grammar, SamplingParams
from tests.chat.conftest import ServeScript
from tests.scripted import ByteVocabulary, Fail, Gate, Prefill, Script, ScriptedBackend

FINAL = "<|channel|>final<|message|>"


def request(**fields: object) -> ChatRequest:
    base: dict[str, object] = {
        "request_id": "r",
        "messages": (UserText("Hi"),),
        "sampling": SamplingParams(max_tokens=1000),
    }
    return ChatRequest(**(base | fields))  # type: ignore[arg-type]  # as a test writes them


async def run(
    model: ServedModel, asked: ChatRequest | None = None, ends: list[TurnEnded] | None = None
) -> list[TurnEvent]:
    prepared = prepare(model, asked or request(), today="2026-11-22")
    turn = Turn(model, prepared, on_ended=None if ends is None else ends.append)
    return [event async for event in turn.events()]


def text_of(events: list[TurnEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_a_turn_starts_and_ends_exactly_once(serve: ServeScript) -> None:
    ends: list[TurnEnded] = []
    events = await run(serve(FINAL + "Oslo<|return|>"), ends=ends)
    assert isinstance(events[0], TurnStarted)
    assert [e for e in events if isinstance(e, TurnEnded)] == [events[-1]] == ends
    assert text_of(events) == "Oslo"
    assert ends[0].reason is TurnEnd.STOP
    assert ends[0].usage.completion_tokens == len("final") + len("Oslo") + 3
    assert ends[0].timings is not None
    assert ends[0].first_output_s is not None


async def test_prefill_progress_passes_through(serve: ServeScript) -> None:
    script = Script((Prefill(10, 20), ByteVocabulary().tokens(FINAL + "x<|return|>")))
    events = await run(serve(script=script))
    assert PrefillProgressed(10, 20) in events


async def test_a_call_ends_the_turn_with_tool_calls(serve: ServeScript) -> None:
    model = serve("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>")
    events = await run(model, request(tools=(FunctionTool("f"),)))
    ended = events[-1]
    assert isinstance(ended, TurnEnded)
    assert ended.reason is TurnEnd.TOOL_CALLS


async def test_the_token_limit_gives_length(serve: ServeScript) -> None:
    ended = (await run(serve(FINAL + "long answer"), request(max_tokens=10)))[-1]
    assert isinstance(ended, TurnEnded)
    assert (ended.reason, ended.usage.completion_tokens) == (TurnEnd.LENGTH, 10)


async def test_a_stop_string_aborts_the_generation_and_counts_only_up_to_it(
    serve: ServeScript,
) -> None:
    model = serve(FINAL + "one END two three<|return|>")
    events = await run(model, request(stop=("END",)))
    ended = events[-1]
    assert isinstance(ended, TurnEnded)
    assert text_of(events) == "one "
    assert ended.reason is TurnEnd.STOP
    assert ended.usage.completion_tokens == len("final") + len("one END") + 2
    assert isinstance(model.backend, ScriptedBackend)
    assert model.backend.aborts == ["r"]


async def test_a_refusal_is_raised_and_never_reported(serve: ServeScript) -> None:
    ends: list[TurnEnded] = []
    with pytest.raises(OverloadedError):
        await run(serve(script=Script(refusal=OverloadedError("full"))), ends=ends)
    assert ends == []


@pytest.mark.parametrize(
    "script",
    [
        Script(finish=FinishReason.ERROR, error=EngineError("broken")),
        Script(finish=FinishReason.ERROR),
        Script((Prefill(1, 2), Fail(RuntimeError("secret detail")))),
        Script((Prefill(1, 2),), vanishes=True),
    ],
)
async def test_every_failure_after_acceptance_is_one_terminal_event(
    serve: ServeScript, script: Script
) -> None:
    ends: list[TurnEnded] = []
    events = await run(serve(script=script), ends=ends)
    assert [e for e in events if isinstance(e, TurnEnded)] == [events[-1]] == ends
    assert ends[0].reason is TurnEnd.ERROR
    assert isinstance(ends[0].error, EngineError)
    assert "secret" not in ends[0].error.message


async def test_closing_the_stream_aborts_at_once_and_reports_what_was_used(
    serve: ServeScript, vocabulary: ByteVocabulary
) -> None:
    gate = Gate()
    model = serve(script=Script((vocabulary.tokens(FINAL + "abc"), gate)))
    assert isinstance(model.backend, ScriptedBackend)
    ends: list[TurnEnded] = []
    turn = Turn(model, prepare(model, request(), today="2026-11-22"), on_ended=ends.append)
    stream = turn.events()
    async for event in stream:
        if isinstance(event, TextDelta) and event.text == "b":
            break
    await stream.aclose()
    assert model.backend.abandoned.is_set()
    assert [end.reason for end in ends] == [TurnEnd.ABORT]
    assert ends[0].usage.completion_tokens == len("final") + len("ab") + 2


@pytest.mark.parametrize("cached", [7, None])
async def test_a_closed_stream_tells_what_is_known_of_the_cached_prompt(
    serve: ServeScript, vocabulary: ByteVocabulary, cached: int | None
) -> None:
    model = serve(script=Script((Prefill(9, 9, cached), vocabulary.tokens(FINAL + "abc"), Gate())))
    ends: list[TurnEnded] = []
    turn = Turn(model, prepare(model, request(), today="2026-11-22"), on_ended=ends.append)
    stream = turn.events()
    async for event in stream:
        if isinstance(event, TextDelta):
            break
    await stream.aclose()
    assert [(end.usage.cached_tokens, end.cached_known) for end in ends] == [
        (cached or 0, cached is not None)
    ]


async def test_cancelling_while_waiting_aborts_and_reports(
    serve: ServeScript, vocabulary: ByteVocabulary
) -> None:
    gate = Gate()
    model = serve(script=Script((Prefill(1, 2), gate)))
    assert isinstance(model.backend, ScriptedBackend)
    ends: list[TurnEnded] = []
    task = asyncio.create_task(run(model, ends=ends))
    await asyncio.to_thread(gate.reached.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.backend.abandoned.is_set()
    assert [end.reason for end in ends] == [TurnEnd.ABORT]


def test_a_prompt_over_the_context_is_refused_with_numbers(serve: ServeScript) -> None:
    model = serve("", context=600)
    with pytest.raises(ContextLengthError, match="600 tokens"):
        prepare(model, request(messages=(UserText("x" * 1000),)), today="2026-11-22")


def test_prompt_and_output_together_over_the_context_name_the_room(serve: ServeScript) -> None:
    model = serve("", context=600)
    with pytest.raises(ContextLengthError, match=r"at most \d+ tokens"):
        prepare(model, request(max_tokens=600), today="2026-11-22")


def test_without_a_limit_the_output_may_fill_the_context(serve: ServeScript) -> None:
    model = serve("", context=600)
    prepared = prepare(model, request(), today="2026-11-22")
    generation = prepared.generation
    assert generation.sampling.max_tokens == 600 - len(generation.prompt)


def test_the_default_grammar_is_used_where_the_request_brings_none(serve: ServeScript) -> None:
    model = serve("", default_grammar=Grammar("start: /x/"))
    assert prepare(model, request(), today="2026-11-22").generation.grammar == Grammar("start: /x/")
    assert prepare(serve(""), request(), today="2026-11-22").generation.grammar is None


def test_a_prompt_ends_where_the_assistant_begins(
    serve: ServeScript, vocabulary: ByteVocabulary
) -> None:
    generation = prepare(serve(""), request(tenant="t"), today="2026-11-22").generation
    text = vocabulary.text(generation.prompt)
    assert text.endswith("<|start|>user<|message|>Hi<|end|><|start|>assistant")
    assert generation.tenant == "t"
    assert {vocabulary.specials["<|return|>"], vocabulary.specials["<|call|>"]} <= set(
        generation.sampling.stop_token_ids
    )
