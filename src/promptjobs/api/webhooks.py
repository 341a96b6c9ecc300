"""Routes of webhooks: create, list, read, change, rotate the secret, test, delete, and the messages to them."""

import re
import uuid
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import SecretStr
from starlette.responses import Response

from promptjobs.api import webhook_schemas as schemas
from promptjobs.api.auth import TheOrganisation
from promptjobs.api.bodies import JsonResponse
from promptjobs.api.body_models import Body, body_schema, read_as
from promptjobs.api.idempotency import Idempotent
from promptjobs.api.links import page_links
from promptjobs.api.parameters import MAX_LIMIT, Limit, TheDatabase, cut
from promptjobs.clients.webhooks import check_secret, new_secret
from promptjobs.db import webhook_messages, webhooks
from promptjobs.db.transactions import driver_of, reading, writing
from promptjobs.db.webhook_messages import DeliveryStatus
from promptjobs.db.webhooks import DeliveryFilter, NewWebhook, StoredDelivery, StoredWebhook
from promptjobs.errors import DeliveryNotFound, WebhookNotFound
from promptjobs.errors.shown import MAX_SHOWN
from promptjobs.jobs.webhooks import LEASE_SECONDS, WebhookCourier

router = APIRouter(tags=["webhooks"])

WEBHOOK_ID = re.compile(r"wh_[0-9a-f]{32}")
DELIVERY_ID = re.compile(r"msg_[0-9a-f]{32}")


async def _courier(request: Request) -> WebhookCourier:
    courier: WebhookCourier = request.app.state.webhooks
    return courier


async def _webhook_id(
    webhook_id: Annotated[str, Path(description="The webhook's id.", examples=[schemas.EXAMPLE_WEBHOOK_ID])],
) -> str:
    """What cannot be an id is an unknown webhook, and never reaches the database."""
    if WEBHOOK_ID.fullmatch(webhook_id) is None:
        raise WebhookNotFound(webhook_id[:MAX_SHOWN])
    return webhook_id


async def _delivery_id(
    delivery_id: Annotated[str, Path(description="The message's id.", examples=[schemas.EXAMPLE_MESSAGE_ID])],
) -> str:
    if DELIVERY_ID.fullmatch(delivery_id) is None:
        raise DeliveryNotFound(delivery_id[:MAX_SHOWN])
    return delivery_id


TheCourier = Annotated[WebhookCourier, Depends(_courier)]
WebhookId = Annotated[str, Depends(_webhook_id)]
DeliveryId = Annotated[str, Depends(_delivery_id)]


def _webhook_object(row: StoredWebhook) -> dict[str, Any]:
    return {
        "id": row.id,
        "url": row.url,
        "description": row.description,
        "event_types": row.event_types,
        "is_disabled": row.disabled_at is not None,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "disabled_at": row.disabled_at,
    }


def _delivery_object(row: StoredDelivery) -> dict[str, Any]:
    found = {
        "id": row.id,
        "webhook_id": row.webhook_id,
        "job_id": row.job_id or None,
        "event_type": row.event_type,
        "status": row.status,
        "attempts": row.attempts,
        "next_attempt_at": row.next_attempt_at,
        "response_status": row.response_status,
        "error": row.error,
        "created_at": row.created_at,
        "delivered_at": row.delivered_at,
    }
    return found if row.payload is None else {**found, "payload": orjson.Fragment(row.payload)}


def _secret_of(sent: schemas.CreateWebhook | schemas.RotateSecret) -> SecretStr:
    """The one that was sent, or a new one. Raises InvalidRequest."""
    if sent.secret is None:
        return new_secret()
    check_secret(sent.secret)
    return sent.secret


# --- webhooks --------------------------------------------------------------------------------------------------------


@router.post(
    "",
    status_code=201,
    response_model=schemas.WebhookWithSecret,
    summary="Create a webhook",
    openapi_extra=body_schema(schemas.CreateWebhook),
)
async def create_webhook(
    body: Body, organisation: TheOrganisation, database: TheDatabase, courier: TheCourier, idempotent: Idempotent
) -> Response:
    """It is told when jobs of the organisation end. The secret that signs its messages is answered this once."""
    sent = read_as(schemas.CreateWebhook, body)
    courier.check_url(sent.url)
    secret, webhook_id = _secret_of(sent), f"wh_{uuid.uuid4().hex}"
    webhook = NewWebhook(
        id=webhook_id,
        organisation=organisation,
        url=sent.url,
        description=sent.description,
        secret=courier.seal(secret, webhook_id),
        event_types=list(dict.fromkeys(sent.event_types)),
    )

    async def created() -> Response:
        async with writing(database) as connection:
            stored = await webhooks.create(connection, webhook)
        return JsonResponse({**_webhook_object(stored), "secret": secret.get_secret_value()}, status_code=201)

    return await idempotent.run(created)


@router.get("", response_model=list[schemas.WebhookObject], summary="List webhooks, newest first")
async def list_webhooks(
    request: Request,
    organisation: TheOrganisation,
    database: TheDatabase,
    limit: Limit = 50,
    after: Annotated[
        str | None,
        Query(pattern=f"^{WEBHOOK_ID.pattern}$", description="Id of the webhook behind which the page starts."),
    ] = None,
) -> Response:
    """A bare array, without secrets; the `Link` header names the next page."""
    limit = min(limit, MAX_LIMIT)
    async with reading(database) as connection:
        rows, has_more = cut(await webhooks.read_page(connection, organisation, limit + 1, after), limit)
    links = page_links(request, rows[-1].id if has_more else None)
    return JsonResponse([_webhook_object(row) for row in rows], headers=links)


