"""Results of experiments over HTTP: of jobs that are over, that go on, that failed, that never started."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from sqlalchemy import event

from promptjobs.core.comparison import compare
from promptjobs.db import experiments
from promptjobs.db.experiments import NewExperiment
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from tests.fakes.experiments import new_experiment
from tests.fakes.recorded_jobs import created_job, searched_job
from tests.fakes.recorded_searches import RecordedSearch, recorded_search

EXPERIMENT = f"exp_{7:032x}"


async def experiment_of(database: Database, places: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    """places: of each job its id, its group and its settings."""
    async with writing(database) as connection:
        await experiments.create(connection, NewExperiment(EXPERIMENT, "default", "a test", None, 4, "{}", "{}"))
    connection: asyncpg.Connection = await database.connect()
    for position, (job_id, group, settings) in enumerate(places, 1):
        await connection.execute(
            "UPDATE jobs SET experiment_id = $2, experiment_position = $3, experiment_label = $4, "
            "experiment_group = $5, experiment_settings = $6, experiment_slot = $3 - 1 WHERE id = $1",
            *(job_id, EXPERIMENT, position, f"job {position}", group, orjson.dumps(settings).decode()),
        )
    await connection.close()
    return f"/api/experiments/{EXPERIMENT}"


async def published(database: Database, *names: str) -> list[RecordedSearch]:
    found = [await recorded_search(database, name) for name in names]
    for search in found:
        await search.publish()
    return found


def without_seeds(measured: dict[str, Any] | None) -> dict[str, Any] | None:
    return measured and {name: measured[name] for name in ("best", "baseline", "difference")}


@pytest.mark.parametrize(
    "name",
    [
        "failures",
        "mipro_stages",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("one_lane_train", "four_lanes_validation", "race_merges", "mipro_failures", "mipro_examples")
        ),
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("probes", "mipro_probes", "deadline", "mipro_deadline", "race_warm_start", "mipro_warm_start")
        ),
    ],
)
async def test_a_finished_jobs_row_has_the_figures_that_it_published(
    client: httpx.AsyncClient, database: Database, name: str
) -> None:
    [search] = await published(database, name)
    path = await experiment_of(database, [(search.job_id, "all", {"seed": 1})])
    job = (await client.get(f"/api/prompt-learning/online/jobs/{search.job_id}")).json()
    payload, stats = job["best_snapshot"], job["metadata"]["stats"]
    [row] = (await client.get(f"{path}/results?variants=50")).json()["jobs"]
    sets = ("train", "validation_summary", "test")
    assert [row["search"], row["validation"], row["test"]] == [without_seeds(payload[each]) for each in sets]
    told = next(row[each] for each in ("test", "validation", "search") if row[each] and row[each]["best"])
    assert (row["best_score"], row["eval_n"]) == (told["best"]["mean"], told["best"]["n"])
    assert (row["baseline_score"], row["lift"]) == (told["baseline"]["mean"], told["difference"]["mean"])
    assert row["policy"] == f"{job['policy']['provider']}/{job['policy']['model']}"
    assert (row["trials"], row["trials_tried"]) == (stats["total_trials_evaluated"], stats["trials_tried"])
    assert (row["rollouts"], row["failed_rollouts"]) == (stats["total_rollouts"], stats["failed_rollouts"])
    assert (row["total_tokens"], row["total_cost_usd"]) == (job["spend"]["tokens"], job["spend"]["usd"])
    assert row["finish_reason"] == job["finish_reason"]
    assert row["is_baseline_best"] is payload["is_baseline_best"]
    assert row["seconds"] >= 0
    ranked = payload["optimized_candidates"]
    assert row["num_variants"] == len(ranked)
    assert [(v["candidate_id"], v["score"], v["num_seeds"], v["messages"]) for v in row["variants"]] == [
        (item["candidate_id"], item["score"]["accuracy"], item["score"]["num_seeds"], item["messages"])
        for item in ranked[:50]
    ]
    assert [v["candidate_id"] for v in row["variants"] if v["is_best"]] == [payload["best_candidate_id"]]
    assert row["error"] is None
    assert all(row[name] is not None for name in row if name not in ("search", "validation", "test", "error", "note"))


async def test_jobs_that_go_on_that_failed_and_that_never_started_have_rows(
    client: httpx.AsyncClient, database: Database
) -> None:
    going, failed = await searched_job(database), await searched_job(database)
    waiting, cancelled = await created_job(database), await created_job(database)
    await client.post(f"/api/prompt-learning/online/jobs/{cancelled}/cancel")
    connection = await database.connect()
    await connection.execute(
        "UPDATE jobs SET status = 'failed', finish_reason = 'error', error = 'gone', progress = NULL, "
        "finished_at = started_at + interval '90 s' WHERE id = $1",
        failed.job_id,
    )
    await connection.close()
    ids = (going.job_id, failed.job_id, waiting, cancelled)
    path = await experiment_of(database, [(job_id, f"group {job_id}", {}) for job_id in ids])
    answer = await client.get(f"{path}/results")
    assert "etag" not in answer.headers
    found = answer.json()
    assert [row["job_id"] for row in found["jobs"]] == list(ids)
    first, second, third, fourth = found["jobs"]
    assert first["status"] == "running"
    assert first["best_score"] is None or first["note"] is not None
    assert first["seconds"] > 0
    assert second["error"] == "gone"
    assert second["note"] == "it was over (failed) before anything was measured: gone"
    assert second["seconds"] == 90.0
    assert [third["note"], fourth["note"]] == ["it has not started", "it was cancelled before it started"]
    for row in (third, fourth):
        assert (row["seconds"], row["best_score"], row["eval_set"], row["eval_n"]) == (None, None, None, 0)
        assert (row["trials"], row["rollouts"], row["total_tokens"], row["total_cost_usd"]) == (0, 0, 0, 0.0)
        assert row["policy"] == "groq/llama-3.1-8b-instant"
    assert found["comparisons"] == []
    counts = {status: count for status, count in found["experiment"]["counts"].items() if count}
    assert counts == {"running": 1, "failed": 1, "queued": 1, "cancelled": 1}
    for kind in ("csv", "markdown"):
        assert (await client.get(f"{path}/results?format={kind}")).status_code == 200


async def test_an_experiment_that_was_just_created_has_a_row_for_each_job(
    client: httpx.AsyncClient, database: Database
) -> None:
    matrix = {"algorithm": ["gepa", "mipro"], "model": ["one-model", "another"], "seed": [1, 2, 3]}
    view = await new_experiment(database, matrix=matrix)
    found = (await client.get(f"/api/experiments/{view.row.id}/results")).json()
    assert [row["job_id"] for row in found["jobs"]] == [job.id for job in view.jobs]
    assert [row["policy"].partition("/")[2] for row in found["jobs"]] == [
        "one-model",
        *["one-model"] * 2,
        *["another"] * 3,
    ] * 2
    assert [row["seed"] for row in found["jobs"]] == [1, 2, 3] * 4
    assert [group["num_jobs"] for group in found["groups"]] == [3, 3, 3, 3]
    assert [group["settings"] for group in found["groups"]] == [
        {"algorithm": algorithm, "model": model} for algorithm in matrix["algorithm"] for model in matrix["model"]
    ]
    assert found["experiment"]["num_jobs"] == 12


@pytest.mark.slow
async def test_a_search_that_goes_on_is_told_by_what_is_measured_so_far(
    client: httpx.AsyncClient, database: Database
) -> None:
    searches = [await recorded_search(database, name, turns=40) for name in ("one_lane_train", "mipro_stages")]
    path = await experiment_of(database, [(search.job_id, "all", {}) for search in searches])
    rows = (await client.get(f"{path}/results")).json()["jobs"]
    for search, row in zip(searches, rows, strict=True):
        assert row["best_score"] is not None
        assert row["note"] == "figures so far"
        archive = (await client.get(f"/api/prompt-learning/online/jobs/{search.job_id}/archive")).json()
        assert [(v["candidate_id"], v["score"], v["messages"]) for v in row["variants"]] == [
            (member["candidate_id"], member["score"], member["messages"]) for member in archive["members"][:5]
        ]


@pytest.mark.slow
async def test_results_compare_jobs_and_groups_on_common_seeds(client: httpx.AsyncClient, database: Database) -> None:
    names = ("failures", "one_lane_train", "mipro_stages", "mipro_failures")
    searches = await published(database, *names)
    places = [
        (s.job_id, s.config.algorithm, {"algorithm": s.config.algorithm, "seed": at % 2})
        for at, s in enumerate(searches)
    ]
    path = await experiment_of(database, places)
    found = (await client.get(f"{path}/results?compare=all")).json()
    ids = [search.job_id for search in searches]
    assert [(each["first"], each["second"]) for each in found["comparisons"]] == [
        (ids[a], ids[b]) for a in range(4) for b in range(a + 1, 4)
    ]
    best = {}
    for search in searches:
        assert search.result is not None
        assert search.result.test is not None
        best[search.job_id] = search.result.test.best
    for each in found["comparisons"]:
        expected = compare(dict(best[each["first"]]), dict(best[each["second"]]))
        assert each["difference"] == (expected.difference and expected.difference.to_json())
        assert (each["p_value"], each["wins"]) == (expected.p_value, expected.wins)
        one = await client.get(f"{path}/comparison?first={each['first']}&second={each['second']}")
        alone = {**each, "p_adjusted": each["p_value"]}
        assert one.json() | {"winner": None} == alone | {"winner": None}
    assert [group["group"] for group in found["groups"]] == ["gepa", "mipro"]
    assert [group["settings"] for group in found["groups"]] == [{"algorithm": "gepa"}, {"algorithm": "mipro"}]
    [between] = found["group_comparisons"]
    assert {between["first"], between["second"]} == {"gepa", "mipro"}
    led = (await client.get(f"{path}/results")).json()["comparisons"]
    assert len(led) == 3
    assert len({each["first"] for each in led}) == 1
    none = (await client.get(f"{path}/results?compare=none&variants=0")).json()
    assert (none["comparisons"], none["group_comparisons"]) == ([], [])
    assert all(row["variants"] == [] for row in none["jobs"])


@pytest.mark.slow
async def test_results_come_as_json_csv_and_markdown_and_are_kept_once_the_experiment_is_over(
    client: httpx.AsyncClient, database: Database
) -> None:
    searches = await published(database, "failures", "failures")
    path = await experiment_of(
        database, [(s.job_id, "one", {"model": "=m", "seed": at}) for at, s in enumerate(searches)]
    )
    table = await client.get(f"{path}/results?format=csv")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [(row["position"], row["job_id"], row["settings.model"]) for row in rows] == [
        (str(at), search.job_id, "'=m") for at, search in enumerate(searches, 1)
    ]
    page = await client.get(f"{path}/results?format=markdown")
    assert page.headers["content-type"] == "text/markdown; charset=utf-8"
    assert page.text.startswith("# Results of a test\n")
    assert "N/A" not in page.text
    again = await client.get(f"{path}/results?format=csv", headers={"if-none-match": table.headers["etag"]})
    assert again.status_code == 304


async def test_what_cannot_be_compared_is_refused(client: httpx.AsyncClient, database: Database) -> None:
    ours, other = await created_job(database), await created_job(database)
    path = await experiment_of(database, [(ours, "one", {})])
    for first, second, status, code in (
        (ours, other, 404, "job_not_found"),
        ("pl_x%00", ours, 404, "job_not_found"),
        (ours, ours, 422, "invalid_request"),
    ):
        answer = await client.get(f"{path}/comparison?first={first}&second={second}")
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await client.get(f"{path}/results?variants=51")).status_code == 422
    assert (await client.get(f"{path}/results?format=xml")).status_code == 422
    assert (await client.get(f"/api/experiments/exp_{9:032x}/results")).status_code == 404


@pytest.mark.slow
async def test_the_number_of_queries_does_not_grow_with_the_jobs(client: httpx.AsyncClient, database: Database) -> None:
    [search] = await published(database, "failures")
    going = [await searched_job(database) for _ in range(6)]
    path = await experiment_of(database, [(search.job_id, "a", {}), *((job.job_id, "b", {}) for job in going)])
    asked: list[str] = []
    event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    assert (await client.get(f"{path}/results")).status_code == 200
    assert len(asked) <= 10


async def copied(database: Database, job_id: str, count: int) -> list[str]:
    """So many more jobs that have done the same."""
    ids = [f"pl_{at:032x}" for at in range(1, count + 1)]
    connection = await database.connect()
    for table, key in (("jobs", "id"), ("candidates", "job_id"), ("trials", "job_id")):
        await connection.execute(
            f"INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object($2::text, copy))).* "
            f"FROM {table} t, unnest($3::text[]) copy WHERE t.{key} = $1",
            *(job_id, key, ids),
        )
    await connection.close()
    return ids


@pytest.mark.slow
async def test_of_many_jobs_not_all_pairs_are_compared_and_fewer_prompts_are_shown(
    client: httpx.AsyncClient, database: Database
) -> None:
    search = await recorded_search(database, "one_lane_train", turns=40)
    ids = [search.job_id, *await copied(database, search.job_id, 50)]
    path = await experiment_of(database, [(job_id, job_id, {}) for job_id in ids])
    refused = await client.get(f"{path}/results?compare=all")
    assert (refused.status_code, refused.json()["param"]) == (422, "compare")
    found = (await client.get(f"{path}/results?variants=50")).json()
    assert len(found["comparisons"]) == 50
    assert {row["best_score"] for row in found["jobs"]} == {found["jobs"][0]["best_score"]}
    assert all(len(row["variants"]) <= 1_000 // 51 for row in found["jobs"])
