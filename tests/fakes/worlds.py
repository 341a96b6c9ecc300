"""A world in the same process: scores by hash, a log of every call, and death at a chosen moment."""

import asyncio
import hashlib
import random
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from promptjobs.core.asks import Answer, Ask, Completion, CompletionBody, Fact, FailureReason, Key, Rollout, RolloutBody
from promptjobs.core.prompt import Message
from promptjobs.db.journal import AnswerRecord, TokenRecord, body_text


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test may catch it."""


def _fraction(key: Key, salt: str) -> float:
    return int.from_bytes(hashlib.blake2b(key + salt.encode(), digest_size=6).digest()) / 2**48


@dataclass
class HashWorld:
    """Answers are pure functions of the ask, so two runs can be compared; their order of arrival is not.

    kill_at: (kind, n) with kind turn, call or answer: die at the n-th of these. failing: share of failed rollouts.
    """

    kill_at: tuple[str, int] | None = None
    failing: float = 0.0
    jitter: random.Random = field(default_factory=lambda: random.Random(0))
    calls: Counter[Key] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    gate: asyncio.Event | None = None
    called: asyncio.Event = field(default_factory=asyncio.Event)

    def _moment(self, kind: str) -> None:
        self.moments[kind] += 1
        if self.kill_at == (kind, self.moments[kind]):
            raise Killed(f"{kind} {self.moments[kind]}")

    def observe(self, facts: Sequence[Fact]) -> None:
        pass

    def tokens(self, asks: Sequence[Ask]) -> list[TokenRecord]:
        self._moment("turn")
        return [
            TokenRecord(secrets.token_bytes(32), ask.key, ask.candidate_id, ask.seed, ask.phase, 0, 60.0)
            for ask in asks
            if isinstance(ask, Rollout)
        ]

    async def answer(self, ask: Ask) -> AnswerRecord:
        self._moment("call")
        self.calls[ask.key] += 1
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        for _ in range(self.jitter.randrange(4)):
            await asyncio.sleep(0)  # gives way to the others in a random order; no time passes
        self._moment("answer")
        match ask:
            case Rollout():
                if _fraction(ask.key, "failing") < self.failing:
                    failed = RolloutBody((), "", "it broke")
                    return AnswerRecord(ask, Answer(ask.key, reason=FailureReason.TASK_APP_ERROR), body_text(failed))
                score = round(_fraction(ask.key, "score"), 6)
                body = RolloutBody((Message("user", f"input {ask.seed}"),), "out", f"feedback {ask.key.hex()}")
                return AnswerRecord(ask, Answer(ask.key, score, prompt_tokens=7, cost_usd=1e-5), body_text(body))
            case Completion():
                text = f"improved prompt {ask.key.hex()[:8]}"
                answer = Answer(ask.key, prompt_tokens=20, completion_tokens=9)
                return AnswerRecord(ask, answer, body_text(CompletionBody(text, "stop")), finish_reason="stop")
