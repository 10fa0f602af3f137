"""`osslo chat`: over a real server with a scripted model, and over a tiny model in the process."""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from osslo.chat.events import (
    PrefillProgressed,
    ReasoningDelta,
    TextDelta,
    TurnEnd,
    TurnEnded,
    TurnEvent,
)
from osslo.chat.request import AssistantTurn, SystemText, UserText
from osslo.cli.chat import Conversation, Dialogue, answer_once
from osslo.cli.chat_source import HttpSource, LocalSource, Question, read_stream
from osslo.cli.chat_view import Answer, ChatView, numbers
from osslo.cli.main import run
from osslo.cli.output import Output
from osslo.errors import ConfigurationError, EngineError, RequestError
from osslo.harmony.messages import ReasoningEffort
from osslo.local import load
from osslo.types import Usage
from tests.api.conftest import KEY, Stage, make_stage
from tests.scripted import ByteVocabulary, Prefill, Script, serving

VOCABULARY = ByteVocabulary()


@pytest.fixture
def server() -> Iterator[tuple[str, Stage]]:
    stage = make_stage()
    with serving(stage.app) as url:
        yield url, stage


def quiet_output() -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    output = Output(Console(file=out, width=200), Console(file=err, width=200))
    return output, out, err


def scripted(*events: TurnEvent) -> Generator[TurnEvent, None, None]:
    yield from events


ENDED = TurnEnded(TurnEnd.STOP, Usage(10, 5))


def test_a_server_is_asked(server: tuple[str, Stage]) -> None:
    url, stage = server
    with HttpSource(url + "/v1/", api_key=KEY) as source:
        assert source.title == f"scripted-model at {url}"
        question = Question((UserText("Capital?"),), effort=ReasoningEffort.HIGH, temperature=0.0)
        events = list(source.ask(question))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text == "Oslo."
    assert any(isinstance(event, ReasoningDelta) for event in events)
    assert isinstance(events[-1], TurnEnded)
    assert events[-1].usage.completion_tokens > 5
    prompt = VOCABULARY.text(stage.backend.requests[0].prompt)
    assert "Reasoning: high" in prompt
    assert "Capital?" in prompt
    assert stage.backend.requests[0].sampling.temperature == 0.0


def test_progress_of_a_long_prompt_arrives() -> None:
    answer = VOCABULARY.tokens("<|channel|>final<|message|>Yes<|return|>")
    stage = make_stage(script=Script((Prefill(64, 128), answer)))
    with serving(stage.app) as url, HttpSource(url, api_key=KEY) as source:
        events = list(source.ask(Question((UserText("Hi"),))))
    assert PrefillProgressed(64, 128) in events


def test_a_wrong_key_is_the_servers_own_message(server: tuple[str, Stage]) -> None:
    with pytest.raises(RequestError, match="Incorrect API key"):
        HttpSource(server[0], api_key="sk-wrong")


def test_no_server_says_how_to_start_one(unused_tcp_port: int) -> None:
    with pytest.raises(ConfigurationError, match="osslo serve"):
        HttpSource(f"http://127.0.0.1:{unused_tcp_port}")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['data: {"error": {"message": "out of pages"}}'], "out of pages"),
        (['data: {"choices": []}'], "without saying why"),
        ([], "without saying why"),
    ],
)
def test_a_stream_that_breaks_off_is_an_error(lines: list[str], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        list(read_stream(iter(lines)))


def test_reasoning_goes_to_stderr_and_text_to_stdout() -> None:
    output, out, err = quiet_output()
    events = scripted(
        PrefillProgressed(5, 10),
        ReasoningDelta("Hm [red]"),
        TextDelta("[bold]Os"),
        TextDelta("lo"),
        ENDED,
    )
    answer = ChatView(output).show(events)
    assert out.getvalue() == "[bold]Oslo\n"
    assert "Hm [red]" in err.getvalue()
    assert (answer.text, answer.reasoning, answer.ended) == ("[bold]Oslo", "Hm [red]", ENDED)


def test_an_interrupt_keeps_what_has_come() -> None:
    def events() -> Generator[TurnEvent, None, None]:
        yield TextDelta("Os")
        raise KeyboardInterrupt

    output, out, _ = quiet_output()
    answer = ChatView(output).show(events())
    assert (answer.text, answer.ended) == ("Os", None)
    assert out.getvalue() == "Os\n"
    assert numbers(answer) == "interrupted"


def test_the_line_of_numbers() -> None:
    ended = TurnEnded(TurnEnd.LENGTH, Usage(100, 21, cached_tokens=64))
    shown = numbers(Answer("x", "", ended, first_output_s=0.5, total_s=2.5))
    assert shown == (
        "21 tokens, 10.0 tokens/s, prompt 100 (64 from the cache), first after 0.50 s, "
        "ended by length"
    )


def test_commands_change_the_conversation() -> None:
    talk = Conversation()
    talk.remember("Hi", Answer("Hello", "", ENDED, 0, 0))
    talk.remember("Nothing", Answer("", "", ENDED, 0, 0))
    assert talk.obey("/effort HIGH") == "effort is high"
    assert talk.obey("/system Be brief.") == "system message set"
    question = talk.question("And?", Question((), seed=3))
    assert question.messages == (
        SystemText("Be brief."),
        UserText("Hi"),
        AssistantTurn("Hello"),
        UserText("And?"),
    )
    assert (question.effort, question.seed) == (ReasoningEffort.HIGH, 3)
    talk.obey("/reset")
    talk.obey("/system")
    assert talk.question("New", Question(())).messages == (UserText("New"),)
    with pytest.raises(RequestError, match="low, medium, high"):
        talk.obey("/effort huge")
    with pytest.raises(RequestError, match="/help"):
        talk.obey("/dance")


def test_a_dialogue_goes_on_after_an_error(server: tuple[str, Stage]) -> None:
    output, out, err = quiet_output()
    with HttpSource(server[0], api_key=KEY) as source:
        dialogue = Dialogue(output, source, Conversation(), Question(()), ChatView(output))
        dialogue.turn("/nothing")
        dialogue.turn("x" * 20_000)
        dialogue.turn("Capital?")
    assert "no command /nothing" in err.getvalue()
    assert "context" in err.getvalue()
    assert out.getvalue().splitlines()[-1] == "Oslo."
    assert dialogue.talk.turns == [UserText("Capital?"), AssistantTurn("Oslo.")]


def test_one_answer_as_json(tiny_packed: Path) -> None:
    output, out, _ = quiet_output()
    with LocalSource(load(tiny_packed, threads=1, context=512)) as source:
        question = Question((UserText("Hi"),), max_tokens=12, seed=1)
        answer_once(output, source, question, as_json=True)
    answer = json.loads(out.getvalue())
    assert answer["model"] == "tiny"
    assert answer["usage"]["completion_tokens"] <= 12


def test_the_command_itself(
    server: tuple[str, Stage], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("and this was piped in"))
    assert run(["chat", "Capital?", "--url", server[0], "--api-key", KEY]) == 0
    assert capsys.readouterr().out == "Oslo.\n"
    prompt = VOCABULARY.text(server[1].backend.requests[0].prompt)
    assert "Capital?\n\nand this was piped in" in prompt
