"""Tokens to turn events."""

from __future__ import annotations

import pytest

from osslo.chat.assembler import TurnAssembler
from osslo.chat.events import (
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    TurnEvent,
)
from osslo.types import TokenLogprob
from tests.scripted import ByteVocabulary

VOCABULARY = ByteVocabulary()


class Output:
    """All events of some markup, and what they add up to."""

    def __init__(
        self,
        markup: str,
        *,
        stop: tuple[str, ...] = (),
        functions: tuple[str, ...] = (),
        logprobs: bool = False,
    ) -> None:
        self.assembler = TurnAssembler(VOCABULARY, stop=stop, functions=frozenset(functions))
        self.events: list[TurnEvent] = []
        for token in VOCABULARY.tokens(markup):
            record = TokenLogprob(token, -1.0, ((token, -1.0),)) if logprobs else None
            self.events += self.assembler.feed(token, record)
        self.events += self.assembler.finish()

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, TextDelta))

    @property
    def reasoning(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, ReasoningDelta))

    @property
    def calls(self) -> list[tuple[str, str]]:
        names = {e.index: e.name for e in self.events if isinstance(e, ToolCallStarted)}
        return [
            (
                name,
                "".join(
                    e.arguments
                    for e in self.events
                    if isinstance(e, ToolCallDelta) and e.index == index
                ),
            )
            for index, name in names.items()
        ]


def test_reasoning_and_final_are_told_apart() -> None:
    output = Output(
        "<|channel|>analysis<|message|>Easy.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Oslo.<|return|>"
    )
    assert (output.reasoning, output.text, output.calls) == ("Easy.", "Oslo.", [])


def test_reasoning_tokens_include_their_header_and_end_but_nothing_else() -> None:
    analysis = "<|channel|>analysis<|message|>Easy.<|end|>"
    output = Output(analysis + "<|start|>assistant<|channel|>final<|message|>Oslo.<|return|>")
    assert output.assembler.reasoning_tokens == len(VOCABULARY.tokens(analysis))
    assert Output("<|channel|>final<|message|>Oslo.<|return|>").assembler.reasoning_tokens == 0


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.get_weather <|constrain|>json",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json",
        " to=functions.get_weather<|channel|>commentary <|constrain|>json",
        "<|channel|>analysis to=functions.get_weather code",
    ],
)
def test_a_recipient_makes_a_call_in_every_place_and_channel(header: str) -> None:
    output = Output(
        f'{header}<|message|>{{"city":"Oslo"}}<|call|>', functions=("get_weather", "other")
    )
    assert output.calls == [("get_weather", '{"city":"Oslo"}')]
    assert isinstance(output.events[0], ToolCallStarted)
    assert isinstance(output.events[-1], ToolCallEnded)
    assert output.text == output.reasoning == ""


def test_two_calls_get_indices_and_ids_of_their_own() -> None:
    one = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
    output = Output(one + "<|start|>assistant" + one, functions=("f",))
    started = [e for e in output.events if isinstance(e, ToolCallStarted)]
    assert [e.index for e in started] == [0, 1]
    assert len({e.call_id for e in started}) == 2
    assert all(e.call_id.startswith("call_") for e in started)


def test_without_declared_tools_nothing_is_a_call() -> None:
    output = Output("<|channel|>commentary to=functions.f<|message|>{}<|call|>")
    assert (output.text, output.calls) == ("{}", [])


def test_a_preamble_is_visible_text() -> None:
    output = Output("<|channel|>commentary<|message|>I'll look.<|end|>", functions=("f",))
    assert output.text == "I'll look."


def test_text_without_any_markup_is_the_answer_and_is_counted_as_a_deviation() -> None:
    output = Output("Oslo is the capital.")
    assert output.text == "Oslo is the capital."
    assert output.assembler.deviations


def test_a_stop_string_ends_the_text_before_it_and_not_the_reasoning() -> None:
    output = Output(
        "<|channel|>analysis<|message|>say STOP here<|end|>"
        "<|start|>assistant<|channel|>final<|message|>one STOP two<|return|>",
        stop=("STOP",),
    )
    assert output.reasoning == "say STOP here"
    assert output.text == "one "
    assert output.assembler.stopped


def test_what_only_looked_like_a_stop_string_is_given_back() -> None:
    output = Output("<|channel|>final<|message|>one STO<|return|>", stop=("STOP",))
    assert output.text == "one STO"
    assert not output.assembler.stopped


def test_a_stop_string_does_not_reach_across_messages() -> None:
    output = Output(
        "<|channel|>commentary<|message|>ST<|end|>"
        "<|start|>assistant<|channel|>final<|message|>OP<|return|>",
        stop=("STOP",),
    )
    assert output.text == "STOP"


def test_each_visible_token_has_its_logprob_and_no_other_has() -> None:
    output = Output(
        "<|channel|>analysis<|message|>hm<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Blåbær 🫐<|return|>",
        logprobs=True,
    )
    records = [r for e in output.events if isinstance(e, TextDelta) for r in e.logprobs]
    assert b"".join(record.raw for record in records) == "Blåbær 🫐".encode()
    assert records[0].text == "B"
    assert records[0].top[0].text == "B"


def test_logprobs_stop_where_the_text_stops() -> None:
    output = Output("<|channel|>final<|message|>ab#cd<|return|>", stop=("#c",), logprobs=True)
    records = [r for e in output.events if isinstance(e, TextDelta) for r in e.logprobs]
    assert [record.text for record in records] == ["a", "b"]


def test_a_call_cut_off_is_still_closed() -> None:
    output = Output('<|channel|>commentary to=functions.f<|message|>{"a', functions=("f",))
    assert output.calls == [("f", '{"a')]
    assert isinstance(output.events[-1], ToolCallEnded)
