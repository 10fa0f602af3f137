"""A response from its request to its end: the items it is made of, its turn, and keeping it."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from osslo.api.auth import Caller
from osslo.api.openai_replies import obfuscated
from osslo.api.responses.builder import Event, ResponseBuilder, ResponseHead, SealReasoning
from osslo.api.responses.items import PURPOSE, kept_items, references, to_messages
from osslo.api.responses.live import BackgroundJob
from osslo.api.responses.request import (
    refuse_inapplicable,
    sampling_of,
    to_chat_request,
    wants_logprobs,
)
from osslo.api.responses.schema import ContextFields, ResponseRequest
from osslo.api.services import Services
from osslo.api.sse import named_event
from osslo.api.turns import check_room, prepare_turns, served_model
from osslo.chat.choices import BeginTurns
from osslo.chat.events import TurnEnded
from osslo.chat.request import ChatMessage, ChatRequest
from osslo.chat.turn import PreparedTurn
from osslo.errors import OssloError, RequestError
from osslo.store.conversations import ConversationStore
from osslo.store.items import Item
from osslo.store.responses import ResponseStore, StoredResponse

_MOST_ITEMS = 10_000


def response_store(services: Services) -> ResponseStore:
    """The responses that callers keep here."""
    return ResponseStore(services.database, services.store, services.clock)


def conversation_store(services: Services) -> ConversationStore:
    """The conversations that callers keep here."""
    return ConversationStore(services.database, services.store, services.clock)


@dataclass(frozen=True, slots=True)
class Said:
    """What a request stands on: its own items, and the messages of all that was said before and
    in it."""

    own: tuple[Item, ...]
    messages: tuple[ChatMessage, ...]


async def said_in(body: ContextFields, services: Services, caller: Caller) -> Said:
    """The items and messages of a request. Raises `NotFoundError` for what is not kept here."""
    tenant = caller.tenant
    store = response_store(services)
    before: tuple[Item, ...] = ()
    if body.previous_response_id is not None:
        before = await store.history(tenant, body.previous_response_id, most=_MOST_ITEMS)
    elif body.conversation_id is not None:
        conversations = conversation_store(services)
        before = await conversations.history(tenant, body.conversation_id, most=_MOST_ITEMS)
    kept = await store.find_items(tenant, references(body.input))
    own = kept_items(body.input, kept)
    messages = to_messages((*before, *own), services.seal, tenant, first_own=len(before))
    if len(messages) > services.limits.max_messages and body.truncation != "auto":
        raise RequestError(
            f"The conversation holds {len(messages)} messages; the most is "
            f"{services.limits.max_messages}. Send truncation 'auto', or begin anew.",
            param="input",
        )
    return Said(own, messages)


@dataclass(frozen=True, slots=True)
class RunningResponse:
    """A response that is ready to run: its turn begins when `events` is first read, or in the
    background."""

    body: ResponseRequest
    caller: Caller
    services: Services
    said: Said
    head: ResponseHead
    seal: SealReasoning | None
    builder: ResponseBuilder
    turns: BeginTurns
    model: str
    warnings: tuple[str, ...]

    async def events(self) -> AsyncGenerator[Event, None]:
        """The stream's events. What is to be kept is kept before the last of them."""
        begun = False
        turn = self.turns(self.services.meter, None)
        try:
            async for _, event in turn:
                if not begun:
                    begun = True
                    for first in self.builder.begin():
                        yield first
                made = self.builder.feed(event, int(self.services.clock()))
                if isinstance(event, TurnEnded):
                    await self._keep()
                for one in made:
                    yield one
        finally:
            await turn.aclose()

    async def whole(self) -> dict[str, Any]:
        """The response at its end."""
        async for _ in self.events():
            pass
        return self.builder.response()

    def job(self) -> BackgroundJob:
        """The same for `BackgroundResponses`."""
        return BackgroundJob(
            record=self._record(self.builder.response()),
            head=self.head,
            seal=self.seal,
            turns=self.turns,
            meter=self.services.meter,
            store=response_store(self.services),
            clock=self.services.clock,
        )

    def _record(self, response: Mapping[str, Any]) -> StoredResponse:
        return StoredResponse(
            id=self.head.response_id,
            tenant=self.caller.tenant,
            status=response["status"],
            body=response,
            inputs=self.said.own,
            background=self.head.background,
            previous_id=self.body.previous_response_id,
            conversation_id=self.body.conversation_id,
        )

    async def _keep(self) -> None:
        """Keep the response if it is to be kept, and let its conversation have its items."""
        response = self.builder.response()
        keep = self.body.store is not False
        if response["status"] == "failed" or not (keep or self.body.conversation_id):
            return
        try:
            await response_store(self.services).save(self._record(response), keep=keep)
        except SQLAlchemyError as error:
            raise OssloError(
                "The response was made but could not be kept; the database failed. Try again."
            ) from error


