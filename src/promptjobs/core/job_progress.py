"""How far jobs have come, and when they can be expected to end, by what they have told so far."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STUCK_SECONDS = 600.0
"""A job that runs and has recorded nothing for so long may hang."""


@dataclass(frozen=True, slots=True)
class Course:
    """How far a job has come. fraction: in [0, 1], 1 once it is over. running_seconds: since its start, pauses aside;
    None before that.
    """

    fraction: float
    running_seconds: float | None

    @property
    def whole_seconds(self) -> float | None:
        """How long it takes from its start to its end; None where nothing is known of that yet."""
        if self.running_seconds is None or self.fraction <= 0:
            return None
        return max(0.0, self.running_seconds) / self.fraction

    @property
    def eta_seconds(self) -> float | None:
        """How long it still has to run; None where nothing is known of that yet."""
        whole = self.whole_seconds
        return None if whole is None else whole * (1 - self.fraction)


def fraction_done(progress: Mapping[str, Any] | None, search: Mapping[str, Any]) -> float:
    """Of a job that is not over: its share of all rollouts, in [0, 1], those of the held-out test at the end included.

    search: its resolved config, as JSON. The test measures the best candidate and the baseline.
    """
    if progress is None:
        return 0.0
    tests = 2 * len(search["test_seeds"])
    done: int = progress["rollouts_completed"] + min(tests, progress.get("test_rollouts_executed", 0))
    total: int = progress["rollouts_total"] + tests
    return min(1.0, done / total)


def eta_of_all(
    places: int, over: Sequence[Course], running: Sequence[Course], waiting: Sequence[Course]
) -> float | None:
    """Seconds until all of these jobs are over, of which so many run at a time; None where that cannot be told yet.

    Each that waits takes the place that is free first. One of which nothing is known takes as long as the others do on
    average, those among them that are over.
    """
    known = [each.whole_seconds for each in (*over, *running) if each.whole_seconds is not None]
    usual = sum(known) / len(known) if known else None
    going = [_left(each, usual) for each in running]
    coming = [_left(each, usual) for each in waiting]
    ends = [left for left in going if left is not None]
    starting = [left for left in coming if left is not None]
    if len(ends) < len(going) or len(starting) < len(coming):
        return None
    free = ends + [0.0] * (places - len(ends))
    heapq.heapify(free)
    for left in starting:
        heapq.heapreplace(free, free[0] + left)
    return max(free, default=0.0)


def _left(course: Course, usual: float | None) -> float | None:
    if course.eta_seconds is not None:
        return course.eta_seconds
    return None if usual is None else max(0.0, usual - (course.running_seconds or 0.0))
