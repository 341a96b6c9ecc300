"""Both clients behind one face: what is asked of either is answered with plain values, and pauses are only noted."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self

from promptjobs import AsyncClient, Client


class Driven:
    """A client, and an event loop for the one that needs it. pauses: the seconds that it would have slept."""

    def __init__(self, kind: type[Client] | type[AsyncClient], url: str, **options: Any) -> None:
        self.pauses: list[float] = []
        self._runner = asyncio.Runner()
        self._is_async = kind is AsyncClient
        sleep = self._note_and_yield if self._is_async else self.pauses.append
        self.client: Any = kind(url, sleep=sleep, **options)

    async def _note_and_yield(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
        self._runner.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The client's method; what it iterates over is returned as a list."""
        method = getattr(self.client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            found = method(*arguments, **options)
            if inspect.iscoroutine(found):
                return self._runner.run(found)
            if isinstance(found, AsyncIterator):
                return self._runner.run(_collected(found))
            return list(found) if isinstance(found, Iterator) else found

        return call


async def _collected(found: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in found]
