"""Replies that are traps for whoever reads them: too large, packed, deep, slow or broken off."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from functools import cache

from aiohttp import web

Hostility = Callable[[web.Request], Awaitable[web.StreamResponse]]

MIB = 2**20
FLOOD_MIB, BOMB_MIB = 300, 64
DRIP_SECONDS = 0.05
"""Between two bytes, so that no limit on silence is ever met."""


def sends(body: bytes, content_type: str = "application/json", **headers: str) -> Hostility:
    async def send(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type, headers=headers)

    return send


async def floods(request: web.Request) -> web.StreamResponse:
    """A reply of 300 MB whose length nobody was told."""
    response = web.StreamResponse(headers={"content-type": "application/json"})
    await response.prepare(request)
    try:
        await response.write(b'{"choices": "')
        for _ in range(FLOOD_MIB):
            await response.write(b"x" * MIB)
        await response.write(b'"}')
    except ConnectionError:
        pass
    return response


@cache
def _bomb() -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(b" " * MIB) for _ in range(BOMB_MIB)) + packer.flush()


async def explodes(_: web.Request) -> web.StreamResponse:
    """Some hundred kilobytes that unpack to 64 MB."""
    return web.Response(body=_bomb(), content_type="application/json", headers={"content-encoding": "gzip"})


async def drips(request: web.Request) -> web.StreamResponse:
    """A byte now and then, until the reader has had enough."""
    response = web.StreamResponse(headers={"content-type": "application/json"})
    await response.prepare(request)
    try:
        while True:
            await response.write(b" ")
            await asyncio.sleep(DRIP_SECONDS)
    except ConnectionError:
        return response


async def breaks_off(request: web.Request) -> web.StreamResponse:
    """The first half of a reply, and then a reset."""
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.abort()
    return response


UNREADABLE: Mapping[str, Hostility] = {
    "HTML": sends(b"<html>busy</html>", "text/html"),
    "half of a document": sends(b'{"choices": [{"message": {"content": "level 9"'),
    "a hundred thousand levels": sends(b"[" * 100_000 + b"]" * 100_000),
    "a hundred levels in an object": sends(b'{"metrics": ' + b"[" * 100 + b"]" * 100 + b"}"),
    "nothing": sends(b""),
    "300 MB": floods,
    "a gzip bomb": explodes,
    "no gzip at all": sends(b"plain", **{"content-encoding": "gzip"}),
}
"""Replies that are complete or cut off at the cap, and that no retry would better."""
