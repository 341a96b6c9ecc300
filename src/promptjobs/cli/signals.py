"""Signals that ask a command to end: Ctrl-C, a supervisor's SIGTERM, a terminal that is closed."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """`handler` is called for every such signal in the block. One that is ignored, as by `nohup`, stays ignored."""
    heeded = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A signal that arrives in the block raises KeyboardInterrupt at its end, and tears nothing apart."""
    arrived: list[int] = []
    with handled(lambda number, _: arrived.append(number)):
        yield
    if arrived:
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """The first such signal in the block raises KeyboardInterrupt; more of them cannot disturb the way out."""
    is_first = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            raise KeyboardInterrupt

    with handled(interrupt):
        yield
