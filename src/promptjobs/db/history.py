"""The journal read back: a job's answers, turns, bodies and published facts."""

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import orjson

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import DESCRIPTION, Answer, FailureReason, Key
from promptjobs.core.lanes import Cause
from promptjobs.core.optimizer import Adopted
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.trial import Phase, Trial
from promptjobs.core.verifier import PURPOSE as JUDGE
from promptjobs.db.journal import TurnRecord

_ANSWERS = """
SELECT n, key, score, reason, prompt_tokens, completion_tokens, unknown_tokens, cost_usd, seconds
FROM rollouts WHERE job_id = $1
UNION ALL
SELECT n, key, NULL, reason, prompt_tokens, completion_tokens, unknown_tokens, cost_usd, seconds
FROM completions WHERE job_id = $1
"""


async def load_answers(connection: asyncpg.Connection, job_id: str) -> list[tuple[int, Answer]]:
    """Every recorded answer with its number, in no particular order; without bodies, so a large job stays small."""
    found = []
    async with connection.transaction(readonly=True):
        async for n, key, score, reason, *rest in connection.cursor(_ANSWERS, job_id, prefetch=2000):
            found.append((n, Answer(key, score, FailureReason(reason) if reason else None, *rest)))
    return found


async def load_turns(connection: asyncpg.Connection, job_id: str) -> list[TurnRecord]:
    """The recorded turns in order, without their facts: replay drops those."""
    rows = await connection.fetch(
        "SELECT n, lane, cause, chain, search_version, detail FROM turns WHERE job_id = $1 ORDER BY n", job_id
    )
    return [
        TurnRecord(r["n"], r["lane"], Cause(r["cause"]), r["chain"], r["search_version"], detail=r["detail"])
        for r in rows
    ]


async def load_bodies(connection: asyncpg.Connection, job_id: str, keys: Sequence[Key]) -> dict[Key, str]:
    """The stored bodies of answers, to be read with `body_from`."""
    rows = await connection.fetch(
        "SELECT key, body FROM rollouts WHERE job_id = $1 AND key = ANY($2::bytea[]) "
        "UNION ALL SELECT key, body FROM completions WHERE job_id = $1 AND key = ANY($2::bytea[])",
        job_id,
        list(keys),
    )
    return {row["key"]: row["body"] for row in rows}


def candidate_from(row: Mapping[str, Any]) -> Candidate:
    """A candidate from its row of the table."""
    return Candidate(
        candidate_id=row["candidate_id"],
        n=row["n"],
        prompt=None if row["prompt"] is None else PromptTemplate.from_json(orjson.loads(row["prompt"])),
        baseline_id=row["baseline_id"],
        parents=tuple(orjson.loads(row["parents"])),
        operator=row["operator"],
        generation=row["generation"],
    )


def trial_from(row: Mapping[str, Any]) -> Trial:
    """A trial from its row of the table."""
    return Trial(
        n=row["n"],
        candidate_id=row["candidate_id"],
        phase=Phase(row["phase"]),
        is_baseline=row["is_baseline"],
        seeds=tuple(row["seeds"]),
        scores=tuple(orjson.loads(row["scores"])),
        reused=row["reused"],
        lane=row["lane"],
        generation=row["generation"],
    )


async def load_facts(connection: asyncpg.Connection, job_id: str, before_turn: int) -> Adopted:
    """What the turns before `before_turn` have published, and what has been spent: the start of a changed search."""
    candidates = await connection.fetch(
        "SELECT * FROM candidates WHERE job_id = $1 AND turn < $2 ORDER BY n", job_id, before_turn
    )
    trials = await connection.fetch(
        "SELECT * FROM trials WHERE job_id = $1 AND turn < $2 ORDER BY n", job_id, before_turn
    )
    rollouts = await connection.fetch(
        "SELECT phase, count(*) AS n FROM rollouts WHERE job_id = $1 GROUP BY phase", job_id
    )
    completions = await connection.fetchval(
        "SELECT count(*) FROM completions WHERE job_id = $1 AND purpose NOT IN ($2, $3)", job_id, JUDGE, DESCRIPTION
    )
    return Adopted(
        candidates=tuple(candidate_from(row) for row in candidates),
        trials=tuple(trial_from(row) for row in trials),
        rollouts={Phase(row["phase"]): row["n"] for row in rollouts},
        completions=completions,
    )
