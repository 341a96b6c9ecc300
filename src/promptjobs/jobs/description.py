"""Answers the ask for the task app's own description: no model is called, and the answer is recorded as any other."""

import asyncio
import time

from promptjobs.clients.task_app import TaskApp
from promptjobs.core.asks import Answer, Completion, CompletionBody, FailureReason
from promptjobs.db.journal import AnswerRecord
from promptjobs.errors import WorldError
from promptjobs.jobs.lease import Lease
from promptjobs.jobs.outcomes import DETAIL_CHARACTERS, reason_of, storable, text_of
from promptjobs.jobs.retries import Retries


async def describe(ask: Completion, task_app: TaskApp, lease: Lease, outage_seconds: float) -> AnswerRecord:
    """Ask the task app until there is an answer, or a failure that is one. Raises LeaseLost."""
    retries = Retries(outage_seconds)
    started = time.perf_counter()
    attempts = 0
    while True:
        lease.require()
        attempts += 1
        try:
            body = CompletionBody(await task_app.description(), "stop")
        except WorldError as error:
            pause = retries.pause_after(error)
            if pause is None:
                reason, detail = reason_of(error), str(error)[:DETAIL_CHARACTERS]
                return _record(ask, CompletionBody(detail, "error"), reason, attempts, started)
        else:
            return _record(ask, body, None, attempts, started)
        await asyncio.sleep(pause)


def _record(
    ask: Completion, body: CompletionBody, reason: FailureReason | None, attempts: int, started: float
) -> AnswerRecord:
    answer = Answer(ask.key, reason=reason, cost_usd=0.0, seconds=time.perf_counter() - started)
    detail = None if reason is None else storable(body.text)
    return AnswerRecord(ask, answer, text_of(body), detail, attempts, body.finish_reason)
