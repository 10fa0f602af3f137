"""The API's documentation in a browser: Swagger UI, from assets on this machine."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
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
