"""Routes of jobs over HTTP: what is accepted, what is refused and how, and that no secret comes back."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from starlette.types import Receive, Scope, Send

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.api.job_schemas import EXAMPLE_JOB, ConfigObject, JobObject
from promptjobs.api.schemas import Problem
from promptjobs.clients.providers import Providers
from promptjobs.core.config import GepaJobConfig, MiproJobConfig
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.jobs.service import JobService
from tests.fakes.config_bodies import PROMPT, mipro_body
from tests.fakes.recorded_jobs import (
    BUDGET,
    PAYLOAD,
    PROVIDER_KEY,
    TASK_APP_KEY,
    VAULT,
    created_job,
    job_service,
    post_body,
    publish,
    running_job,
    searched_job,
)
from tests.fakes.served import in_process

UNKNOWN = "pl_" + "0" * 32


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(database=database, service=job_service(database))
    async with in_process(app, raises=False) as client:
        yield client


STAGES = [
    {"stage_id": "one", "baseline_instruction": "Do one.", "policy": {"provider": "openai", "model": "gpt-4o"}},
    {"stage_id": "two", "baseline_instruction": "Do two."},
]


async def post(client: httpx.AsyncClient, body: str | bytes, content_type: str = "application/json") -> httpx.Response:
    return await client.post(JOBS_PATH, content=body, headers={"content-type": content_type})


# --- create ----------------------------------------------------------------------------------------------------------


async def test_a_created_job_is_queued_and_shows_what_will_run(client: httpx.AsyncClient) -> None:
    answer = await client.post(JOBS_PATH, json=post_body(metadata={"team": "support"}))
    assert answer.status_code == 200
    job = JobObject.model_validate_json(answer.content)
    assert job.job_id == job.id
    assert (job.status, job.algorithm, job.rollout_budget) == ("queued", "gepa", BUDGET)
    assert job.policy.model_dump() == {"provider": "groq", "model": "llama-3.1-8b-instant"}
    assert job.metadata == {"team": "support"}
    assert (job.best_score, job.best_prompt, job.best_snapshot, job.progress) == (None, None, None, None)
    assert (await client.get(f"{JOBS_PATH}/{job.id}")).json() == answer.json()


async def test_a_job_that_does_not_start_by_itself_is_pending_until_it_is_started(client: httpx.AsyncClient) -> None:
    job = (await client.post(JOBS_PATH, json=post_body(auto_start=False))).json()
    assert job["status"] == "pending"
    assert (await client.post(f"{JOBS_PATH}/{job['id']}/start")).json()["status"] == "queued"


async def test_no_answer_holds_a_secret(client: httpx.AsyncClient) -> None:
    created = await client.post(JOBS_PATH, json=post_body(metadata={"api_key": TASK_APP_KEY}))
    url = f"{JOBS_PATH}/{created.json()['id']}"
    answers = [created, await client.get(JOBS_PATH)]
    answers += [await client.get(f"{url}{path}") for path in ("", "/config", "/events", "/trials")]
    answers.append(await client.post(JOBS_PATH, json=post_body(task_app_api_key=TASK_APP_KEY, algorithm=5)))
    answers.append(await client.post(JOBS_PATH, json=post_body(overrides={"policy": TASK_APP_KEY})))
    assert all(TASK_APP_KEY not in answer.text and PROVIDER_KEY not in answer.text for answer in answers)


async def test_unknown_fields_are_ignored_with_a_warning(client: httpx.AsyncClient) -> None:
    job = (await client.post(JOBS_PATH, json=post_body(color="red"))).json()
    assert "unknown field 'color' is ignored" in job["warnings"]
    [event] = (await client.get(f"{JOBS_PATH}/{job['id']}/events")).json()["events"]
    assert event["data"]["warnings"] == job["warnings"]
    assert event["data"]["rollout_budget"] == BUDGET


async def test_the_config_is_shown_as_sent_and_as_it_runs(client: httpx.AsyncClient) -> None:
    job = (await client.post(JOBS_PATH, json=post_body())).json()
    answer = await client.get(f"{JOBS_PATH}/{job['id']}/config")
    shown = ConfigObject.model_validate_json(answer.content)
    assert GepaJobConfig.model_validate(shown.resolved).policy.temperature == 0.5
    assert shown.sent["overrides"]["prompt_learning.policy.temperature"] == 0.5
    assert shown.sent["config_body"]["task_app_api_key"] == "[redacted]"


@pytest.mark.parametrize(
    ("changes", "status", "code", "named"),
    [
        ({"algorithm": "annealing"}, 422, "invalid_config", "algorithm"),
        ({"algorithm": "staged"}, 422, "not_yet_supported", "algorithm"),
        ({"algorithm": "mipro"}, 422, "mipro_configuration_error", "algorithm"),
        ({"algorithm": None}, 422, "invalid_request", "algorithm"),
        ({"config_body": []}, 422, "invalid_request", "config_body"),
        ({"config_name": "mine"}, 422, "invalid_request", "config_name"),
        ({"config_body": None}, 422, "invalid_request", "config_body"),
        ({"auto_start": "no"}, 422, "invalid_request", "auto_start"),
        ({"metadata": {"note": "x" * 70_000}}, 422, "invalid_request", "metadata"),
        ({"overrides": {"prompt_learning.policy.provider": "nobody"}}, 422, "provider_not_configured", "nobody"),
        ({"overrides": {"prompt_learning.gepa.mutation.llm_provider": "openai",
                        "prompt_learning.gepa.mutation.llm_model": "gpt-4o"}},
         422, "provider_not_configured", "OPENAI_API_KEY"),
        ({"overrides": {"prompt_learning.gepa.rollout.budget": 3}}, 422, "budget_too_small", "at least"),
        ({"overrides": {"prompt_learning.task_app_url": "ftp://here"}}, 422, "invalid_config", "task_app_url"),
    ],
)  # fmt: skip
async def test_what_cannot_run_is_refused_by_name(
    client: httpx.AsyncClient, changes: dict[str, Any], status: int, code: str, named: str
) -> None:
    answer = await client.post(JOBS_PATH, json=post_body(**changes))
    refused = Problem.model_validate_json(answer.content)
    assert (answer.status_code, refused.status, refused.code) == (status, status, code)
    assert named in refused.detail
    assert (await client.get(JOBS_PATH)).json() == []


async def test_a_mipro_job_is_created_and_shows_what_will_run(client: httpx.AsyncClient) -> None:
    sent = {"algorithm": "mipro", "config_body": mipro_body({"mipro.batch_size": 8})}
    answer = await client.post(JOBS_PATH, json=sent)
    job = JobObject.model_validate_json(answer.content)
    assert (answer.status_code, job.status, job.algorithm) == (200, "queued", "mipro")
    assert [warning[:25] for warning in job.warnings] == ["a minibatch of 8 seeds sa"]
    shown = ConfigObject.model_validate_json((await client.get(f"{JOBS_PATH}/{job.id}/config")).content)
    config = MiproJobConfig.model_validate(shown.resolved)
    assert (config.mipro.batch_size, config.mipro.rollout_budget) == (8, job.rollout_budget)


@pytest.mark.parametrize(
    ("changes", "code", "facts"),
    [
        ({"mipro.batch_size": 0}, "mipro_configuration_error", {"param": "prompt_learning.mipro.batch_size"}),
        ({"mipro.rollout_budget": 3}, "budget_too_small", {"budget": 3, "param": "mipro.rollout_budget"}),
        (
            {"mipro.max_token_limit": 9, "initial_prompt": PROMPT},
            "budget_exceeded_error",
            {"limit": 9, "param": "mipro.max_token_limit"},
        ),
        ({"mipro.meta": {"provider": "openai", "model": "gpt-4o"}}, "provider_not_configured", {}),
        ({"mipro.stages": STAGES}, "provider_not_configured", {}),
    ],
)
async def test_a_mipro_job_that_cannot_run_is_refused_by_name(
    client: httpx.AsyncClient, changes: dict[str, Any], code: str, facts: dict[str, Any]
) -> None:
    answer = await client.post(JOBS_PATH, json={"algorithm": "mipro", "config_body": mipro_body(changes)})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code)
    assert {name: problem[name] for name in facts} == facts


async def test_a_budget_problem_carries_its_numbers(client: httpx.AsyncClient) -> None:
    answer = await client.post(JOBS_PATH, json=post_body(overrides={"prompt_learning.gepa.rollout.budget": 3}))
    assert answer.json()["budget"] == 3
    assert answer.json()["needed"] == sum(answer.json()["parts"].values())


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 422, "algorithm"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe{}", 400, "not UTF-8"),
        (b"[]", 422, "expected a JSON object, got list"),
        (b'{"algorithm": NaN}', 422, "NaN"),
        (b'{"metadata": {"a": [-Infinity]}}', 422, "finite"),
        (b'{"metadata": {"a": [1e999]}}', 422, "body.metadata.a.0: numbers must be finite"),
        (b'{"metadata": {"a": "\\u0000"}}', 422, "body.metadata.a: text must not hold NUL"),
        (b'{"metadata": {"\\ud800": 1}}', 422, "text must not hold NUL or lone surrogates"),
        (b'{"metadata": {"a": 9007199254740993}}', 422, "integers must be between"),
        (b'{"metadata": {"a": ' + b"9" * 5000 + b"}}", 422, "thousands of digits"),
        (b'{"metadata": ' + b"[" * 70 + b"]" * 70 + b"}", 422, "deeper than 64 levels"),
        (b'{"metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422, "deeper than 64 levels"),
        (b'{"metadata": "' + b"x" * 1_048_576 + b'"}', 413, "1048576 bytes"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_a_body_that_could_not_be_kept_as_it_is_is_refused(
    client: httpx.AsyncClient, body: bytes, status: int, said: str
) -> None:
    answer = await post(client, body)
    assert answer.status_code == status
    assert said in answer.json()["detail"]


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 65536

    answer = await client.post(JOBS_PATH, content=endless(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_a_body_that_a_foreign_page_could_send_is_refused(client: httpx.AsyncClient) -> None:
    answer = await post(client, json.dumps(post_body()), "text/plain")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert (await post(client, json.dumps(post_body()), "application/json; charset=utf-8")).status_code == 200


# --- problems --------------------------------------------------------------------------------------------------------


async def test_problems_are_problem_json_only_for_those_who_ask(client: httpx.AsyncClient) -> None:
    """Clients parse the body of an error only where it is application/json."""
    plain = await client.get(f"{JOBS_PATH}/{UNKNOWN}")
    asked = await client.get(f"{JOBS_PATH}/{UNKNOWN}", headers={"accept": "application/problem+json, */*"})
    assert plain.headers["content-type"] == "application/json"
    assert asked.headers["content-type"] == "application/problem+json"
    assert {**plain.json(), "request_id": ""} == {**asked.json(), "request_id": ""}
    assert plain.json() == {
        "type": "urn:promptjobs:problem:job_not_found",
        "title": "Job not found",
        "status": 404,
        "detail": f"there is no job '{UNKNOWN}'",
        "code": "job_not_found",
        "request_id": plain.headers["x-request-id"],
        "job_id": UNKNOWN,
    }


async def test_addresses_and_methods_that_do_not_exist_are_problems_too(client: httpx.AsyncClient) -> None:
    nowhere = await client.get("/api/nowhere")
    wrong = await client.put(f"{JOBS_PATH}/{UNKNOWN}")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert "GET" in wrong.headers["allow"]


class BrokenService(JobService):
    """A defect, as a service could have one."""

    async def get(self, job_id: str) -> Any:
        raise KeyError("a secret of the implementation")


async def test_a_defect_tells_the_client_nothing(database: Database) -> None:
    broken = BrokenService(database, Providers({}), lambda _: None, VAULT)
    transport = httpx.ASGITransport(create_app(database=database, service=broken), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get(f"{JOBS_PATH}/{await created_job(database)}")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text


async def test_an_unreachable_database_is_a_503_to_be_tried_again() -> None:
    nowhere = Database.open("postgresql://127.0.0.1:1/nothing")
    transport = httpx.ASGITransport(create_app(database=nowhere, service=job_service(nowhere)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in (JOBS_PATH, f"{JOBS_PATH}/{UNKNOWN}/events/stream", "/readyz"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await client.get("/healthz")).status_code == 200
    await nowhere.close()


ROUTES = ("", "/config", "/events", "/events/stream", "/metrics", "/artifacts", "/snapshots", "/snapshots/snap_1",
          "/trials", "/rollouts", "/candidates", "/learning-curve")  # fmt: skip
BAD_IDS = (UNKNOWN, "pl_1", "%00", "x" * 500, "..%2f..%2fetc", "pl_%ED%A0%80", "'; DROP TABLE jobs; --")


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTES)
async def test_every_route_knows_an_unknown_job(client: httpx.AsyncClient, path: str) -> None:
    for job_id in BAD_IDS:
        answer = await client.get(f"{JOBS_PATH}/{job_id}{path}")
        assert (answer.status_code, answer.json()["status"]) == (404, 404)


# --- list ------------------------------------------------------------------------------------------------------------


async def test_the_list_is_followed_by_its_links_while_jobs_are_added(client: httpx.AsyncClient) -> None:
    made = [(await client.post(JOBS_PATH, json=post_body())).json()["id"] for _ in range(5)]
    seen = []
    url: str | None = f"{JOBS_PATH}?limit=2&status=queued&offset=0"
    while url is not None:
        answer = await client.get(url)
        seen += [job["id"] for job in answer.json()]
        url = answer.links.get("next", {}).get("url")
        await client.post(JOBS_PATH, json=post_body())
    assert seen == made[::-1]


async def test_a_page_size_above_the_limit_is_cut(client: httpx.AsyncClient, database: Database) -> None:
    await created_job(database)
    async with writing(database) as connection:
        await connection.execute(
            text(
                "INSERT INTO jobs(id, algorithm, status, config_sent, config) "
                "SELECT 'pl_' || lpad(to_hex(i), 32, '0'), algorithm, status, config_sent, config "
                "FROM jobs, generate_series(1, 200) i"
            )
        )
    answer = await client.get(JOBS_PATH, params={"limit": 10**30})
    assert len(answer.json()) == 200
    assert len((await client.get(answer.links["next"]["url"])).json()) == 1
    assert len((await client.get(JOBS_PATH)).json()) == 50


async def test_a_time_may_come_with_any_offset(client: httpx.AsyncClient, database: Database) -> None:
    await created_job(database)
    for since in ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00", "2020-01-01T00:00:00+05:30", "2020-01-01"):
        assert len((await client.get(f"{JOBS_PATH}?since={since}")).json()) == 1
    assert (await client.get(JOBS_PATH, params={"since": "2999-01-01T00:00:00+00:00"})).json() == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=many", "offset=10001", "offset=-1", "status=completed", "after=pl_1", "since=soon",
     f"after={UNKNOWN}", "algorithm=%00", "since=0001-01-01T00:00:00%2B14:00"],
)  # fmt: skip
async def test_a_query_that_makes_no_sense_is_named(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"{JOBS_PATH}?{query}")
    assert answer.status_code == 422
    assert query.split("=")[0] in answer.json()["detail"]


# --- running and finished --------------------------------------------------------------------------------------------


async def test_a_running_job_shows_its_progress_and_the_best_prompt_so_far(
    client: httpx.AsyncClient, database: Database
) -> None:
    job_id = (await searched_job(database)).job_id
    job = JobObject.model_validate_json((await client.get(f"{JOBS_PATH}/{job_id}")).content)
    assert (job.status, job.best_score, job.iteration, job.best_snapshot) == ("running", 0.75, 1, None)
    assert job.best_prompt == "[system]\nAnswer with care.\n\n[user]\nQuery: {query}"
    assert job.best_prompt_messages is not None
    assert [message.content for message in job.best_prompt_messages] == ["Answer with care.", "Query: {query}"]
    assert job.progress is not None
    assert job.progress["best_candidate_id"] == "c_1"
    assert job.started_at is not None


async def test_a_finished_job_shows_what_it_has_published(client: httpx.AsyncClient, database: Database) -> None:
    running = await searched_job(database)
    snapshot_id = await publish(running)
    answer = await client.get(f"{JOBS_PATH}/{running.job_id}")
    job = JobObject.model_validate_json(answer.content)
    assert (job.status, job.best_score, job.best_train_score, job.best_validation_score) == (
        "succeeded",
        0.7,
        0.75,
        0.7,
    )
    assert job.best_prompt == "[system]\nAnswer with care.\n\n[user]\nQuery: {query}"
    assert job.best_snapshot_id == snapshot_id
    assert job.best_snapshot == PAYLOAD | {"payload": PAYLOAD}
    assert job.metadata["stats"] == {"total_rollouts": 6}
    assert job.metadata["prompt_best_snapshot"] == PAYLOAD
    [listed] = (await client.get(JOBS_PATH)).json()
    light = answer.json() | {"best_snapshot": None}
    del light["spend"]["categories"]
    del light["metadata"]["prompt_best_snapshot"]
    assert listed == light


async def test_a_running_job_is_cancelled_by_its_worker(client: httpx.AsyncClient, database: Database) -> None:
    job_id = (await running_job(database)).job_id
    for body in ({"reason": "too slow"}, None):
        answer = await client.post(f"{JOBS_PATH}/{job_id}/cancel", json=body) if body else (
            await client.post(f"{JOBS_PATH}/{job_id}/cancel")
        )  # fmt: skip
        assert answer.status_code == 200
        assert answer.json()["status"] == "running"
        assert answer.json()["cancel_requested_at"] is not None


async def test_a_queued_job_is_cancelled_at_once(client: httpx.AsyncClient, database: Database) -> None:
    job_id = await created_job(database)
    answer = await client.post(f"{JOBS_PATH}/{job_id}/cancel", json={"reason": "wrong data"})
    page = (await client.get(f"{JOBS_PATH}/{job_id}/events")).json()
    assert answer.json()["status"] == "cancelled"
    assert page["events"][-1]["type"] == "prompt.learning.gepa.cancelled"
    assert page["events"][-1]["data"]["reason"] == "wrong data"


@pytest.mark.parametrize("body", [b"[]", b'{"reason": 5}', b'{"reason": "' + b"x" * 1001 + b'"}'])
async def test_a_cancel_with_a_body_of_another_shape_is_refused(
    client: httpx.AsyncClient, database: Database, body: bytes
) -> None:
    path, headers = f"{JOBS_PATH}/{await created_job(database)}", {"content-type": "application/json"}
    assert (await client.post(f"{path}/cancel", content=body, headers=headers)).status_code == 422
    assert (await client.get(path)).json()["status"] == "queued"


# --- the whole app ---------------------------------------------------------------------------------------------------


async def test_calls_of_task_apps_go_straight_to_the_interceptor(database: Database) -> None:
    async def interceptor(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    app = create_app(database=database, service=job_service(database), interceptor=interceptor)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        intercepted = await client.post("/interceptor/v1/secret/chat/completions", content=b"x" * 2_000_000)
        assert (intercepted.status_code, intercepted.text) == (299, "/interceptor/v1/secret/chat/completions")
        assert (await client.get("/interceptors")).status_code == 404
        assert (await client.get("/healthz")).json() == {"status": "ok"}


async def test_ready_means_that_the_schema_is_the_one_of_this_version(
    client: httpx.AsyncClient, database: Database
) -> None:
    assert (await client.get("/readyz")).json()["status"] == "ready"
    connection = await database.connect()
    head = await connection.fetchval("SELECT version_num FROM alembic_version")
    try:
        await connection.execute("UPDATE alembic_version SET version_num = '0000'")
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "schema 0000" in answer.json()["detail"]
        await connection.execute("DELETE FROM alembic_version")
        assert "schema none" in (await client.get("/readyz")).json()["detail"]
    finally:  # the database is used again
        await connection.execute("DELETE FROM alembic_version")
        await connection.execute("INSERT INTO alembic_version VALUES ($1)", head)
        await connection.close()


def without_nulls(value: Any) -> Any:
    """As the description shows an example."""
    if not isinstance(value, dict):
        return value
    return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}


async def test_the_examples_of_the_description_are_what_is_accepted_and_answered(client: httpx.AsyncClient) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    [example] = schemas["CreateJob"]["examples"]
    accepted = await client.post(JOBS_PATH, json=example)
    assert accepted.status_code == 200, accepted.text
    assert accepted.json()["warnings"] == []
    JobObject.model_validate_json(json.dumps(EXAMPLE_JOB))
    assert schemas["JobObject"]["examples"] == [EXAMPLE_JOB]
    [example] = schemas["Problem"]["examples"]
    answer = (await client.get(f"{JOBS_PATH}/{example['job_id']}")).json()
    assert example == {**answer, "request_id": example["request_id"]}


async def test_a_job_of_a_newer_version_is_shown_and_hides_no_other(
    client: httpx.AsyncClient, database: Database
) -> None:
    theirs, ours = [(await client.post(JOBS_PATH, json=post_body())).json()["job_id"] for _ in range(2)]
    known = '"rollout_budget"'
    async with writing(database) as connection:
        changed = text("UPDATE jobs SET config = replace(config, :known, :more) WHERE id = :job_id")
        await connection.execute(changed, {"known": known, "more": f'"new_field":1,{known}', "job_id": theirs})
    assert (await client.get(f"{JOBS_PATH}/{theirs}")).json()["spend"]["caps"]["total_usd"] is None
    assert [job["job_id"] for job in (await client.get(JOBS_PATH)).json()] == [ours, theirs]


async def test_of_many_errors_three_are_told_and_the_others_counted(client: httpx.AsyncClient) -> None:
    wrong = {"algorithm": 1, "overrides": 2, "metadata": 3, "auto_start": 4, "config_name": 5}
    problem = (await client.post(JOBS_PATH, json=wrong)).json()
    assert problem["detail"] == (
        "algorithm: expected a string; overrides: expected an object; metadata: expected an object; and 2 more"
    )
    assert problem["param"] == "algorithm"
