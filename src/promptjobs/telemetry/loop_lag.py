"""Measures how late the event loop is: what stops it, stops every job and every request of the process."""

import asyncio

from promptjobs.telemetry import metrics

EVERY_SECONDS = 0.5


class LoopLag:
    """`run` returns after `stop`."""

    def __init__(self, every_seconds: float = EVERY_SECONDS) -> None:
        self._every_seconds = every_seconds
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        """Look again and again until stopped."""
        loop = asyncio.get_running_loop()
        while not self._stopped.is_set():
            due = loop.time() + self._every_seconds
            try:
                async with asyncio.timeout_at(due):
                    await self._stopped.wait()
            except TimeoutError:
                metrics.LOOP_LAG.observe(max(0.0, loop.time() - due))
