"""From a `ChatRequest` to the token ids of its prompt, and how much room they leave for output.

Owns truncation: which messages go when the context is too small, and the refusal with numbers when
nothing may go. What the messages look like is `conversation`'s and harmony's subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from osslo.chat.conversation import build_conversation
from osslo.chat.models import ServedModel
from osslo.chat.request import (
    AssistantTurn,
    ChatMessage,
    ChatRequest,
    DeveloperText,
    SystemText,
    ToolOutput,
)
from osslo.errors import ContextLengthError, RequestError
from osslo.harmony.messages import Channel, ReasoningEffort
from osslo.harmony.render import Renderer
from osslo.harmony.vocabulary import Markers
from osslo.types import TokenId

_ROOM_FRACTION = 4
"""Truncation without a limit on the output keeps a quarter of the context free for it."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt. `begun` are the tokens at its end that belong to the assistant's turn
    already (a prefill with its header); `dropped_messages` were left out to fit the context."""

    tokens: tuple[TokenId, ...]
    effort: ReasoningEffort
    begun: tuple[TokenId, ...] = ()
    dropped_messages: int = 0


def render_prompt(model: ServedModel, request: ChatRequest, *, today: str) -> Prompt:
    """The prompt of `request`, truncated if the request asks for it and it does not fit.

    `today` is an ISO date. Raises `RequestError` for a conversation that makes no sense. A prompt
    that does not fit is returned as it is: `output_limit` refuses it.
    """
    whole = _render(model, request, today)
    wanted = model.context_tokens - _wanted_room(model, request)
    if not request.truncate or len(whole.tokens) <= wanted:
        return whole
    groups = _groups(request.messages)
    droppable = sorted({g for g in groups if not _is_instruction(request.messages[g])})
    droppable = [g for g in droppable if g != groups[-1]]  # the last message is what is asked
    fewest, most = min(1, len(droppable)), len(droppable)
    while fewest < most:  # by bisection: fewer messages never take more tokens
        middle = (fewest + most) // 2
        tried = _without(model, request, groups, droppable[:middle], today)
        if len(tried.tokens) <= wanted:
            most = middle
        else:
            fewest = middle + 1
    return _without(model, request, groups, droppable[:most], today)


def count_tokens(model: ServedModel, request: ChatRequest, *, today: str) -> int:
    """Tokens of the prompt that `prepare` would send for `request`.

    Raises `RequestError` for a conversation that makes no sense.
    """
    return len(render_prompt(model, request, today=today).tokens)


def output_limit(model: ServedModel, request: ChatRequest, prompt_tokens: int) -> int:
    """How many tokens the turn may generate. Raises `ContextLengthError` with the numbers,
    `RequestError` for a limit below 1."""
    context = model.context_tokens
    room = context - prompt_tokens
    if room < 1:
        raise ContextLengthError(
            f"This model's context is {context} tokens, but the messages take {prompt_tokens}. "
            "Shorten the messages.",
            param="messages",
        )
    if request.max_tokens is None:
        return min(room, request.sampling.max_tokens)
    if request.max_tokens < 1:
        raise RequestError("max_tokens must be at least 1", param="max_tokens")
    if request.max_tokens > room:
        raise ContextLengthError(
            f"This model's context is {context} tokens, but the messages take {prompt_tokens} "
            f"and {request.max_tokens} more are asked for as output. Shorten the messages or ask "
            f"for at most {room} tokens.",
            param="messages",
        )
    return request.max_tokens


def _render(model: ServedModel, request: ChatRequest, today: str) -> Prompt:
    conversation = build_conversation(request, model.prompt, today)
    tokens = Renderer(model.vocabulary).render(conversation)
    begun: tuple[TokenId, ...] = ()
    if request.prefill:
        markers, encode = Markers.of(model.vocabulary), model.vocabulary.encode
        header = (markers.channel, *encode(Channel.FINAL.value), markers.message)
        begun = (*header, *encode(request.prefill))
    return Prompt((*tokens, *begun), conversation.effort, begun)


# --- truncation -----------------------------------------------------------------------------------


def _wanted_room(model: ServedModel, request: ChatRequest) -> int:
    if request.max_tokens is not None:
        return request.max_tokens
    return max(1, min(request.sampling.max_tokens, model.context_tokens // _ROOM_FRACTION))


def _is_instruction(message: ChatMessage) -> bool:
    return isinstance(message, SystemText | DeveloperText)


def _groups(messages: Sequence[ChatMessage]) -> list[int]:
    """For each message the index of the one it must go with: results go with their call."""
    groups: list[int] = []
    made_by: dict[str, int] = {}
    for index, message in enumerate(messages):
        own = index
        if isinstance(message, ToolOutput):
            own = made_by.get(message.call_id, index)
        elif isinstance(message, AssistantTurn):
            made_by |= {call.call_id: index for call in message.calls}
        groups.append(own)
    return groups


def _without(
    model: ServedModel,
    request: ChatRequest,
    groups: Sequence[int],
    dropped: Sequence[int],
    today: str,
) -> Prompt:
    gone = frozenset(dropped)
    kept = tuple(m for m, group in zip(request.messages, groups, strict=True) if group not in gone)
    prompt = _render(model, replace(request, messages=kept), today)
    return replace(prompt, dropped_messages=len(request.messages) - len(kept))
