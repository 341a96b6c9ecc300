"""What following a job comes to, without any IO: where a stream goes on, when it is over, and when to give up."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from promptjobs.errors.client import (
    ArgumentInvalid,
    ClientError,
    ConnectionFailed,
    EventMalformed,
    ServerError,
    UnexpectedAnswer,
    WaitTimedOut,
)
from promptjobs.sdk.events import Decoder, Event
from promptjobs.sdk.retries import is_passing, pause_seconds
from promptjobs.sdk.shapes import TERMINAL_STATUSES

GIVE_UP_AFTER_SECONDS = 120.0
LASTING_SECONDS = 10.0
"""A connection that has lasted so long was a good one, even without events."""

FIRST_POLL_SECONDS = 0.25
MOST_POLL_SECONDS = 2.0

Clock = Callable[[], float]


class Ends(Protocol):
    """An event that says whether it is the last one."""

    @property
    def is_terminal(self) -> bool: ...


E = TypeVar("E", bound=Ends)


@dataclass(frozen=True, slots=True)
class Break:
    """The connection broke; attempt 1, 2 … to come back follows after a pause."""

    cause: str
    attempt: int
    pause_seconds: float


OnBreak = Callable[[Break], None]


@dataclass(slots=True)
class Patience:
    """How long a service that is away is waited for: give_up_after_seconds since it was last of use."""

    url: str
    give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS
    clock: Clock = time.monotonic
    _attempt: int = field(default=0, init=False)
    _since: float | None = field(default=None, init=False)

    def was_rewarded(self) -> None:
        self._attempt, self._since = 0, None

    def after(self, error: ClientError) -> Break:
        """The pause before the next attempt. Raises `error` where none would help, or ConnectionFailed at the end."""
        if not (is_passing(error) or isinstance(error, ServerError | UnexpectedAnswer)):
            raise error
        now = self.clock()
        self._since = now if self._since is None else self._since
        self._attempt += 1
        pause = pause_seconds(error, self._attempt)
        waited = now - self._since
        cause = error.cause if isinstance(error, ConnectionFailed) else str(error)
        if waited + pause > self.give_up_after_seconds:
            kind = UnexpectedAnswer if isinstance(error, UnexpectedAnswer) else ConnectionFailed
            raise kind(self.url, f"{cause}; gave up after {self._attempt} attempts in {waited:.3g} s") from error
        return Break(cause, self._attempt, pause)


class Resuming(ABC, Generic[E]):
    """The events of a stream, each once and in order, over as many connections as it takes."""

    def __init__(self, patience: Patience) -> None:
        self.is_over = False
        self._patience = patience
        self._decoder = Decoder()
        self._connected_at = 0.0

    @property
    @abstractmethod
    def cursor(self) -> str:
        """The id of the event behind which the next connection begins; empty for the very first one."""

    @abstractmethod
    def _told(self, content: bytes) -> E | None:
        """The event that is told next; None for one that was told before. Sets `is_over` with the last one.

        Raises EventMalformed, UnexpectedAnswer.
        """

    def connect(self) -> None:
        """A connection is about to be made: what the last one has cut off is forgotten."""
        self._decoder = Decoder()
        self._connected_at = self._patience.clock()

    def accepted(self, status: int) -> None:
        """The stream has been answered with 2xx. 204: nothing will follow."""
        self.is_over = status == 204

    def received(self, chunk: bytes) -> Iterator[E]:
        """Raises UnexpectedAnswer for what is no event, or not the next one: it is asked for again then."""
        try:
            for content in self._decoder.feed(chunk):
                event = self._told(content)
                if event is not None:
                    self._patience.was_rewarded()
                    yield event
        except EventMalformed as error:
            raise self._unexpected("it sent an event that cannot be read") from error

    def _unexpected(self, cause: str) -> UnexpectedAnswer:
        return UnexpectedAnswer(self._patience.url, cause)

    def check_end(self) -> None:
        """The stream has ended by itself. Raises ConnectionFailed where what is followed has not."""
        if not self.is_over:
            raise ConnectionFailed(self._patience.url, "the stream of events ended")

    def broke(self, error: ClientError) -> Break:
        """The pause before the next connection. Raises an error where there is none."""
        if self._patience.clock() - self._connected_at >= LASTING_SECONDS:
            self._patience.was_rewarded()
        return self._patience.after(error)


class Following(Resuming[Event]):
    """The events of a job behind event `seq`."""

    def __init__(self, after: int, patience: Patience) -> None:
        super().__init__(patience)
        self.seq = after

    @property
    def cursor(self) -> str:
        return str(self.seq)

    def _told(self, content: bytes) -> Event | None:
        event = Event.parse(content)
        if event.seq <= self.seq:
            return None
        if event.seq != self.seq + 1:
            raise self._unexpected(f"event {event.seq} came after event {self.seq}")
        self.seq, self.is_over = event.seq, event.is_terminal
        return event


@dataclass(frozen=True, slots=True)
class Ending:
    """When waiting is over. statuses: those that are final. late: the error for what is not over in time, made of its
    id, its status, and for how many seconds it was waited for.
    """

    statuses: frozenset[str]
    late: Callable[[str, str, float], ClientError]


OF_JOB = Ending(TERMINAL_STATUSES, WaitTimedOut)


class Waiting:
    """Asks for a job again and again, until it is over; with another `ending` for an experiment.

    timeout_seconds: None for as long as it takes.
    """

    def __init__(
        self, item_id: str, timeout_seconds: float | None, patience: Patience, ending: Ending = OF_JOB
    ) -> None:
        self._item_id, self._timeout_seconds, self._patience = item_id, timeout_seconds, patience
        self._ending = ending
        self._began_at = patience.clock()
        self._pause = FIRST_POLL_SECONDS
        self._status = "unknown"

    def answered(self, item: Mapping[str, object]) -> float | None:
        """The pause before the next question; None for what is over. Raises the ending's error."""
        self._patience.was_rewarded()
        self._status = str(item["status"])
        if self._status in self._ending.statuses:
            return None
        pause, self._pause = self._pause, min(self._pause * 1.5, MOST_POLL_SECONDS)
        return self._allowed(pause)

    def broke(self, error: ClientError) -> float:
        """As `answered`, after a failed question. Raises an error where there is no further one."""
        return self._allowed(self._patience.after(error).pause_seconds)

    def _allowed(self, pause: float) -> float:
        """The last question is asked when the time is up, and no later."""
        if self._timeout_seconds is None:
            return pause
        rest = self._timeout_seconds - (self._patience.clock() - self._began_at)
        if rest <= 0:
            raise self._ending.late(self._item_id, self._status, self._timeout_seconds)
        return min(pause, rest)


def checked_cursor(after: int) -> int:
    """The number of an event, or 0. Raises ArgumentInvalid."""
    if after < 0:
        raise ArgumentInvalid("after", f"must be the number of an event, or 0, got {after!r}")
    return after
