"""Runs a demo application: inside a test for as long as a block lasts, or as a process until it is told to stop."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiohttp import web

_LOOPBACK = "127.0.0.1"


@asynccontextmanager
async def serving(app: web.Application, port: int = 0, host: str = _LOOPBACK) -> AsyncIterator[str]:
    """Serve `app` while the block lasts and yield its URL, without a final slash. Port 0: the system picks one."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def run_process(app: web.Application, port: int, host: str = _LOOPBACK) -> None:
    """Print the URL as one JSON line, `{"url": …}`, and serve until SIGTERM or SIGINT."""
    asyncio.run(_serve_until_signal(app, port, host))


async def _serve_until_signal(app: web.Application, port: int, host: str) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopped.set)
    async with serving(app, port, host) as url:
        print(orjson.dumps({"url": url}).decode(), flush=True)
        await stopped.wait()
