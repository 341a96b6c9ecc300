"""When to ask the world again: what is safe to repeat, how often, how long to wait, and what counts as an outage."""

import random
from dataclasses import dataclass

from promptjobs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    ProviderCallFailed,
    TaskAppFailed,
    TaskAppUnreachable,
    Unreachable,
    WorldError,
)
from promptjobs.telemetry.metrics import RETRIES

MOST_ATTEMPTS = 4
TIMEOUT_ATTEMPTS = 2
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 60.0


@dataclass(slots=True)
class Retries:
    """The attempts of one ask. An outage (no connection at all) is waited out for `outage_seconds` before it counts."""

    outage_seconds: float
    attempts: int = 0
    timeouts: int = 0
    outages: int = 0
    waited: float = 0.0

    def pause_after(self, error: WorldError) -> float | None:
        """Seconds to wait before the next attempt, which counts as a retry; None where there is to be none."""
        pause = self._pause_after(error)
        if pause is not None:
            RETRIES.labels(_kind_of(error)).inc()
        return pause

    def _pause_after(self, error: WorldError) -> float | None:
        if is_outage(error):
            self.outages += 1
            pause = _backoff(self.outages)
            if self.waited >= self.outage_seconds:
                return None
            self.waited += pause
            return pause
        self.attempts += 1
        match error:
            case DeadlineExceeded():
                self.timeouts += 1
                may_repeat = self.timeouts < TIMEOUT_ATTEMPTS
            case TaskAppFailed(retryable=retryable) | ProviderCallFailed(retryable=retryable):
                may_repeat = retryable
            case ConnectionLost():
                may_repeat = True
            case _:
                may_repeat = False
        if not may_repeat or self.attempts >= MOST_ATTEMPTS:
            return None
        wanted = getattr(error, "retry_after_seconds", None)
        return min(wanted, LONGEST_RETRY_AFTER_SECONDS) if wanted is not None else _backoff(self.attempts)


def is_outage(error: WorldError) -> bool:
    """No connection came about: nothing was seen of the call, and it says nothing about the candidate."""
    return isinstance(error, TaskAppUnreachable) or (
        isinstance(error, Unreachable) and not isinstance(error, ConnectionLost)
    )


def _kind_of(error: WorldError) -> str:
    """What is retried, as it is counted."""
    match error:
        case _ if is_outage(error):
            return "outage"
        case DeadlineExceeded():
            return "timeout"
        case ConnectionLost():
            return "connection_lost"
        case ProviderCallFailed():
            return "provider_error"
        case _:
            return "task_app_error"


def _backoff(attempt: int) -> float:
    """Exponential with full jitter, so that many asks do not come back at once."""
    longest = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
    return random.uniform(longest / 2, longest)
