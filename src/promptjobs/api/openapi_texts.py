"""What the OpenAPI description says that follows from no route."""

from collections.abc import Mapping
from typing import Any

from promptjobs.api.idempotency import HEADER, REPLAYED
from promptjobs.api.openapi_problems import EXAMPLE_REQUEST_ID

Json = dict[str, Any]

DESCRIPTION = """\
promptjobs takes jobs that optimize prompts, runs them, and keeps everything that they find. Experiments are jobs that
belong together, to be compared.

* **Authentication.** Send an API key as `X-API-Key`, or as `Authorization: Bearer`. A service that listens on this
  machine only needs none until the first key is made.
* **Lists** are bare arrays. The header `Link` names the next page; following it, nothing is repeated or left out.
* **Errors** are problem details of RFC 9457, with a stable `code`, the `param` at fault where there is one, and the
  `request_id`, which every answer also carries as `x-request-id`. They are `application/problem+json` where `Accept`
  names that, else `application/json`.
* **Retries.** A POST with an `Idempotency-Key` is carried out once; a repetition within 24 hours has the first answer.
* **Times** are ISO 8601 in UTC, scores are numbers from 0 to 1.
"""

TAGS = {
    "jobs": "Create, follow and steer jobs.",
    "events": "What happens in a job, in order: by pages, or as a stream.",
    "results": "What a job has tried and found.",
    "experiments": "Jobs that belong together: made, followed and compared as one.",
    "artifacts": "The best prompts of all jobs.",
    "configs": "Configs under a name, for jobs to be created by it.",
    "secrets": "Keys that an organisation leaves with the service. None is ever shown again.",
    "webhooks": "Addresses that are told when jobs end, and the messages to them.",
    "health": "Whether the process lives, and whether it can work.",
    "operations": "For whoever runs the service.",
}

COMPONENT_HEADERS: Mapping[str, Json] = {
    "x-request-id": {
        "description": "The request's id: the client's own, if it sent one, or a new one.",
        "schema": {"type": "string"},
        "example": EXAMPLE_REQUEST_ID,
    },
    "Link": {
        "description": "The next page (RFC 8288), where there is one; the first, where this is another. Both relative.",
        "schema": {"type": "string"},
        "example": '</api/prompt-learning/online/jobs?limit=50&after=pl_5b0f7c1e9d8a4b6f8c2d3e4f5a6b7c8d>; rel="next"',
    },
    "ETag": {
        "description": "Names this answer, which will not change any more; for If-None-Match.",
        "schema": {"type": "string"},
        "example": 'W/"c3fcd3d76192e4007dfb496cca67e13b"',
    },
    "Retry-After": {
        "description": "Seconds until it makes sense to try again.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 1,
    },
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "schema": {"type": "string"},
        "example": "Bearer",
    },
    REPLAYED: {
        "description": f"`true` where this was answered before, to a request with the same {HEADER}.",
        "schema": {"const": "true"},
        "example": "true",
    },
}

IF_NONE_MATCH: Json = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "ETag of the answer that the client has: where it still holds, 304 says so.",
    "schema": {"type": "string"},
}


CONDITIONAL = frozenset(
    [
        "read_job",
        "read_experiment",
        "read_experiment_results",
        "compare_experiment_jobs",
        "read_job_plot",
        "read_experiment_plot",
        "read_config",
        "list_trials",
        "read_trial",
        "list_rollouts",
        "read_rollout",
        "read_learning_curve",
        "list_snapshots",
        "read_snapshot",
        "list_artifacts",
        "list_candidates",
        "read_candidate",
        "list_refused",
        "show_archive",
        "show_lineage",
        "list_completions",
        "show_report",
    ]
)
"""Operations whose answers have an ETag as soon as the job, or the experiment, is over."""

LINKS: Mapping[str, tuple[str, str]] = {
    "create_job": ("job_id", "/job_id"),
    "fork_job": ("job_id", "/job_id"),
    "create_experiment": ("experiment_id", "/experiment_id"),
    "list_experiments": ("experiment_id", "/0/experiment_id"),
    "list_jobs": ("job_id", "/0/job_id"),
    "list_trials": ("n", "/0/n"),
    "list_rollouts": ("rollout_id", "/0/id"),
    "list_candidates": ("candidate_id", "/0/candidate_id"),
    "list_snapshots": ("snapshot_id", "/0/id"),
    "save_config": ("name", "/name"),
    "create_webhook": ("webhook_id", "/id"),
    "list_deliveries": ("delivery_id", "/0/id"),
}
"""Which operation answers what parameter of further paths, and where it stands."""
