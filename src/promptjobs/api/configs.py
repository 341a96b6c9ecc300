"""Routes of saved configs: create, replace, list, read, delete."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from promptjobs.api.auth import TheOrganisation
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.body_models import Body, body_schema, read_as
from promptjobs.api.config_schemas import CONFIG_NAME, EXAMPLE_NAME, CreateConfig, PutConfig, SavedConfigObject
from promptjobs.api.idempotency import Idempotent
from promptjobs.api.links import page_links
from promptjobs.api.parameters import MAX_LIMIT, Limit, TheService, cut
from promptjobs.db.saved_configs import NewConfig, SavedRow

router = APIRouter(tags=["configs"])

Name = Annotated[str, Path(pattern=CONFIG_NAME, description="The config's name.", examples=[EXAMPLE_NAME])]


@router.post("", response_model=SavedConfigObject, summary="Save a config", openapi_extra=body_schema(CreateConfig))
async def save_config(
    body: Body, service: TheService, organisation: TheOrganisation, idempotent: Idempotent
) -> Response:
    """Under a name that is free. It is checked as that of a job, and kept without its secrets; a job takes it by
    `config_name`."""
    sent = read_as(CreateConfig, body)

    async def saved() -> Response:
        return JsonResponse(config_json(await service.configs.create(_new(organisation, sent.name, sent))))

    return await idempotent.run(saved)


@router.put(
    "/{name}", response_model=SavedConfigObject, summary="Replace a config", openapi_extra=body_schema(PutConfig)
)
async def put_config(name: Name, body: Body, service: TheService, organisation: TheOrganisation) -> Response:
    """Saved under the name, in place of an earlier one. Jobs that were made of that one keep what they took."""
    sent = read_as(PutConfig, body)
    return JsonResponse(config_json(await service.configs.put(_new(organisation, name, sent))))


@router.get("", response_model=list[SavedConfigObject], summary="List saved configs, by name")
async def list_configs(
    request: Request,
    service: TheService,
    organisation: TheOrganisation,
    limit: Limit = 50,
    after: Annotated[
        str | None, Query(pattern=CONFIG_NAME, description="The name behind which the page starts.")
    ] = None,
) -> Response:
    """A bare array; the `Link` header names the next page."""
    limit = min(limit, MAX_LIMIT)
    rows, has_more = cut(await service.configs.page(organisation, after, limit + 1), limit)
    links = page_links(request, rows[-1].name if has_more else None)
    return JsonResponse([config_json(row) for row in rows], headers=links)


@router.get("/{name}", response_model=SavedConfigObject, summary="Read a saved config")
async def read_saved_config(name: Name, service: TheService, organisation: TheOrganisation) -> Response:
    """As it was saved, without its secrets."""
    return JsonResponse(config_json(await service.configs.get(organisation, name)))


@router.delete("/{name}", status_code=204, response_class=Response, summary="Delete a saved config")
async def delete_config(name: Name, service: TheService, organisation: TheOrganisation) -> Response:
    """Jobs that were made of it keep what they took."""
    await service.configs.remove(organisation, name)
    return Response(status_code=204)


def config_json(row: SavedRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "algorithm": row.algorithm,
        "description": row.description,
        "config_body": orjson.Fragment(row.config_body),
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _new(organisation: str, name: str, sent: PutConfig) -> NewConfig:
    body = orjson.dumps(sent.config_body).decode()
    return NewConfig(organisation, name, sent.algorithm, sent.description, body)
