"""Which problems each operation can answer, with an example of each, made as the answers themselves are."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from promptjobs.api.bodies import MAX_BODY_BYTES
from promptjobs.api.idempotency import HEADER
from promptjobs.api.parameters import EXAMPLE_EXPERIMENT, EXAMPLE_ID
from promptjobs.api.problems import body_of
from promptjobs.errors import (
    BalanceEmpty,
    BodyTooLarge,
    BudgetExceededError,
    BudgetTooSmall,
    CandidateNotFound,
    ConfigNameTaken,
    ConfigNotFound,
    DatabaseUnavailable,
    DeliveryNotFound,
    HostNotAllowed,
    IdempotencyKeyReused,
    InvalidConfig,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    KeyInvalid,
    KeyMissing,
    KeyNotAllowed,
    MalformedJson,
    MiproConfigurationError,
    NotReady,
    NotYetSupported,
    PromptjobsError,
    ProviderNotConfigured,
    RateLimited,
    RequestInProgress,
    RolloutNotFound,
    SecretNotFound,
    SnapshotNotFound,
    TargetForbidden,
    TargetNotAllowed,
    TooManyWebhooks,
    TrialNotFound,
    UnpricedModel,
    UnsupportedMediaType,
    WebhookDisabled,
    WebhookNotFound,
)
from promptjobs.errors.experiments import (
    ExperimentConflict,
    ExperimentNotFound,
    JobInExperiment,
    OverrideIneffective,
    PlotInterrupted,
    PlotNotFound,
    PlotsBusy,
    PlotsUnavailable,
)

Json = dict[str, Any]

EXAMPLE_REQUEST_ID = "req_0f1e2d3c4b5a69788796a5b4c3d2e1f0"

SAID = {
    HTTPStatus.BAD_REQUEST: "The body is not JSON.",
    HTTPStatus.UNAUTHORIZED: "The API key is missing or not valid.",
    HTTPStatus.PAYMENT_REQUIRED: "Nothing is left of what the organisation may spend.",
    HTTPStatus.FORBIDDEN: "The key is for something else; or the service needs none, and another machine was named.",
    HTTPStatus.NOT_FOUND: "There is no such thing, or it belongs to another organisation.",
    HTTPStatus.CONFLICT: "What is asked does not go with what is there or under way.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is larger than 1 MiB.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is not declared as JSON.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "What was sent is understood, but cannot be carried out.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too much was asked at once.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "A defect of the service; its log says more.",
    HTTPStatus.NOT_IMPLEMENTED: "The service was installed without what this needs.",
    HTTPStatus.SERVICE_UNAVAILABLE: "It cannot be answered now, most often because the database cannot be reached.",
}
"""What a status means, whatever the operation."""

HEADERS = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate",),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After",),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After",),
}

WITHOUT_DATABASE = frozenset({"healthz"})

SECURED = (KeyMissing(), KeyInvalid(), KeyNotAllowed("metrics"), HostNotAllowed("Host"), RateLimited(0.35))
WITH_BODY = (
    MalformedJson("the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
    BodyTooLarge(MAX_BODY_BYTES),
    UnsupportedMediaType("the body must be application/json, got text/plain"),
    InvalidRequest("Field required", "body"),
)
UNAVAILABLE = DatabaseUnavailable("the database cannot be reached; try again")
WRONG_PARAMETER = InvalidRequest("expected at least 1", "query.limit")

MISSING: Mapping[str, PromptjobsError] = {
    "job_id": JobNotFound(EXAMPLE_ID),
    "snapshot_id": SnapshotNotFound("snap_0c9f6b1f2d3e4a5b8c7d6e5f4a3b2c1d"),
    "candidate_id": CandidateNotFound("c_3f2a"),
    "n": TrialNotFound(7),
    "rollout_id": RolloutNotFound("9b2d5e6f7a8b4c3d1e0f9a8b7c6d5e4f"),
    "webhook_id": WebhookNotFound("wh_1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f"),
    "delivery_id": DeliveryNotFound("msg_9e0f1a2b3c4d5e6f1c2d3e4f5a6b7c8d"),
    "experiment_id": ExperimentNotFound(EXAMPLE_EXPERIMENT),
    "plot": PlotNotFound("pareto", ["learning-curve", "pareto-front"]),
}
"""What is not there, by the parameter of the path that names it."""

_NO_PROVIDER = ProviderNotConfigured("the server has no provider 'acme'", "provider")
_CONFIGS = (
    InvalidConfig("Input should be greater than or equal to 0", "prompt_learning.policy.temperature"),
    BudgetTooSmall(3, 76, {"baseline": 17, "one iteration": 24, "the end": 35}),
    BudgetExceededError(5000, 9120, "mipro.max_token_limit"),
    MiproConfigurationError("at least one is needed", "mipro.modules"),
    NotYetSupported("this version does not carry out 'staged'", "algorithm"),
)
_TO_RUN = (
    *_CONFIGS,
    _NO_PROVIDER,
    UnpricedModel("groq", "my-model", "prompt_learning.policy.model", "max_cost_usd is a limit in USD"),
)
_TARGETS = (
    TargetNotAllowed("hooks.internal", 443, "10.0.0.7"),
    TargetForbidden("metadata.internal", 80, "169.254.169.254"),
)
_WITHOUT_EFFECT = OverrideIneffective(
    "prompt_learning.gepa.rollout.budgett",
    "there is no such setting",
    "matrix.prompt_learning.gepa.rollout.budgett",
    2,
    "gepa, seed=1",
)
_DRAWN = (PlotsUnavailable(), PlotsBusy(1.0), PlotInterrupted("it was not ready within 30 s"))
_SAVED = ConfigNotFound("nightly")
_MONEY = BalanceEmpty("default", 0.0)


def _conflict(wanted: str, status: str = "succeeded") -> JobConflict:
    return JobConflict(EXAMPLE_ID, status, wanted)


OWN: Mapping[str, Sequence[PromptjobsError]] = {
    "create_job": (*_TO_RUN, _SAVED, _MONEY),
    "estimate_job": (*_TO_RUN, _SAVED),
    "fork_job": (*_TO_RUN, _MONEY),
    "save_config": (*_CONFIGS, ConfigNameTaken("nightly")),
    "put_config": _CONFIGS,
    "read_saved_config": (_SAVED,),
    "delete_config": (_SAVED,),
    "put_provider_key": (_NO_PROVIDER,),
    "delete_provider_key": (SecretNotFound("provider", "openai"),),
    "delete_environment_key": (SecretNotFound("environment", "ENVIRONMENT_API_KEY"),),
    "create_webhook": (*_TARGETS, TooManyWebhooks(100)),
    "change_webhook": _TARGETS,
    "redeliver_message": (WebhookDisabled("wh_1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f"),),
    "start_job": (_conflict("be started"), _MONEY),
    "pause_job": (_conflict("be paused"),),
    "resume_job": (_conflict("be resumed"), _MONEY),
    "delete_job": (_conflict("be deleted", "running"), JobInExperiment(EXAMPLE_ID, EXAMPLE_EXPERIMENT)),
    "create_experiment": (*_TO_RUN, _WITHOUT_EFFECT, _SAVED, _MONEY),
    "estimate_experiment": (*_TO_RUN, _WITHOUT_EFFECT, _SAVED),
    "compare_experiment_jobs": (JobNotFound(EXAMPLE_ID),),
    "delete_experiment": (ExperimentConflict(EXAMPLE_EXPERIMENT, "running", "be deleted"),),
    "list_job_plots": (PlotsUnavailable(),),
    "read_job_plot": _DRAWN,
    "list_experiment_plots": (PlotsUnavailable(),),
    "read_experiment_plot": _DRAWN,
    "readyz": (NotReady("the database has schema 0003, and this version needs 0004: migrate it"),),
}
"""What only this operation answers."""


def problems_of(operation: Json) -> Iterator[PromptjobsError]:
    """An example of each problem that the operation can answer. operation: as the framework describes it."""
    parameters: list[Json] = operation.get("parameters", [])
    if operation.get("security"):
        yield from SECURED
    for parameter in parameters:
        if parameter["in"] == "path" and parameter["name"] in MISSING:
            yield MISSING[parameter["name"]]
    if any(_can_be_wrong(parameter) for parameter in parameters):
        yield WRONG_PARAMETER
    if any(parameter["name"] == HEADER for parameter in parameters):
        yield from (RequestInProgress(), IdempotencyKeyReused())
    if "requestBody" in operation:
        yield from WITH_BODY
    yield from OWN.get(operation["operationId"], ())
    if operation["operationId"] not in WITHOUT_DATABASE:
        yield UNAVAILABLE
    yield PromptjobsError("the service has a defect; its log says more")


def _can_be_wrong(parameter: Json) -> bool:
    """Whether a value can be refused. Any text is taken for an id: one that cannot be is not found."""
    described = set(parameter["schema"]) - {"title", "description", "examples"}
    return described != {"type"} or parameter["schema"]["type"] != "string"


def responses_of(operation: Json) -> Json:
    """The operation's problems as responses, by status; each names its examples, which `examples` holds."""
    codes: dict[int, list[str]] = {}
    for error in problems_of(operation):
        known = codes.setdefault(error.status, [])
        if error.code not in known:
            known.append(error.code)
    return {str(status): _response(HTTPStatus(status), codes[status]) for status in sorted(codes)}


def _response(status: HTTPStatus, codes: Sequence[str]) -> Json:
    headers = HEADERS.get(status, ())
    if RequestInProgress.code in codes:
        headers = (*headers, "Retry-After")
    content = {
        "schema": {"$ref": "#/components/schemas/Problem"},
        "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
    }
    return {
        "description": SAID[status],
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {"application/json": content, "application/problem+json": content},
    }


def example(error: PromptjobsError) -> Json:
    """The problem as a component."""
    value = body_of(error, EXAMPLE_REQUEST_ID)
    return {"summary": value["title"], "value": value}