async def sent(
    events: AsyncGenerator[Event, None], *, obfuscate: bool
) -> AsyncGenerator[bytes, None]:
    """Events as they are sent; with `obfuscate` those with a delta are padded."""
    try:
        async for event in events:
            padded = obfuscated(event) if obfuscate and "delta" in event else event
            yield named_event(event["type"], padded)
    finally:
        await events.aclose()


async def start_response(
    body: ResponseRequest, services: Services, caller: Caller
) -> RunningResponse:
    """Check a request and set its response up. Raises what is wrong with it."""
    refuse_inapplicable(body)
    model = served_model(services, caller, body.model)
    if not body.background:  # those wait for a place
        check_room(model)
    said = await said_in(body, services, caller)
    response_id = "resp_" + secrets.token_hex(24)
    asked = to_chat_request(
        body,
        said.messages,
        request_id=response_id,
        tenant=caller.tenant,
        sampling=sampling_of(body, model, services.limits),
        limits=services.limits,
    )
    turns = await prepare_turns(services, caller, model, asked, protocol="responses")
    fields = _fields(body, model.id, asked, turns.prepared, services)
    head = ResponseHead(
        response_id, fields, background=bool(body.background), logprobs=wants_logprobs(body)
    )
    tenant = caller.tenant

    def sealed(_item_id: str, text: str) -> str:
        return services.seal.seal(text, purpose=PURPOSE, tenant=tenant)

    seal = sealed if "reasoning.encrypted_content" in (body.include or ()) else None
    return RunningResponse(
        body=body,
        caller=caller,
        services=services,
        said=said,
        head=head,
        seal=seal,
        builder=ResponseBuilder(head, seal=seal),
        turns=turns.begin,
        model=model.id,
        warnings=turns.prepared.warnings,
    )


def _fields(
    body: ResponseRequest,
    model: str,
    asked: ChatRequest,
    turn: PreparedTurn,
    services: Services,
) -> dict[str, Any]:
    conversation = body.conversation_id
    fields: dict[str, Any] = {
        "id": asked.request_id,
        "object": "response",
        "created_at": int(services.clock()),
        "model": model,
        "instructions": body.instructions,
        "metadata": body.metadata or {},
        "previous_response_id": body.previous_response_id,
        "conversation": None if conversation is None else {"id": conversation},
        "tools": [_shown(tool) for tool in body.tools or ()],
        "tool_choice": "auto" if body.tool_choice is None else _shown(body.tool_choice),
        "parallel_tool_calls": bool(body.parallel_tool_calls),
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "temperature": asked.sampling.temperature,
        "top_p": asked.sampling.top_p,
        "top_logprobs": body.top_logprobs or 0,
        "truncation": body.truncation or "disabled",
        "text": _text(body),
        "reasoning": {
            "effort": turn.effort.value if asked.reasoning else "none",
            "summary": None,
        },
        "store": body.store is not False,
        "background": bool(body.background),
        "service_tier": "default",
        "user": body.user,
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
    }
    return fields | ({"osslo": {"warnings": list(turn.warnings)}} if turn.warnings else {})


def _shown(value: Any) -> Any:
    """A part of the request as it is echoed: plain JSON, with a function's two required fields."""
    if isinstance(value, str):
        return value
    shown = json.loads(value.model_dump_json(by_alias=True, exclude_none=True))
    if shown.get("type") == "function" and "name" in shown and hasattr(value, "parameters"):
        shown.setdefault("parameters", None)
        shown.setdefault("strict", False)
    return shown


def _text(body: ResponseRequest) -> dict[str, Any]:
    given = None if body.text is None else body.text.format
    shown = {"type": "text"} if given is None else _shown(given)
    return {"format": shown, "verbosity": "medium"}
