"""The OpenAPI document is complete and true to itself; that the service keeps to it is found out by fuzzing."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from promptjobs.api.app import Service, create_app
from promptjobs.api.openapi_texts import TAGS
from promptjobs.db.session import Database
from promptjobs.errors import PromptjobsError
from tests.fakes.recorded_jobs import job_service

Json = dict[str, Any]

JOBS = "/api/prompt-learning/online/jobs"
JOB = f"{JOBS}/{{job_id}}"
CONFIGS = "/api/prompt-learning/configs"
WEBHOOK = "/api/webhooks/{webhook_id}"
EXPERIMENTS = "/api/experiments"
EXPERIMENT = f"{EXPERIMENTS}/{{experiment_id}}"

OPERATIONS = {
    "create_job": f"POST {JOBS}",
    "list_jobs": f"GET {JOBS}",
    "estimate_job": f"POST {JOBS}/estimate",
    "fork_job": f"POST {JOB}/fork",
    "read_job": f"GET {JOB}",
    "delete_job": f"DELETE {JOB}",
    "start_job": f"POST {JOB}/start",
    "pause_job": f"POST {JOB}/pause",
    "resume_job": f"POST {JOB}/resume",
    "cancel_job": f"POST {JOB}/cancel",
    "read_config": f"GET {JOB}/config",
    "list_events": f"GET {JOB}/events",
    "stream_events": f"GET {JOB}/events/stream",
    "list_trials": f"GET {JOB}/trials",
    "read_trial": f"GET {JOB}/trials/{{n}}",
    "list_rollouts": f"GET {JOB}/rollouts",
    "read_rollout": f"GET {JOB}/rollouts/{{rollout_id}}",
    "read_metrics": f"GET {JOB}/metrics",
    "read_learning_curve": f"GET {JOB}/learning-curve",
    "list_snapshots": f"GET {JOB}/snapshots",
    "read_snapshot": f"GET {JOB}/snapshots/{{snapshot_id}}",
    "list_artifacts": f"GET {JOB}/artifacts",
    "list_candidates": f"GET {JOB}/candidates",
    "read_candidate": f"GET {JOB}/candidates/{{candidate_id}}",
    "list_refused": f"GET {JOB}/proposals/refused",
    "show_archive": f"GET {JOB}/archive",
    "show_lineage": f"GET {JOB}/lineage",
    "list_completions": f"GET {JOB}/completions",
    "show_report": f"GET {JOB}/report",
    "list_job_plots": f"GET {JOB}/plots",
    "read_job_plot": f"GET {JOB}/plots/{{plot}}",
    "create_experiment": f"POST {EXPERIMENTS}",
    "list_experiments": f"GET {EXPERIMENTS}",
    "estimate_experiment": f"POST {EXPERIMENTS}/estimate",
    "read_experiment": f"GET {EXPERIMENT}",
    "delete_experiment": f"DELETE {EXPERIMENT}",
    "cancel_experiment": f"POST {EXPERIMENT}/cancel",
    "read_experiment_results": f"GET {EXPERIMENT}/results",
    "compare_experiment_jobs": f"GET {EXPERIMENT}/comparison",
    "stream_experiment_events": f"GET {EXPERIMENT}/events/stream",
    "list_experiment_plots": f"GET {EXPERIMENT}/plots",
    "read_experiment_plot": f"GET {EXPERIMENT}/plots/{{plot}}",
    "list_all_artifacts": "GET /api/artifacts",
    "read_prompt": "GET /api/artifacts/prompts/{job_id}",
    "save_config": f"POST {CONFIGS}",
    "list_configs": f"GET {CONFIGS}",
    "put_config": f"PUT {CONFIGS}/{{name}}",
    "read_saved_config": f"GET {CONFIGS}/{{name}}",
    "delete_config": f"DELETE {CONFIGS}/{{name}}",
    "list_provider_keys": "GET /api/provider-keys",
    "put_provider_key": "PUT /api/provider-keys/{provider}",
    "delete_provider_key": "DELETE /api/provider-keys/{provider}",
    "read_public_key": "GET /api/v1/crypto/public-key",
    "list_environment_keys": "GET /api/v1/env-keys",
    "put_environment_key": "POST /api/v1/env-keys",
    "delete_environment_key": "DELETE /api/v1/env-keys/{name}",
    "create_webhook": "POST /api/webhooks",
    "list_webhooks": "GET /api/webhooks",
    "read_webhook": f"GET {WEBHOOK}",
    "change_webhook": f"PATCH {WEBHOOK}",
    "delete_webhook": f"DELETE {WEBHOOK}",
    "rotate_secret": f"POST {WEBHOOK}/rotate-secret",
    "test_webhook": f"POST {WEBHOOK}/test",
    "list_deliveries": f"GET {WEBHOOK}/deliveries",
    "read_delivery": f"GET {WEBHOOK}/deliveries/{{delivery_id}}",
    "redeliver_message": f"POST {WEBHOOK}/deliveries/{{delivery_id}}/redeliver",
    "healthz": "GET /healthz",
    "readyz": "GET /readyz",
    "scrape_metrics": "GET /metrics",
}
"""Generated clients call operations by these names: they are added to, and never changed."""

CAUSED_BY_CLIENTS = {
    f"promptjobs.errors.{name}" for name in ("access", "configs", "experiments", "requests", "results", "webhooks")
}
"""Of these, `not_found` is a base, and a key can only be missing to the command that revokes it."""

IDEMPOTENT = {"create_job", "create_experiment", "fork_job", "save_config", "create_webhook"}
OPEN_SCHEMAS = {"CreateJob", "ForkJob", "CancelJob", "Problem"}
"""Objects with further fields: a job's unknown ones are ignored with a warning, and a problem has its facts."""


