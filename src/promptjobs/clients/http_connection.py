"""One outgoing HTTP/1.1 connection: a request is sent, its reply is read whole, and then the next one may follow."""

import asyncio
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import httptools

MAX_HEAD_BYTES = 64 * 1024
MOST_FRAMING = 8
"""Bytes on the wire for each byte of a body at most: chunks of one byte have six. It bounds what never ends."""

MOST_MEMBERS = 100
"""Of a gzip body; each costs time, and need not hold anything."""


class Headers(Mapping[str, str]):
    """The headers of a reply. Names match in any case; of several values of one name the first counts."""

    __slots__ = ("_found", "_raw")

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._found: dict[str, str] | None = None

    def _by_name(self) -> dict[str, str]:
        # Hardly any reply is asked for one.
        if self._found is None:
            named = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in reversed(self._raw))
            self._found = dict(named)
        return self._found

    def __getitem__(self, name: str) -> str:
        return self._by_name()[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def __len__(self) -> int:
        return len(self._by_name())


class Reply(NamedTuple):
    """A complete reply. The body is decompressed; the names of `headers` match in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NotHttp(Exception):
    """What came is no HTTP reply, or one that nobody asked for."""


class TooLarge(Exception):
    """The body is larger than was allowed, compressed or not."""


class NotDecodable(Exception):
    """The body is not what its content-encoding says."""


class Closed(Exception):
    """The connection was closed before the whole reply was there. has_begun: whether any of it was."""

    def __init__(self, *, has_begun: bool) -> None:
        super().__init__("the reply ended before it was complete" if has_begun else "it was closed without a reply")
        self.has_begun = has_begun


class Connection(asyncio.Protocol):
    """Sends one request at a time. `is_reusable` tells whether another one may follow."""

    __slots__ = (
        "_chunks",
        "_decoder",
        "_ends_at_close",
        "_failure",
        "_headers",
        "_keeps_alive",
        "_left",
        "_max_bytes",
        "_parser",
        "_received_bytes",
        "_reply",
        "_transport",
        "idle_since",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._reply: asyncio.Future[Reply] | None = None
        self._max_bytes = 0
        self._failure: Exception | None = None
        self._keeps_alive = True
        self._received_bytes = 0
        self.idle_since = 0.0
        self._headers: list[tuple[bytes, bytes]]
        self._chunks: list[bytes]
        self._left: int | None
        self._decoder: _Decoder | None
        self._reset()

    def exchange(self, request: bytes, max_bytes: int) -> "asyncio.Future[Reply]":
        """Send a request.

        The future fails with NotHttp, TooLarge, NotDecodable, Closed, OSError, and whatever `abort` is given. Whoever
        stops waiting has to `abort`.
        """
        self._max_bytes = max_bytes
        self._failure = None
        self._received_bytes = 0
        self._reset()
        self._reply = reply = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._fail(Closed(has_begun=False))
        else:
            self._transport.write(request)
        return reply

    def abort(self, error: Exception | None = None) -> None:
        """Close at once; a reply that is waited for fails with the error."""
        self._keeps_alive = False
        self._transport.abort()
        self._fail(error or self._closed())

    @property
    def is_reusable(self) -> bool:
        """Whether nothing is under way, and the other side keeps the connection, as far as is known."""
        return self._keeps_alive and self._reply is None and not self._transport.is_closing()

    # --- called by the transport --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            # Nothing was asked, so the next reply could not be told from this.
            self.abort()
            return
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._failure = self._failure or NotHttp(str(error)[:200])
        if self._failure is None and self._received_bytes > MAX_HEAD_BYTES:
            if self._left is None:
                self._failure = NotHttp("its head is too large")
            elif self._received_bytes > MAX_HEAD_BYTES + MOST_FRAMING * self._max_bytes:
                self._failure = TooLarge()
        if self._failure is not None:
            self.abort(self._failure)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._keeps_alive = False
        if self._reply is None:
            return
        if error is None and self._left is not None and self._ends_at_close:
            self._complete()
        self._fail(self._failure or error or self._closed())

    # --- called by the parser, where an exception would be wrapped: failures are kept in _failure ---------------------

    def on_message_begin(self) -> None:
        if self._reply is None:
            self._failure = NotHttp("more than one reply came")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._left is None:  # what follows the body is not looked at
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._left = self._max_bytes
        self._keeps_alive = self._parser.should_keep_alive()
        is_measured = False
        size = 0
        for name, value in self._headers:
            size += len(name) + len(value)
            match name.lower():
                case b"content-length":
                    is_measured = True
                    if int(value) > self._max_bytes:
                        self._failure = TooLarge()
                case b"transfer-encoding":
                    is_measured = True
                case b"content-encoding":
                    self._decoder = _decoder(value)
        self._ends_at_close = not is_measured
        if size > MAX_HEAD_BYTES:
            self._failure = NotHttp("its head is too large")

    def on_body(self, chunk: bytes) -> None:
        if self._failure is not None or self._left is None:
            return
        if self._decoder is not None:
            try:
                chunk = self._decoder.decompress(chunk, self._left + 1)
            except zlib.error as error:
                self._failure = NotDecodable(str(error))
                return
        self._left -= len(chunk)
        if self._left < 0:
            self._failure = TooLarge()
        else:
            self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            self._reset()  # an interim reply: the real one follows
        elif self._failure is None:
            self._complete()

    # --- the end of an exchange ---------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._headers = []
        self._chunks = []
        self._left = None
        self._decoder = None
        self._ends_at_close = False

    def _complete(self) -> None:
        if self._decoder is not None and not self._decoder.is_complete:
            self._failure = NotDecodable("it is cut off")
            return
        reply, self._reply = self._reply, None
        # A reply that comes before the request is out leaves a connection on which nobody knows what is next.
        self._keeps_alive = self._keeps_alive and not self._transport.get_write_buffer_size()
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        if reply is not None and not reply.done():
            reply.set_result(Reply(self._parser.get_status_code(), Headers(self._headers), body))

    def _closed(self) -> Closed:
        return Closed(has_begun=self._received_bytes > 0)

    def _fail(self, error: Exception) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_exception(error)


class _Decoder:
    """Unpacks gzip, also of several members, and deflate with or without its wrapper."""

    def __init__(self, is_gzip: bool) -> None:
        self._is_gzip, self._members = is_gzip, 0
        self._inner: zlib._Decompress | None = None

    def decompress(self, chunk: bytes, most: int) -> bytes:
        """At most so many bytes, of which the caller allows one less. Raises zlib.error."""
        unpacked = b""
        while chunk and len(unpacked) < most:
            if self._inner is None or self._inner.eof:
                self._members += 1
                if self._members > MOST_MEMBERS:
                    raise zlib.error("it has too many members")
                # Some servers leave out the wrapper that "deflate" has by its definition.
                bits = zlib.MAX_WBITS if chunk[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS
                self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16 if self._is_gzip else bits)
            unpacked += self._inner.decompress(chunk, most - len(unpacked))
            chunk = self._inner.unused_data
        return unpacked

    @property
    def is_complete(self) -> bool:
        return self._inner is None or self._inner.eof


def _decoder(encoding: bytes) -> _Decoder | None:
    """None for what comes through as it is: identity, and what nobody asked for."""
    match encoding.strip().lower():
        case b"gzip" | b"x-gzip":
            return _Decoder(is_gzip=True)
        case b"deflate":
            return _Decoder(is_gzip=False)
        case _:
            return None
