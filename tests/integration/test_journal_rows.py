"""What a group writes is what is read back, to the last bit; and nothing goes out before it is recorded."""

from collections.abc import Sequence
from typing import Any

import pytest

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    Answer,
    Ask,
    CandidateFact,
    Completion,
    CompletionBody,
    EventFact,
    FailureReason,
    MetaModel,
    ProgressFact,
    Rollout,
    RolloutBody,
    TrialFact,
)
from promptjobs.core.lanes import Cause
from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase, Trial
from promptjobs.db import history, journal
from promptjobs.db.journal import AnswerRecord, Group, TokenRecord, TurnRecord, body_from, body_text
from promptjobs.db.session import Database
from tests.fakes.journaled import Journaled, new_job
from tests.fakes.searches import Evolving, template
from tests.fakes.worlds import HashWorld

AWKWARD = 'quoted "text", back\\slash, {braces}, line\n\tends\r, \u2028, émoji 🧪, \\u0041, null, {"json": [1]}'
THIRD = 0.1 + 0.2


def answers_of() -> list[AnswerRecord]:
    won = Rollout("c1", 2**40, "policy", Phase.OPTIMIZATION, draw=1)
    lost = Rollout("c1", -3, "policy", Phase.TEST, is_baseline=True)
    said = Completion("reflection", MetaModel("fake", "meta"), (Message("user", AWKWARD),))
    return [
        AnswerRecord(
            won,
            Answer(won.key, THIRD, None, 3, 4, 5, 1e-300, 1 / 3),
            body_text(RolloutBody((Message("user", AWKWARD),), AWKWARD, AWKWARD)),
        ),
        AnswerRecord(
            lost,
            Answer(lost.key, None, FailureReason.INVALID_SCORE, seconds=5e-324),
            body_text(RolloutBody((), "", AWKWARD)),
            AWKWARD,
            attempts=3,
        ),
        AnswerRecord(said, Answer(said.key, cost_usd=0.0), body_text(CompletionBody(AWKWARD, "stop")), None, 1, "stop"),
    ]


CANDIDATE = Candidate("c1", 4, template(AWKWARD), "c0", ("c0", "c2"), "reflection", 2)
TRIAL = Trial(1, "c1", Phase.OPTIMIZATION, False, (2**40, -3), (THIRD, None), 1, "0.1.002", 2)


@pytest.fixture
async def job(database: Database) -> Journaled:
    job = Journaled(database, await new_job(database), Evolving)
    await job.claim()
    return job


async def test_a_group_is_read_back_as_it_was_written(database: Database, job: Journaled) -> None:
    records = answers_of()
    facts = [CandidateFact(CANDIDATE), TrialFact(TRIAL), EventFact("type", AWKWARD, {"text": AWKWARD, "x": THIRD})]
    turns = [
        TurnRecord(0, "0", Cause.START, b"\x00\xff" * 8, 3, facts, AWKWARD),
        TurnRecord(1, "0.1.002", Cause.RESUME, b"", 3, [EventFact("other", "", {}), ProgressFact({"x": THIRD})]),
    ]
    connection = await database.connect()
    try:
        group = Group(list(enumerate(records)), turns)
        assert await journal.write_group(connection, job.job_id, 1, 1, group) == 2
        assert sorted(await history.load_answers(connection, job.job_id)) == [
            (n, record.answer) for n, record in enumerate(records)
        ]
        bodies = await history.load_bodies(connection, job.job_id, [record.answer.key for record in records])
        assert bodies == {record.answer.key: record.body for record in records}
        assert all(body_text(body_from(text)) == text for text in bodies.values())
        found = await history.load_turns(connection, job.job_id)
        assert [(t.n, t.lane, t.cause, t.chain, t.search_version, t.detail) for t in found] == [
            (t.n, t.lane, t.cause, t.chain, t.search_version, t.detail) for t in turns
        ]
        adopted = await history.load_facts(connection, job.job_id, 2)
        assert (adopted.candidates, adopted.trials) == ((CANDIDATE,), (TRIAL,))
        assert (adopted.rollouts, adopted.completions) == ({Phase.OPTIMIZATION: 1, Phase.TEST: 1}, 1)
    finally:
        await connection.close()
    events = await job.fetch("SELECT seq, turn, type, message, data FROM events WHERE job_id = $1 ORDER BY seq")
    assert [tuple(row.values())[:4] for row in events] == [(1, 0, "type", AWKWARD), (2, 1, "other", "")]


