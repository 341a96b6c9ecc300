"""What a piece of work belongs to: the request or the job that log lines and spans name."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
JOB_ID: ContextVar[str | None] = ContextVar("job_id", default=None)


@contextmanager
def bound(variable: ContextVar[str | None], value: str) -> Iterator[None]:
    """Within the block, and in tasks that are started in it, the variable has this value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
