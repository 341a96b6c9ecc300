"""Errors as problem details (RFC 9457): one shape for everything that goes wrong."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from promptjobs.api.bodies import JsonResponse
from promptjobs.api.middleware import request_id_of
from promptjobs.errors import InvalidRequest, PromptjobsError, RateLimited, RequestInProgress
from promptjobs.errors.shown import MAX_SHOWN

PROBLEM = "application/problem+json"
RETRY_SECONDS = 1
HTTP_CODES = {
    400: ("bad_request", "the request could not be read"),
    404: ("not_found", "there is nothing at this address"),
    405: ("method_not_allowed", "this address does not take that method"),
}
WORDS = {
    "missing": "is required",
    "dict_type": "expected an object",
    "list_type": "expected an array",
    "string_type": "expected a string",
    "bool_type": "expected true or false",
    "int_type": "expected an integer",
    "extra_forbidden": "is not a field of this request",
    "too_short": "expected {min_length} or more items, got {actual_length}",
    "too_long": "expected at most {max_length} items, got {actual_length}",
    "string_too_short": "expected {min_length} or more characters",
    "string_too_long": "expected at most {max_length} characters",
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
}
"""Errors of pydantic in the words of JSON, with the facts of their context."""

MOST_TOLD = 3
"""Errors of one request that are told in full."""

OWN = frozenset({"type", "title", "status", "detail", "code", "request_id"})


def install(app: FastAPI) -> None:
    """Have `app` answer every error as a problem."""

    @app.exception_handler(PromptjobsError)
    async def on_own_error(request: Request, error: PromptjobsError) -> Response:
        return own_problem(request, error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> Response:
        return own_problem(request, invalid(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        code, said = HTTP_CODES.get(error.status_code, ("http_error", "the request was refused"))
        detail = f"{said}: {request.method} {request.url.path}"
        headers = {"allow": _allowed(request)} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
        return problem(request, error.status_code, code, detail, headers=headers)

    @app.exception_handler(Exception)
    async def on_defect(request: Request, _: Exception) -> Response:
        return problem(request, 500, "internal_error", "the service has a defect; its log says more")


def _allowed(request: Request) -> str:
    """The methods of the address; where several routes match, of those with the fewest parameters."""
    found: dict[int, set[str]] = {}
    for route in iter_route_contexts(request.app.router.routes):
        pattern, _, parameters = compile_path(route.path or "")
        if pattern.fullmatch(request.scope["path"]):
            found.setdefault(len(parameters), set()).update(route.methods or ())
    return ", ".join(sorted(found[min(found)])) if found else ""


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem that is no error of the tree."""
    body = _body(status, code, detail, request_id_of(request))
    return _response(request, body, headers or {})


def body_of(error: PromptjobsError, request_id: str) -> dict[str, Any]:
    """An error of the tree as JSON. The facts of the service's own failures are the operator's, and stay in the log."""
    is_own = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return _body(error.status, error.code, str(error), request_id, None if is_own else error.facts)


def _body(
    status: int, code: str, detail: str, request_id: str, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "type": f"urn:promptjobs:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        **{name: fact for name, fact in (facts or {}).items() if name not in OWN},
    }


def invalid(errors: list[ErrorDetails]) -> InvalidRequest:
    """What pydantic found, without the values: they may be secrets."""
    first, *others = errors
    told = [f"{_place(each)}: {_said(each)}" for each in others[: MOST_TOLD - 1]]
    if len(others) > len(told):
        told.append(f"and {len(others) - len(told)} more")
    return InvalidRequest("; ".join([_said(first), *told]), _place(first))


def _place(error: ErrorDetails) -> str:
    return ".".join(str(step)[:MAX_SHOWN] for step in error["loc"])


def _said(error: ErrorDetails) -> str:
    words = WORDS.get(error["type"])
    return error["msg"].removeprefix("Value error, ") if words is None else words.format(**error.get("ctx", {}))


def own_problem(request: Request, error: PromptjobsError) -> Response:
    return _response(request, body_of(error, request_id_of(request)), _headers(error))


def _response(request: Request, body: dict[str, Any], headers: Mapping[str, str]) -> Response:
    """It is problem+json only where the client names that: others parse application/json."""
    media_type = PROBLEM if PROBLEM in request.headers.get("accept", "") else "application/json"
    return JsonResponse(body, status_code=body["status"], headers=dict(headers), media_type=media_type)


def _headers(error: PromptjobsError) -> dict[str, str]:
    match error:
        case RateLimited():
            return {"retry-after": str(math.ceil(error.retry_after_seconds))}
        case RequestInProgress():
            return {"retry-after": str(RETRY_SECONDS)}
    match error.status:
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return {"retry-after": str(RETRY_SECONDS)}
        case HTTPStatus.UNAUTHORIZED:
            return {"www-authenticate": "Bearer"}
        case _:
            return {}
