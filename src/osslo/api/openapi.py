"""The OpenAPI document: how a route says what it takes and gives, and how it all comes together.

Routes here read their own bodies and answer with plain responses, so FastAPI cannot know their
shapes. Each declares them with `openapi_extra=operation(...)`; `install_openapi` turns that into
one OpenAPI 3.1 document, with every schema under a name of its own. Swagger UI is `docs`' subject.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from osslo.api.body import REFUSED_MARK
from osslo.api.shapes import ErrorReply

GENERATION_ERRORS = (400, 401, 403, 404, 413, 422, 429, 500, 503)
"""What a route that generates may answer with."""

ERRORS = (400, 401, 403, 404, 429, 500)
"""What any other route may answer with."""

PUBLIC_ERRORS = (400,)

_MEANINGS: Mapping[int, str] = {
    400: "The request is wrong; `param` names where.",
    401: "No key, or a wrong one.",
    403: "The key may not do this.",
    404: "No such thing.",
    409: "In conflict with the thing's state.",
    413: "The body is too large.",
    422: "The `Idempotency-Key` was used before, with another request.",
    429: "Too many requests, or no quota left; see Retry-After.",
    500: "The server failed; the request id helps to find out why.",
    503: "The server is full, loading or shutting down; see Retry-After.",
    529: "The server is full, loading or shutting down; see Retry-After.",
}

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same request gives the same answer, for some minutes.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}

SECURITY_SCHEMES: Mapping[str, Mapping[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer sk-…"},
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same key, as Anthropic's clients send it.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "osslo_session",
        "description": "A signed-in browser; what changes something also needs x-csrf-token.",
    },
}

REFS = "#/components/schemas/"
_CLASH = re.compile(r"osslo__api__(?P<package>\w+?)(?:__\w+?)??__(?P<name>[A-Z]\w*)$")

Media = Mapping[str, "type[BaseModel] | Mapping[str, Any] | None"]
BodyMedia = Literal["application/json", "multipart/form-data"]


@dataclass(frozen=True, slots=True)
class Shapes:
    """What one route takes and gives. `replies` are by media type; None stands for any bytes."""

    body: type[BaseModel] | None
    body_media: BodyMedia
    query: type[BaseModel] | None
    replies: Media
    status: int
    description: str
    errors: tuple[int, ...]
    error: type[BaseModel]
    example: Mapping[str, Any] | None
    public: bool
    idempotent: bool

    def models(self) -> Iterator[type[BaseModel]]:
        """Every model that the document must define."""
        for shape in (self.body, self.query, self.error, *self.replies.values()):
            if isinstance(shape, type):
                yield shape


class Operation(dict[str, Any]):
    """Carries `Shapes` through FastAPI's `openapi_extra`, which has to be a dict."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes


def operation(
    *,
    body: type[BaseModel] | None = None,
    body_media: BodyMedia = "application/json",
    query: type[BaseModel] | None = None,
    reply: type[BaseModel] | None = None,
    stream: type[BaseModel] | None = None,
    media: Media | None = None,
    status: int = 200,
    description: str = "The answer.",
    errors: tuple[int, ...] = ERRORS,
    error: type[BaseModel] = ErrorReply,
    example: Mapping[str, Any] | None = None,
    public: bool = False,
    idempotent: bool = False,
) -> Operation:
    """What a route documents, for `openapi_extra`.

    `body` is read from `body_media`; `query` is a model whose fields are query parameters (see
    `osslo.api.query`). `reply` is the JSON that comes back with `status`, `stream` the data of one
    server-sent event, `media` any other reply by its media type (a model, a schema, or None for
    bytes). `errors` are the statuses that come in `error`'s shape. `example` is a body to try.
    `public` needs no key; `idempotent` says that the route takes an `Idempotency-Key`.
    """
    replies: dict[str, type[BaseModel] | Mapping[str, Any] | None] = {}
    if reply is not None:
        replies["application/json"] = reply
    if stream is not None:
        replies["text/event-stream"] = stream
    return Operation(
        Shapes(
            body=body,
            body_media=body_media,
            query=query,
            replies=replies | dict(media or {}),
            status=status,
            description=description,
            errors=errors,
            error=error,
            example=example,
            public=public,
            idempotent=idempotent,
        )
    )


def shapes_of(route: APIRoute) -> Shapes | None:
    """What `route` documents; None if it declares nothing."""
    extra = route.openapi_extra
    return extra.shapes if isinstance(extra, Operation) else None


def documented_routes(routers: Iterable[APIRouter]) -> Iterator[APIRoute]:
    """The routes of `routers` that belong into the document."""
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                yield route


def install_openapi(
    app: FastAPI, routers: Iterable[APIRouter], *, tags: Mapping[str, str], server: str = "/"
) -> None:
    """Let `app.openapi()` give the document of `routers`. `tags` say what each group of routes is;
    `server` is the base URL that tools send requests to."""
    routes = tuple(documented_routes(routers))

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                license_info=app.license_info,
                routes=app.routes,
                tags=[{"name": name, "description": text} for name, text in tags.items()],
                servers=[{"url": server}],
            )
            _complete(document, routes)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


