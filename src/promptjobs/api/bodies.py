"""JSON in and out: bodies are read strictly, and written by orjson."""

import json
import math
import re
from typing import Any, NoReturn

import orjson
from fastapi import Request
from starlette.responses import Response

from promptjobs.errors import BodyTooLarge, InvalidRequest, MalformedJson, UnsupportedMediaType
from promptjobs.errors.shown import MAX_SHOWN

MAX_BODY_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_INTEGER = 2**53
"""The largest integer that every JSON reader keeps exactly."""

UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


class JsonResponse(Response):
    """A body of dicts, lists, dataclasses, datetimes, and JSON texts as orjson.Fragment."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)


async def json_object(request: Request) -> dict[str, Any]:
    """The request's body, which must be a JSON object; without a body an empty one.

    Its type must be declared: a page in a browser can send other types to this machine without asking it first.
    Raises BodyTooLarge, MalformedJson, UnsupportedMediaType, InvalidRequest.
    """
    body = await _limited(request)
    if not body:
        return {}
    declared = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if declared != "application/json" and not (declared.startswith("application/") and declared.endswith("+json")):
        raise UnsupportedMediaType(f"the body must be application/json, got {declared[:MAX_SHOWN] or 'no type'}")
    value = strict_json(body)
    if not isinstance(value, dict):
        raise InvalidRequest(f"expected a JSON object, got {type(value).__name__}", "body")
    return value


async def _limited(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(MAX_BODY_BYTES)
    return bytes(body)


def strict_json(body: bytes) -> Any:
    """Parse `body` as JSON that can be stored and read back unchanged.

    Raises MalformedJson for what is no JSON; InvalidRequest for more than MAX_DEPTH levels, NaN, infinities, integers
    beyond 2^53, NUL and lone surrogates.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as wrong:
        raise MalformedJson(f"the body is not UTF-8: byte {wrong.start}") from wrong
    except json.JSONDecodeError as wrong:
        raise MalformedJson(f"the body is not JSON: {wrong}") from wrong
    except RecursionError as wrong:
        raise InvalidRequest(f"nested deeper than {MAX_DEPTH} levels", "body") from wrong
    except ValueError as wrong:
        raise InvalidRequest("an integer has thousands of digits", "body") from wrong
    try:
        _check(value, MAX_DEPTH)
    except _Refused as refused:
        path = ".".join(["body", *reversed(refused.path)])
        raise InvalidRequest(refused.why, path.encode("ascii", "backslashreplace").decode()) from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not JSON: numbers must be finite", "body")


class _Refused(Exception):
    """Collects its path, innermost name first, on the way up: a body without fault pays nothing for it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path: list[str] = []


def _check(value: Any, levels: int) -> None:
    """levels: how many levels of nesting may follow. The order of the cases is that of their frequency."""
    kind = type(value)
    if kind is str:
        if UNSTORABLE.search(value):
            raise _Refused("text must not hold NUL or lone surrogates")
    elif kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise _Refused("integers must be between -2^53 and 2^53")
    elif kind is dict or kind is list:
        if levels == 0:
            raise _Refused(f"nested deeper than {MAX_DEPTH} levels")
        _check_inside(value, levels - 1)
    elif kind is float and math.isinf(value):
        raise _Refused("numbers must be finite")


def _check_inside(container: dict[str, Any] | list[Any], levels: int) -> None:
    items = container.items() if isinstance(container, dict) else enumerate(container)
    name: str | int = ""
    try:
        for name, inner in items:
            if isinstance(name, str):
                _check(name, levels)
            _check(inner, levels)
    except _Refused as refused:
        refused.path.append(str(name)[:MAX_SHOWN])
        raise