@pytest.fixture(scope="module")
def service() -> Service:
    database = Database.open("postgresql://127.0.0.1:9/none")
    return create_app(database=database, service=job_service(database))


@pytest.fixture(scope="module")
def document(service: Service) -> Json:
    found: Json = service.api.openapi()
    return found


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def named(document: Json, name: str) -> Json:
    return next(operation for _, _, operation in operations(document) if operation["operationId"] == name)


def test_the_operations_keep_their_names(document: Json) -> None:
    found = [(each["operationId"], f"{method} {path}") for method, path, each in operations(document)]
    assert sorted(found) == sorted(OPERATIONS.items())


def test_the_document_is_valid_openapi_3_1(document: Json) -> None:
    # Imported here: it takes a second, which every run of any test would pay.
    from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

    assert document["openapi"].startswith("3.1.")
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []


def test_every_reference_leads_somewhere(document: Json) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    for reference in set(references(document)):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_every_operation_says_what_it_does_and_what_it_takes(document: Json) -> None:
    for _, _, operation in operations(document):
        assert operation["summary"]
        assert operation["description"]
        assert not operation["summary"].endswith(".")
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (operation["operationId"], parameter["name"])
            assert "anyOf" not in parameter["schema"]


def test_tags_are_described_and_used(document: Json) -> None:
    used = {tag for _, _, operation in operations(document) for tag in operation["tags"]}
    assert [tag["name"] for tag in document["tags"]] == list(TAGS)
    assert used == set(TAGS)


def test_all_but_the_probes_need_a_key(document: Json) -> None:
    either = [{"ApiKey": []}, {"Bearer": []}]
    for _, path, operation in operations(document):
        assert operation.get("security", []) == ([] if path in ("/healthz", "/readyz") else either)
    schemes = document["components"]["securitySchemes"]
    assert (schemes["ApiKey"]["in"], schemes["ApiKey"]["name"]) == ("header", "X-API-Key")
    assert (schemes["Bearer"]["type"], schemes["Bearer"]["scheme"]) == ("http", "bearer")


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("create_job", "200 400 401 402 403 404 409 413 415 422 429 500 503"),
        ("read_job", "200 304 401 403 404 429 500 503"),
        ("list_jobs", "200 401 403 422 429 500 503"),
        ("pause_job", "200 401 403 404 409 429 500 503"),
        ("resume_job", "200 401 402 403 404 409 429 500 503"),
        ("delete_job", "204 401 403 404 409 429 500 503"),
        ("create_experiment", "200 400 401 402 403 404 409 413 415 422 429 500 503"),
        ("estimate_experiment", "200 400 401 403 404 413 415 422 429 500 503"),
        ("read_experiment", "200 304 401 403 404 429 500 503"),
        ("list_experiments", "200 401 403 422 429 500 503"),
        ("cancel_experiment", "200 400 401 403 404 413 415 422 429 500 503"),
        ("delete_experiment", "204 401 403 404 409 429 500 503"),
        ("read_experiment_results", "200 304 401 403 404 422 429 500 503"),
        ("compare_experiment_jobs", "200 304 401 403 404 422 429 500 503"),
        ("stream_experiment_events", "200 204 401 403 404 422 429 500 503"),
        ("read_experiment_plot", "200 304 401 403 404 422 429 500 501 503"),
        ("list_job_plots", "200 401 403 404 429 500 501 503"),
        ("stream_events", "200 204 401 403 404 422 429 500 503"),
        ("create_webhook", "201 400 401 403 409 413 415 422 429 500 503"),
        ("healthz", "200 500"),
        ("readyz", "200 500 503"),
    ],
)
def test_every_status_is_documented(document: Json, name: str, statuses: str) -> None:
    assert " ".join(named(document, name)["responses"]) == statuses


