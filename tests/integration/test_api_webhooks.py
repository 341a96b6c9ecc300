"""Routes of webhooks: what is accepted and refused, what is shown once and never again, and whose is whose."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from promptjobs.api import webhook_schemas as schemas
from promptjobs.api.app import create_app
from promptjobs.clients.http import Outgoing
from promptjobs.db import api_keys
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from tests.fakes.receiver import Receiver, answering
from tests.fakes.recorded_jobs import job_service
from tests.fakes.served import in_process
from tests.fakes.webhooks import courier_of, new_message, sending

pytestmark = pytest.mark.slow

HOOKS = "/api/webhooks"
URL = "https://hooks.example.com/in?team=1"
SECRET = "whsec_" + base64.b64encode(b"s" * 24).decode()


@asynccontextmanager
async def served(database: Database, outgoing: Outgoing) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(database=database, service=job_service(database))
    app.api.state.webhooks = courier_of(outgoing)
    async with in_process(app, raises=False) as client:
        yield client


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with Outgoing(allow_loopback=True) as outgoing, served(database, outgoing) as client:
        yield client


async def created(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post(HOOKS, json={"url": URL, **body})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# --- webhooks --------------------------------------------------------------------------------------------------------


async def test_a_secret_is_shown_once_and_stored_sealed(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    hook = await created(client, description="ours", event_types=["job.failed", "job.failed"])
    schemas.WebhookWithSecret.model_validate_json(httpx.Response(200, json=hook).content)
    secret = hook.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert (hook["url"], hook["description"], hook["event_types"]) == (URL, "ours", ["job.failed"])
    assert (await client.get(f"{HOOKS}/{hook['id']}")).json() == hook
    assert (await client.get(HOOKS)).json() == [hook]
    assert secret not in await connection.fetchval("SELECT webhooks::text FROM webhooks")


async def test_a_client_may_bring_its_own_secret(client: httpx.AsyncClient) -> None:
    assert (await created(client, secret=SECRET))["secret"] == SECRET


WEAK_SECRETS = (
    "whsec_" + base64.b64encode(b"s" * 23).decode(),
    "whsec_" + base64.b64encode(b"s" * 65).decode(),
    SECRET[6:],
    "whsec_***secret***",
    "whsec_ä",
    "whsec_",
    "",
    5,
)


async def test_a_secret_that_is_weak_or_unreadable_is_refused_and_not_repeated(client: httpx.AsyncClient) -> None:
    for secret in WEAK_SECRETS:
        answer = await client.post(HOOKS, json={"url": URL, "secret": secret})
        assert (*problem(answer), answer.json()["param"]) == (422, "invalid_request", "secret"), secret
        assert len(str(secret)) < 8 or str(secret)[6:] not in answer.text


WRONG_BODIES: tuple[dict[str, Any], ...] = (
    {},
    {"url": 5},
    {"url": None},
    {"url": ""},
    {"url": "hooks.example.com"},
    {"url": "ftp://hooks.example.com/"},
    {"url": "https://"},
    {"url": "https://user:pass@hooks.example.com/"},
    {"url": "https://h.example.com/ a"},
    {"url": "https://hooks.example.com/" + "x" * 2000},
    {"url": "http://hooks.example.com/"},
    {"url": "https://hooks.example.com:99999/"},
    {"url": "https://[::1"},
    {"url": URL, "event_types": ["job.started"]},
    {"url": URL, "event_types": "job.failed"},
    {"url": URL, "description": "x" * 501},
    {"url": URL, "colour": "red"},
)


async def test_what_is_no_webhook_is_refused(client: httpx.AsyncClient) -> None:
    for body in WRONG_BODIES:
        assert problem(await client.post(HOOKS, json=body)) == (422, "invalid_request"), body
    assert (await client.get(HOOKS)).json() == []


INNER_URLS = {
    "https://169.254.169.254/latest/meta-data": "target_forbidden",
    "http://[::ffff:169.254.169.254]/": "target_forbidden",
    "https://0/": "target_forbidden",
    "https://127.1/": "target_forbidden",
    "https://2130706433/": "target_forbidden",
    "https://10.0.0.8/": "target_not_allowed",
    "https://127.0.0.1:9/": "target_not_allowed",
    "https://[::1]:9/": "target_not_allowed",
    "http://localhost:9/": "invalid_request",
}


async def test_an_address_that_may_not_be_dialled_is_refused_at_once(database: Database) -> None:
    async with Outgoing() as closed, served(database, closed) as client:
        for url, code in INNER_URLS.items():
            assert problem(await client.post(HOOKS, json={"url": url})) == (422, code), url


async def test_http_is_for_this_machine_and_for_what_the_operator_allows(database: Database) -> None:
    async with (
        Outgoing(frozenset({"inside.test:8080", "10.0.0.8:80"})) as outgoing,
        served(database, outgoing) as client,
    ):
        for url in ("http://inside.test:8080/in", "http://10.0.0.8/in"):
            assert (await created(client, url=url))["url"] == url
        assert problem(await client.post(HOOKS, json={"url": "http://inside.test/in"})) == (422, "invalid_request")
    async with Outgoing(allow_loopback=True) as outgoing, served(database, outgoing) as client:
        for url in ("http://127.0.0.1:9/", "http://[::1]:9/", "http://localhost:9/"):
            await created(client, url=url)


async def test_a_change_leaves_the_rest_as_it_is(client: httpx.AsyncClient) -> None:
    hook = await created(client, description="ours", event_types=["job.failed"])
    del hook["secret"]
    url = f"{HOOKS}/{hook['id']}"
    changed = (await client.patch(url, json={"is_disabled": True})).json()
    assert changed.pop("disabled_at") is not None
    same = {name: value for name, value in hook.items() if name not in ("updated_at", "disabled_at")}
    assert {name: changed[name] for name in same} == same | {"is_disabled": True}
    again = (await client.patch(url, json={"is_disabled": False, "description": None, "event_types": []})).json()
    assert (again["is_disabled"], again["disabled_at"]) == (False, None)
    assert (again["description"], again["event_types"], again["url"]) == (None, [], URL)
    assert (
        (await client.patch(url, json={"url": "https://other.example.com/"})).json()["url"].startswith("https://other")
    )
    for wrong in ({"url": None}, {"url": "http://10.0.0.8/"}, {"is_disabled": "no"}, {"secret": SECRET}):
        assert (await client.patch(url, json=wrong)).status_code == 422


async def test_lists_go_page_by_page_to_the_limit_of_webhooks(client: httpx.AsyncClient) -> None:
    hooks = [await created(client) for _ in range(20)]
    assert problem(await client.post(HOOKS, json={"url": URL})) == (409, "too_many_webhooks")
    seen, url = [], f"{HOOKS}?limit=8"
    while url:
        page = await client.get(url)
        seen += [each["id"] for each in page.json()]
        url = page.links.get("next", {}).get("url", "")
    assert seen == [hook["id"] for hook in reversed(hooks)]
    assert problem(await client.get(HOOKS, params={"after": "wh_" + "0" * 32})) == (422, "invalid_request")
    assert (await client.delete(f"{HOOKS}/{seen[0]}")).status_code == 204
    assert (await client.delete(f"{HOOKS}/{seen[0]}")).status_code == 404
    await created(client)


# --- messages --------------------------------------------------------------------------------------------------------


async def test_a_test_is_sent_at_once_and_signed_and_its_outcome_answered(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    hook = await created(client, url=receiver.url, secret=SECRET)
    answer = await client.post(f"{HOOKS}/{hook['id']}/test")
    delivery = schemas.DeliveryWithPayload.model_validate_json(answer.content)
    [received] = receiver.received
    message = received.verified(SECRET)
    schemas.WebhookTestMessage.model_validate_json(received.body)
    assert (message["type"], message["data"]) == ("webhook.test", {"webhook_id": hook["id"]})
    assert (delivery.id, delivery.status, delivery.attempts, delivery.job_id) == (received.id, "delivered", 1, None)
    assert delivery.payload == message


async def test_a_test_that_fails_says_why_and_is_not_repeated(client: httpx.AsyncClient, receiver: Receiver) -> None:
    receiver.usual = answering(500)
    hook = await created(client, url=receiver.url)
    delivery = (await client.post(f"{HOOKS}/{hook['id']}/test")).json()
    assert (delivery["status"], delivery["response_status"], delivery["error"]) == ("failed", 500, "HTTP 500")
    assert delivery["next_attempt_at"] is None


async def test_a_new_secret_signs_what_is_sent_from_now_on(client: httpx.AsyncClient, receiver: Receiver) -> None:
    hook = await created(client, url=receiver.url)
    rotated = (await client.post(f"{HOOKS}/{hook['id']}/rotate-secret")).json()
    assert rotated["secret"] != hook["secret"]
    own = (await client.post(f"{HOOKS}/{hook['id']}/rotate-secret", json={"secret": SECRET})).json()
    assert own["secret"] == SECRET
    await client.post(f"{HOOKS}/{hook['id']}/test")
    assert receiver.received[0].verified(SECRET)


async def test_a_message_is_sent_again_on_request_under_its_id(
    client: httpx.AsyncClient, database: Database, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    hook = await created(client, url=receiver.url)
    async with Outgoing(allow_loopback=True) as outgoing:
        async with sending(database, courier_of(outgoing)):
            message_id = await new_message(connection, hook["id"])
            await receiver.count(1)
        url = f"{HOOKS}/{hook['id']}/deliveries/{message_id}"
        first = (await client.get(url)).json()
        assert (first["status"], first["payload"]) == ("delivered", {"type": "job.failed"})
        again = await client.post(f"{url}/redeliver")
        assert schemas.DeliveryObject.model_validate_json(again.content).status == "pending"
        async with sending(database, courier_of(outgoing)):
            received = await receiver.count(2)
    assert [each.id for each in received] == [message_id] * 2
    assert [each.verified(hook["secret"]) for each in received] == [{"type": "job.failed"}] * 2
    second = (await client.get(url)).json()
    assert (second["status"], second["attempts"]) == ("delivered", 2)
    await client.patch(f"{HOOKS}/{hook['id']}", json={"is_disabled": True})
    assert problem(await client.post(f"{url}/redeliver")) == (409, "webhook_disabled")


async def test_messages_are_listed_newest_first_by_their_status(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    hook = await created(client)
    ids = [await new_message(connection, hook["id"]) for _ in range(5)]
    await connection.execute("UPDATE webhook_deliveries SET status = 'failed' WHERE id = $1", ids[1])
    url = f"{HOOKS}/{hook['id']}/deliveries"
    page = await client.get(url, params={"status": "pending", "limit": 2})
    rest = await client.get(page.links["next"]["url"])
    assert [each["id"] for each in [*page.json(), *rest.json()]] == [ids[4], ids[3], ids[2], ids[0]]
    assert [each["id"] for each in (await client.get(url, params={"status": "failed"})).json()] == [ids[1]]
    assert "payload" not in page.json()[0]
    for wrong in ({"status": "lost"}, {"after": "msg_" + "0" * 32}, {"after": "x"}, {"limit": 0}):
        assert problem(await client.get(url, params=wrong)) == (422, "invalid_request")


async def test_deleting_a_webhook_deletes_its_messages(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    hook = await created(client)
    await new_message(connection, hook["id"])
    assert (await client.delete(f"{HOOKS}/{hook['id']}")).status_code == 204
    assert await connection.fetchval("SELECT count(*) FROM webhook_deliveries") == 0


async def test_anothers_webhook_is_an_unknown_one_on_every_route(
    client: httpx.AsyncClient, database: Database, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    async with writing(database) as transaction:
        keys = [(await api_keys.create(transaction, name, "a test's"))[1] for name in ("mine", "theirs")]
    mine, theirs = ({"x-api-key": key} for key in keys)
    hook = (await client.post(HOOKS, json={"url": receiver.url}, headers=mine)).json()["id"]
    message = await new_message(connection, hook)
    unknown = "wh_" + "0" * 32
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"description": "stolen"}),
        ("DELETE", "", None),
        ("POST", "/rotate-secret", {}),
        ("POST", "/test", None),
        ("GET", "/deliveries", None),
        ("GET", f"/deliveries/{message}", None),
        ("POST", f"/deliveries/{message}/redeliver", None),
    ):
        answers = [
            await client.request(method, f"{HOOKS}/{each}{path}", json=body, headers=theirs) for each in (hook, unknown)
        ]
        assert [problem(answer) for answer in answers] == [(404, "webhook_not_found")] * 2, path
    assert (await client.get(HOOKS, headers=theirs)).json() == []
    page = await client.get(HOOKS, params={"after": hook}, headers=theirs)
    assert problem(page) == (422, "invalid_request")
    assert receiver.received == []
    assert (await client.get(f"{HOOKS}/{hook}", headers=mine)).json()["description"] is None
    other = (await client.post(HOOKS, json={"url": URL}, headers=theirs)).json()["id"]
    crossed = await client.get(f"{HOOKS}/{other}/deliveries/{message}", headers=theirs)
    assert problem(crossed) == (404, "delivery_not_found")


async def test_what_cannot_be_an_id_is_not_found(client: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/wh_1", "/wh_" + "0" * 33, "/wh_" + "0" * 32 + "/deliveries/msg_1"):
        assert (await client.get(HOOKS + path)).status_code == 404
