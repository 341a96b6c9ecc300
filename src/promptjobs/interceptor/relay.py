"""The upstream call as a stream: events are passed on as they come, the last one when the call is recorded."""

import asyncio
import os
from contextlib import suppress
from dataclasses import replace

import aiohttp

from promptjobs.clients.http import MAX_REPLY_BYTES, Outgoing
from promptjobs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidReply,
    InvalidRequest,
    MeteringUnavailable,
    Unreachable,
    WorldError,
)
from promptjobs.interceptor.forward import Answer, Upstream, failed, read_answer, shown_error, status_of
from promptjobs.interceptor.meter import INTERRUPTED, Call, Outcome
from promptjobs.interceptor.stream import EventCutter, Tally
from promptjobs.interceptor.wire import Headers, Receive, Send, error_body, send_reply

EVENT_STREAM = "text/event-stream"
STREAM_HEADERS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Relay:
    """One streamed call between a task app and a provider; `run` is called once."""

    def __init__(self, outgoing: Outgoing, upstream: Upstream, call: Call, receive: Receive, send: Send) -> None:
        self._outgoing, self._upstream, self._call = outgoing, upstream, call
        self._receive, self._send = receive, send
        self._deadline: asyncio.Timeout | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._is_gone = False
        self._has_started = False
        self._end = b""

    async def run(self, body: bytes, *, wants_usage: bool, timeout_seconds: float) -> None:
        """Make the call, record it, answer. Raises MeteringUnavailable where nothing has been answered yet."""
        tally = Tally(self._upstream.name, wants_usage)
        watcher = asyncio.create_task(self._watch())
        try:
            try:
                answer = await self._exchange(body, tally, timeout_seconds)
            except asyncio.CancelledError:
                self._call.put(_with_seen(INTERRUPTED, tally))
                raise
            await self._finish(answer)
        finally:
            if self._response is not None:
                # Closes the connection unless the reply has ended, for which the record has left it time.
                self._response.release()
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def _exchange(self, body: bytes, tally: Tally, timeout_seconds: float) -> Answer:
        try:
            async with asyncio.timeout(timeout_seconds) as self._deadline:
                return await self._call_upstream(body, tally)
        except aiohttp.ConnectionTimeoutError:
            answer = failed(self._upstream, Unreachable(self._upstream.name, "no connection in time"))
        except TimeoutError:
            if self._is_gone:
                gone = Outcome(499, error="client_disconnected: the task app closed the connection")
                return Answer(_with_seen(gone, tally), b"", [])
            answer = failed(self._upstream, DeadlineExceeded(self._upstream.name, timeout_seconds))
        except (WorldError, InvalidRequest) as exc:
            answer = failed(self._upstream, exc)
        except (aiohttp.ClientError, OSError) as exc:
            answer = failed(self._upstream, _translated(exc, self._upstream.name))
        except ValueError:
            answer = failed(self._upstream, InvalidRequest("a header cannot be sent"))
        finally:
            self._deadline = None
        return replace(answer, outcome=_with_seen(answer.outcome, tally))

    async def _call_upstream(self, body: bytes, tally: Tally) -> Answer:
        self._response = response = await self._outgoing.session.post(
            self._upstream.url, data=body, headers=self._upstream.headers, allow_redirects=False
        )
        if response.status != 200 or response.content_type != EVENT_STREAM:
            whole = await _read_whole(response, self._upstream.name)
            return read_answer(self._upstream, response.status, response.headers, whole)
        self._has_started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        await self._pass_on(response, tally)
        if tally.error is not None:
            status = status_of(tally.error)
            shown, recorded = shown_error(self._upstream, status, tally.error)
            return Answer(_with_seen(Outcome(status, error=recorded), tally), shown, [])
        if not tally.has_choices:
            return failed(self._upstream, InvalidReply(self._upstream.name, "its stream has no choices"))
        return Answer(_with_seen(Outcome(200), tally), self._end, [])

    async def _pass_on(self, response: aiohttp.ClientResponse, tally: Tally) -> None:
        """Until the end mark, an error or the end of the stream."""
        cutter = EventCutter(self._upstream.name)
        async for chunk in response.content.iter_any():
            passed = []
            for event in cutter.feed(chunk):
                if tally.read(event):
                    passed.append(event)
                elif tally.is_done or tally.error is not None:
                    self._end = event
                    break
            if passed:
                await self._send({"type": "http.response.body", "body": b"".join(passed), "more_body": True})
            if self._end:
                return
        rest = cutter.rest()
        if rest and tally.read(rest):
            await self._send({"type": "http.response.body", "body": rest, "more_body": True})
        else:
            self._end = rest

    async def _finish(self, answer: Answer) -> None:
        error = answer.body if answer.outcome.error is not None else None
        try:
            await self._call.record(answer.outcome)
        except MeteringUnavailable as exc:
            if not self._has_started:
                raise
            error = error_body(str(exc), exc.code)
        if self._is_gone:
            return
        if not self._has_started:
            await send_reply(self._send, answer.status, answer.body, answer.headers)
            return
        end = self._end if error is None else b"data: " + error + b"\n\n"
        await self._send({"type": "http.response.body", "body": end, "more_body": False})

    async def _watch(self) -> None:
        """End the exchange when the task app has gone: a deadline that is now."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())


def _with_seen(outcome: Outcome, tally: Tally) -> Outcome:
    if not tally.has_choices and not tally.usage.is_reported:
        return outcome
    return replace(outcome, reply=tally.message(), finish_reason=tally.finish_reason, usage=tally.usage)


async def _read_whole(response: aiohttp.ClientResponse, name: str) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_REPLY_BYTES:
            raise InvalidReply(name, f"it is larger than {MAX_REPLY_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _translated(exc: Exception, name: str) -> WorldError:
    match exc:
        case aiohttp.ClientConnectorError():
            # Its text would show the address.
            return Unreachable(name, os.strerror(exc.errno) if exc.errno else "no connection")
        case aiohttp.ClientResponseError():
            return InvalidReply(name, "it is not HTTP")
        case _:
            return ConnectionLost(name, "the reply ended before it was complete")
