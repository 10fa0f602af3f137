"""`/v1/moderations` in OpenAI's shape, judged by a served model."""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from osslo.api.auth import Caller, WithCaller
from osslo.api.body import read_json
from osslo.api.headers import turn_headers
from osslo.api.idempotency import IdempotentRoute
from osslo.api.moderations.schema import ModerationPart, ModerationReply, ModerationRequest
from osslo.api.openai_replies import usage_record
from osslo.api.openapi import GENERATION_ERRORS, operation
from osslo.api.parameters import missing
from osslo.api.services import Services, WithServices
from osslo.api.sse import unless_disconnected
from osslo.api.turns import judge_turns, served_model
from osslo.chat.judge import Verdict
from osslo.chat.models import ServedModel
from osslo.chat.moderation import CATEGORIES
from osslo.errors import UnsupportedError
from osslo.types import Usage

router = APIRouter(tags=["moderations"], route_class=IdempotentRoute)

_TOGETHER = 4
"""How many windows of a request are judged side by side."""

_OPENAIS = re.compile(r"(omni|text)-moderation-[a-z0-9-]+")


@router.post(
    "/v1/moderations",
    summary="Judge texts",
    openapi_extra=operation(
        body=ModerationRequest,
        reply=ModerationReply,
        errors=GENERATION_ERRORS,
        example={"input": "I want to hurt them."},
        idempotent=True,
    ),
)
async def create_moderation(
    request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """What the judge holds of texts under the server's policy. It is as good as the model that
    judges."""
    services.lifecycle.check()
    body = await read_json(request, ModerationRequest, limit_bytes=services.limits.max_body_bytes)
    texts = _texts(body)
    model = served_model(services, caller, _model_name(body, services))
    verdicts = await unless_disconnected(request.receive, _verdicts(services, caller, model, texts))
    if verdicts is None:
        return Response(status_code=499)
    reply = {
        "id": "modr-" + secrets.token_hex(12),
        "model": model.id,
        "results": [_result(verdict) for verdict in verdicts],
        "usage": usage_record(
            Usage(
                sum(verdict.usage.prompt_tokens for verdict in verdicts),
                sum(verdict.usage.completion_tokens for verdict in verdicts),
                sum(verdict.usage.cached_tokens for verdict in verdicts),
            )
        ),
    }
    return JSONResponse(reply, headers=turn_headers(model.id))


def _texts(body: ModerationRequest) -> list[str]:
    if isinstance(body.input, str):
        return [body.input]
    texts = [part for part in body.input if isinstance(part, str)]
    parts = [part for part in body.input if isinstance(part, ModerationPart)]
    joined = "\n\n".join(_part(part, f"input[{index}]") for index, part in enumerate(parts))
    return [joined] if parts else texts


def _part(part: ModerationPart, where: str) -> str:
    if part.type != "text":
        raise UnsupportedError(
            f"'{where}' is of type '{part.type[:64]}', but this model reads text only.",
            param=f"{where}.type",
        )
    if part.text is None:
        raise missing(f"{where}.text")
    return part.text


def _model_name(body: ModerationRequest, services: Services) -> str:
    if body.model is None or _OPENAIS.fullmatch(body.model):
        return next(iter(services.registry)).id
    return body.model


async def _verdicts(
    services: Services, caller: Caller, model: ServedModel, texts: list[str]
) -> list[Verdict]:
    judge, run = services.judge, judge_turns(services, caller, model, protocol="moderations")
    together = asyncio.Semaphore(_TOGETHER)

    async def window(text: str) -> Verdict:
        async with together:
            return await judge.judge(
                model,
                text,
                run,
                request_id="modr_" + secrets.token_hex(12),
                tenant=caller.tenant,
            )

    async def whole(text: str) -> Verdict:
        windows = await judge.windows(model, text)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(window(piece)) for piece in windows]
        return judge.merged([task.result() for task in tasks])

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(whole(text)) for text in texts]
    except ExceptionGroup as failures:
        raise _first(failures) from failures
    return [task.result() for task in tasks]


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    failure: Exception = failures
    while isinstance(failure, ExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _result(verdict: Verdict) -> dict[str, Any]:
    return {
        "flagged": bool(verdict.flagged),
        "categories": {name: name in verdict.flagged for name in CATEGORIES},
        "category_scores": {name: verdict.scores.get(name, 0.0) for name in CATEGORIES},
        "category_applied_input_types": {
            name: ["text"] if name in verdict.scores else [] for name in CATEGORIES
        },
    }
