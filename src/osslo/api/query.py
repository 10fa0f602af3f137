"""Query strings, checked against a schema as bodies are: no unknown names, errors that name them.

`name[key]=value` fills a mapping, `name=a&name=b` and `name[]=a` a list, as OpenAI's clients write
them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request

from osslo.api.body import StrictSchema, as_request_error
from osslo.errors import RequestError

S = TypeVar("S", bound=BaseModel)

MAX_PAGE = 100
_NESTED = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")


class PageQuery(StrictSchema):
    """Which part of a list, as OpenAI's lists take it."""

    after: str | None = Field(None, max_length=256, description="The id that the page follows.")
    limit: int = Field(20, ge=1, le=MAX_PAGE, description="How many, at most.")


def read_query(request: Request, schema: type[S]) -> S:
    """The query of `request` as a `schema`. Raises `RequestError` naming the parameter."""
    data = _parse(request.query_params.multi_items(), schema)
    try:
        return schema.model_validate(data, strict=False)  # numbers and flags come as text
    except ValidationError as error:
        raise as_request_error(error, data) from None


def _parse(items: Sequence[tuple[str, str]], schema: type[BaseModel]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, value in items:
        nested = _NESTED.fullmatch(name)
        base, key = (nested[1], nested[2]) if nested else (name, None)
        if key:
            mapping = data.setdefault(base, {})
            if not isinstance(mapping, dict):
                raise _twice(base)
            mapping[key] = value
        elif _is_list(schema, base):
            data.setdefault(base, []).append(value)
        elif base in data:
            raise _twice(base)
        else:
            data[base] = value
    return data


def _is_list(schema: type[BaseModel], name: str) -> bool:
    field = schema.model_fields.get(name)
    if field is None:
        return False
    annotation: Any = field.annotation
    branches = (annotation, *getattr(annotation, "__args__", ()))
    return any(get_origin(branch) is list for branch in branches)


def _twice(name: str) -> RequestError:
    return RequestError(f"'{name[:64]}' is given more than once.", param=name[:64])
