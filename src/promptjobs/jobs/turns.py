"""Turns for requests that take a core for seconds: a few at a time, some wait, and the rest is refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from promptjobs.errors import RateLimited

RETRY_SECONDS = 2.0


class Turns:
    """Of one process. They work in threads that names are looked up in too: all of these at once would starve others.

    at_once: how many have their turn. waiting: how many more may wait for it.
    """

    def __init__(self, what: str, at_once: int, waiting: int) -> None:
        """what: the requests, in the plural."""
        self._what, self._most = what, at_once + waiting
        self._free = asyncio.Semaphore(at_once)
        self._asked = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it within the block. Raises RateLimited where too many wait."""
        if self._asked >= self._most:
            raise RateLimited(RETRY_SECONDS, self._what)
        self._asked += 1
        try:
            async with self._free:
                yield
        finally:
            self._asked -= 1
