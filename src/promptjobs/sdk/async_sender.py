"""Sends requests without blocking the event loop: the IO of `AsyncClient`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
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


class AsyncSender:
    """Over one client of httpx. http_client: one of the caller's own, which stays open; None for one of ours."""

    def __init__(
        self,
        connection: Connection,
        http_client: httpx.AsyncClient | None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._connection, self._sleep = connection, sleep
        self._is_ours = http_client is None
        self._http = http_client or httpx.AsyncClient(trust_env=connection.trusts_environment)

    async def close(self) -> None:
        if self._is_ours:
            await self._http.aclose()

    async def send(self, request: Request[T]) -> T:
        """What the answer holds. Raises ApiError, ConnectionFailed."""
        attempts = Attempts(self._connection.retries_of(request))
        while True:
            try:
                return await self._sent(request)
            except ClientError as error:
                pause = attempts.pause_after(error)
            await self._sleep(pause)

    async def _sent(self, request: Request[T]) -> T:
        try:
            response = await self._http.request(**self._connection.options(request))
        except httpx.HTTPError as error:
            raise self._connection.failure(error) from error
        return request.read(self._connection.reply(response))

    async def items(self, listing: Listing) -> AsyncIterator[Json]:
        """The items of all pages; each page is asked for when it is needed."""
        pages = Pages(listing)
        while pages.next is not None:
            for item in pages.received(await self.send(pages.next)):
                yield item

    async def follow(
        self, following: Resuming[E], request_of: Callable[[str], Request[None]], on_break: OnBreak | None = None
    ) -> AsyncIterator[E]:
        """What is followed, to its end. request_of: asks for what comes behind a cursor."""
        while not following.is_over:
            following.connect()
            try:
                async with self._streamed(request_of(following.cursor)) as response:
                    following.accepted(response.status_code)
                    async for chunk in response.aiter_bytes():
                        for event in following.received(chunk):
                            yield event
                            if event.is_terminal:
                                return
                following.check_end()
            except ClientError as error:
                broken = following.broke(error)
                if on_break is not None:
                    on_break(broken)
                await self._sleep(broken.pause_seconds)

    @asynccontextmanager
    async def _streamed(self, request: Request[Any]) -> AsyncIterator[httpx.Response]:
        """A successful response whose body is read in the block."""
        try:
            async with self._http.stream(**self._connection.stream_options(request)) as response:
                if not response.is_success:
                    await response.aread()
                    checked(self._connection.reply(response))
                yield response
        except httpx.HTTPError as error:
            raise self._connection.failure(error) from error

    async def wait(self, request: Request[W], waiting: Waiting) -> W:
        while True:
            try:
                found = await self._sent(request)
            except ClientError as error:
                await self._sleep(waiting.broke(error))
                continue
            pause = waiting.answered(found)
            if pause is None:
                return found
            await self._sleep(pause)
