"""Answers asks from the world: rollouts by the task app, whose calls come through our interceptor, and the others."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from promptjobs.clients.llm import Llm
from promptjobs.clients.rollout_reply import RolloutReply
from promptjobs.clients.task_app import Dialect, Policy, RolloutRequest, TaskApp
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    DESCRIPTION,
    Answer,
    Ask,
    Body,
    CandidateFact,
    Completion,
    Fact,
    Key,
    Rollout,
    RolloutBody,
    Tier,
)
from promptjobs.core.config import JobConfig
from promptjobs.core.ledger import Caps
from promptjobs.core.policies import policy_of
from promptjobs.core.verifier import Verifier
from promptjobs.db.calls import CallRecord
from promptjobs.db.journal import AnswerRecord, TokenRecord
from promptjobs.db.ledger import Ledger
from promptjobs.errors import WorldError
from promptjobs.interceptor.grants import Grants
from promptjobs.interceptor.terms import Terms
from promptjobs.jobs.completions import Completions
from promptjobs.jobs.description import describe
from promptjobs.jobs.lease import Lease
from promptjobs.jobs.outcomes import (
    DETAIL_CHARACTERS,
    calls_of_body,
    cost_of,
    exhausted_by,
    keyless_by,
    messages_of,
    reason_of,
    settled,
    storable,
    text_of,
)
from promptjobs.jobs.purse import Purse
from promptjobs.jobs.retries import Retries
from promptjobs.jobs.writer import Writer

TOKEN_GRACE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Minted:
    """A token with its secret, which only the task app is told."""

    secret: str
    record: TokenRecord


class JobWorld:
    """The world of one running job.

    calls_of reads the calls that were made under tokens. url is the address under which task apps reach us.
    has_balance: what the organisation may spend is limited. The writer is set when the run has made it: tokens of
    further attempts go through it.
    """

    writer: Writer

    def __init__(
        self,
        *,
        job_id: str,
        config: JobConfig,
        lease: Lease,
        task_app: TaskApp,
        llm: Llm,
        grants: Grants | None,
        calls_of: Callable[[bytes], Awaitable[list[CallRecord]]],
        url: str,
        rollout_timeout_seconds: float,
        outage_seconds: float,
        ledger: Ledger,
        organisation: str,
        has_balance: bool,
    ) -> None:
        self.job_id, self.config, self.lease = job_id, config, lease
        self.task_app, self.grants = task_app, grants
        self.calls_of = calls_of
        self.url = url
        self.rollout_timeout_seconds = rollout_timeout_seconds
        self.outage_seconds = outage_seconds
        self.organisation, self.has_balance = organisation, has_balance
        purse = Purse(ledger, job_id, organisation, Caps.of(config), has_balance)
        self.completions = Completions(config=config, lease=lease, llm=llm, purse=purse, outage_seconds=outage_seconds)
        judge = Verifier.of(config.search.verifier)
        self._keeps_calls = bool(config.search.modules) or (judge is not None and judge.wants_calls)
        self._minted: dict[Key, Minted] = {}
        self._candidates: dict[str, Candidate] = {}
        self._terms: dict[Tier, Terms] = {}
        tiers = Tier if config.search.proxy_models is not None else (Tier.HI,)
        self._policies = {tier: _policy_told(config, tier) for tier in tiers}

    def observe(self, facts: Sequence[Fact]) -> None:
        """Learn the candidates that a turn decides on, so that their first calls need no question to the database."""
        for fact in facts:
            if isinstance(fact, CandidateFact):
                self._candidates[fact.candidate.candidate_id] = fact.candidate

    def tokens(self, asks: Sequence[Ask]) -> list[TokenRecord]:
        """A token for each rollout, to be committed with the turn that asks for it."""
        records = []
        for ask in asks:
            if isinstance(ask, Rollout):
                minted = self._mint(ask, 0)
                self._minted[ask.key] = minted
                records.append(minted.record)
        return records

    async def answer(self, ask: Ask) -> AnswerRecord:
        """Ask until there is an answer, or a failure that is one.

        Raises LeaseLost; ProviderNotConfigured, SecretUnreadable where a call has no key; DatabaseUnavailable
        where a rollout's calls cannot be read; and BudgetExhausted where a cap does not hold a call that the answer
        needs.
        """
        match ask:
            case Rollout():
                return await self._rollout(ask)
            case Completion(purpose=purpose) if purpose == DESCRIPTION:
                return await describe(ask, self.task_app, self.lease, self.outage_seconds)
            case Completion():
                return await self.completions.answer(ask)
            case _:
                assert_never(ask)

    # --- rollouts ----------------------------------------------------------------------------------------------------

    async def _rollout(self, ask: Rollout) -> AnswerRecord:
        retries = Retries(self.outage_seconds)
        started = time.perf_counter()
        minted = self._minted.pop(ask.key, None)
        tokens: list[bytes] = []
        calls: list[CallRecord] = []
        while True:
            self.lease.require()
            if minted is None:
                minted = self._mint(ask, len(tokens))
                await self.writer.put_tokens([minted.record])
            digest = minted.record.digest
            tokens.append(digest)
            self._admit(ask, minted)
            outcome = await self._attempt(ask, minted)
            minted = None
            made = await self.calls_of(digest)
            if self.grants is not None:
                self.grants.revoke([digest])
            calls += made
            if (refusal := exhausted_by(made) or keyless_by(made)) is not None:
                # A score may have come all the same, but not of the prompt alone: a call was refused on the way.
                raise refusal
            outcome = settled(outcome, made)
            pause = retries.pause_after(outcome) if isinstance(outcome, WorldError) else None
            if pause is None:
                break
            await asyncio.sleep(pause)
        seconds = time.perf_counter() - started
        return self._rollout_record(ask, outcome, calls, made, tokens, seconds)

    async def _attempt(self, ask: Rollout, minted: Minted) -> RolloutReply | WorldError:
        trace = f"trace_{minted.record.digest.hex()[:24]}"
        try:
            return await self.task_app.rollout(
                RolloutRequest(
                    seed=ask.seed,
                    run_id=self.job_id,
                    inference_url=self._inference_url(minted.secret, trace),
                    policy=self._policies[ask.tier],
                    env_name=self.config.task_app.env_name,
                    env_config=self.config.task_app.env_config,
                    correlation_id=trace,
                ),
                timeout_seconds=self.rollout_timeout_seconds,
            )
        except WorldError as error:
            return error

    def _inference_url(self, secret: str, trace: str) -> str:
        base = f"{self.url}/interceptor/v1/{secret}"
        return base if self.task_app.dialect is Dialect.POLICY_URL else f"{base}/{trace}"

    def _mint(self, ask: Rollout, attempt: int) -> Minted:
        secret = secrets.token_urlsafe(24)
        lifetime = self.outage_seconds + 2 * self.rollout_timeout_seconds + TOKEN_GRACE_SECONDS
        digest = hashlib.sha256(secret.encode()).digest()
        record = TokenRecord(digest, ask.key, ask.candidate_id, ask.seed, ask.phase, attempt, lifetime, ask.tier)
        return Minted(secret, record)

    def _admit(self, ask: Rollout, minted: Minted) -> None:
        """Tell the interceptor of this process, so that it need not ask the database."""
        candidate = self._candidates.get(ask.candidate_id)
        if self.grants is None or candidate is None:
            return
        baseline = self._candidates.get(candidate.baseline_id) if candidate.baseline_id else None
        if candidate.baseline_id is not None and baseline is None:
            return
        self.grants.admit(
            minted.secret,
            job_id=self.job_id,
            key=ask.key,
            candidate=candidate,
            baseline=baseline.prompt if baseline else None,
            seed=ask.seed,
            phase=ask.phase,
            attempt=minted.record.attempt,
            epoch=self.lease.epoch,
            terms=self._terms_of(ask.tier),
            seconds_left=self.lease.seconds_left,
        )

    def _terms_of(self, tier: Tier) -> Terms:
        known = self._terms.get(tier)
        if known is None:
            terms = Terms.of(self.config, tier, organisation=self.organisation, has_balance=self.has_balance)
            known = self._terms[tier] = terms
        return known

    def _rollout_record(
        self,
        ask: Rollout,
        outcome: RolloutReply | WorldError,
        calls: Sequence[CallRecord],
        last: Sequence[CallRecord],
        tokens: Sequence[bytes],
        seconds: float,
    ) -> AnswerRecord:
        score, reason, detail = None, None, None
        first = next((call for call in last if call.error is None), last[0] if last else None)
        messages = messages_of(first) if first else ()
        kept = calls_of_body(last) if self._keeps_calls else ()
        if isinstance(outcome, RolloutReply):
            score = outcome.score
            output = outcome.output or (last[-1].reply_text if last else "")
            body: Body = RolloutBody(messages, output, outcome.feedback, outcome.expected, kept)
        else:
            reason, detail = reason_of(outcome), str(outcome)[:DETAIL_CHARACTERS]
            body = RolloutBody(messages, last[-1].reply_text if last else "", detail, calls=kept)
        answer = Answer(
            ask.key,
            score,
            reason,
            sum(call.prompt_tokens for call in calls),
            sum(call.completion_tokens for call in calls),
            sum(call.unknown_tokens for call in calls),
            cost_of(calls),
            sum(call.seconds for call in last) or seconds,
        )
        return AnswerRecord(ask, answer, text_of(body), storable(detail), len(tokens), revoked=tuple(tokens))


def _policy_told(config: JobConfig, tier: Tier) -> Policy:
    """The policy as a task app is told it."""
    policy = policy_of(config, tier)
    return Policy(
        model=policy.model,
        provider=policy.provider,
        temperature=policy.temperature,
        max_completion_tokens=policy.max_completion_tokens,
        policy_name=policy.policy_name or "policy",
    )
