"""The five generating protocols as a client sees them: how to ask, and what an answer says.

Whole answers and streams are read apart, the stream piece by piece as clients do, so that a
difference between the two is seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from bench.conformance.stage import MODEL
from osslo.api.messages.reply import NOT_AN_OBJECT

Body = dict[str, Any]
QUESTION = "What is the capital of Norway?"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for, in no protocol's words."""

    functions: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    max_tokens: int = 2000
    logprobs: bool = False


@dataclass(slots=True)
class Said:
    """What an answer said. `calls` are (name, arguments); Anthropic's arguments are parsed."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    ended: Any = None
    usage: Any = None
    logprobs: list[Any] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Protocol:
    """One endpoint. `whole` reads an answer's body, `streamed` the events of a stream."""

    name: str
    path: str
    ask: Callable[[Wish], Body]
    whole: Callable[[Body], Said]
    streamed: Callable[[Sequence[Body]], Said]
    calls: bool = True


def read_events(text: str) -> list[Body]:
    """The data of a stream's events, its end marker left out."""
    lines = (line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: "))
    return [json.loads(line) for line in lines if line != "[DONE]"]


def _error(body: Mapping[str, Any]) -> str | None:
    error = body.get("error")
    return str(error["message"]) if error else None


_PARAMETERS: Body = {"type": "object"}


# --- chat completions ---------------------------------------------------------------------------


def _ask_chat(wish: Wish) -> Body:
    body: Body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": wish.max_tokens,
    }
    if wish.functions:
        body["tools"] = [
            {"type": "function", "function": {"name": name, "parameters": _PARAMETERS}}
            for name in wish.functions
        ]
        body["parallel_tool_calls"] = True
    if wish.stop:
        body["stop"] = list(wish.stop)
    if wish.logprobs:
        body |= {"logprobs": True, "top_logprobs": 2}
    return body


