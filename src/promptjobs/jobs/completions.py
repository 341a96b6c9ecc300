"""Answers completions: asks the meta-model or the judge until there is an answer, and pays for every attempt."""

import asyncio
import time
from collections.abc import Sequence

from promptjobs.clients.llm import Completed, Llm
from promptjobs.core.asks import Answer, Completion, CompletionBody, FailureReason
from promptjobs.core.config import JobConfig
from promptjobs.core.verifier import PURPOSE as JUDGE
from promptjobs.db.journal import AnswerRecord
from promptjobs.errors import DatabaseUnavailable, DeadlineExceeded, ProviderCallFailed, WorldError
from promptjobs.jobs.lease import Lease
from promptjobs.jobs.observing import observed
from promptjobs.jobs.outcomes import DETAIL_CHARACTERS, is_billed, storable, sum_of, text_of
from promptjobs.jobs.pricing_check import given_price
from promptjobs.jobs.purse import Purse
from promptjobs.jobs.retries import Retries

TIMEOUT_SECONDS = 300.0
OUTAGE_PAUSE_SECONDS = 0.25


class Completions:
    """Those of one running job. No more judgements are under way at a time than its config allows."""

    def __init__(self, *, config: JobConfig, lease: Lease, llm: Llm, purse: Purse, outage_seconds: float) -> None:
        self._config, self._lease, self._llm, self._purse = config, lease, llm, purse
        self._outage_seconds = outage_seconds
        verifier = config.search.verifier
        self._judges = asyncio.Semaphore(verifier.concurrency if verifier else 1)

    async def answer(self, ask: Completion) -> AnswerRecord:
        """Raises LeaseLost, ProviderNotConfigured, and BudgetExhausted: a cap does not hold the next attempt."""
        if ask.purpose != JUDGE:
            return await self._answer(ask)
        async with self._judges:
            return await self._answer(ask)

    async def _answer(self, ask: Completion) -> AnswerRecord:
        retries = Retries(self._outage_seconds)
        started = time.perf_counter()
        failed: list[ProviderCallFailed] = []
        attempts = 0
        while True:
            attempts += 1
            try:
                done = await self._persistent_attempt(ask)
            except WorldError as error:
                if isinstance(error, ProviderCallFailed):
                    failed.append(error)
                pause = retries.pause_after(error)
                if pause is None:
                    return _failed(ask, error, failed, attempts, time.perf_counter() - started)
            else:
                return _completed(ask, done, failed, attempts, time.perf_counter() - started)
            await asyncio.sleep(pause)

    async def _persistent_attempt(self, ask: Completion) -> Completed:
        """One attempt. While nothing can be reserved nothing is sent; that lasts as long as the lease at most."""
        while True:
            try:
                return await self._attempt(ask)
            except DatabaseUnavailable:
                await asyncio.sleep(OUTAGE_PAUSE_SECONDS)

    async def _attempt(self, ask: Completion) -> Completed:
        price = given_price(self._config, ask.model.provider, ask.model.model)
        timeout = ask.timeout_seconds or TIMEOUT_SECONDS
        self._lease.require()
        async with self._purse.paying(ask, price, timeout) as attempt:
            self._lease.require()
            with observed(self._lease.job_id, ask, attempt):
                attempt.completed = await self._llm.complete(
                    ask.model, ask.messages, seed=ask.draw, timeout_seconds=timeout, price=price
                )
        return attempt.completed


def _completed(
    ask: Completion, done: Completed, failed: Sequence[ProviderCallFailed], attempts: int, seconds: float
) -> AnswerRecord:
    answer = Answer(
        ask.key,
        prompt_tokens=done.usage.prompt_tokens + sum(error.prompt_tokens for error in failed),
        completion_tokens=done.usage.completion_tokens + sum(error.completion_tokens for error in failed),
        unknown_tokens=done.usage.unknown_tokens + sum(error.unknown_tokens for error in failed),
        cost_usd=sum_of([done.cost_usd, *(error.cost_usd for error in failed if is_billed(error))]),
        seconds=seconds,
    )
    body = CompletionBody(done.text, done.finish_reason)
    return AnswerRecord(ask, answer, text_of(body), None, attempts, done.finish_reason)


def _failed(
    ask: Completion, error: WorldError, failed: Sequence[ProviderCallFailed], attempts: int, seconds: float
) -> AnswerRecord:
    timed_out = isinstance(error, DeadlineExceeded)
    billed = [each for each in failed if is_billed(each)]
    answer = Answer(
        ask.key,
        None,
        FailureReason.PROVIDER_TIMEOUT if timed_out else FailureReason.PROVIDER_ERROR,
        sum(each.prompt_tokens for each in billed),
        sum(each.completion_tokens for each in billed),
        sum(each.unknown_tokens for each in billed),
        sum_of([each.cost_usd for each in billed]),
        seconds,
    )
    detail = str(error)[:DETAIL_CHARACTERS]
    return AnswerRecord(ask, answer, text_of(CompletionBody(detail, "error")), storable(detail), attempts, "error")
