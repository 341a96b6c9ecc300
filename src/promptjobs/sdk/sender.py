"""Sends requests and waits for their answers, one at a time: the IO of `Client`."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from promptjobs.errors.client import ClientError
from promptjobs.sdk.answers import checked
from promptjobs.sdk.connection import Connection
from promptjobs.sdk.following import Ends, OnBreak, Resuming, Waiting
from promptjobs.sdk.requests import Listing, Pages, Request
from promptjobs.sdk.retries import Attempts
from promptjobs.sdk.shapes import Json

T = TypeVar("T")
E = TypeVar("E", bound=Ends)
W = TypeVar("W", bound=Mapping[str, object])


class Sender:
    """Over one client of httpx. http_client: one of the caller's own, which stays open; None for one of ours."""

    def __init__(
        self, connection: Connection, http_client: httpx.Client | None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._connection, self._sleep = connection, sleep
        self._is_ours = http_client is None
        self._http = http_client or httpx.Client(trust_env=connection.trusts_environment)

    def close(self) -> None:
        if self._is_ours:
            self._http.close()

    def send(self, request: Request[T]) -> T:
        """What the answer holds. Raises ApiError, ConnectionFailed."""
        attempts = Attempts(self._connection.retries_of(request))
        while True:
            try:
                return self._sent(request)
            except ClientError as error:
                pause = attempts.pause_after(error)
            self._sleep(pause)

    def _sent(self, request: Request[T]) -> T:
        try:
            response = self._http.request(**self._connection.options(request))
        except httpx.HTTPError as error:
            raise self._connection.failure(error) from error
        return request.read(self._connection.reply(response))

    def items(self, listing: Listing) -> Iterator[Json]:
        """The items of all pages; each page is asked for when it is needed."""
        pages = Pages(listing)
        while pages.next is not None:
            yield from pages.received(self.send(pages.next))

    def follow(
        self, following: Resuming[E], request_of: Callable[[str], Request[None]], on_break: OnBreak | None = None
    ) -> Iterator[E]:
        """What is followed, to its end. request_of: asks for what comes behind a cursor."""
        while not following.is_over:
            following.connect()
            try:
                with self._streamed(request_of(following.cursor)) as response:
                    following.accepted(response.status_code)
                    for chunk in response.iter_bytes():
                        for event in following.received(chunk):
                            yield event
                            if event.is_terminal:
                                return
                following.check_end()
            except ClientError as error:
                broken = following.broke(error)
                if on_break is not None:
                    on_break(broken)
                self._sleep(broken.pause_seconds)

    @contextmanager
    def _streamed(self, request: Request[Any]) -> Iterator[httpx.Response]:
        """A successful response whose body is read in the block."""
        try:
            with self._http.stream(**self._connection.stream_options(request)) as response:
                if not response.is_success:
                    response.read()
                    checked(self._connection.reply(response))
                yield response
        except httpx.HTTPError as error:
            raise self._connection.failure(error) from error

    def wait(self, request: Request[W], waiting: Waiting) -> W:
        while True:
            try:
                found = self._sent(request)
            except ClientError as error:
                self._sleep(waiting.broke(error))
                continue
            pause = waiting.answered(found)
            if pause is None:
                return found
            self._sleep(pause)