def _chat_whole(body: Body) -> Said:
    if error := _error(body):
        return Said(error=error)
    choice = body["choices"][0]
    message = choice["message"]
    calls = [
        (c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()
    ]
    return Said(
        text=message["content"] or "",
        reasoning=message.get("reasoning_content", ""),
        calls=calls,
        ended=choice["finish_reason"],
        usage=body["usage"],
        logprobs=(choice["logprobs"] or {}).get("content", []),
    )


def _chat_streamed(events: Sequence[Body]) -> Said:
    said = Said()
    for event in events:
        said.error = said.error or _error(event)
        said.usage = event.get("usage") or said.usage
        for choice in event.get("choices", ()):
            delta = choice["delta"]
            said.text += delta.get("content") or ""
            said.reasoning += delta.get("reasoning_content") or ""
            said.ended = choice["finish_reason"] or said.ended
            said.logprobs += (choice["logprobs"] or {}).get("content", [])
            for call in delta.get("tool_calls", ()):
                _add_call(said, call)
    return said if said.error is None else Said(error=said.error)


def _add_call(said: Said, call: Body) -> None:
    function = call["function"]
    if call["index"] == len(said.calls):
        said.calls.append((function["name"], ""))
    name, arguments = said.calls[call["index"]]
    said.calls[call["index"]] = (name, arguments + function.get("arguments", ""))


# --- responses ----------------------------------------------------------------------------------


def _ask_responses(wish: Wish) -> Body:
    body: Body = {
        "model": MODEL,
        "input": QUESTION,
        "store": False,
        "max_output_tokens": max(16, wish.max_tokens),
    }
    if wish.functions:
        body["tools"] = [
            {"type": "function", "name": name, "parameters": _PARAMETERS, "strict": False}
            for name in wish.functions
        ]
    if wish.logprobs:
        body |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    return body


def _responses_whole(body: Body) -> Said:
    if error := _error(body):
        return Said(error=error)
    said = Said(ended=(body["status"], body["incomplete_details"]), usage=body["usage"])
    for item in body["output"]:
        match item["type"]:
            case "message":
                for part in item["content"]:
                    said.text += part["text"]
                    said.logprobs += [_brief(one) for one in part["logprobs"]]
            case "reasoning":
                said.reasoning += "".join(part["text"] for part in item["content"])
            case "function_call":
                said.calls.append((item["name"], item["arguments"]))
    return said


def _brief(record: Body) -> Body:
    """Events carry log-probabilities without bytes."""
    top = [{"token": one["token"], "logprob": one["logprob"]} for one in record["top_logprobs"]]
    return {"token": record["token"], "logprob": record["logprob"], "top_logprobs": top}


def _responses_streamed(events: Sequence[Body]) -> Said:
    said = Said()
    for number, event in enumerate(events):
        if event["sequence_number"] != number:
            return Said(error=f"sequence number {event['sequence_number']} in place of {number}")
        match event["type"]:
            case "error":
                return Said(error=event["message"])
            case "response.failed":
                return Said(error=event["response"]["error"]["message"])
            case "response.output_text.delta":
                said.text += event["delta"]
                said.logprobs += event["logprobs"]
            case "response.reasoning_text.delta":
                said.reasoning += event["delta"]
            case "response.output_item.added" if event["item"]["type"] == "function_call":
                said.calls.append((event["item"]["name"], ""))
            case "response.function_call_arguments.delta":
                name, arguments = said.calls[-1]
                said.calls[-1] = (name, arguments + event["delta"])
            case "response.completed" | "response.incomplete":
                last = event["response"]
                said.ended, said.usage = (last["status"], last["incomplete_details"]), last["usage"]
    return said


# --- completions --------------------------------------------------------------------------------


def _ask_completions(wish: Wish) -> Body:
    body: Body = {"model": MODEL, "prompt": QUESTION, "max_tokens": wish.max_tokens}
    if wish.stop:
        body["stop"] = list(wish.stop)
    if wish.logprobs:
        body["logprobs"] = 2
    return body


def _completions_whole(body: Body) -> Said:
    if error := _error(body):
        return Said(error=error)
    choice = body["choices"][0]
    return Said(
        text=choice["text"],
        ended=choice["finish_reason"],
        usage=body["usage"],
        logprobs=_rows(choice["logprobs"]),
    )


def _completions_streamed(events: Sequence[Body]) -> Said:
    said = Said()
    for event in events:
        said.error = said.error or _error(event)
        said.usage = event.get("usage") or said.usage
        for choice in event.get("choices", ()):
            said.text += choice["text"]
            said.ended = choice["finish_reason"] or said.ended
            said.logprobs += _rows(choice["logprobs"])
    return said if said.error is None else Said(error=said.error)


def _rows(lists: Body | None) -> list[Any]:
    if not lists:
        return []
    columns = (lists[key] for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"))
    return list(map(list, zip(*columns, strict=True)))


# --- Anthropic ----------------------------------------------------------------------------------


def _ask_messages(wish: Wish) -> Body:
    body: Body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": wish.max_tokens,
        "thinking": {"type": "adaptive"},
    }
    if wish.functions:
        body["tools"] = [{"name": name, "input_schema": _PARAMETERS} for name in wish.functions]
    if wish.stop:
        body["stop_sequences"] = list(wish.stop)
    return body


def _messages_whole(body: Body) -> Said:
    if error := _error(body):
        return Said(error=error)
    said = Said(ended=(body["stop_reason"], body["stop_sequence"]), usage=_counts(body["usage"]))
    for block in body["content"]:
        match block["type"]:
            case "text":
                said.text += block["text"]
            case "thinking":
                said.reasoning += block["thinking"]
            case "tool_use":
                said.calls.append((block["name"], block["input"]))
    return said


def _counts(usage: Body) -> tuple[int, int]:
    return usage["input_tokens"], usage["output_tokens"]


def _messages_streamed(events: Sequence[Body]) -> Said:
    said = Said()
    inputs: list[str] = []
    for event in events:
        match event["type"]:
            case "error":
                return Said(error=_error(event))
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                said.calls.append((event["content_block"]["name"], None))
                inputs.append("")
            case "content_block_delta":
                delta = event["delta"]
                said.text += delta.get("text", "")
                said.reasoning += delta.get("thinking", "")
                if "partial_json" in delta:
                    inputs[-1] += delta["partial_json"]
            case "message_delta":
                said.ended = (event["delta"]["stop_reason"], event["delta"]["stop_sequence"])
                said.usage = _counts(event["usage"])
    pairs = zip(said.calls, inputs, strict=True)
    said.calls = [(name, parsed_input(text)) for (name, _), text in pairs]
    return said


def parsed_input(text: str) -> Any:
    """A call's input as Anthropic's clients read it, a cut one too."""
    try:
        return from_json(text, allow_partial=True) if text else {}
    except ValueError:
        return {NOT_AN_OBJECT: text}


def _ask_complete(wish: Wish) -> Body:
    body: Body = {
        "model": MODEL,
        "prompt": f"\n\nHuman: {QUESTION}\n\nAssistant:",
        "max_tokens_to_sample": wish.max_tokens,
    }
    if wish.stop:
        body["stop_sequences"] = list(wish.stop)
    return body


def _complete_whole(body: Body) -> Said:
    if error := _error(body):
        return Said(error=error)
    return Said(text=body["completion"], ended=(body["stop_reason"], body["stop"]))


def _complete_streamed(events: Sequence[Body]) -> Said:
    said = Said()
    for event in events:
        if error := _error(event):
            return Said(error=error)
        said.text += event["completion"]
        if event["stop_reason"]:
            said.ended = (event["stop_reason"], event["stop"])
    return said


CHAT = Protocol("chat", "/v1/chat/completions", _ask_chat, _chat_whole, _chat_streamed)
RESPONSES = Protocol(
    "responses", "/v1/responses", _ask_responses, _responses_whole, _responses_streamed
)
COMPLETIONS = Protocol(
    "completions",
    "/v1/completions",
    _ask_completions,
    _completions_whole,
    _completions_streamed,
    calls=False,
)
MESSAGES = Protocol("messages", "/v1/messages", _ask_messages, _messages_whole, _messages_streamed)
COMPLETE = Protocol(
    "complete", "/v1/complete", _ask_complete, _complete_whole, _complete_streamed, calls=False
)
PROTOCOLS = (CHAT, RESPONSES, COMPLETIONS, MESSAGES, COMPLETE)
