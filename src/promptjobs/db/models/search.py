"""What a running job writes: its journal, and what it has found."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from promptjobs.db.models.base import Base, job_key, now, tier


class CandidateRow(Base):
    """A prompt that was proposed. prompt is null for the task app's own messages, before their pattern is known."""

    __tablename__ = "candidates"

    job_id: Mapped[str] = job_key()
    candidate_id: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int]
    baseline_id: Mapped[str | None]
    prompt: Mapped[str | None]
    parents: Mapped[str]
    operator: Mapped[str]
    generation: Mapped[int]
    turn: Mapped[int]
    created_at: Mapped[datetime] = now()


class TrialRow(Base):
    """One candidate on a list of seeds; scores[i] belongs to seeds[i], null where the rollout failed."""

    __tablename__ = "trials"

    job_id: Mapped[str] = job_key()
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    candidate_id: Mapped[str]
    phase: Mapped[str]
    is_baseline: Mapped[bool]
    seeds: Mapped[list[int]]
    scores: Mapped[str]
    score: Mapped[float | None]
    failed: Mapped[int]
    reused: Mapped[int]
    lane: Mapped[str]
    generation: Mapped[int]
    turn: Mapped[int]
    created_at: Mapped[datetime] = now()

    __table_args__ = (CheckConstraint("score BETWEEN 0 AND 1", name="score"),)


class RolloutRow(Base):
    """An answer to a rollout ask: a score, or the reason why there is none."""

    __tablename__ = "rollouts"

    job_id: Mapped[str] = job_key()
    key: Mapped[bytes] = mapped_column(primary_key=True)
    n: Mapped[int]
    candidate_id: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    draw: Mapped[int]
    phase: Mapped[str]
    is_baseline: Mapped[bool]
    tier: Mapped[str] = tier()
    score: Mapped[float | None]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    unknown_tokens: Mapped[int]
    cost_usd: Mapped[float | None]
    seconds: Mapped[float]
    attempts: Mapped[int]
    body: Mapped[str]
    epoch: Mapped[int]
    created_at: Mapped[datetime] = now()

    __table_args__ = (
        CheckConstraint("score BETWEEN 0 AND 1", name="score"),
        CheckConstraint("(score IS NULL) <> (reason IS NULL)", name="score_or_reason"),
        Index("ix_rollouts_job_id_candidate_id_seed", "job_id", "candidate_id", "seed"),
    )


class CompletionRow(Base):
    """An answer to a completion ask, with what was sent and what came back."""

    __tablename__ = "completions"

    job_id: Mapped[str] = job_key()
    key: Mapped[bytes] = mapped_column(primary_key=True)
    n: Mapped[int]
    purpose: Mapped[str]
    provider: Mapped[str]
    model: Mapped[str]
    draw: Mapped[int]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    finish_reason: Mapped[str | None]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    unknown_tokens: Mapped[int]
    cost_usd: Mapped[float | None]
    seconds: Mapped[float]
    attempts: Mapped[int]
    request: Mapped[str]
    body: Mapped[str]
    epoch: Mapped[int]
    created_at: Mapped[datetime] = now()


class Turn(Base):
    """The order in which lanes were resumed: with the answers it determines the run."""

    __tablename__ = "turns"

    job_id: Mapped[str] = job_key()
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    lane: Mapped[str]
    cause: Mapped[str]
    chain: Mapped[bytes]
    search_version: Mapped[int]
    detail: Mapped[str | None]
    epoch: Mapped[int]
    created_at: Mapped[datetime] = now()


class Token(Base):
    """A capability to call the interceptor for one attempt at one ask; only its SHA-256 is stored."""

    __tablename__ = "tokens"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(index=True)
    key: Mapped[bytes]
    candidate_id: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    phase: Mapped[str]
    tier: Mapped[str] = tier()
    attempt: Mapped[int]
    epoch: Mapped[int]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = now()


class Call(Base):
    """One call of a task app's LLM through the interceptor: what was sent, what came back, what it cost."""

    __tablename__ = "calls"

    token: Mapped[bytes] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    job_id: Mapped[str]
    key: Mapped[bytes]
    candidate_id: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    phase: Mapped[str]
    attempt: Mapped[int]
    provider: Mapped[str]
    model: Mapped[str]
    streamed: Mapped[bool]
    status: Mapped[int]
    error: Mapped[str | None]
    messages: Mapped[str]
    reply: Mapped[str | None]
    finish_reason: Mapped[str | None]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    unknown_tokens: Mapped[int]
    cost_usd: Mapped[float | None]
    seconds: Mapped[float]
    created_at: Mapped[datetime] = now()

    __table_args__ = (Index("ix_calls_job_id_key", "job_id", "key"),)
