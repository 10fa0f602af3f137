"""Raw completions over a scripted backend and over the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from osslo.chat.events import TextDelta, TurnEnd, TurnEnded, TurnStarted
from osslo.chat.models import ServedModel
from osslo.chat.raw import RawDelta, RawEvent, RawRequest, RawToken, RawTurn, prepare_raw
from osslo.engine.engine import Engine
from osslo.errors import ContextLengthError, OverloadedError, RequestError
from osslo.types import SamplingParams
from tests.chat.conftest import ServeScript
from tests.engine.fakes import FakeModel
from tests.engine.helpers import make_limits
from tests.scripted import ByteVocabulary, Gate, Prefill, Script, ScriptedBackend

VOCABULARY = ByteVocabulary()


def request(prompt: str | tuple[int, ...] = "Once", **fields: object) -> RawRequest:
    sampling = SamplingParams(1000, temperature=0.0, **fields.pop("sampling", {}))  # type: ignore[arg-type]  # as a test writes them
    return RawRequest("r", prompt, sampling, **fields)  # type: ignore[arg-type]  # likewise


async def run(
    model: ServedModel, asked: RawRequest, ends: list[TurnEnded] | None = None
) -> list[RawEvent]:
    turn = RawTurn(model, prepare_raw(model, asked), on_ended=None if ends is None else ends.append)
    return [event async for event in turn.events()]


def text_of(events: list[RawEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, RawDelta))


def tokens_of(events: list[RawEvent]) -> list[RawToken]:
    return [token for event in events if isinstance(event, RawDelta) for token in event.tokens]


async def test_text_goes_on_and_ends_exactly_once(serve: ServeScript) -> None:
    ends: list[TurnEnded] = []
    model = serve(" upon a time<|return|>")
    events = await run(model, request(), ends)
    assert events[0] == TurnStarted(4)
    assert [event for event in events if isinstance(event, TurnEnded)] == [events[-1]] == ends
    assert text_of(events) == " upon a time"
    assert ends[0].reason is TurnEnd.STOP
    assert ends[0].usage.completion_tokens == len(" upon a time") + 1
    assert not any(isinstance(event, TextDelta) for event in events)


async def test_text_of_a_prompt_never_becomes_a_special_token(serve: ServeScript) -> None:
    model = serve("x")
    await run(model, request("<|start|>system<|message|>"))
    assert isinstance(model.backend, ScriptedBackend)
    assert max(model.backend.requests[0].prompt) < 256


async def test_token_ids_are_taken_as_they_are(serve: ServeScript) -> None:
    model = serve("x")
    await run(model, request((256, 65)))
    assert isinstance(model.backend, ScriptedBackend)
    assert model.backend.requests[0].prompt == (256, 65)


async def test_special_tokens_are_left_out_unless_asked_for(serve: ServeScript) -> None:
    markup = "a<|message|>b<|return|>"
    assert text_of(await run(serve(markup), request())) == "ab"
    assert text_of(await run(serve(markup), request(special_tokens=True))) == markup


@pytest.mark.parametrize("chunk", [1, 2, 50])
async def test_a_stop_string_cuts_text_tokens_and_count(serve: ServeScript, chunk: int) -> None:
    script = Script((VOCABULARY.tokens("one ENough END two"),), chunk=chunk)
    ends: list[TurnEnded] = []
    asked = request(stop=("END",), sampling={"logprobs": 0})
    events = await run(serve(script=script), asked, ends)
    assert text_of(events) == "one ENough "
    assert "".join(token.text for token in tokens_of(events)) == "one ENough "
    assert (ends[0].reason, ends[0].stop_string) == (TurnEnd.STOP, "END")
    assert ends[0].usage.completion_tokens == len("one ENough END")


async def test_a_stop_string_counts_in_the_output_only(serve: ServeScript) -> None:
    events = await run(serve("x END y"), request("the END", echo=True, stop=("END",)))
    assert text_of(events) == "the ENDx "


async def test_the_echo_comes_first_with_special_tokens_written_out(serve: ServeScript) -> None:
    events = await run(serve("!<|return|>"), request((256, *b"Oslo"), echo=True))
    assert text_of(events) == "<|start|>Oslo!"


async def test_a_character_split_between_prompt_and_output_is_whole_in_the_echo(
    serve: ServeScript,
) -> None:
    euro = "€".encode()
    script = Script((tuple(euro[1:]),))
    assert text_of(await run(serve(script=script), request((euro[0],), echo=True))) == "€"
    assert text_of(await run(serve(script=Script(((euro[0],),))), request())) == "�"


async def test_offsets_are_places_in_the_whole_text(serve: ServeScript) -> None:
    events = await run(serve("né!<|return|>"), request(sampling={"logprobs": 2}))
    assert [(t.raw, t.offset) for t in tokens_of(events)] == [
        (b"n", 0),
        (b"\xc3", 1),
        (b"\xa9", 1),
        (b"!", 2),
    ]
    assert [alternative.logprob for alternative in tokens_of(events)[0].top] == [-0.5, -1.5]


async def test_limits(serve: ServeScript) -> None:
    model = serve("abcdef", context=10)
    ended = (await run(model, request("12345678")))[-1]
    assert isinstance(ended, TurnEnded)
    assert (ended.reason, ended.usage.completion_tokens) == (TurnEnd.LENGTH, 2)
    with pytest.raises(ContextLengthError, match="10 tokens"):
        prepare_raw(model, request("12345678", max_tokens=3))
    with pytest.raises(ContextLengthError):
        prepare_raw(model, request("1234567890"))
    assert prepare_raw(model, request("1234567890", max_tokens=0)).generation is not None
    for wrong in ((), (9999,), (-1,), ""):
        with pytest.raises(RequestError):
            prepare_raw(model, request(wrong))


async def test_a_refusal_is_raised_and_a_closed_stream_aborts(serve: ServeScript) -> None:
    ends: list[TurnEnded] = []
    refusing = serve(script=Script(refusal=OverloadedError("full")))
    with pytest.raises(OverloadedError):
        await run(refusing, request(), ends)
    assert ends == []
    model = serve(script=Script((Prefill(9, 9, 7), VOCABULARY.tokens("abc"), Gate())))
    stream = RawTurn(model, prepare_raw(model, request()), on_ended=ends.append).events()
    async for event in stream:
        if isinstance(event, RawDelta):
            break
    await stream.aclose()
    assert isinstance(model.backend, ScriptedBackend)
    assert model.backend.abandoned.is_set()
    assert [end.reason for end in ends] == [TurnEnd.ABORT]
    assert [(end.usage.cached_tokens, end.cached_known) for end in ends] == [(7, True)]


# --- over the real engine -----------------------------------------------------------------------


@pytest.fixture
def fake() -> FakeModel:
    return FakeModel(vocab_size=VOCABULARY.vocab_size)


@pytest.fixture
def model(fake: FakeModel) -> Iterator[ServedModel]:
    with Engine(fake, make_limits(step_tokens=24, max_running=8)) as engine:
        yield ServedModel("fake", engine, VOCABULARY)


def exact_logprobs(fake: FakeModel, text: bytes) -> list[float]:
    """Of every byte but the first."""
    found = []
    for place in range(1, len(text)):
        row = fake.logits_after(list(text[:place])).astype(np.float64)
        found.append(row[text[place]] - np.log(np.exp(row).sum()))
    return found


async def test_echo_without_output_gives_the_prompts_logprobs(
    fake: FakeModel, model: ServedModel
) -> None:
    prompt = "The quick brown fox jumps over the lazy dog, twice a day and thrice on Sundays."
    asked = request(prompt, echo=True, max_tokens=0, sampling={"logprobs": 3})
    events = await run(model, asked)
    tokens = tokens_of(events)
    assert text_of(events) == prompt
    assert tokens[0].logprob is None
    assert [token.offset for token in tokens] == list(range(len(prompt)))
    wanted = exact_logprobs(fake, prompt.encode())
    assert [token.logprob for token in tokens[1:]] == pytest.approx(wanted, abs=1e-4)
    assert all(len(token.top) == 3 for token in tokens[1:])
    ended = events[-1]
    assert isinstance(ended, TurnEnded)
    assert (ended.reason, ended.usage.completion_tokens) == (TurnEnd.LENGTH, 0)


async def test_prompt_logprobs_are_the_same_bits_alone_in_a_batch_and_again(
    model: ServedModel,
) -> None:
    prompts = [f"{number} " * (5 + 7 * number) for number in range(6)]

    def asked(number: int, name: str) -> RawRequest:
        sampling = SamplingParams(5, temperature=0.0, logprobs=1)
        name = f"{name}-{number}"
        return RawRequest(name, prompts[number], sampling, 5, echo=True, special_tokens=True)

    alone = [tokens_of(await run(model, asked(n, "alone"))) for n in range(6)]
    together = await asyncio.gather(*(run(model, asked(n, "batch")) for n in range(6)))
    assert [tokens_of(events) for events in together] == alone
    assert all(len(tokens) == len(prompts[n]) + 5 for n, tokens in enumerate(alone))


async def test_prompt_logprobs_survive_preemption(fake: FakeModel) -> None:
    limits = make_limits(full_pages=9, window_pages=16, step_tokens=64)
    with Engine(fake, limits) as engine:
        model = ServedModel("fake", engine, VOCABULARY)

        def asked(number: int) -> RawRequest:
            sampling = SamplingParams(150, temperature=0.0, logprobs=0)
            prompt = f"{number}" * 40
            return RawRequest(f"r{number}", prompt, sampling, 150, echo=True, special_tokens=True)

        alone = tokens_of(await run(model, asked(0)))
        together = await asyncio.gather(*(run(model, asked(n)) for n in range(4)))
        assert tokens_of(together[0]) == alone
        assert all(len(tokens_of(events)) == 190 for events in together)
        assert engine.stats().extra["preemptions"] > 0
