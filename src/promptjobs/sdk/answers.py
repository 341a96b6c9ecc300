"""Reads the service's answers: the one place where an HTTP answer becomes a value or an error."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from promptjobs.errors.client import (
    ApiError,
    AuthenticationError,
    BalanceError,
    ClientError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
    ServerError,
    UnexpectedAnswer,
)

Json = dict[str, Any]

ERRORS: Mapping[int, type[ApiError]] = {
    401: AuthenticationError,
    402: BalanceError,
    403: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}
FAILING = 500
"""From this status on it is the service, or what stands before it, that has failed, whoever says so."""

NEXT_LINK = re.compile(r'<([^<>]*)>\s*;\s*rel="?next"?')


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. url: the service's, for errors. headers: with names in lower case."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Page:
    """Items of a list. next_query: what asks for the page behind it; None for the last one."""

    items: list[Json]
    next_query: tuple[tuple[str, str], ...] | None


def error_of(reply: Reply) -> ClientError:
    """What an answer other than 2xx means. Below 500 only a problem of our own service is a refusal."""
    try:
        problem = json.loads(reply.content)
    except ValueError:
        problem = None
    is_ours = isinstance(problem, dict) and isinstance(problem.get("code"), str)
    if not is_ours and reply.status < FAILING:
        return UnexpectedAnswer(reply.url, f"HTTP {reply.status}, which is no answer of promptjobs")
    if not is_ours:
        problem = {"code": "http_error", "detail": f"HTTP {reply.status}, which is no answer of promptjobs"}
    kind = ServerError if reply.status >= FAILING else ERRORS.get(reply.status, InvalidRequestError)
    return kind(
        reply.status,
        problem["code"],
        _text(problem.get("detail")) or "no reason given",
        _text(problem.get("param")),
        _text(problem.get("request_id")) or _text(reply.headers.get("x-request-id")),
        _seconds(reply.headers.get("retry-after")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _seconds(retry_after: str | None) -> float | None:
    """Of a `Retry-After`: seconds, or a date. None where it says neither."""
    if retry_after is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", retry_after):
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


# --- readers: what a successful answer holds, or the error that it is ------------------------------------------------


def checked(reply: Reply) -> Reply:
    """Raises the error that the answer is."""
    if not reply.is_success:
        raise error_of(reply)
    return reply


def _json(reply: Reply) -> Any:
    try:
        return json.loads(checked(reply).content)
    except (ValueError, RecursionError) as error:
        raise UnexpectedAnswer(reply.url, "it answered something that is no JSON") from error


def read_object(reply: Reply) -> Json:
    found = _json(reply)
    if not isinstance(found, dict):
        raise UnexpectedAnswer(reply.url, "it answered something that is no object")
    return found


def read_list(reply: Reply) -> list[Json]:
    """An array of objects."""
    found = _json(reply)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise UnexpectedAnswer(reply.url, "it answered something that is no list")
    return cast(list[Json], found)


def read_page(reply: Reply) -> Page:
    """A bare array, with the next page's cursor in `Link`.

    Of the link only the query counts: the page is asked for where the first one was, whatever the link says.
    """
    items = read_list(reply)
    link = NEXT_LINK.search(reply.headers.get("link", ""))
    query = None if link is None else tuple(parse_qsl(urlsplit(link[1]).query, keep_blank_values=True))
    return Page(items, query)


def read_text(reply: Reply) -> str:
    try:
        return checked(reply).content.decode()
    except UnicodeDecodeError as error:
        raise UnexpectedAnswer(reply.url, "it answered something that is no text") from error


def read_nothing(reply: Reply) -> None:
    if checked(reply).status != 204:
        raise UnexpectedAnswer(reply.url, f"HTTP {reply.status}, which is no answer of promptjobs")


def read_readiness(reply: Reply) -> bool:
    """Whether the service can work; 503 is an answer to that."""
    if reply.status == 503:
        return False
    checked(reply)
    return True