@router.get("/{webhook_id}", response_model=schemas.WebhookObject, summary="Read a webhook")
async def read_webhook(webhook_id: WebhookId, organisation: TheOrganisation, database: TheDatabase) -> Response:
    """Without its secret, which is never shown again."""
    async with reading(database) as connection:
        return JsonResponse(_webhook_object(await webhooks.read(connection, organisation, webhook_id)))


@router.patch(
    "/{webhook_id}",
    response_model=schemas.WebhookObject,
    summary="Change a webhook",
    openapi_extra=body_schema(schemas.ChangeWebhook, is_required=False),
)
async def change_webhook(
    webhook_id: WebhookId, body: Body, organisation: TheOrganisation, database: TheDatabase, courier: TheCourier
) -> Response:
    """What is missing in the body stays as it is. A disabled webhook is told of nothing that happens meanwhile;
    messages that were on their way wait until it is enabled again."""
    sent = read_as(schemas.ChangeWebhook, body)
    given = sent.model_fields_set
    if "url" in given:
        courier.check_url(sent.url)
    changes = sent.model_dump(include={"url", "description", "event_types"} & given)
    if "event_types" in changes:
        changes["event_types"] = list(dict.fromkeys(sent.event_types))
    is_disabled = sent.is_disabled if "is_disabled" in given else None
    async with writing(database) as connection:
        stored = await webhooks.change(connection, organisation, webhook_id, changes, is_disabled=is_disabled)
    return JsonResponse(_webhook_object(stored))


@router.post(
    "/{webhook_id}/rotate-secret",
    response_model=schemas.WebhookWithSecret,
    summary="Replace a webhook's secret",
    openapi_extra=body_schema(schemas.RotateSecret, is_required=False),
)
async def rotate_secret(
    webhook_id: WebhookId, body: Body, organisation: TheOrganisation, database: TheDatabase, courier: TheCourier
) -> Response:
    """From now on every attempt is signed with the new secret, and with no other. It is answered this once."""
    secret = _secret_of(read_as(schemas.RotateSecret, body))
    changes = {"secret": courier.seal(secret, webhook_id)}
    async with writing(database) as connection:
        stored = await webhooks.change(connection, organisation, webhook_id, changes)
    return JsonResponse({**_webhook_object(stored), "secret": secret.get_secret_value()})


@router.delete("/{webhook_id}", status_code=204, response_class=Response, summary="Delete a webhook")
async def delete_webhook(webhook_id: WebhookId, organisation: TheOrganisation, database: TheDatabase) -> Response:
    """With all messages to it, sent or not."""
    async with writing(database) as connection:
        await webhooks.remove(connection, organisation, webhook_id)
    return Response(status_code=204)


@router.post("/{webhook_id}/test", response_model=schemas.DeliveryWithPayload, summary="Test a webhook")
async def test_webhook(
    webhook_id: WebhookId, organisation: TheOrganisation, database: TheDatabase, courier: TheCourier
) -> Response:
    """Sends it a message `webhook.test` once, now, and answers what has come of it; also where it is disabled."""
    message_id = f"msg_{uuid.uuid4().hex}"
    async with writing(database) as connection:
        message = await webhooks.add_test(connection, organisation, webhook_id, message_id, LEASE_SECONDS)
    attempt = await courier.attempt(message)
    async with writing(database) as connection:
        await webhook_messages.record(await driver_of(connection), message, attempt)
        found = await webhooks.read_delivery(connection, organisation, webhook_id, message_id)
    return JsonResponse(_delivery_object(found))


# --- messages --------------------------------------------------------------------------------------------------------


@router.get(
    "/{webhook_id}/deliveries",
    response_model=list[schemas.DeliveryObject],
    summary="List the messages to a webhook, newest first",
)
async def list_deliveries(
    request: Request,
    webhook_id: WebhookId,
    organisation: TheOrganisation,
    database: TheDatabase,
    limit: Limit = 50,
    after: Annotated[
        str | None,
        Query(pattern=f"^{DELIVERY_ID.pattern}$", description="Id of the message behind which the page starts."),
    ] = None,
    status: Annotated[DeliveryStatus | None, Query(description="Only those with this status.")] = None,
) -> Response:
    """Of the last 30 days, without their bodies. A bare array; the `Link` header names the next page."""
    limit = min(limit, MAX_LIMIT)
    wanted = DeliveryFilter(limit + 1, after, status)
    async with reading(database) as connection:
        rows, has_more = cut(await webhooks.read_deliveries(connection, organisation, webhook_id, wanted), limit)
    links = page_links(request, rows[-1].id if has_more else None)
    return JsonResponse([_delivery_object(row) for row in rows], headers=links)


@router.get(
    "/{webhook_id}/deliveries/{delivery_id}",
    response_model=schemas.DeliveryWithPayload,
    summary="Read a message to a webhook",
)
async def read_delivery(
    webhook_id: WebhookId, delivery_id: DeliveryId, organisation: TheOrganisation, database: TheDatabase
) -> Response:
    """With its body, as it is signed and sent."""
    async with reading(database) as connection:
        found = await webhooks.read_delivery(connection, organisation, webhook_id, delivery_id)
    return JsonResponse(_delivery_object(found))


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    response_model=schemas.DeliveryObject,
    summary="Send a message again",
)
async def redeliver_message(
    webhook_id: WebhookId, delivery_id: DeliveryId, organisation: TheOrganisation, database: TheDatabase
) -> Response:
    """At once, with the same id and body and a new signature, whatever has come of it before; also one that was
    delivered. It is one more attempt: where the schedule has not run out, others may follow."""
    async with writing(database) as connection:
        await webhooks.redeliver(connection, organisation, webhook_id, delivery_id)
        found = await webhooks.read_delivery(connection, organisation, webhook_id, delivery_id)
    return JsonResponse({name: value for name, value in _delivery_object(found).items() if name != "payload"})
