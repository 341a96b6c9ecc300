"""The counters of a job by SQL are those of its search, and its end is one transaction."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from promptjobs.core.asks import Answer, Completion, CompletionBody, EventFact, FailureReason, MetaModel
from promptjobs.core.ledger import Amount, Category
from promptjobs.core.proposers.reflection import Refusal
from promptjobs.core.stats import Statistics
from promptjobs.core.trial import Phase
from promptjobs.core.verifier import PURPOSE as JUDGE
from promptjobs.db.journal import AnswerRecord, body_text
from promptjobs.db.ledger import Settlement, settle
from promptjobs.db.publishing import Ending, end_job, load_spent, load_statistics
from promptjobs.db.session import Database
from tests.fakes.recorded_jobs import RunningJob, rollout, running_job, searched_job
from tests.golden.record import Recorder
from tests.golden.scenarios import SCENARIOS

ENDING = Ending("succeeded", "rollout_budget", None, "prompt.learning.gepa.complete", "the end", {}, {"stats": {}})


async def statistics_of(database: Database, job_id: str) -> Statistics:
    connection = await database.connect()
    try:
        return await load_statistics(connection, job_id)
    finally:
        await connection.close()


@pytest.mark.parametrize("name", ["failures", "mipro_failures", "race_four_lanes_fixed"])
async def test_counters_by_sql_are_those_of_the_search(database: Database, name: str) -> None:
    """Where nothing was left open at the end; unread replies and failures by reason among them."""
    recorder = Recorder(next(scenario for scenario in SCENARIOS if scenario.name == name))
    group = recorder.run()
    job = await running_job(database)
    await job.write([fact for turn in group.turns for fact in turn.facts], [record for _, record in group.answers])
    found = (await statistics_of(database, job.job_id)).to_json()
    told = recorder.optimizer.evaluations.stats.to_json()  # type: ignore[attr-defined]
    assert {key: (found[key], value) for key, value in told.items() if found[key] != value} == {}
    by_reason = Counter(record.answer.reason.value for _, record in group.answers if record.answer.reason)
    assert Counter(found["failures_by_reason"]) <= by_reason
    assert bool(found["failed_rollouts"]) is ("failures" in name)


def refused(reason: str) -> EventFact:
    return EventFact("prompt.learning.proposal.refused", "refused", {"reason": reason})


async def test_what_could_not_be_read_is_counted_apart_from_what_failed(database: Database) -> None:
    job = await running_job(database)
    facts = [refused(Refusal.UNREADABLE.name.lower()), refused(Refusal.LEAK.name.lower()), refused("duplicate")]
    facts.append(EventFact("prompt.learning.judgement.refused", "unread", {"reason": "unreadable"}))
    model = MetaModel("toy", "meta")
    asks = [Completion(purpose, model, (), draw) for draw, purpose in enumerate(("reflection", JUDGE, "reflection"))]
    failed = [AnswerRecord(ask, Answer(ask.key, reason=FailureReason.PROVIDER_ERROR), SAID) for ask in asks[:2]]
    answered = AnswerRecord(asks[2], Answer(asks[2].key, prompt_tokens=3), SAID)
    await job.write(facts, [rollout("c_0", 1, None), rollout("c_0", 2, 1.0), *failed, answered])
    found = (await statistics_of(database, job.job_id)).to_json()
    assert (found["failures"]["task_app"], found["failures"]["judge"], found["failed_rollouts"]) == (1, 1, 1)
    assert found["failures_by_reason"] == {"judge_failed": 1, "task_app_timeout": 1}
    assert (found["proposals_refused"], found["proposals_unparsed"]) == (3, 1)
    assert (found["mutation_calls"], found["mutation_calls_failed"], found["judge_calls_failed"]) == (2, 1, 1)


SAID = body_text(CompletionBody("no", "error"))


async def test_the_latest_words_of_every_failure_are_kept_for_the_end(database: Database) -> None:
    job = await searched_job(database)
    connection = await database.connect()
    try:
        spent = await load_spent(connection, job.job_id)
    finally:
        await connection.close()
    assert spent.last_failures == {FailureReason.TASK_APP_TIMEOUT: "no reply in 300 s"}


async def test_time_and_balance_of_a_job_and_its_spending_are_read_with_it(database: Database) -> None:
    job = await running_job(database)
    connection = await database.connect()
    try:
        await connection.execute(
            "UPDATE jobs SET started_at = clock_timestamp() - interval '100 s', paused_seconds = 60 WHERE id = $1",
            job.job_id,
        )
        before = await load_spent(connection, job.job_id)
        assert 40 <= before.seconds < 60
        assert (before.balance_usd, before.calls, before.call_cost_usd) == (None, 0, 0.0)
        await connection.execute("INSERT INTO balances(organisation, usd) VALUES ('default', 7)")
        await settle(connection, settlements(job))
        after = await load_spent(connection, job.job_id)
    finally:
        await connection.close()
    assert (after.balance_usd, after.calls, after.call_cost_usd) == (6, 2, 0.5)
    assert after.spending.accounts[Category.JUDGE].settled == Amount(USD / 2, 5)


USD = Amount().usd + 1
"""A dollar, of which the calls below have used one in all."""


def settlements(job: RunningJob) -> Sequence[Settlement]:
    half = USD / 2
    return [
        Settlement(job.job_id, Category.POLICY, None, Amount(half, 20)),
        Settlement(job.job_id, Category.TEST, None, Amount()),
        Settlement(job.job_id, Category.JUDGE, None, Amount(half, 5)),
    ]


async def test_the_end_of_a_job_takes_back_a_pause_that_came_too_late(database: Database) -> None:
    job = await running_job(database)
    connection = await database.connect()
    try:
        await connection.execute("UPDATE jobs SET pause_requested_at = clock_timestamp() WHERE id = $1", job.job_id)
        await end_job(connection, job.job_id, job.epoch, ENDING)
        assert await row(connection, job.job_id) == {"status": "succeeded", "pause_requested_at": None}
    finally:
        await connection.close()


async def row(connection: asyncpg.Connection, job_id: str) -> dict[str, Any]:
    return dict(await connection.fetchrow("SELECT status, pause_requested_at FROM jobs WHERE id = $1", job_id))


async def test_phases_of_failures_add_up(database: Database) -> None:
    job = await searched_job(database)
    found = await statistics_of(database, job.job_id)
    assert (found.failed[Phase.OPTIMIZATION], found.total_failed) == (2, 2)
    assert found.failures["task_app"] == 2
