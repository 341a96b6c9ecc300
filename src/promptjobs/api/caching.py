"""What answers cost to send: ETags of those that do not change any more, and compression.

Bodies are compressed behind this, so tags are weak: they stand for what was said, not for its bytes on the wire.
"""

import hashlib
from typing import Any

from fastapi import Request
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

GZIP_LEAST_BYTES = 8 * 1024
"""A job that runs is shorter: compressing it would cost a quarter of what its reading costs, whenever it is polled."""

GZIP_LEVEL = 5
"""Of zlib: higher levels cost twice the time for a few percent."""

CACHE_CONTROL = "private, no-cache"
"""Kept by the client alone, and asked for again each time: an answer with nothing in it says that it still holds."""

NOT_CHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The job is over, and `If-None-Match` names the answer's `ETag`: it is what the client has."}
}
"""Of every route that answers by `conditional`, for its description."""

KEPT = ("etag", "cache-control", "vary", "link", "content-security-policy")
"""Of the whole answer: a browser puts a 304's headers in place of those it keeps. A policy that is missing here would
become the one of answers that need nothing, and a page would lose its style the second time it is opened."""


def compressed(app: ASGIApp) -> ASGIApp:
    """`app` with its longer answers compressed for who takes that; event streams are not, and large answers are by a
    thread."""
    return GZipMiddleware(app, minimum_size=GZIP_LEAST_BYTES, compresslevel=GZIP_LEVEL)


def conditional(request: Request, response: Response, *, is_over: bool) -> Response:
    """The response with its ETag, or 304 where the client's If-None-Match names it; as it is while the job goes on.

    is_over: of the job that it tells of. The tag follows from the body, so it is never wrong.
    """
    if not is_over:
        return response
    tag = f'W/"{hashlib.blake2b(response.body, digest_size=16).hexdigest()}"'
    response.headers["etag"] = tag
    response.headers["cache-control"] = CACHE_CONTROL
    if not _names(request.headers.getlist("if-none-match"), tag):
        return response
    kept = {name: response.headers[name] for name in KEPT if name in response.headers}
    return Response(status_code=304, headers=kept)


def _names(sent: list[str], tag: str) -> bool:
    """By weak comparison (RFC 9110, section 13.1.2)."""
    known = [each.strip() for line in sent for each in line.split(",")]
    return "*" in known or tag.removeprefix("W/") in (each.removeprefix("W/") for each in known)
