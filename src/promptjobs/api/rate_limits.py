"""How much one organisation may ask of one process: requests by a token bucket, streams by a count."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from promptjobs.errors import RateLimited

BURST_SECONDS = 10.0
MAX_BUCKETS = 10_000
STREAM_RETRY_SECONDS = 5.0


class RateLimits:
    """Buckets of `requests_per_second`, each filled for ten seconds' worth of requests at once.

    They are the process's own: N processes behind a balancer let N times as much through.
    """

    def __init__(
        self, requests_per_second: float, max_streams: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._max_streams, self._clock = requests_per_second, max_streams, clock
        self._size = max(1.0, requests_per_second * BURST_SECONDS)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._streams: dict[str, int] = {}

    def take(self, name: str) -> None:
        """Count a request of `name`. Raises RateLimited, which says when the next one is taken."""
        now = self._clock()
        left, seen_at = self._buckets.pop(name, (self._size, now))
        left = min(self._size, left + (now - seen_at) * self._rate)
        is_taken = left >= 1.0
        self._buckets[name] = (left - 1.0 if is_taken else left, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if not is_taken:
            raise RateLimited((1.0 - left) / self._rate)

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """Count an event stream of `name` within the block. Raises RateLimited."""
        count = self._streams.get(name, 0)
        if count >= self._max_streams:
            raise RateLimited(STREAM_RETRY_SECONDS, "event streams")
        self._streams[name] = count + 1
        try:
            yield
        finally:
            self._streams[name] -= 1
            if not self._streams[name]:
                del self._streams[name]
