"""What following a job comes to, without any IO: where a stream goes on, when it is over, and when to give up."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

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
from promptjobs.sdk.shapes import TERMINAL_STATUSES, Job

GIVE_UP_AFTER_SECONDS = 120.0
LASTING_SECONDS = 10.0
"""A connection that has lasted so long was a good one, even without events."""

FIRST_POLL_SECONDS = 0.25
MOST_POLL_SECONDS = 2.0

Clock = Callable[[], float]


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


class Following:
    """The events of a job behind event `seq`, each once and in order, over as many connections as it takes."""

    def __init__(self, after: int, patience: Patience) -> None:
        self.seq = after
        self.is_over = False
        self._patience = patience
        self._decoder = Decoder()
        self._connected_at = 0.0

    def connect(self) -> None:
        """A connection is about to be made: what the last one has cut off is forgotten."""
        self._decoder = Decoder()
        self._connected_at = self._patience.clock()

    def accepted(self, status: int) -> None:
        """The stream has been answered with 2xx. 204: nothing will follow."""
        self.is_over = status == 204

    def received(self, chunk: bytes) -> Iterator[Event]:
        """Raises UnexpectedAnswer for what is no event, or not the next one: it is asked for again then."""
        try:
            for content in self._decoder.feed(chunk):
                event = Event.parse(content)
                if event.seq <= self.seq:
                    continue
                if event.seq != self.seq + 1:
                    cause = f"event {event.seq} came after event {self.seq}"
                    raise UnexpectedAnswer(self._patience.url, cause)
                self.seq, self.is_over = event.seq, event.is_terminal
                self._patience.was_rewarded()
                yield event
        except EventMalformed as error:
            raise UnexpectedAnswer(self._patience.url, "it sent an event that cannot be read") from error

    def check_end(self) -> None:
        """The stream has ended by itself. Raises ConnectionFailed where the job has not."""
        if not self.is_over:
            raise ConnectionFailed(self._patience.url, "the stream of events ended")

    def broke(self, error: ClientError) -> Break:
        """The pause before the next connection. Raises an error where there is none."""
        if self._patience.clock() - self._connected_at >= LASTING_SECONDS:
            self._patience.was_rewarded()
        return self._patience.after(error)


class Waiting:
    """Asks for a job again and again, until it is over. timeout_seconds: None for as long as it takes."""

    def __init__(self, job_id: str, timeout_seconds: float | None, patience: Patience) -> None:
        self._job_id, self._timeout_seconds, self._patience = job_id, timeout_seconds, patience
        self._began_at = patience.clock()
        self._pause = FIRST_POLL_SECONDS
        self._status = "unknown"

    def answered(self, job: Job) -> float | None:
        """The pause before the next question; None for a job that is over. Raises WaitTimedOut."""
        self._patience.was_rewarded()
        self._status = job["status"]
        if self._status in TERMINAL_STATUSES:
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
            raise WaitTimedOut(self._job_id, self._status, self._timeout_seconds)
        return min(pause, rest)


def checked_cursor(after: int) -> int:
    """The number of an event, or 0. Raises ArgumentInvalid."""
    if after < 0:
        raise ArgumentInvalid("after", f"must be the number of an event, or 0, got {after!r}")
    return after
