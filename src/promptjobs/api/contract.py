"""Routes that exist for clients of the published SDK of this API: the prompts of all jobs, as artifacts."""

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from promptjobs.api import contract_schemas
from promptjobs.api.auth import TheOrganisation
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.parameters import MAX_LIMIT, JobId, Limit, TheDatabase, TheService
from promptjobs.api.wire import Json, job_object
from promptjobs.db import prompt_artifacts
from promptjobs.db.jobs import JobStatus
from promptjobs.db.prompt_artifacts import PromptArtifact
from promptjobs.db.transactions import reading

router = APIRouter(tags=["artifacts"])

ALIAS_PATH = "/api/policy-optimization/online/jobs"
"""Where later versions of the SDK look for the routes of jobs. They are the same routes, not described twice."""

SUMMARY_FIELDS = frozenset(contract_schemas.PromptSummary.model_fields)


class ArtifactType(StrEnum):
    """What to list; there are no models here."""

    ALL = "all"
    MODELS = "models"
    PROMPTS = "prompts"


@router.get("/artifacts", response_model=contract_schemas.AllArtifacts, summary="List the prompts of all jobs")
async def list_all_artifacts(
    database: TheDatabase,
    organisation: TheOrganisation,
    type_: Annotated[ArtifactType, Query(alias="type", description="`models` finds nothing.")] = ArtifactType.ALL,
    status: Annotated[JobStatus | None, Query(description="Only those of jobs with this status.")] = None,
    limit: Limit = 50,
) -> Response:
    """One for each job that has a best prompt, newest first."""
    found: list[PromptArtifact] = []
    total = 0
    if type_ is not ArtifactType.MODELS:
        async with reading(database) as connection:
            found = await prompt_artifacts.read_prompts(connection, organisation, status, min(limit, MAX_LIMIT))
            total = await prompt_artifacts.count_prompts(connection, organisation, status)
    prompts = [_prompt_object(each) for each in found]
    return JsonResponse(
        {"fine_tuned_models": [], "rl_models": [], "prompts": prompts, "summary": {"total_count": total}}
    )


@router.get(
    "/artifacts/prompts/{job_id}", response_model=contract_schemas.PromptDetail, summary="Read the best prompt of a job"
)
async def read_prompt(job_id: JobId, database: TheDatabase, service: TheService) -> Response:
    """The published snapshot with the scores of the job; without a snapshot while there is none."""
    job = job_object(await service.get(job_id))
    async with reading(database) as connection:
        config_name = await prompt_artifacts.config_name_of(connection, job_id)
    shown = {name: value for name, value in job.items() if name in SUMMARY_FIELDS}
    source = "config_body" if config_name is None else "config_name"
    metadata = {**job["metadata"], "algorithm": job["algorithm"], "task_app_url": job["task_app_url"]}
    body = {**shown, "type": "prompt", "best_snapshot": job["best_snapshot"]}
    return JsonResponse({**body, "metadata": {**metadata, "config_source": source}})


def _prompt_object(artifact: PromptArtifact) -> Json:
    return {
        "id": artifact.job_id,
        "job_id": artifact.job_id,
        "type": "prompt",
        "algorithm": artifact.algorithm,
        "status": artifact.status,
        "best_score": artifact.best_score,
        "best_train_score": artifact.best_train_score,
        "best_validation_score": artifact.best_validation_score,
        "best_snapshot_id": artifact.best_snapshot_id,
        "created_at": artifact.created_at,
        "finished_at": artifact.finished_at,
    }
