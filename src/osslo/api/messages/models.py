"""`/v1/models` as Anthropic's clients read it; `osslo.api.models` decides who gets which shape."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from pydantic import Field

from osslo.api.body import StrictSchema
from osslo.api.query import read_query
from osslo.api.services import Services
from osslo.chat.models import ServedModel
from osslo.errors import RequestError

_YES = {"supported": True}
_NO = {"supported": False}


class ModelsQuery(StrictSchema):
    """Which part of the list."""

    limit: int = Field(20, ge=1, le=1000)
    after_id: str | None = Field(None, max_length=256)
    before_id: str | None = Field(None, max_length=256)
    lifecycle: list[str] = Field([], max_length=3, description="All models are active.")


def model_page(request: Request, services: Services) -> dict[str, Any]:
    """One page of the names, in the order in which OpenAI's list has them. Raises `RequestError`
    for a bad query or a cursor that is no name."""
    query = read_query(request, ModelsQuery)
    names = list(services.registry.names().items())
    if query.lifecycle and "active" not in query.lifecycle:
        names = []
    begin = _place(names, query.after_id, "after_id", 0, step=1)
    end = _place(names, query.before_id, "before_id", len(names), step=0)
    inside = names[begin:end]
    backwards = query.before_id is not None and query.after_id is None
    page = inside[-query.limit :] if backwards else inside[: query.limit]
    return {
        "data": [model_info(name, model, services) for name, model in page],
        "has_more": len(page) < len(inside),
        "first_id": page[0][0] if page else None,
        "last_id": page[-1][0] if page else None,
    }


def model_info(name: str, model: ServedModel, services: Services) -> dict[str, Any]:
    """What there is to know of one name."""
    return {
        "type": "model",
        "id": name,
        "display_name": name if name == model.id else f"{name} ({model.id})",
        "created_at": datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": model.context_tokens,
        "max_tokens": min(model.context_tokens, services.limits.max_output_tokens),
        "capabilities": _capabilities(model),
    }


def _place(
    names: list[tuple[str, ServedModel]], cursor: str | None, param: str, default: int, *, step: int
) -> int:
    if cursor is None:
        return default
    for place, (name, _) in enumerate(names):
        if name == cursor:
            return place + step
    raise RequestError(f"'{param}' is {cursor!r}, which is no model here.", param=param)


def _capabilities(model: ServedModel) -> dict[str, Any]:
    reasons = _YES if model.reasons else _NO
    return {
        "batch": _NO,
        "citations": _NO,
        "code_execution": _NO,
        "context_management": {
            **_YES,
            "clear_thinking_20251015": _YES,
            "clear_tool_uses_20250919": _NO,
            "compact_20260112": _NO,
        },
        "effort": {**_YES, **dict.fromkeys(("low", "medium", "high", "xhigh", "max"), _YES)},
        "image_input": _NO,
        "pdf_input": _NO,
        "server_tools": {**_NO, "code_execution": _NO, "web_search": _NO},
        "structured_outputs": _YES,
        "thinking": {
            **reasons,
            "types": {
                "adaptive": _YES,
                "between_tools": _NO,
                "disabled": _YES,
                "enabled": _YES,
            },
        },
    }
