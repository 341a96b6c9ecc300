"""A request as both clients send it: method, path, query, body, and how its answer is read."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from promptjobs.sdk.answers import Json, Page, Reply, read_nothing, read_page

T = TypeVar("T")

Query = tuple[tuple[str, str], ...]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

IDEMPOTENCY_HEADER = "idempotency-key"
MAX_PAGE = 200
"""Items that the service answers at a time, at most."""


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """What is sent. path: below the service's URL, escaped. read: makes the answer a value, or raises its error.

    What only reads may be sent again after a failure, and so may what carries an idempotency key: the service carries
    it out once and repeats its answer.
    """

    method: Method
    path: str
    read: Callable[[Reply], T]
    query: Query = ()
    body: Json | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_repeatable(self) -> bool:
        return self.method == "GET" or IDEMPOTENCY_HEADER in self.headers


@dataclass(frozen=True, slots=True)
class Listing:
    """A list that comes in pages. limit: so many items in all; None for every one."""

    first: Request[Page]
    limit: int | None

    def page_of(self, query: Query, taken: int) -> Request[Page]:
        """The request for a page. taken: so many items have come before it."""
        size = MAX_PAGE if self.limit is None else min(MAX_PAGE, self.limit - taken)
        kept = tuple((name, value) for name, value in query if name != "limit")
        return replace(self.first, query=(*kept, ("limit", str(size))))


class Pages:
    """Walks through a listing, without any IO: asks for pages until there is none, or the limit is reached."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._taken = 0
        self.next: Request[Page] | None = None
        if listing.limit is None or listing.limit > 0:
            self.next = listing.page_of(listing.first.query, 0)

    def received(self, page: Page) -> list[Json]:
        """The page's items, as far as they are wanted; `next` is the request for the page behind it."""
        limit = self._listing.limit
        items = page.items if limit is None else page.items[: limit - self._taken]
        self._taken += len(items)
        is_done = page.next_query is None or not items or (limit is not None and self._taken >= limit)
        self.next = None if is_done or page.next_query is None else self._listing.page_of(page.next_query, self._taken)
        return items


def listing(path: str, limit: int | None, **query: object) -> Listing:
    return Listing(Request("GET", path, read_page, query=query_of(**query)), limit)


def streamed(path: str, cursor: str) -> Request[None]:
    """A stream of events behind the one of that id. Its answer is read as it comes, and not as a whole."""
    resumed = {"last-event-id": cursor} if cursor else {}
    return Request("GET", path, read_nothing, headers={"accept": "text/event-stream", **resumed})


def query_of(**values: object) -> Query:
    """The values that are given, as text; None leaves one out."""
    return tuple((name, _written(value)) for name, value in values.items() if value is not None)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def body_of(**values: Any) -> Json:
    """The values that are given: the service has its own defaults for the others."""
    return {name: value for name, value in values.items() if value is not None}


def keyed(idempotency_key: str | None) -> dict[str, str]:
    """The header under which the service carries a request out once, however often it is sent."""
    return {IDEMPOTENCY_HEADER: idempotency_key or str(uuid.uuid4())}


def below(*parts: str) -> str:
    """A path below a collection's; whatever a part holds, it leads nowhere else."""
    return "".join(f"/{_escaped(part)}" for part in parts)


def _escaped(part: str) -> str:
    escaped = quote(part, safe="")
    # `.` and `..` would be taken for steps, and resolved before the request is sent.
    return escaped.replace(".", "%2E") if escaped in (".", "..") else escaped
