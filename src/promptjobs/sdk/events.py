"""Events of a job, and their decoder: bytes of a stream in, whole events out, without any IO."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from promptjobs.errors.client import EventMalformed

TERMINAL = re.compile(r"prompt\.learning\.(gepa|mipro|staged)\.(complete|failed|cancelled)")
MAX_EVENT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a job. seq: 1, 2, 3 … without a gap. level: info, warning or error. text: its JSON, one line."""

    seq: int
    type: str
    level: str
    message: str
    data: Mapping[str, Any]
    created_at: datetime
    text: str

    @property
    def is_terminal(self) -> bool:
        """Whether it is the job's last one."""
        return TERMINAL.fullmatch(self.type) is not None

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Raises EventMalformed."""
        read, text = parsed(content)
        return cls.of(read, text)

    @classmethod
    def of(cls, read: Mapping[str, Any], text: str) -> Self:
        """read: the JSON in `text`. Raises EventMalformed."""
        try:
            seq, named, level, message = read["seq"], read["type"], read["level"], read["message"]
            data, created_at = read["data"], datetime.fromisoformat(read["created_at"])
        except (ValueError, KeyError, TypeError) as error:
            raise EventMalformed from error
        is_event = isinstance(seq, int) and not isinstance(seq, bool) and seq > 0 and isinstance(data, dict)
        if not is_event or not all(isinstance(each, str) for each in (named, level, message)):
            raise EventMalformed
        return cls(seq, named, level, message, data, created_at, text)


def parsed(content: bytes) -> tuple[Mapping[str, Any], str]:
    """The object that is an event's data, and its text. Raises EventMalformed."""
    try:
        text = content.decode()
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EventMalformed from error
    if not isinstance(read, dict):
        raise EventMalformed
    return read, text


class Decoder:
    """Reads server-sent events, however the stream is cut into chunks; one that is cut off at its end is dropped.

    Lines end at a line feed only: JSON holds other separators, which line readers for text would split at.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0
        self._id = ""
        self.last_id = ""
        """Of the newest event that was whole; an event without an id has that of the one before it."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of each event that is whole now. Raises EventMalformed where one does not end."""
        self._size += len(chunk)
        *lines, rest = chunk.split(b"\n")
        for end in lines:
            line = b"".join((*self._rest, end)).removesuffix(b"\r")
            self._rest = []
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"id:"):
                self._id = line[3:].removeprefix(b" ").decode("ascii", "replace")
            elif not line:
                self._size, self.last_id = 0, self._id
                if self._data:
                    data, self._data = b"\n".join(self._data), []
                    yield data
        if rest:
            self._rest.append(rest)
        if self._size > MAX_EVENT_BYTES:
            raise EventMalformed