async def test_the_fence_refuses_a_group_whole(database: Database, job: Journaled) -> None:
    """Of another epoch, out of turn, or of a job that does not run: nothing of it is stored."""
    group = Group(list(enumerate(answers_of())), [TurnRecord(0, "0", Cause.START, b"", 1, [EventFact("e", "", {})])])
    connection = await database.connect()
    try:
        for epoch, number in ((0, 1), (2, 1), (1, 0), (1, 2)):
            assert await journal.write_group(connection, job.job_id, epoch, number, group) is None
        await connection.execute("UPDATE jobs SET status = 'cancelled' WHERE id = $1", job.job_id)
        assert await journal.write_group(connection, job.job_id, 1, 1, group) is None
        for table in ("rollouts", "completions", "turns", "events"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE job_id = $1", job.job_id) == 0
    finally:
        await connection.close()


async def test_an_answer_revokes_its_tokens_and_no_other(database: Database, job: Journaled) -> None:
    [won, *_] = answers_of()
    ask = won.ask
    assert isinstance(ask, Rollout)
    tokens = [TokenRecord(bytes([n]) * 32, ask.key, "c1", 1, Phase.TEST, n, 60.0) for n in range(3)]
    settled = AnswerRecord(ask, won.answer, won.body, revoked=(tokens[0].digest, tokens[2].digest))
    connection = await database.connect()
    try:
        await journal.write_group(connection, job.job_id, 1, 1, Group(tokens=tokens))
        await journal.write_group(connection, job.job_id, 1, 2, Group(answers=[(0, settled)]))
    finally:
        await connection.close()
    rows = await job.fetch(
        "SELECT attempt, revoked_at IS NOT NULL AS revoked, epoch, "
        "extract(epoch FROM expires_at - created_at) BETWEEN 59 AND 61 AS lasts FROM tokens WHERE job_id = $1 "
        "ORDER BY attempt"
    )
    assert [tuple(row.values()) for row in rows] == [(0, True, 1, True), (1, False, 1, True), (2, True, 1, True)]


class Watching(HashWorld):
    """Looks into the database at every call."""

    def __init__(self, job: Journaled) -> None:
        super().__init__()
        self.job = job

    async def answer(self, ask: Ask) -> AnswerRecord:
        if isinstance(ask, Rollout):
            assert await self.job.fetch("SELECT 1 FROM tokens WHERE job_id = $1 AND key = $2", ask.key), "no turn yet"
        delivered = set(self.job.last.delivered) if self.job.last else set()
        assert await self.stored(list(delivered)) == delivered, "the core was told what is not recorded"
        return await super().answer(ask)

    async def stored(self, keys: Sequence[bytes]) -> set[bytes]:
        rows: list[Any] = await self.job.fetch(
            "SELECT key FROM rollouts WHERE job_id = $1 AND key = ANY($2::bytea[]) "
            "UNION ALL SELECT key FROM completions WHERE job_id = $1 AND key = ANY($2::bytea[])",
            keys,
        )
        return {row["key"] for row in rows}


async def test_no_ask_goes_out_before_its_turn_and_no_answer_is_told_before_it_is_recorded(database: Database) -> None:
    job = Journaled(database, await new_job(database), lambda: Evolving(lanes=4, budget=60))
    await job.run(Watching(job))
    assert await job.fetch("SELECT 1 FROM turns WHERE job_id = $1 AND n > 10")
