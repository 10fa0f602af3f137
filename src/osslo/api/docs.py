"""The API's documentation: the OpenAPI document, and Swagger UI from assets on this machine."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import FileResponse, HTMLResponse

from osslo.errors import NotFoundError

router = APIRouter(include_in_schema=False)

_ASSETS_PACKAGE = "fastapi_offline"
_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_EMPTY_ICON = "data:,"


@router.get("/docs")
async def swagger_ui(request: Request) -> HTMLResponse:
    """Swagger UI, without a CDN."""
    return get_swagger_ui_html(
        openapi_url=str(request.app.openapi_url),
        title=request.app.title,
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url=_EMPTY_ICON,
    )


@router.get("/docs/assets/{name}")
async def swagger_asset(name: str) -> FileResponse:
    """One of Swagger UI's files, from the package that carries them."""
    if name not in _ASSETS:
        raise NotFoundError(f"There is no asset {name!r}.", code="unknown_url")
    path = str(files(_ASSETS_PACKAGE).joinpath("static", name))
    return FileResponse(path, media_type=_ASSETS[name], headers={"cache-control": "max-age=86400"})


def install_openapi(app: FastAPI, schemas: tuple[type[BaseModel], ...]) -> None:
    """Let `app.openapi()` also hold `schemas`, which routes that read their own body refer to."""
    prefix = "#/components/schemas/{model}"
    _, definitions = models_json_schema(
        [(schema, "validation") for schema in schemas], ref_template=prefix
    )

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components.update(definitions.get("$defs", {}))
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
