"""Foreign JSON: parsed with limits, so that what comes out can be stored and shown."""

import json
import math
import re
from typing import Any

import orjson

from promptjobs.errors import InvalidReply

MAX_DEPTH = 64
NOT_FINITE = re.compile(rb"NaN|Infinity|[eE]\+?\d{3,}")
"""Numbers that strict JSON lacks but that common servers send."""


def read_json(body: bytes, url: str) -> Any:
    """The value of a JSON body; `url` (as it may be shown) only names the sender in errors.

    NaN, Infinity and numbers beyond a float come out as strings, so that they pass for no number; U+0000 comes out as
    U+FFFD, because no database text can hold it. Raises InvalidReply for anything that is no JSON, for lone
    surrogates and for more than 64 levels.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        if not NOT_FINITE.search(body):
            raise InvalidReply(url, _not_json(body, exc)) from exc
        value = _read_leniently(body, url)
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(value, url)
    return _without_nul(value) if b"\\u0000" in body else value


def _read_leniently(body: bytes, url: str) -> Any:
    try:
        value = json.loads(body.decode(), parse_constant=str, parse_float=_float_or_text)
        orjson.dumps(value)  # refuses lone surrogates, which this parser lets through
    except (ValueError, RecursionError, orjson.JSONEncodeError) as exc:
        raise InvalidReply(url, _not_json(body, exc)) from exc
    return value


def _float_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _not_json(body: bytes, exc: Exception) -> str:
    start = body[:200].lstrip().lower()
    if not start:
        return "it is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is HTML, not JSON"
    return f"it is not JSON ({str(exc)[:100]})"


def _check_depth(value: Any, url: str) -> None:
    level = [value] if type(value) in (dict, list) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) in (dict, list)
        ]
        if not level:
            return
    raise InvalidReply(url, f"it is nested more than {MAX_DEPTH} levels deep")


def _without_nul(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\x00", "\ufffd")
        case list():
            return [_without_nul(item) for item in value]
        case dict():
            return {_without_nul(key): _without_nul(item) for key, item in value.items()}
        case _:
            return value
