"""`/tokenize` and `/detokenize`, as vLLM and llama-server spell them; also under `/v1`.

Text never becomes a special token here either; only `messages` are written with harmony's own.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from osslo.api.auth import WithCaller
from osslo.api.body import StrictSchema, read_json, refused
from osslo.api.chat_completions.request import to_chat_request
from osslo.api.chat_completions.schema import ChatCompletionRequest, Effort, InputMessage, Tool
from osslo.api.headers import turn_headers
from osslo.api.openapi import operation
from osslo.api.services import Services, WithServices
from osslo.api.shapes import Reply
from osslo.api.turns import served_model
from osslo.chat.models import ServedModel
from osslo.chat.prompt import render_prompt
from osslo.errors import RequestError, UnsupportedError
from osslo.harmony.vocabulary import Vocabulary
from osslo.settings import LimitSettings

router = APIRouter(tags=["tokens"])

_ERRORS = (400, 401, 403, 404, 413)


class TokenizeRequest(StrictSchema):
    """Text (`prompt`, or llama-server's `content`) or `messages`, one of them."""

    model: str | None = Field(None, min_length=1, max_length=256)
    prompt: str | None = None
    content: str | None = None
    messages: list[InputMessage] | None = None
    tools: list[Tool] | None = None
    reasoning_effort: Effort | None = None
    add_generation_prompt: bool | None = Field(
        None, description="Messages only: end where the assistant's turn begins; default true."
    )
    add_special_tokens: bool | None = Field(None, description="gpt-oss adds none to plain text.")
    add_special: bool | None = Field(None, description="The same, as llama-server spells it.")
    parse_special: Annotated[bool, Field(json_schema_extra={"const": False})] | None = None
    return_token_strs: bool | None = None
    with_pieces: bool | None = Field(None, description="Each token as its id and its text.")
    continue_final_message: Annotated[bool, Field(json_schema_extra={"const": False})] | None = None
    chat_template: Any = refused("the format is harmony")
    chat_template_kwargs: Any = refused("the format is harmony")


class TokenPiece(Reply):
    """`piece` is the token's text, or its bytes where they are not whole characters."""

    id: int
    piece: str | list[int]


class TokenizeReply(Reply):
    """`tokens` are ids, with `with_pieces` pairs."""

    model: str
    count: int
    max_model_len: int
    tokens: list[int] | list[TokenPiece]
    token_strs: list[str] | None


class DetokenizeRequest(StrictSchema):
    model: str | None = Field(None, min_length=1, max_length=256)
    tokens: list[int]


class DetokenizeReply(Reply):
    """The text, under vLLM's name and under llama-server's."""

    model: str
    prompt: str
    content: str


_TOKENIZE = operation(
    body=TokenizeRequest,
    reply=TokenizeReply,
    errors=_ERRORS,
    description="The token ids.",
    example={"model": "gpt-oss-20b", "prompt": "Hello"},
)
_DETOKENIZE = operation(
    body=DetokenizeRequest,
    reply=DetokenizeReply,
    errors=_ERRORS,
    description="The text.",
    example={"model": "gpt-oss-20b", "tokens": [13225]},
)


@router.post("/v1/tokenize", name="tokenize", summary="Tokenize", openapi_extra=_TOKENIZE)
@router.post(
    "/tokenize",
    name="tokenize_unversioned",
    summary="Tokenize, unversioned",
    openapi_extra=_TOKENIZE,
)
async def tokenize(request: Request, services: WithServices, caller: WithCaller) -> Response:
    """The token ids of a text, or of the prompt that messages and tools become."""
    body = await read_json(request, TokenizeRequest, limit_bytes=services.limits.max_body_bytes)
    model = served_model(services, caller, _model_name(body.model, services))
    _refuse_inapplicable(body)
    work = partial(_ids, body, model, services.limits, services.today())
    ids = await asyncio.to_thread(work)
    vocabulary = model.vocabulary
    reply: dict[str, Any] = {
        "model": model.id,
        "count": len(ids),
        "max_model_len": model.context_tokens,
        "tokens": [_piece(vocabulary, token) for token in ids] if body.with_pieces else ids,
        "token_strs": None,
    }
    if body.return_token_strs:
        reply["token_strs"] = [
            vocabulary.token_bytes(token).decode("utf-8", "replace") for token in ids
        ]
    return JSONResponse(reply, headers=turn_headers(model.id))


@router.post("/v1/detokenize", name="detokenize", summary="Detokenize", openapi_extra=_DETOKENIZE)
@router.post(
    "/detokenize",
    name="detokenize_unversioned",
    summary="Detokenize, unversioned",
    openapi_extra=_DETOKENIZE,
)
async def detokenize(request: Request, services: WithServices, caller: WithCaller) -> Response:
    """The text of token ids, special tokens written out."""
    body = await read_json(request, DetokenizeRequest, limit_bytes=services.limits.max_body_bytes)
    model = served_model(services, caller, _model_name(body.model, services))
    size = model.vocabulary.vocab_size
    for index, token in enumerate(body.tokens):
        if not 0 <= token < size:
            where = f"tokens[{index}]"
            raise RequestError(
                f"'{where}' is not a token id of this model (0 to {size - 1}).", param=where
            )
    raw = b"".join(map(model.vocabulary.token_bytes, body.tokens))
    text = raw.decode("utf-8", "replace")
    reply = {"model": model.id, "prompt": text, "content": text}
    return JSONResponse(reply, headers=turn_headers(model.id))


def _model_name(given: str | None, services: Services) -> str:
    """The first model where none is named, as llama-server's clients do."""
    return given or next(iter(services.registry.names()))


def _refuse_inapplicable(body: TokenizeRequest) -> None:
    refused = {
        "parse_special": (body.parse_special or None, "text never becomes a special token"),
        "continue_final_message": (body.continue_final_message or None, "harmony ends messages"),
        "chat_template": (body.chat_template, "the format is harmony"),
        "chat_template_kwargs": (body.chat_template_kwargs, "the format is harmony"),
    }
    for name, (value, why) in refused.items():
        if value is not None:
            raise UnsupportedError(f"'{name}' is not supported: {why}.", param=name)


def _ids(body: TokenizeRequest, model: ServedModel, limits: LimitSettings, today: str) -> list[int]:
    given = [name for name in ("prompt", "content", "messages") if getattr(body, name) is not None]
    if len(given) != 1:
        raise RequestError(
            "Send one of 'prompt', 'content' and 'messages'.", param=given[1] if given else "prompt"
        )
    if body.messages is None:
        return model.vocabulary.encode(body.prompt or body.content or "")
    return _prompt_ids(body, model, limits, today)


def _prompt_ids(
    body: TokenizeRequest, model: ServedModel, limits: LimitSettings, today: str
) -> list[int]:
    """The prompt of a chat completion with these messages."""
    fields = {
        "model": model.id,
        "messages": body.messages,
        "tools": body.tools,
        "reasoning_effort": body.reasoning_effort,
    }
    asked = to_chat_request(
        ChatCompletionRequest.model_validate(fields),
        model,
        request_id="tokenize",
        tenant="",
        limits=limits,
    )
    ids = list(render_prompt(model, asked, today=today).tokens)
    if body.add_generation_prompt is not False:
        return ids
    return ids[: -_opening_tokens(model.vocabulary)]


def _opening_tokens(vocabulary: Vocabulary) -> int:
    """Tokens of `<|start|>assistant`, with which every prompt ends."""
    return 1 + len(vocabulary.encode("assistant"))


def _piece(vocabulary: Vocabulary, token: int) -> dict[str, Any]:
    raw = vocabulary.token_bytes(token)
    try:
        return {"id": token, "piece": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(raw)}
