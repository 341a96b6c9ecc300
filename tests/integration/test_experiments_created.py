"""An experiment is made whole or not at all: its jobs queued in their order, each as its overrides say."""

import json
from decimal import Decimal
from typing import Any

import asyncpg
import orjson
import pytest

from promptjobs.core.config import read_config
from promptjobs.db import balances
from promptjobs.db.experiments import ExperimentStatus
from promptjobs.db.jobs import JobStatus
from promptjobs.db.saved_configs import NewConfig
from promptjobs.db.session import Database
from promptjobs.db.transactions import whole, writing
from promptjobs.errors import (
    BalanceEmpty,
    BudgetTooSmall,
    InvalidConfig,
    InvalidRequest,
    ProviderNotConfigured,
)
from promptjobs.errors.experiments import OverrideIneffective
from tests.fakes.config_bodies import PROMPT, body
from tests.fakes.experiments import experiment_request, experiment_service, new_experiment, two_search_config
from tests.fakes.recorded_jobs import job_service

SECTION = "prompt_learning"
BUDGET = f"{SECTION}.gepa.rollout.budget"
ORGANISATION = "default"


async def stored(connection: asyncpg.Connection) -> dict[str, int]:
    """Rows by table."""
    tables = ("experiments", "jobs", "events")
    return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables}


NOTHING = {"experiments": 0, "jobs": 0, "events": 0}


async def test_an_experiment_is_stored_with_its_jobs_as_they_will_run(database: Database) -> None:
    view = await new_experiment(database, description="which one?", parallelism=2, metadata={"team": "search"})
    row = view.row
    assert (row.name, row.description, row.parallelism, row.num_jobs) == ("gepa against mipro", "which one?", 2, 4)
    assert (row.status, dict(row.counts)) == (ExperimentStatus.QUEUED, {JobStatus.QUEUED: 4})
    assert json.loads(row.metadata) == {"team": "search"}
    assert [(job.experiment_position, job.experiment_label, job.experiment_group) for job in view.jobs] == [
        (1, "gepa · seed=1", "gepa"),
        (2, "gepa · seed=2", "gepa"),
        (3, "mipro · seed=1", "mipro"),
        (4, "mipro · seed=2", "mipro"),
    ]
    assert json.loads(view.jobs[3].experiment_settings or "") == {"algorithm": "mipro", "seed": 2}
    configs = [read_config(job.config) for job in view.jobs]
    assert [(config.algorithm, config.search.rng_seed) for config in configs] == [
        ("gepa", 1),
        ("gepa", 2),
        ("mipro", 1),
        ("mipro", 2),
    ]
    assert (await experiment_service(database).get(row.id)).jobs == view.jobs


LATE = {"config": body({"initial_prompt": PROMPT})}


@pytest.mark.parametrize(
    ("job", "kind", "param", "said"),
    [
        (
            {"config_overrides": {f"{SECTION}.gepa.rng_sed": 1}},
            OverrideIneffective,
            f"{SECTION}.gepa.rng_sed",
            "no such",
        ),
        ({"config_overrides": {f"{SECTION}.gepa.lanes": 0}}, InvalidConfig, f"{SECTION}.gepa.lanes", "from 1 to 64"),
        ({"config_overrides": {BUDGET: 3}}, BudgetTooSmall, BUDGET, "budget is 3"),
        ({"config_overrides": {f"{SECTION}.policy.provider": "nobody"}}, ProviderNotConfigured, None, "nobody"),
    ],
)
async def test_nothing_is_stored_where_the_last_job_is_refused(
    database: Database,
    connection: asyncpg.Connection,
    job: dict[str, Any],
    kind: type[InvalidRequest],
    param: str | None,
    said: str,
) -> None:
    jobs = [{**LATE, "label": "fine"}, {**LATE, "label": "late", **job}]
    for ask in (experiment_service(database).create, experiment_service(database).estimate):
        with pytest.raises(kind, match=said) as refused:
            await ask(experiment_request(jobs=jobs, matrix={}), ORGANISATION)
        facts = refused.value.facts
        assert type(refused.value) is kind
        assert facts["param"] == ("jobs[1]" if param is None else f"jobs[1].config_overrides.{param}")
        assert (facts["position"], facts["label"]) == (2, "late")
        assert str(refused.value).startswith("job 2 ('late'): ")
        assert await stored(connection) == NOTHING


@pytest.mark.slow
async def test_an_experiment_is_a_part_of_a_larger_transaction(
    database: Database, connection: asyncpg.Connection
) -> None:
    async def undone() -> None:
        async with whole(database):
            await new_experiment(database)
            raise RuntimeError("afterwards")

    with pytest.raises(RuntimeError, match="afterwards"):
        await undone()
    assert await stored(connection) == NOTHING
    async with whole(database):
        with pytest.raises(BudgetTooSmall):
            await new_experiment(database, jobs=[LATE, {**LATE, "config_overrides": {BUDGET: 3}}], matrix={})
        kept = await new_experiment(database)
    assert await stored(connection) == {"experiments": 1, "jobs": 4, "events": 4}
    assert (await experiment_service(database).get(kept.row.id)).row.num_jobs == 4


@pytest.mark.slow
async def test_keys_are_sealed_with_their_jobs_and_nowhere_else(
    database: Database, connection: asyncpg.Connection
) -> None:
    config = body({"initial_prompt": PROMPT, "task_app_api_key": "test-secret-config"})
    jobs = [{"config": config, "metadata": {"api_key": "test-secret-metadata"}}]
    matrix = {"task_app_api_key": ["test-secret-one", "test-secret-two"]}
    await new_experiment(database, jobs=jobs, matrix=matrix, metadata={"password": "test-secret-note"})
    keys = await connection.fetch("SELECT task_app_key FROM jobs")
    assert len({row["task_app_key"] for row in keys} - {None}) == 2
    for table in ("experiments", "jobs", "events"):
        rows = await connection.fetch(f"SELECT to_jsonb({table})::text AS row FROM {table}")
        assert not any("test-secret" in row["row"] for row in rows)


