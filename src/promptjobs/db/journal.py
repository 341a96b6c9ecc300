"""The journal: answers and turns of a job, written a group at a time in one fenced statement."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    Answer,
    Body,
    CallBody,
    CandidateFact,
    Completion,
    CompletionBody,
    EventFact,
    Fact,
    Key,
    ProgressFact,
    Rollout,
    RolloutBody,
    Tier,
    TrialFact,
)
from promptjobs.core.lanes import Cause
from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase, Trial
from promptjobs.db.journal_statement import COLUMNS, SESSION, statement_of


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """An answer as it is stored: what the core is sent, what it may recall, and what a user reads.

    body is the JSON text of a RolloutBody or CompletionBody. revoked: digests of the tokens that this answer settles.
    """

    ask: Rollout | Completion
    answer: Answer
    body: str
    detail: str | None = None
    attempts: int = 1
    finish_reason: str | None = None
    revoked: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnRecord:
    n: int
    lane: str
    cause: Cause
    chain: bytes
    search_version: int
    facts: Sequence[Fact] = ()
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as it is stored: the SHA-256 of its secret, and what it binds."""

    digest: bytes
    key: Key
    candidate_id: str
    seed: int
    phase: Phase
    attempt: int
    lifetime_seconds: float
    tier: Tier = Tier.HI


@dataclass(slots=True)
class Group:
    """What is committed together."""

    answers: list[tuple[int, AnswerRecord]] = field(default_factory=list)
    turns: list[TurnRecord] = field(default_factory=list)
    tokens: list[TokenRecord] = field(default_factory=list)


def body_text(body: Body) -> str:
    """The stored form; a rollout's calls stand in it only where they were kept."""
    if isinstance(body, RolloutBody) and not body.calls:
        parts = ("messages", "output", "feedback", "expected")
        return orjson.dumps({name: getattr(body, name) for name in parts}).decode()
    return orjson.dumps(body).decode()


def body_from(text: str) -> Body:
    """The decoded body: what the core recalls is always this, live and in replay."""
    raw = orjson.loads(text)
    if "finish_reason" in raw:
        return CompletionBody(raw["text"], raw["finish_reason"])
    calls = tuple(CallBody(_messages(call["messages"]), call["reply"]) for call in raw.get("calls", ()))
    return RolloutBody(_messages(raw["messages"]), raw["output"], raw["feedback"], raw["expected"], calls)


