"""The API's documentation in a browser: Swagger UI, from assets on this machine, under a policy
that allows no others and no inline script."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, Response

from osslo.errors import NotFoundError

router = APIRouter(include_in_schema=False)

DOCS_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_ASSETS_PACKAGE = "fastapi_offline"
_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_CACHED = {"cache-control": "max-age=86400"}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Osslo API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<main id="swagger-ui"></main>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/start.js"></script>
</body>
</html>
"""

_START = "start.js"
_START_SCRIPT = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
});
"""


@router.get("/docs")
async def swagger_ui() -> HTMLResponse:
    """Swagger UI, without a CDN."""
    return HTMLResponse(_PAGE, headers={"content-security-policy": DOCS_SECURITY_POLICY})


@router.get("/docs/assets/{name}")
async def swagger_asset(name: str) -> Response:
    """One of Swagger UI's files, from the package that carries them; or what starts it."""
    if name == _START:
        return Response(_START_SCRIPT, media_type="text/javascript", headers=_CACHED)
    if name not in _ASSETS:
        raise NotFoundError(f"There is no asset {name!r}.", code="unknown_url")
    path = str(files(_ASSETS_PACKAGE).joinpath("static", name))
    return FileResponse(path, media_type=_ASSETS[name], headers=_CACHED)