# --- saved configs ---------------------------------------------------------------------------------------------------


async def save(database: Database, name: str, config: dict[str, Any]) -> None:
    new = NewConfig(ORGANISATION, name, "gepa", None, orjson.dumps(config).decode())
    await job_service(database).configs.put(new)


@pytest.mark.slow
async def test_jobs_are_made_of_saved_configs(database: Database) -> None:
    await save(database, "both", {SECTION: {**two_search_config()[SECTION], "algorithm": "gepa"}})
    changed = {"config_name": "both", "config": {SECTION: {"policy": {"temperature": 0.5}}}, "label": "warm"}
    view = await new_experiment(database, jobs=[{"config_name": "both"}, changed])
    assert [(job.config_name, job.algorithm) for job in view.jobs] == [
        ("both", "gepa"),
        ("both", "gepa"),
        ("both", "mipro"),
        ("both", "mipro"),
    ] * 2
    assert [read_config(job.config).policy.temperature for job in view.jobs[3:5]] == [0.0, 0.5]
    assert [job.experiment_label for job in view.jobs[3:5]] == ["mipro · seed=2", "warm · algorithm=gepa, seed=1"]
    own = await new_experiment(database, jobs=[{"config_name": "both"}], matrix={})
    assert own.jobs[0].algorithm == "gepa"


@pytest.mark.slow
async def test_a_config_that_was_not_saved_is_named(database: Database, connection: asyncpg.Connection) -> None:
    with pytest.raises(InvalidRequest, match="no saved config 'gone'") as refused:
        await new_experiment(database, jobs=[LATE, {"config_name": "gone"}], matrix={})
    assert refused.value.param == "jobs[1].config_name"
    assert await stored(connection) == NOTHING


# --- what belongs to the whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"parallelism": 0}, "parallelism"),
        ({"parallelism": 65}, "parallelism"),
        ({"name": "a\0b"}, "name"),
        ({"description": "\ud800"}, "description"),
        ({"metadata": {"note": "x" * 70_000}}, "metadata"),
        ({"metadata": {"note": float("nan")}}, "metadata.note"),
        ({"matrix": {"seed": list(range(50)), "model": list("abcde")}}, "jobs"),
        ({"matrix": {"model": ["a\0b"]}}, "matrix.model.0"),
        ({"jobs": [{"config": {"a": "\0"}}]}, "jobs[0].config.a"),
        ({"jobs": [{**LATE, "metadata": {"note": "x" * 70_000}}], "matrix": {}}, "jobs[0].metadata"),
    ],
)
async def test_what_cannot_be_kept_is_refused(
    database: Database, connection: asyncpg.Connection, changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await new_experiment(database, **changes)
    assert refused.value.param == param
    assert await stored(connection) == NOTHING


@pytest.mark.slow
async def test_an_organisation_without_money_makes_none(database: Database, connection: asyncpg.Connection) -> None:
    price = {"input_usd_per_million": 1, "output_usd_per_million": 1}
    config = body({"initial_prompt": PROMPT, "policy.price": price})
    async with writing(database) as writer:
        await balances.put(writer, ORGANISATION, Decimal(0))
    with pytest.raises(BalanceEmpty):
        await new_experiment(database, jobs=[{"config": config}], matrix={})
    assert await stored(connection) == NOTHING
    estimate = await experiment_service(database).estimate(
        experiment_request(jobs=[{"config": config}], matrix={}), ORGANISATION
    )
    assert estimate["cost_usd"]["at_most"] > 0


# --- estimates -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_an_estimate_is_the_sum_of_its_jobs_and_stores_nothing(
    database: Database, connection: asyncpg.Connection
) -> None:
    request = experiment_request(parallelism=2)
    found = await experiment_service(database).estimate(request, ORGANISATION)
    jobs = found["jobs"]
    assert (found["num_jobs"], found["parallelism"], len(jobs)) == (4, 2, 4)
    assert found["rollouts"] == sum(job["estimate"]["rollouts"]["total"] for job in jobs)
    for name in ("calls", "tokens", "cost_usd"):
        for bound in ("expected", "at_most"):
            assert found[name][bound] == pytest.approx(sum(job["estimate"][name][bound] for job in jobs))
    made = await new_experiment(database)
    assert [(job["position"], job["label"], job["group"], job["settings"], job["algorithm"]) for job in jobs] == [
        (
            row.experiment_position,
            row.experiment_label,
            row.experiment_group,
            json.loads(row.experiment_settings or ""),
            row.algorithm,
        )
        for row in made.jobs
    ]
    assert await stored(connection) == {"experiments": 1, "jobs": 4, "events": 4}


@pytest.mark.slow
async def test_an_estimate_with_a_model_of_unknown_price_has_no_cost(database: Database) -> None:
    request = experiment_request(matrix={"algorithm": ["gepa"], "model": ["llama-3.1-8b-instant", "nobody-knows"]})
    found = await experiment_service(database).estimate(request, ORGANISATION)
    assert found["cost_usd"] == {"expected": None, "at_most": None}
    assert found["unpriced_models"] == ["groq/nobody-knows"]
    assert found["jobs"][0]["estimate"]["cost_usd"]["expected"] > 0
