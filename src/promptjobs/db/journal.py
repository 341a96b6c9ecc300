"""The journal: answers and turns of a job, written a group at a time in one fenced statement."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import asyncpg
import orjson

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    Answer,
    Body,
    CandidateFact,
    Completion,
    CompletionBody,
    EventFact,
    Fact,
    Key,
    ProgressFact,
    Rollout,
    RolloutBody,
    TrialFact,
)
from promptjobs.core.lanes import Cause
from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase, Trial


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


@dataclass(slots=True)
class Group:
    """What is committed together."""

    answers: list[tuple[int, AnswerRecord]] = field(default_factory=list)
    turns: list[TurnRecord] = field(default_factory=list)
    tokens: list[TokenRecord] = field(default_factory=list)


def body_text(body: Body) -> str:
    return orjson.dumps(body).decode()


def body_from(text: str) -> Body:
    """The decoded body: what the core recalls is always this, live and in replay."""
    raw = orjson.loads(text)
    if "finish_reason" in raw:
        return CompletionBody(raw["text"], raw["finish_reason"])
    messages = tuple(Message(m["role"], m["content"]) for m in raw["messages"])
    return RolloutBody(messages, raw["output"], raw["feedback"], raw["expected"])


# --- one statement for a group ---------------------------------------------------------------------------------------

_USED = "prompt_tokens int, completion_tokens int, unknown_tokens int, cost_usd float8, seconds float8, attempts int"
_ROLLOUT = (
    "key bytea, n int, candidate_id text, seed bigint, draw int, phase text, is_baseline bool, score float8, "
    f"reason text, detail text, {_USED}, body text"
)
_COMPLETION = (
    "key bytea, n int, purpose text, provider text, model text, draw int, reason text, detail text, "
    f"finish_reason text, {_USED}, request text, body text"
)
_TURN = "n int, lane text, cause text, chain bytea, search_version int, detail text"
_EVENT = "turn int, type text, message text, level text, data text"
_CANDIDATE = (
    "candidate_id text, n int, baseline_id text, prompt text, parents text, operator text, generation int, turn int"
)
_TRIAL = (
    "n int, candidate_id text, phase text, is_baseline bool, seeds text, scores text, score float8, failed int, "
    "reused int, lane text, generation int, turn int"
)
_GRANT = "digest bytea, key bytea, candidate_id text, seed bigint, phase text, attempt int, lifetime float8"


def _names(columns: str) -> list[str]:
    return [column.split()[0] for column in columns.split(", ")]


def _width(columns: str) -> int:
    return len(_names(columns))


def _statement() -> str:
    """The fence, `seq` and all inserts in one round trip: no transaction stays open that a frozen runner could hold."""
    at = 6

    def unnest(columns: str, alias: str, ordinality: bool = False) -> str:
        nonlocal at
        casts = ", ".join(f"${at + i}::{column.split()[1]}[]" for i, column in enumerate(columns.split(", ")))
        at += _width(columns)
        names = ", ".join([*_names(columns), *(["i"] if ordinality else [])])
        return f"unnest({casts}){' WITH ORDINALITY' if ordinality else ''} {alias}({names})"

    def insert(name: str, table: str, columns: str, more: str = "", values: str = "") -> str:
        listed = ", ".join(_names(columns))
        return (
            f"{name} AS (INSERT INTO {table}(job_id, {listed}{more}) "
            f"SELECT $1, {listed}{values} FROM j, {unnest(columns, 'u')})"
        )

    rollouts = insert("r", "rollouts", _ROLLOUT, ", epoch", ", $2")
    completions = insert("c", "completions", _COMPLETION, ", epoch", ", $2")
    turns = insert("t", "turns", _TURN, ", epoch", ", $2")
    events_at = at + 1
    events = (
        f"e AS (INSERT INTO events(job_id, seq, turn, type, message, level, data) "
        f"SELECT $1, j.last_seq - cardinality(${events_at}::text[]) + u.i, turn, type, message, level, data "
        f"FROM j, {unnest(_EVENT, 'u', ordinality=True)})"
    )
    candidates = insert("d", "candidates", _CANDIDATE)
    trial_names = ", ".join(_names(_TRIAL))
    trials = (
        f"s AS (INSERT INTO trials(job_id, {trial_names}) "
        f"SELECT $1, {trial_names.replace('seeds', 'seeds::bigint[]')} FROM j, {unnest(_TRIAL, 'u')})"
    )
    token_names = ", ".join(_names(_GRANT)[:-1])
    tokens = (
        f"k AS (INSERT INTO tokens(job_id, {token_names}, epoch, expires_at) "
        f"SELECT $1, {token_names}, $2, clock_timestamp() + make_interval(secs => lifetime) "
        f"FROM j, {unnest(_GRANT, 'u')})"
    )
    revoked = (
        "v AS (UPDATE tokens SET revoked_at = clock_timestamp() FROM j WHERE digest = ANY($5::bytea[]) AND job_id = $1)"
    )
    job = (
        f"j AS (UPDATE jobs SET last_seq = last_seq + cardinality(${events_at}::text[]), last_group = $3, "
        "progress = coalesce($4::text, progress), updated_at = clock_timestamp() "
        "WHERE id = $1 AND epoch = $2 AND last_group = $3 - 1 AND status = 'running' RETURNING last_seq)"
    )
    told = (
        f"SELECT last_seq, CASE WHEN cardinality(${events_at}::text[]) > 0 "
        "THEN pg_notify('promptjobs_events', $1)::text END FROM j"
    )
    parts = [job, rollouts, completions, turns, events, candidates, trials, tokens, revoked]
    return "WITH " + ",\n".join(parts) + "\n" + told


GROUP = _statement()


def _columns(rows: Sequence[Sequence[Any]], width: int) -> Sequence[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _rollout_row(n: int, record: AnswerRecord, ask: Rollout) -> tuple[Any, ...]:
    a = record.answer
    return (
        a.key, n, ask.candidate_id, ask.seed, ask.draw, ask.phase, ask.is_baseline, a.score, a.reason, record.detail,
        a.prompt_tokens, a.completion_tokens, a.unknown_tokens, a.cost_usd, a.seconds, record.attempts, record.body,
    )  # fmt: skip


def _completion_row(n: int, record: AnswerRecord, ask: Completion) -> tuple[Any, ...]:
    a = record.answer
    request = orjson.dumps({"messages": ask.messages, "parameters": ask.model}).decode()
    return (
        a.key, n, ask.purpose, ask.model.provider, ask.model.model, ask.draw, a.reason, record.detail,
        record.finish_reason, a.prompt_tokens, a.completion_tokens, a.unknown_tokens, a.cost_usd, a.seconds,
        record.attempts, request, record.body,
    )  # fmt: skip


def _candidate_row(candidate: Candidate, turn: int) -> tuple[Any, ...]:
    prompt = None if candidate.prompt is None else orjson.dumps(candidate.prompt.to_json()).decode()
    parents = orjson.dumps(candidate.parents).decode()
    return (
        candidate.candidate_id, candidate.n, candidate.baseline_id, prompt, parents, candidate.operator,
        candidate.generation, turn,
    )  # fmt: skip


def _trial_row(trial: Trial, turn: int) -> tuple[Any, ...]:
    seeds = "{" + ",".join(map(str, trial.seeds)) + "}"
    scores = orjson.dumps(trial.scores).decode()
    return (
        trial.n, trial.candidate_id, trial.phase, trial.is_baseline, seeds, scores, trial.score, trial.failed,
        trial.reused, trial.lane, trial.generation, turn,
    )  # fmt: skip


def arguments(job_id: str, epoch: int, number: int, group: Group) -> list[Any]:
    """The parameters of GROUP. number: the group's own, from 1; it tells afterwards whether it was committed."""
    rollouts, completions, events, candidates, trials = [], [], [], [], []
    progress: str | None = None
    revoked: list[bytes] = []
    for n, record in group.answers:
        revoked.extend(record.revoked)
        match record.ask:
            case Rollout():
                rollouts.append(_rollout_row(n, record, record.ask))
            case Completion():
                completions.append(_completion_row(n, record, record.ask))
    for turn in group.turns:
        for fact in turn.facts:
            match fact:
                case EventFact():
                    data = orjson.dumps(fact.data, option=orjson.OPT_NON_STR_KEYS).decode()
                    events.append((turn.n, fact.type, fact.message, fact.level, data))
                case CandidateFact():
                    candidates.append(_candidate_row(fact.candidate, turn.n))
                case TrialFact():
                    trials.append(_trial_row(fact.trial, turn.n))
                case ProgressFact():
                    progress = orjson.dumps(fact.data, option=orjson.OPT_NON_STR_KEYS).decode()
    turns = [(t.n, t.lane, t.cause, t.chain, t.search_version, t.detail) for t in group.turns]
    tokens = [tuple(getattr(token, each.name) for each in fields(TokenRecord)) for token in group.tokens]
    return [
        job_id, epoch, number, progress, revoked,
        *_columns(rollouts, _width(_ROLLOUT)),
        *_columns(completions, _width(_COMPLETION)),
        *_columns(turns, _width(_TURN)),
        *_columns(events, _width(_EVENT)),
        *_columns(candidates, _width(_CANDIDATE)),
        *_columns(trials, _width(_TRIAL)),
        *_columns(tokens, _width(_GRANT)),
    ]  # fmt: skip


async def write_group(connection: asyncpg.Connection, job_id: str, epoch: int, number: int, group: Group) -> int | None:
    """Commit one group. Returns the job's last event number, or None where the fence refused it."""
    seq: int | None = await connection.fetchval(GROUP, *arguments(job_id, epoch, number, group))
    return seq


async def last_group(connection: asyncpg.Connection, job_id: str) -> tuple[int, int]:
    """(epoch, last_group): whether a group of unknown outcome was committed."""
    row = await connection.fetchrow("SELECT epoch, last_group FROM jobs WHERE id = $1", job_id)
    return (row["epoch"], row["last_group"]) if row else (-1, -1)
