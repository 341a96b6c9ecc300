"""Routes of an organisation's secrets: keys of providers, and the key of its task apps. None is ever shown."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.responses import Response

from promptjobs.api import secret_schemas
from promptjobs.api.auth import TheOrganisation
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.body_models import Body, body_schema, read_as
from promptjobs.api.parameters import TheDatabase, TheService, TheVault
from promptjobs.db import secrets
from promptjobs.db.secrets import SecretEntry, SecretKind
from promptjobs.db.transactions import reading, writing
from promptjobs.errors import InvalidRequest, SecretNotFound
from promptjobs.errors.shown import MAX_SHOWN

router = APIRouter(tags=["secrets"])

ALGORITHM = "libsodium.sealedbox.v1"
KEY = re.compile(r"[!-~]{1,4096}")
"""What can be sent in a header as it is. fullmatch: `$` would let a line feed through at the end."""

ProviderName = Annotated[str, Path(description="A provider that the server knows.", examples=["openai"])]
EnvironmentName = Annotated[str, Path(description="The variable's name.", examples=["ENVIRONMENT_API_KEY"])]


def _checked_key(key: str, param: str) -> str:
    """Raises InvalidRequest, which never shows the key."""
    if KEY.fullmatch(key) is None:
        raise InvalidRequest("expected 1 to 4096 printable ASCII characters without spaces", param)
    return key


# --- providers -------------------------------------------------------------------------------------------------------


@router.put(
    "/provider-keys/{provider}",
    response_model=secret_schemas.ProviderKeyObject,
    summary="Leave a key for a provider",
    openapi_extra=body_schema(secret_schemas.PutProviderKey),
)
async def put_provider_key(
    provider: ProviderName,
    body: Body,
    database: TheDatabase,
    service: TheService,
    vault: TheVault,
    organisation: TheOrganisation,
) -> Response:
    """It is sealed before it is stored, in place of an earlier one. Jobs that run use it within seconds, unless their
    config says `use_byok: false`."""
    name = service.providers.without_key(provider[:MAX_SHOWN]).name
    key = _checked_key(read_as(secret_schemas.PutProviderKey, body).api_key, "api_key")
    async with writing(database) as connection:
        entry = await secrets.put(connection, vault, organisation, SecretKind.PROVIDER, name, key)
    return JsonResponse(_provider_key(entry))


@router.get(
    "/provider-keys", response_model=list[secret_schemas.ProviderKeyObject], summary="List the keys for providers"
)
async def list_provider_keys(database: TheDatabase, organisation: TheOrganisation) -> Response:
    """For which providers the organisation has left a key, by name."""
    async with reading(database) as connection:
        entries = await secrets.entries(connection, organisation, SecretKind.PROVIDER)
    return JsonResponse([_provider_key(entry) for entry in entries])


@router.delete(
    "/provider-keys/{provider}", status_code=204, response_class=Response, summary="Delete the key for a provider"
)
async def delete_provider_key(provider: ProviderName, database: TheDatabase, organisation: TheOrganisation) -> Response:
    """Jobs that run use the server's key within seconds where it has one; without any key they fail."""
    await _delete(database, organisation, SecretKind.PROVIDER, provider)
    return Response(status_code=204)


def _provider_key(entry: SecretEntry) -> dict[str, Any]:
    return {"provider": entry.name, "created_at": entry.created_at, "updated_at": entry.updated_at}


# --- task apps -------------------------------------------------------------------------------------------------------


@router.get(
    "/v1/crypto/public-key",
    response_model=secret_schemas.PublicKeyObject,
    summary="Read the key that secrets are sealed with",
)
async def read_public_key(vault: TheVault) -> Response:
    """For an anonymous sealed box of libsodium, which only this service can open."""
    return JsonResponse({"public_key": vault.public_key, "alg": ALGORITHM})


@router.post(
    "/v1/env-keys",
    response_model=secret_schemas.EnvironmentKeyObject,
    summary="Leave the key of your task apps",
    openapi_extra=body_schema(secret_schemas.PutEnvironmentKey),
)
async def put_environment_key(
    body: Body, database: TheDatabase, vault: TheVault, organisation: TheOrganisation
) -> Response:
    """In place of an earlier one. It is sent to the task apps of jobs that bring no key of their own."""
    sent = read_as(secret_schemas.PutEnvironmentKey, body)
    key = _checked_key(vault.open_sealed_box(sent.ciphertext_b64), "ciphertext_b64")
    async with writing(database) as connection:
        entry = await secrets.put(connection, vault, organisation, SecretKind.ENVIRONMENT, sent.name, key)
    return JsonResponse(entry)


@router.get(
    "/v1/env-keys",
    response_model=list[secret_schemas.EnvironmentKeyObject],
    summary="List the keys of your task apps",
)
async def list_environment_keys(database: TheDatabase, organisation: TheOrganisation) -> Response:
    """By name, without the keys."""
    async with reading(database) as connection:
        entries = await secrets.entries(connection, organisation, SecretKind.ENVIRONMENT)
    return JsonResponse(entries)


@router.delete(
    "/v1/env-keys/{name}", status_code=204, response_class=Response, summary="Delete the key of your task apps"
)
async def delete_environment_key(
    name: EnvironmentName, database: TheDatabase, organisation: TheOrganisation
) -> Response:
    """A job that is claimed later is run with the server's key where it brings none."""
    await _delete(database, organisation, SecretKind.ENVIRONMENT, name)
    return Response(status_code=204)


async def _delete(database: TheDatabase, organisation: str, kind: SecretKind, name: str) -> None:
    """Raises SecretNotFound, also for a name that Postgres could not hold."""
    if not name.isprintable():
        raise SecretNotFound(kind, name[:MAX_SHOWN])
    async with writing(database) as connection:
        if not await secrets.remove(connection, organisation, kind, name):
            raise SecretNotFound(kind, name[:MAX_SHOWN])
