"""Items: from what a caller sends to what is kept and shown, and from that to neutral messages.

A kept item is a dict in the shape that the API shows, complete with its id. Reasoning that was
sealed for the caller is opened when a prompt is made of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from osslo.api.parameters import missing
from osslo.api.responses.hosted import refused_item
from osslo.api.responses.item_schema import (
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    ItemReference,
    MessageItem,
    OtherItem,
    Part,
    ReasoningItem,
)
from osslo.api.seal import Seal
from osslo.chat.events import Phase
from osslo.chat.request import (
    AssistantTurn,
    ChatMessage,
    DeveloperText,
    SystemText,
    ToolOutput,
    UserText,
)
from osslo.errors import NotFoundError, RequestError, UnsupportedError
from osslo.store.items import Item
from osslo.types import ToolCall

PURPOSE = "responses.reasoning"
"""What reasoning is sealed for."""

COMMENTARY = "commentary"
_CALLS = ("function_call", "custom_tool_call")
_OUTPUTS = ("function_call_output", "custom_tool_call_output")


# --- what comes in ------------------------------------------------------------------------------


def kept_items(
    given: str | Sequence[InputItem] | None, kept: Mapping[str, Item], *, param: str = "input"
) -> tuple[Item, ...]:
    """The items of a request as they are kept and shown. `kept` are the items referred to.

    Raises `RequestError`, `NotFoundError` or `UnsupportedError` naming the item.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        return (_message(MessageItem(role="user", content=given), param),)
    items = [_kept(item, kept, f"{param}[{index}]") for index, item in enumerate(given)]
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item["id"] in seen:
            raise RequestError(
                f"'{param}' holds {item['id']!r} twice.",
                param=f"{param}[{index}].id",
                code="duplicate_item",
            )
        seen.add(item["id"])
    return tuple(items)


def references(given: str | Sequence[InputItem] | None) -> list[str]:
    """The ids of the items that a request refers to."""
    if given is None or isinstance(given, str):
        return []
    return [item.id for item in given if isinstance(item, ItemReference)]


def _kept(item: InputItem, kept: Mapping[str, Item], where: str) -> Item:
    match item:
        case MessageItem():
            return _message(item, where)
        case FunctionCallItem():
            fields = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
            return _tool_item(item, "fc", fields)
        case CustomToolCallItem():
            fields = {"call_id": item.call_id, "name": item.name, "input": item.input}
            return _tool_item(item, "ctc", fields)
        case FunctionCallOutputItem() | CustomToolCallOutputItem():
            return _output_item(item, where)
        case ReasoningItem():
            return _reasoning(item)
        case ItemReference(id=item_id):
            return _referred(item_id, kept, where)
        case OtherItem(type=kind):
            raise refused_item(kind, where)


def _referred(item_id: str, kept: Mapping[str, Item], where: str) -> Item:
    if item_id not in kept:
        raise NotFoundError(
            f"'{where}' refers to {item_id!r}, which is not kept here: send the item itself. Items "
            "are kept where 'store' is not false, until they expire.",
            param=f"{where}.id",
            code="item_not_found",
        )
    return kept[item_id]


def fresh_id(prefix: str) -> str:
    """An id for an item that came without one."""
    return f"{prefix}_{secrets.token_hex(24)}"


def _tool_item(
    item: FunctionCallItem | FunctionCallOutputItem | CustomToolCallItem | CustomToolCallOutputItem,
    prefix: str,
    fields: Mapping[str, Any],
) -> Item:
    return {
        "id": item.id or fresh_id(prefix),
        "type": item.type,
        "status": item.status or "completed",
        **fields,
    }


def _output_item(item: FunctionCallOutputItem | CustomToolCallOutputItem, where: str) -> Item:
    fields: dict[str, Any] = {"call_id": item.call_id, "output": _shown_output(item.output, where)}
    if item.name is not None:
        fields["name"] = item.name
    prefix = "fco" if isinstance(item, FunctionCallOutputItem) else "ctco"
    return _tool_item(item, prefix, fields)


def _shown_output(output: str | Sequence[Part], where: str) -> str | list[dict[str, Any]]:
    if isinstance(output, str):
        return output
    _check_texts(output, f"{where}.output")
    return [_shown_part(part, "input_text") for part in output]


def _message(item: MessageItem, where: str) -> Item:
    kind = "output_text" if item.role == "assistant" else "input_text"
    content = item.content
    if isinstance(content, str):
        parts = [_text_part(content, kind)]
    else:
        _check_texts(content, f"{where}.content")
        parts = [_shown_part(part, kind) for part in content]
    if item.phase is not None and item.role != "assistant":
        raise RequestError(
            f"'{where}.phase' belongs to assistant messages only.", param=f"{where}.phase"
        )
    message: dict[str, Any] = {
        "id": item.id or fresh_id("msg"),
        "type": "message",
        "status": item.status or "completed",
        "role": item.role,
        "content": parts,
    }
    return message | ({"phase": item.phase} if item.phase is not None else {})


