"""Which requests are sent again after a failure, and when."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from promptjobs.errors.client import ApiError, ClientError, ConnectionFailed, RateLimitError, UnexpectedAnswer

FIRST_SECONDS = 0.2
MOST_SECONDS = 8.0
MOST_RETRY_AFTER_SECONDS = 30.0
AWAY = frozenset({502, 503, 504})

IN_PROGRESS = "request_in_progress"
"""The service's word for a request whose first attempt it is still carrying out."""


def is_passing(error: ClientError) -> bool:
    """Whether the same request may do better a moment later."""
    match error:
        case UnexpectedAnswer():
            return False
        case ConnectionFailed() | RateLimitError():
            return True
        case ApiError():
            return error.status in AWAY or error.code == IN_PROGRESS
        case _:
            return False


def pause_seconds(error: ClientError, attempt: int, chance: Callable[[], float] = random.random) -> float:
    """How long to wait after failed attempt 1, 2 …: what the service asks for, else twice as long each time.

    A random part of up to a half keeps clients apart that failed together. chance: uniform in [0, 1).
    """
    asked = error.retry_after_seconds if isinstance(error, ApiError) else None
    if asked is not None:
        return min(asked, MOST_RETRY_AFTER_SECONDS) + FIRST_SECONDS * chance()
    doubled = min(FIRST_SECONDS * 2.0 ** (attempt - 1), MOST_SECONDS)
    return doubled * (0.5 + 0.5 * chance())


@dataclass(slots=True)
class Attempts:
    """The attempts of one request. most_retries: 0 for one that must not be sent twice."""

    most_retries: int
    chance: Callable[[], float] = random.random
    failed: int = field(default=0, init=False)

    def pause_after(self, error: ClientError) -> float:
        """How many seconds to wait before the next attempt. Raises `error` where there is none."""
        self.failed += 1
        if self.failed > self.most_retries or not is_passing(error):
            raise error
        return pause_seconds(error, self.failed, self.chance)
