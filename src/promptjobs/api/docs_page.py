"""The page at /docs: Swagger UI from this machine alone, under a policy that lets nothing else in."""

from functools import cache
from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)

MONTH_SECONDS = 30 * 24 * 3600

# Swagger UI sets style attributes and styles of its own; scripts come from this address only, none from the page.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

INSTALLED = version("fastapi-offline")
"""Stands in the addresses of the files, so that no browser keeps those of another version."""

PAGE = f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>promptjobs API</title>
<link rel="icon" href="docs/static/favicon.png?{INSTALLED}">
<link rel="stylesheet" href="docs/static/swagger-ui.css?{INSTALLED}">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/static/swagger-ui-bundle.js?{INSTALLED}"></script>
<script src="docs/static/start.js"></script>
</body>
</html>
"""

START = """\
SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).pathname,
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  showExtensions: false,
  tryItOutEnabled: false,
  validatorUrl: null,
});
"""

MEDIA_TYPES = {
    "favicon.png": "image/png",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}
"""The files of Swagger UI, which an installed package holds."""


@router.get("/docs")
async def show_docs() -> Response:
    """What every operation takes and answers, to be tried out."""
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY, "cache-control": "no-cache"})


@router.get("/docs/static/{name}")
async def read_static(name: str) -> Response:
    """A file of the page."""
    if name == "start.js":
        return Response(START, media_type="text/javascript", headers={"cache-control": "no-cache"})
    if name not in MEDIA_TYPES:
        raise HTTPException(404)
    headers = {"cache-control": f"public, max-age={MONTH_SECONDS}, immutable"}
    return Response(_content(name), media_type=MEDIA_TYPES[name], headers=headers)


@cache
def _content(name: str) -> bytes:
    return (files("fastapi_offline") / "static" / name).read_bytes()