def _shown_part(part: Part, kind: str) -> dict[str, Any]:
    if part.type == "refusal":
        return {"type": "refusal", "refusal": part.refusal}
    return _text_part(part.text or "", kind)


def _text_part(text: str, kind: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": kind, "text": text}
    return shown | ({"annotations": [], "logprobs": []} if kind == "output_text" else {})


def _check_texts(parts: Sequence[Part], where: str) -> None:
    """Raise unless every part is text."""
    for index, part in enumerate(parts):
        here = f"{where}[{index}]"
        if part.type not in ("input_text", "output_text", "text", "refusal"):
            raise UnsupportedError(
                f"'{here}' is of type '{part.type[:64]}', but this model reads text only.",
                param=f"{here}.type",
            )
        if (part.refusal if part.type == "refusal" else part.text) is None:
            raise missing(f"{here}.{'refusal' if part.type == 'refusal' else 'text'}")


def _reasoning(item: ReasoningItem) -> Item:
    reasoning: dict[str, Any] = {
        "id": item.id or fresh_id("rs"),
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": part.text} for part in item.summary or ()],
    }
    if item.content is not None:
        reasoning["content"] = [
            {"type": "reasoning_text", "text": part.text} for part in item.content
        ]
    if item.encrypted_content is not None:
        reasoning["encrypted_content"] = item.encrypted_content
    return reasoning


# --- what the model reads -----------------------------------------------------------------------


def to_messages(
    items: Sequence[Item], seal: Seal, tenant: str, *, first_own: int = 0, param: str = "input"
) -> tuple[ChatMessage, ...]:
    """Neutral messages of kept items in their order.

    `items[first_own:]` are the request's own, which errors name by their place in `param`. Raises
    `RequestError` for an output without its call and for reasoning that was sealed elsewhere.
    """
    messages: list[ChatMessage] = []
    names: dict[str, str] = {}
    for index, item in enumerate(items):
        own = index >= first_own
        where = f"{param}[{index - first_own}]" if own else f"the item {item['id']}"
        kind = item["type"]
        if kind in _CALLS:
            names[item["call_id"]] = item["name"]
            messages.append(_call(item))
        elif kind in _OUTPUTS:
            messages.append(_output(item, names, where))
        elif kind == "reasoning":
            thought = _thought(item, seal, tenant, where)
            messages += [AssistantTurn(reasoning=thought)] if thought else []
        else:
            following = items[index + 1] if index + 1 < len(items) else None
            messages.append(_said(item, following))
    return tuple(messages)


def _call(item: Item) -> ChatMessage:
    custom = item["type"] == "custom_tool_call"
    arguments = item["input"] if custom else item["arguments"]
    return AssistantTurn(calls=(ToolCall(item["call_id"], item["name"], arguments, custom),))


def _output(item: Item, names: Mapping[str, str], where: str) -> ChatMessage:
    call_id = item["call_id"]
    if call_id not in names and item.get("name") is None:
        raise RequestError(
            f"'{where}' answers the call {call_id[:256]!r}, which nothing before it makes: send "
            "the call too, or go on from the response that made it.",
            param=f"{where}.call_id",
        )
    output = item["output"]
    text = output if isinstance(output, str) else _joined(output)
    return ToolOutput(call_id, text, item.get("name"))


def _thought(item: Item, seal: Seal, tenant: str, where: str) -> str:
    content = item.get("content")
    if content:
        return _joined(content)
    sealed = item.get("encrypted_content")
    if sealed is None:
        return "\n\n".join(part["text"] for part in item["summary"])
    opened = seal.unseal(sealed, purpose=PURPOSE, tenant=tenant)
    if opened is None:
        raise RequestError(
            f"'{where}.encrypted_content' was not sealed by this server for you, or was changed; "
            "leave the item out.",
            param=f"{where}.encrypted_content",
            code="invalid_encrypted_content",
        )
    return opened


def _said(item: Item, following: Item | None) -> ChatMessage:
    text = _joined(item["content"])
    match item["role"]:
        case "user":
            return UserText(text)
        case "system":
            return SystemText(text)
        case "developer":
            return DeveloperText(text)
        case _:
            before_call = following is not None and following["type"] in _CALLS
            preamble = item.get("phase", COMMENTARY if before_call else None) == COMMENTARY
            return AssistantTurn(text, phase=Phase.COMMENTARY if preamble else Phase.FINAL)


def _joined(parts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)
