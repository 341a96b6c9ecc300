"""Tells telemetry of the optimizer's own model calls, in the words in which the interceptor tells of the others."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from promptjobs.core.asks import Completion
from promptjobs.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidReply,
    PromptjobsError,
    ProviderCallFailed,
    Unreachable,
)
from promptjobs.jobs.purse import Attempt, category_of
from promptjobs.telemetry import tracing
from promptjobs.telemetry.call_tallies import outcome_of
from promptjobs.telemetry.metrics import CALLS


@contextmanager
def observed(job_id: str, ask: Completion, attempt: Attempt) -> Iterator[None]:
    """Count what the block does for `attempt` as one call, and make its span."""
    started = time.perf_counter()
    try:
        yield
    except asyncio.CancelledError:
        _tell(job_id, ask, time.perf_counter() - started, "interrupted")
        raise
    except PromptjobsError as error:
        _tell_failure(job_id, ask, time.perf_counter() - started, error)
        raise
    done = attempt.completed
    if done is not None:
        usage = (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.unknown_tokens)
        seconds = time.perf_counter() - started
        _tell(job_id, ask, seconds, None, 200, usage, done.cost_usd, done.finish_reason or None)


def _tell_failure(job_id: str, ask: Completion, seconds: float, error: PromptjobsError) -> None:
    match error:
        case ProviderCallFailed():
            usage = (error.prompt_tokens, error.completion_tokens, error.unknown_tokens)
            _tell(job_id, ask, seconds, "upstream_error", error.upstream_status, usage, error.cost_usd)
        case ConnectionLost():
            _tell(job_id, ask, seconds, "upstream_interrupted")
        case DeadlineExceeded():
            _tell(job_id, ask, seconds, "upstream_timeout")
        case InvalidReply():
            _tell(job_id, ask, seconds, "upstream_invalid_reply")
        case Unreachable():
            _tell(job_id, ask, seconds, "upstream_unreachable", cost_usd=0.0)
        case _:
            # Everything else that is raised on purpose is raised before anything is sent.
            _tell(job_id, ask, seconds, error.code, cost_usd=0.0)


def _tell(
    job_id: str,
    ask: Completion,
    seconds: float,
    error: str | None,
    status: int | None = None,
    usage: tuple[int, int, int] = (0, 0, 0),
    cost_usd: float | None = None,
    finish_reason: str | None = None,
) -> None:
    """usage: tokens of the prompt, of the completion, and those that were reported without a split."""
    model, category = ask.model, category_of(ask)
    CALLS.count(category, model.provider, model.model, outcome_of(error, status), *usage, cost_usd, seconds)
    if tracing.is_on():
        tracing.record(
            tracing.Chat(
                job_id=job_id,
                candidate_id=None,
                phase=None,
                category=category,
                provider=model.provider,
                model=model.model,
                temperature=model.temperature,
                max_tokens=model.max_tokens,
                streamed=False,
                error=error,
                finish_reason=finish_reason,
                prompt_tokens=usage[0],
                completion_tokens=usage[1],
                cost_usd=cost_usd,
                seconds=seconds,
            )
        )