# --- putting it together ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Schemas:
    """Every model's definition, by the name that the document gives it."""

    names: Mapping[type[BaseModel], str]
    definitions: Mapping[str, Any]

    @classmethod
    def of(cls, models: Iterable[type[BaseModel]]) -> _Schemas:
        wanted = list(dict.fromkeys(models))
        refs, document = models_json_schema(
            [(model, "validation") for model in wanted], ref_template=REFS + "{model}"
        )
        given = {model: refs[model, "validation"]["$ref"].removeprefix(REFS) for model in wanted}
        definitions = document.get("$defs", {})
        short = {name: _short(name) for name in definitions}
        if len(set(short.values())) != len(short):
            raise AssertionError("two schemas of the document share a name")
        return cls(
            {model: short[name] for model, name in given.items()},
            {
                short[name]: _titled(_taken(_renamed(schema, short)), short[name])
                for name, schema in definitions.items()
            },
        )

    def ref(self, shape: type[BaseModel] | Mapping[str, Any] | None) -> dict[str, Any]:
        if shape is None:
            return {"type": "string", "format": "binary"}
        if isinstance(shape, Mapping):
            return dict(shape)
        return {"$ref": REFS + self.names[shape]}


def _short(name: str) -> str:
    """A readable name for what pydantic calls by its module, because two classes share a name."""
    clash = _CLASH.fullmatch(name)
    if clash is None:
        return name
    package = "".join(word.capitalize() for word in clash["package"].split("_"))
    return package + clash["name"]


def _taken(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` without the properties that are always refused."""
    properties = schema.get("properties")
    if properties is None:
        return schema
    kept = {name: field for name, field in properties.items() if REFUSED_MARK not in field}
    return {**schema, "properties": kept}


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """References by the short names, those that discriminators map to among them."""
    if isinstance(node, dict):
        return {key: _renamed(value, names) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(item, names) for item in node]
    if isinstance(node, str) and node.startswith(REFS):
        return REFS + names[node.removeprefix(REFS)]
    return node


def _titled(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """Generators name their classes by the title, and two of one name are lost."""
    return schema | {"title": name}


def _complete(document: dict[str, Any], routes: tuple[APIRoute, ...]) -> None:
    """Put what routes declare in the place of what FastAPI guessed."""
    declared = [(route, shapes) for route in routes if (shapes := shapes_of(route)) is not None]
    schemas = _Schemas.of(model for _, shapes in declared for model in shapes.models())
    components = document.setdefault("components", {})
    queries = {schemas.names[shapes.query] for _, shapes in declared if shapes.query is not None}
    components["schemas"] = components.get("schemas", {}) | {
        name: schema for name, schema in schemas.definitions.items() if name not in queries
    }
    components["securitySchemes"] = {name: dict(s) for name, s in SECURITY_SCHEMES.items()}
    document["security"] = [{name: []} for name in SECURITY_SCHEMES]
    for route, shapes in declared:
        for method in route.methods or ():
            item = document["paths"][route.path_format][method.lower()]
            _fill(item, shapes, schemas)
    if REFS + "HTTPValidationError" not in str(document["paths"]):
        for unused in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(unused, None)


def _fill(item: dict[str, Any], shapes: Shapes, schemas: _Schemas) -> None:
    parameters = [*item.get("parameters", []), *_query_parameters(shapes.query, schemas)]
    if shapes.idempotent:
        parameters.append(dict(_IDEMPOTENCY_KEY))
    if parameters:
        item["parameters"] = parameters
    if shapes.body is not None:
        content: dict[str, Any] = {"schema": schemas.ref(shapes.body)}
        if shapes.body_media == "multipart/form-data":
            content["encoding"] = _form_encoding(shapes.body, schemas)
        if shapes.example is not None:
            content["example"] = dict(shapes.example)
        item["requestBody"] = {"required": True, "content": {shapes.body_media: content}}
    if shapes.public:
        item["security"] = []
    item["responses"] = _responses(shapes, schemas)


def _responses(shapes: Shapes, schemas: _Schemas) -> dict[str, Any]:
    good: dict[str, Any] = {"description": shapes.description}
    if shapes.replies:
        good["content"] = {
            media: {"schema": schemas.ref(shape)} for media, shape in shapes.replies.items()
        }
    responses = {str(shapes.status): good}
    for status in shapes.errors:
        responses[str(status)] = {
            "description": _MEANINGS.get(status) or HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": schemas.ref(shapes.error)}},
        }
    return responses


def _query_parameters(query: type[BaseModel] | None, schemas: _Schemas) -> list[dict[str, Any]]:
    """One parameter for each field of `query`."""
    if query is None:
        return []
    schema = schemas.definitions[schemas.names[query]]
    required = schema.get("required", [])
    parameters: list[dict[str, Any]] = []
    for name, field in schema.get("properties", {}).items():
        shape = _without_null(field)
        parameter = {"name": name, "in": "query", "required": name in required}
        if "description" in shape:
            parameter["description"] = shape.pop("description")
        if _holds(shape, "object"):
            parameter |= {"style": "deepObject", "explode": True}
        parameters.append({**parameter, "schema": shape})
    return parameters


def _without_null(field: Mapping[str, Any]) -> dict[str, Any]:
    """What a query string can say: it has no null, and a parameter that is left out no default."""
    branches = [branch for branch in field.get("anyOf", ()) if branch.get("type") != "null"]
    shape = {key: value for key, value in field.items() if key != "anyOf"}
    if shape.get("default", ...) is None:
        del shape["default"]
    if len(branches) == 1:
        return {**branches[0], **shape}
    return {**shape, "anyOf": branches} if branches else shape


def _form_encoding(form: type[BaseModel], schemas: _Schemas) -> dict[str, Any]:
    """How a form writes its objects: `name[key]=value`, as a query does."""
    properties = schemas.definitions[schemas.names[form]]["properties"]
    return {
        name: {"style": "deepObject", "explode": True}
        for name, field in properties.items()
        if any("$ref" in branch for branch in (field, *field.get("anyOf", ())))
    }


def _holds(shape: Mapping[str, Any], kind: str) -> bool:
    branches = [shape, *shape.get("anyOf", [])]
    return any(branch.get("type") == kind for branch in branches)
