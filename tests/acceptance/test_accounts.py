"""A finished job's figures are those of its rows: each rollout once, and every call and completion in the ledger."""

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from promptjobs.core.ledger import Category, category_of
from promptjobs.core.trial import Phase
from promptjobs.core.verifier import PURPOSE as JUDGE
from promptjobs.db.session import Database
from tests.acceptance.finished_job import Finished, observe
from tests.acceptance.service import Ports, Process

pytestmark = pytest.mark.slow

Row = Mapping[str, Any]

SUMS = (
    "coalesce(sum(round(cost_usd::numeric, 12)), 0) AS usd, "
    "sum(prompt_tokens + completion_tokens + unknown_tokens) AS tokens"
)


@pytest.fixture(scope="module")
def finished(shared_service: Process, shared_database: str, ports: Ports) -> Finished:
    """A job of this very database: the one that all processes of a test run share may be in that of another."""
    return asyncio.run(observe(shared_service.url, shared_database, ports))


async def rows(url: str, query: str, job_id: str) -> list[Row]:
    database = Database.open(url)
    connection: asyncpg.Connection = await database.connect()
    try:
        return [dict(row) for row in await connection.fetch(query, job_id)]
    finally:
        await connection.close()
        await database.close()


async def test_rollouts_of_the_statistics_are_the_rows_of_rollouts(finished: Finished, shared_database: str) -> None:
    """I2: answered ok or failed, each once."""
    found = await rows(
        shared_database,
        "SELECT phase, count(*) AS n, count(DISTINCT key) AS keys, count(reason) AS failed FROM rollouts "
        "WHERE job_id = $1 GROUP BY phase",
        finished.job["job_id"],
    )
    stats = finished.stats
    assert stats["total_rollouts"] == sum(row["n"] for row in found) == sum(row["keys"] for row in found) > 0
    assert {row["phase"]: row["n"] for row in found} == {
        phase: stats[f"{phase}_rollouts_executed"] for phase in Phase if stats[f"{phase}_rollouts_executed"]
    }
    assert stats["failed_rollouts"] == sum(row["failed"] for row in found)
    assert stats["failed_rollouts"] == sum(stats["failures"].values()) - stats["failures"]["judge"]
    assert stats["abandoned_rollouts"] == 0


async def test_the_ledger_is_the_calls_and_the_attempts_of_completions(
    finished: Finished, shared_database: str
) -> None:
    """I8: to the last digit, category by category; and the job shows what the ledger says."""
    job_id = finished.job["job_id"]
    ledger = {
        Category(row["category"]): row
        for row in await rows(shared_database, "SELECT * FROM ledger WHERE job_id = $1", job_id)
    }
    calls = await rows(
        shared_database,
        f"SELECT phase, count(*) AS calls, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced, {SUMS} FROM calls "
        "WHERE job_id = $1 GROUP BY phase",
        job_id,
    )
    completions = await rows(
        shared_database,
        f"SELECT CASE WHEN purpose = '{JUDGE}' THEN 'judge' ELSE 'proposal' END AS category, sum(attempts) AS calls, "
        f"coalesce(sum(attempts) FILTER (WHERE cost_usd IS NULL), 0) AS unpriced, {SUMS} FROM completions "
        "WHERE job_id = $1 GROUP BY 1",
        job_id,
    )
    paid = {category_of(Phase(row["phase"])): row for row in calls}
    paid |= {Category(row["category"]): row for row in completions}
    assert set(ledger) == set(Category)
    assert {Category.POLICY, Category.VALIDATION, Category.TEST, Category.PROPOSAL} <= set(paid)
    for category, row in ledger.items():
        settled = {"calls": row["calls"], "unpriced": row["unpriced_calls"], "tokens": row["tokens"], "usd": row["usd"]}
        of_rows = paid.get(category, dict.fromkeys(settled, 0))
        assert settled == {name: of_rows[name] for name in settled}, category
        assert not any(row[f"{kind}_{unit}"] for kind in ("held", "unsettled") for unit in ("usd", "tokens"))
    assert shown(finished) == {
        category: (row["calls"], row["tokens"], float(row["usd"])) for category, row in ledger.items()
    }
    spend = finished.stats["spend"]
    of_rollouts = [ledger[category_of(phase)] for phase in Phase]
    assert finished.stats["metered_calls"] == sum(row["calls"] for row in of_rollouts)
    assert finished.stats["metered_cost_usd"] == float(sum(row["usd"] for row in of_rollouts))
    assert finished.stats["metered_cost_usd"] == pytest.approx(finished.stats["rollouts_cost_usd"])
    assert spend["tokens"] == finished.stats["total_tokens"]


def shown(finished: Finished) -> dict[Category, tuple[int, int, float]]:
    by_category = finished.stats["spend"]["categories"]
    return {Category(name): (each["calls"], each["tokens"], each["usd"]) for name, each in by_category.items()}


def test_scores_of_a_finished_job_say_on_how_many_seeds_they_rest(finished: Finished) -> None:
    [end] = finished.of_type("prompt.learning.gepa.complete")
    for told in (finished.stats, end, finished.payload):
        assert (told["best_validation_score_seeds"], told["best_test_score_seeds"]) == (20, 40)
        assert (told["best_score_seeds"], told["baseline_score_seeds"]) == (20, 20)
    assert finished.stats["finish_reason"] == end["finish_reason"] == finished.job["finish_reason"]
    assert finished.stats["balance_type"] == "unlimited"
