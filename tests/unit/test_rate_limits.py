"""Rate limits: a bucket for each name, refilled by time alone, and a count of open streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.api.rate_limits import BURST_SECONDS, RateLimits
from promptjobs.errors import RateLimited


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(limits: RateLimits, name: str, tries: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            limits.take(name)
            count += 1
        except RateLimited:
            pass
    return count


def test_ten_seconds_worth_may_come_at_once_and_no_more() -> None:
    limits = RateLimits(5.0, 1, Clock())
    assert taken(limits, "a", 200) == 5.0 * BURST_SECONDS


def test_what_is_said_about_when_to_try_again_is_true() -> None:
    clock = Clock()
    limits = RateLimits(4.0, 1, clock)
    taken(limits, "a", 100)
    with pytest.raises(RateLimited) as refused:
        limits.take("a")
    assert refused.value.retry_after_seconds == pytest.approx(0.25)
    clock.now += refused.value.retry_after_seconds + 1e-9
    limits.take("a")


def test_one_name_cannot_use_up_what_is_anothers() -> None:
    limits = RateLimits(1.0, 1, Clock())
    taken(limits, "a", 100)
    limits.take("b")


@given(st.lists(st.floats(0.0, 5.0), max_size=60), st.floats(0.5, 50.0))
def test_no_more_is_let_through_than_the_burst_and_the_rate(pauses: list[float], rate: float) -> None:
    clock = Clock()
    limits = RateLimits(rate, 1, clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        passed += taken(limits, "a", 20)
    assert passed <= max(1.0, rate * BURST_SECONDS) + rate * sum(pauses) + 1e-6


def test_a_stream_that_ends_makes_room_for_another() -> None:
    limits = RateLimits(1.0, 1, Clock())
    with limits.stream("a"):
        with pytest.raises(RateLimited, match="event streams"), limits.stream("a"):
            pass
        with limits.stream("b"):
            pass
    with limits.stream("a"):
        pass
