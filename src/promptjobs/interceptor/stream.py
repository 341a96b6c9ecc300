"""Server-sent events of a streamed completion: cut into events, tallied, and passed on byte for byte. Pure."""

import re
from typing import Any

import orjson

from promptjobs.clients.usage import Usage, read_usage
from promptjobs.errors import InvalidReply

MAX_EVENT_BYTES = 4 * 2**20
MAX_TEXT = 4 * 2**20
"""Characters of one reply, which are kept for the record."""

MAX_STREAM_BYTES = 64 * 2**20
"""A token comes in a chunk of 200 to 400 bytes, so a stream is far larger than the same reply in one piece."""

EVENT_END = re.compile(rb"\n\r?\n")
DONE = b"[DONE]"


class EventCutter:
    """Cuts a byte stream into events; every byte comes out again, in order. `name` is the sender's in errors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._buffer = bytearray()
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that are complete now, each with the empty line at its end. Raises InvalidReply past a limit."""
        self._size += len(chunk)
        # An end may lie across two chunks: at most its first two bytes are in what has been searched.
        searched = max(0, len(self._buffer) - 2)
        self._buffer += chunk
        events, start = [], 0
        for end in [found.end() for found in EVENT_END.finditer(self._buffer, searched)]:
            events.append(bytes(self._buffer[start:end]))
            start = end
        del self._buffer[:start]
        if len(self._buffer) > MAX_EVENT_BYTES or self._size > MAX_STREAM_BYTES:
            raise InvalidReply(self._name, "its stream is too large")
        return events

    def rest(self) -> bytes:
        """What has come after the last complete event."""
        return bytes(self._buffer)


class Tally:
    """What a stream has said so far, put together as the reply that it would have been in one piece.

    `error` is the upstream's error if it sent one in the stream. `has_choices`: whether any completion has come.
    """

    def __init__(self, name: str, wants_usage: bool) -> None:
        self._name, self._wants_usage = name, wants_usage
        self.is_done = False
        self.has_choices = False
        self.error: Any = None
        self.finish_reason: str | None = None
        self.usage = Usage()
        self._role = "assistant"
        self._texts: dict[str, list[str]] = {}
        self._others: dict[str, Any] = {}
        self._tools: dict[int, dict[str, Any]] = {}
        self._length = 0

    def read(self, event: bytes) -> bool:
        """Take in an event. Returns whether it is passed on now.

        Kept back are the end mark (`is_done`), errors, and the usage that only we have asked for. Raises InvalidReply
        for a reply that is too long.
        """
        data = data_of(event)
        if data == DONE:
            self.is_done = True
            return False
        if not data.startswith(b"{"):
            return True
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return True
        if "error" in chunk and chunk["error"] is not None:
            self.error = chunk["error"]
            return False
        return self._read_chunk(chunk)

    def message(self) -> str | None:
        """JSON text of the assistant's message; None where nothing has come."""
        if not self.has_choices:
            return None
        message: dict[str, Any] = {"role": self._role, "content": None, **self._others}
        message.update((name, "".join(pieces).replace("\x00", "\ufffd")) for name, pieces in self._texts.items())
        if self._tools:
            message["tool_calls"] = [_joined(self._tools[index]) for index in sorted(self._tools)]
        return orjson.dumps(message).decode()

    def _read_chunk(self, chunk: dict[str, Any]) -> bool:
        choices = chunk.get("choices")
        usage = read_usage(chunk)
        if not usage.is_reported and isinstance(chunk.get("x_groq"), dict):
            usage = read_usage(chunk["x_groq"])
        if usage.is_reported:
            self.usage = usage
        if isinstance(choices, list) and choices:
            self.has_choices = True
            self._read_choice(choices[0])
            return True
        return self._wants_usage or chunk.get("usage") is None

    def _read_choice(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            return
        reason, delta = choice.get("finish_reason"), choice.get("delta")
        if isinstance(reason, str):
            self.finish_reason = reason
        if isinstance(delta, dict):
            self._merge(delta)
        if self._length > MAX_TEXT:
            raise InvalidReply(self._name, f"it is longer than {MAX_TEXT} characters")

    def _merge(self, delta: dict[str, Any]) -> None:
        for name, value in delta.items():
            if value is None:
                continue
            if name == "tool_calls" and isinstance(value, list):
                for part in value:
                    self._merge_tool(part)
            elif name == "role" and isinstance(value, str):
                self._role = value
            elif isinstance(value, str):
                self._texts.setdefault(name, []).append(value)
                self._length += len(value)
            else:
                self._others[name] = value

    def _merge_tool(self, part: Any) -> None:
        """Tool calls come in pieces: the first has id and name, the others more of the arguments."""
        if not isinstance(part, dict):
            return
        index = part.get("index")
        tool = self._tools.setdefault(index if type(index) is int else len(self._tools), {"arguments": []})
        for name in ("id", "type"):
            if isinstance(part.get(name), str):
                tool.setdefault(name, part[name])
        function = part.get("function")
        if not isinstance(function, dict):
            return
        if isinstance(function.get("name"), str):
            tool.setdefault("name", function["name"])
        if isinstance(function.get("arguments"), str):
            tool["arguments"].append(function["arguments"])
            self._length += len(function["arguments"])


def data_of(event: bytes) -> bytes:
    """The event's data; b"" where it has none."""
    if event.startswith(b"data:") and event.find(b"\n") >= len(event) - 3:
        return event[5:].strip()
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines).strip()


def _joined(tool: dict[str, Any]) -> dict[str, Any]:
    function = {"name": tool.get("name", ""), "arguments": "".join(tool["arguments"])}
    return {"id": tool.get("id", ""), "type": tool.get("type", "function"), "function": function}