def _messages(raw: Sequence[dict[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(message["role"], message["content"]) for message in raw)


# --- what a group looks like to the statement ------------------------------------------------------------------------


def _bytes(value: bytes) -> str:
    """As Postgres reads a bytea."""
    return "\\x" + value.hex()


def rollout_row(n: int, record: AnswerRecord, ask: Rollout) -> dict[str, Any]:
    answer = record.answer
    return {
        "key": _bytes(answer.key),
        "n": n,
        "candidate_id": ask.candidate_id,
        "seed": ask.seed,
        "draw": ask.draw,
        "phase": ask.phase,
        "is_baseline": ask.is_baseline,
        "tier": ask.tier,
        "score": answer.score,
        "reason": answer.reason,
        "detail": record.detail,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "unknown_tokens": answer.unknown_tokens,
        "cost_usd": answer.cost_usd,
        "seconds": answer.seconds,
        "attempts": record.attempts,
        "body": record.body,
    }


def completion_row(n: int, record: AnswerRecord, ask: Completion) -> dict[str, Any]:
    answer = record.answer
    return {
        "key": _bytes(answer.key),
        "n": n,
        "purpose": ask.purpose,
        "provider": ask.model.provider,
        "model": ask.model.model,
        "draw": ask.draw,
        "reason": answer.reason,
        "detail": record.detail,
        "finish_reason": record.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "unknown_tokens": answer.unknown_tokens,
        "cost_usd": answer.cost_usd,
        "seconds": answer.seconds,
        "attempts": record.attempts,
        "request": _json({"messages": ask.messages, "parameters": ask.model}),
        "body": record.body,
    }


def turn_row(turn: TurnRecord) -> dict[str, Any]:
    return {
        "n": turn.n,
        "lane": turn.lane,
        "cause": turn.cause,
        "chain": _bytes(turn.chain),
        "search_version": turn.search_version,
        "detail": turn.detail,
    }


def event_row(seq: int, event: EventFact, turn: int) -> dict[str, Any]:
    """seq: 1 for the first event of the group."""
    return {
        "seq": seq,
        "turn": turn,
        "type": event.type,
        "message": event.message,
        "level": event.level,
        "data": _json(event.data),
    }


def candidate_row(candidate: Candidate, turn: int) -> dict[str, Any]:
    return {
        "candidate_id": candidate.candidate_id,
        "n": candidate.n,
        "baseline_id": candidate.baseline_id,
        "prompt": None if candidate.prompt is None else _json(candidate.prompt.to_json()),
        "parents": _json(candidate.parents),
        "operator": candidate.operator,
        "generation": candidate.generation,
        "turn": turn,
    }


def trial_row(trial: Trial, turn: int) -> dict[str, Any]:
    return {
        "n": trial.n,
        "candidate_id": trial.candidate_id,
        "phase": trial.phase,
        "is_baseline": trial.is_baseline,
        "seeds": trial.seeds,
        "scores": _json(trial.scores),
        "score": trial.score,
        "failed": trial.failed,
        "reused": trial.reused,
        "lane": trial.lane,
        "generation": trial.generation,
        "turn": turn,
    }


def token_row(token: TokenRecord) -> dict[str, Any]:
    return {
        "digest": _bytes(token.digest),
        "key": _bytes(token.key),
        "candidate_id": token.candidate_id,
        "seed": token.seed,
        "phase": token.phase,
        "tier": token.tier,
        "attempt": token.attempt,
        "lifetime_seconds": token.lifetime_seconds,
    }


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def rows_of(group: Group) -> tuple[dict[str, list[dict[str, Any]]], str | None]:
    """The group's rows by table, and the newest progress as JSON text, if there is any."""
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in COLUMNS}
    progress: str | None = None
    for n, record in group.answers:
        match record.ask:
            case Rollout():
                rows["rollouts"].append(rollout_row(n, record, record.ask))
            case Completion():
                rows["completions"].append(completion_row(n, record, record.ask))
    for turn in group.turns:
        rows["turns"].append(turn_row(turn))
        for fact in turn.facts:
            match fact:
                case EventFact():
                    rows["events"].append(event_row(len(rows["events"]) + 1, fact, turn.n))
                case CandidateFact():
                    rows["candidates"].append(candidate_row(fact.candidate, turn.n))
                case TrialFact():
                    rows["trials"].append(trial_row(fact.trial, turn.n))
                case ProgressFact():
                    progress = _json(fact.data)
    rows["tokens"] = [token_row(token) for token in group.tokens]
    return rows, progress


async def open_session(connection: asyncpg.Connection) -> None:
    """To be done once before groups are written on a connection."""
    await connection.execute(SESSION)


async def write_group(connection: asyncpg.Connection, job_id: str, epoch: int, number: int, group: Group) -> int | None:
    """Commit one group. number: the group's own, from 1; it tells afterwards whether it was committed.

    Returns the job's last event number, or None where the fence refused the group.
    """
    rows, progress = rows_of(group)
    tables = tuple(table for table, found in rows.items() if found)
    revoked = [digest for _, record in group.answers for digest in record.revoked]
    parameters: list[object] = [_json(rows[table]) for table in tables]
    if revoked:
        parameters.append(revoked)
    seq: int | None = await connection.fetchval(
        statement_of(tables, bool(revoked)), job_id, epoch, number, progress, len(rows["events"]), *parameters
    )
    return seq


async def last_group(connection: asyncpg.Connection, job_id: str) -> tuple[int, int]:
    """(epoch, last_group): whether a group of unknown outcome was committed."""
    row = await connection.fetchrow("SELECT epoch, last_group FROM jobs WHERE id = $1", job_id)
    return (row["epoch"], row["last_group"]) if row else (-1, -1)
