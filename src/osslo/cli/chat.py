"""`osslo chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Annotated
from urllib.parse import urlsplit

import typer

from osslo.chat.request import AssistantTurn, ChatMessage, SystemText, UserText
from osslo.cli.chat_source import ChatSource, HttpSource, LocalSource, Question
from osslo.cli.chat_view import Answer, ChatView, numbers
from osslo.cli.loading import load_with_bar
from osslo.cli.output import Output
from osslo.errors import OssloError, RequestError
from osslo.harmony.messages import ReasoningEffort
from osslo.server_key import api_key as served_key
from osslo.settings import load_settings

HELP = """\
/effort low|medium|high   how long the model reasons
/system TEXT              set the system message; without TEXT, take it away
/reset                    forget the conversation
/help                     show this
/quit                     leave (Ctrl-D does too; Ctrl-C stops an answer)"""


@dataclass(slots=True)
class Conversation:
    """What has been said, and how to go on."""

    system: str = ""
    turns: list[ChatMessage] = field(default_factory=list)
    effort: ReasoningEffort | None = None

    def question(self, text: str, base: Question) -> Question:
        """The next turn, with everything before it."""
        head = (SystemText(self.system),) if self.system else ()
        messages = (*head, *self.turns, UserText(text))
        return replace(base, messages=messages, effort=self.effort)

    def remember(self, text: str, answer: Answer) -> None:
        """Keep a turn that gave some text; one that gave none is as if it had not been asked."""
        if answer.text:
            self.turns += [UserText(text), AssistantTurn(answer.text)]

    def obey(self, line: str) -> str:
        """Carry out a /command and say what was done. Raises `RequestError` if there is none."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        match word:
            case "/effort":
                self.effort = parse_level(rest)
                return f"effort is {self.effort.value}"
            case "/system":
                self.system = rest
                return "system message set" if rest else "no system message"
            case "/reset":
                self.turns.clear()
                return "the conversation starts anew"
            case "/help":
                return HELP
            case _:
                raise RequestError(f"no command {word}; /help lists them")


def parse_level(text: str) -> ReasoningEffort:
    """An effort by its name. Raises `RequestError` that lists them."""
    try:
        return ReasoningEffort(text.lower())
    except ValueError:
        levels = ", ".join(ReasoningEffort)
        raise RequestError(f"the effort is one of {levels}, not {text!r}") from None


def command(
    prompt: Annotated[
        str | None, typer.Argument(help="Ask this, print the answer and leave.", show_default=False)
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Name or path of the model.", show_default=False),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Ask the server there, not a model in this process.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="The server's key; else OSSLO_API_KEY.", show_default=False)
    ] = None,
    effort: Annotated[
        ReasoningEffort | None, typer.Option(help="How long the model reasons.")
    ] = None,
    system: Annotated[str, typer.Option(help="A system message.")] = "",
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Limit of one answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    context: Annotated[int | None, typer.Option(help="Context in tokens.")] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads.")] = None,
    hide_reasoning: Annotated[
        bool, typer.Option("--hide-reasoning", help="Show only the answer.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With a prompt: print the answer as JSON.")
    ] = False,
) -> None:
    """Talk to a model in the terminal.

    Without --url the model runs in this process. What is piped in becomes part of the prompt.

    Examples:

        osslo chat

        osslo chat "What is the capital of Norway?" --effort low

        osslo chat --url http://127.0.0.1:8000

        git diff | osslo chat "Review this."
    """
    output = Output()
    base = Question((), temperature=temperature, max_tokens=max_tokens, seed=seed)
    talk = Conversation(system=system, effort=effort)
    asked = with_piped_input(prompt)
    if url is not None:
        source: ChatSource = HttpSource(url, api_key=api_key or known_key(url), model=model)
    else:
        source = LocalSource(load_with_bar(output, model, context=context, threads=threads))
    with source:
        if asked is not None:
            answer_once(output, source, talk.question(asked, base), as_json=as_json)
        else:
            view = ChatView(output, show_reasoning=not hide_reasoning)
            Dialogue(output, source, talk, base, view).run()


def known_key(url: str) -> str | None:
    """`OSSLO_API_KEY`, else, for a server on this machine, the key that `osslo serve` keeps. A key
    is never sent to another machine unless it was given for that."""
    settings = load_settings()
    if settings.server.api_key is not None:
        return settings.server.api_key
    on_this_machine = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    return served_key(settings)[0] if on_this_machine else None


def with_piped_input(prompt: str | None) -> str | None:
    """The prompt, and below it what comes through a pipe."""
    if sys.stdin is None or sys.stdin.isatty():
        return prompt
    piped = sys.stdin.read().strip()
    return "\n\n".join(part for part in (prompt, piped) if part) or None


def answer_once(
    output: Output, source: ChatSource, question: Question, *, as_json: bool = False
) -> None:
    """One question, one answer; as JSON, nothing is shown before it is whole."""
    answer = ChatView(output, show_reasoning=output.err.is_terminal, quiet=as_json).show(
        source.ask(question)
    )
    check(answer)
    if as_json:
        output.json(
            {
                "model": source.title,
                "text": answer.text,
                "reasoning": answer.reasoning,
                "finish_reason": answer.ended.reason if answer.ended else "interrupted",
                "usage": answer.ended.usage if answer.ended else None,
                "first_output_s": round(answer.first_output_s, 3),
                "total_s": round(answer.total_s, 3),
            }
        )


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A chat that goes on until the user leaves."""

    output: Output
    source: ChatSource
    talk: Conversation
    base: Question
    view: ChatView

    def run(self) -> None:
        """Read, answer, repeat."""
        with suppress(ImportError):
            import_module("readline")  # gives input() its history and editing keys
        self.output.note(f"{self.source.title}. /help lists commands, Ctrl-D leaves.")
        while True:
            try:
                line = self.output.err.input("[bold]> [/]").strip()
            except (EOFError, KeyboardInterrupt):
                self.output.err.print()
                return
            if line in ("/quit", "/exit", "/bye"):
                return
            if line:
                self.turn(line)

    def turn(self, line: str) -> None:
        """A command or a question. An error is shown and the chat goes on."""
        try:
            if line.startswith("/"):
                self.output.note(self.talk.obey(line))
                return
            answer = self.view.show(self.source.ask(self.talk.question(line, self.base)))
            check(answer)
        except OssloError as error:
            self.output.error(error.message)
            return
        self.talk.remember(line, answer)
        self.output.note(numbers(answer))


def check(answer: Answer) -> None:
    """Raise the error that a turn ended with."""
    if answer.ended is not None and answer.ended.error is not None:
        raise answer.ended.error