def test_problems_have_one_schema_two_content_types_and_an_example_for_each_code(document: Json) -> None:
    examples = document["components"]["examples"]
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) < 400:
                continue
            assert set(response["content"]) == {"application/json", "application/problem+json"}
            for media in response["content"].values():
                assert media["schema"] == {"$ref": "#/components/schemas/Problem"}
                for code, reference in media["examples"].items():
                    value = examples[reference["$ref"].rpartition("/")[2]]["value"]
                    assert (value["code"], value["status"]) == (code, int(status))


def test_the_problem_of_every_error_that_clients_can_cause_is_documented(document: Json) -> None:
    def kinds(error: type[PromptjobsError]) -> Iterator[type[PromptjobsError]]:
        for kind in error.__subclasses__():
            yield kind
            yield from kinds(kind)

    caused = {
        kind.code for kind in kinds(PromptjobsError) if kind.__module__ in CAUSED_BY_CLIENTS and kind.status < 500
    }
    assert caused - set(document["components"]["examples"]) == {"not_found", "key_not_found"}


def test_answers_name_their_headers(document: Json) -> None:
    for _, _, operation in operations(document):
        parameters = {parameter["name"] for parameter in operation.get("parameters", [])}
        for status, response in operation["responses"].items():
            headers = set(response["headers"])
            assert "x-request-id" in headers
            assert ("Retry-After" in headers) >= (status in ("429", "503"))
            assert ("WWW-Authenticate" in headers) == (status == "401")
            assert ("Link" in headers) == (status == "200" and "after" in parameters)
            assert ("ETag" in headers) == ("304" in operation["responses"] and status in ("200", "304"))
        assert ("If-None-Match" in parameters) == ("304" in operation["responses"])
        assert ("Idempotency-Key" in parameters) == (operation["operationId"] in IDEMPOTENT)
    assert "Retry-After" in named(document, "create_job")["responses"]["409"]["headers"]


def allowed_by(document: Json, schema: Json) -> Draft202012Validator:
    """A validator of `schema`, which refers to the document's components."""
    return Draft202012Validator({**schema, "components": document["components"]})


def contents(document: Json) -> Iterator[tuple[str, Json]]:
    """Every body that is sent or answered without an error, here and by webhooks; with its name."""
    everything = [each for _, _, each in operations(document)]
    everything += [operation for item in document["webhooks"].values() for operation in item.values()]
    for operation in everything:
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        bodies += [response for status, response in operation["responses"].items() if int(status) < 400]
        for body in bodies:
            for media_type, media in body.get("content", {}).items():
                yield f"{operation['operationId']} {media_type}", media


def test_every_body_has_an_example_that_its_schema_allows(document: Json) -> None:
    checked = 0
    for name, media in contents(document):
        examples = [each["value"] for each in media["examples"].values()] if "examples" in media else [media["example"]]
        validator = allowed_by(document, media["schema"])
        for example in examples:
            assert [error.message for error in validator.iter_errors(example)] == [], name
            checked += 1
    assert checked > len(OPERATIONS)


def test_examples_of_schemas_and_problems_are_allowed_by_them(document: Json) -> None:
    for name, schema in document["components"]["schemas"].items():
        validator = allowed_by(document, {"$ref": f"#/components/schemas/{name}"})
        for example in schema.get("examples", []):
            assert [error.message for error in validator.iter_errors(example)] == [], name
    problem = allowed_by(document, {"$ref": "#/components/schemas/Problem"})
    for example in document["components"]["examples"].values():
        assert [error.message for error in problem.iter_errors(example["value"])] == []


def test_objects_have_no_fields_that_are_not_described(document: Json) -> None:
    found = {
        name
        for name, schema in document["components"]["schemas"].items()
        if "properties" in schema and schema.get("additionalProperties") is not False
    }
    assert found == OPEN_SCHEMAS


def test_the_messages_of_webhooks_are_described(document: Json) -> None:
    found = {name: item["post"]["operationId"] for name, item in document["webhooks"].items()}
    assert found == {
        "job.succeeded": "on_job_succeeded",
        "job.failed": "on_job_failed",
        "job.cancelled": "on_job_cancelled",
        "webhook.test": "on_webhook_test",
    }
    for item in document["webhooks"].values():
        names = [parameter["name"] for parameter in item["post"]["parameters"]]
        assert names == ["webhook-id", "webhook-timestamp", "webhook-signature"]
        assert list(item["post"]["responses"]) == ["204"]


async def test_the_document_is_served_to_everybody_and_names_no_other_machine(service: Service, document: Json) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1") as client:
        answer = await client.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == json.loads(json.dumps(document))
    assert document["servers"] == [{"url": "/", "description": "This service."}]
