"""Routes of secrets: what is left is sealed, used, listed without its value, and gone when it is deleted."""

import base64
from typing import Any

import httpx
import pytest
from nacl.public import PublicKey, SealedBox

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.api.secret_schemas import EnvironmentKeyObject, ProviderKeyObject, PublicKeyObject
from promptjobs.db import api_keys, secrets
from promptjobs.db.secrets import SecretKind, context_of, open_task_app_key
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from promptjobs.db.vault import Vault
from promptjobs.errors import SecretUnreadable
from tests.fakes.recorded_jobs import TASK_APP_KEY, VAULT, created_job, job_service, post_body

pytestmark = pytest.mark.slow

KEYS, ENVIRONMENT, PUBLIC = "/api/provider-keys", "/api/v1/env-keys", "/api/v1/crypto/public-key"
CANARY = "sk-canary-5e1f0c9a7b3d2468"


async def stored(database: Database) -> list[tuple[str, str, str, str]]:
    connection = await database.connect()
    try:
        rows = await connection.fetch("SELECT organisation, kind, name, sealed FROM secrets ORDER BY kind, name")
        return [tuple(row) for row in rows]
    finally:
        await connection.close()


async def sealed_box(client: httpx.AsyncClient, secret: bytes) -> str:
    """As the existing client makes it."""
    answer = PublicKeyObject.model_validate_json((await client.get(PUBLIC)).content)
    public = PublicKey(base64.b64decode(answer.public_key))
    return base64.b64encode(SealedBox(public).encrypt(secret)).decode()


# --- providers -------------------------------------------------------------------------------------------------------


async def test_a_providers_key_is_stored_sealed_and_never_shown(client: httpx.AsyncClient, database: Database) -> None:
    put = await client.put(f"{KEYS}/groq", json={"api_key": CANARY})
    assert put.status_code == 200
    entry = ProviderKeyObject.model_validate_json(put.content)
    assert entry.provider == "groq"
    listed = await client.get(KEYS)
    assert [ProviderKeyObject.model_validate(each) for each in listed.json()] == [entry]
    assert CANARY not in put.text + listed.text
    ((organisation, kind, name, sealed),) = await stored(database)
    assert CANARY not in sealed
    assert base64.b64encode(CANARY.encode()).decode().strip("=") not in sealed
    assert (organisation, kind, name) == ("default", "provider", "groq")
    assert VAULT.unseal(sealed, context_of(SecretKind.PROVIDER, organisation, name)).get_secret_value() == CANARY


async def test_a_key_takes_the_place_of_an_earlier_one(client: httpx.AsyncClient, database: Database) -> None:
    first = (await client.put(f"{KEYS}/groq", json={"api_key": "test-key-1"})).json()
    second = (await client.put(f"{KEYS}/groq", json={"api_key": "test-key-2"})).json()
    assert second["created_at"] == first["created_at"]
    assert second["updated_at"] > first["updated_at"]
    ((_, _, _, sealed),) = await stored(database)
    assert VAULT.unseal(sealed, "provider:default:groq").get_secret_value() == "test-key-2"


async def test_a_deleted_key_is_gone(client: httpx.AsyncClient, database: Database) -> None:
    await client.put(f"{KEYS}/groq", json={"api_key": CANARY})
    assert (await client.delete(f"{KEYS}/groq")).status_code == 204
    assert await stored(database) == []
    again = await client.delete(f"{KEYS}/groq")
    assert (again.status_code, again.json()["code"]) == (404, "secret_not_found")
    assert (await client.delete(f"{KEYS}/%00")).status_code == 404


NO_KEYS = ["", " ", "two words", "line\nfeed", "return\r", "end\n", "tab\t", "nül", "\x7f", "x" * 4097, 7, None, ["k"]]


async def test_what_cannot_be_a_key_is_refused_without_being_shown(
    client: httpx.AsyncClient, database: Database
) -> None:
    for key in NO_KEYS:
        answer = await client.put(f"{KEYS}/groq", json={"api_key": key})
        assert (answer.status_code, answer.json()["param"]) == (422, "api_key"), answer.text
        assert not isinstance(key, str) or not key.strip() or key not in answer.json()["detail"]
    for body in ({}, {"api_key": "k", "base_url": "http://elsewhere.test"}, {"key": "k"}):
        assert (await client.put(f"{KEYS}/groq", json=body)).status_code == 422
    assert await stored(database) == []


async def test_a_key_for_an_unknown_provider_is_refused(client: httpx.AsyncClient, database: Database) -> None:
    for provider in ("nobody", "Groq", "x" * 5000, "a%0d%0ab"):
        answer = await client.put(f"{KEYS}/{provider}", json={"api_key": CANARY})
        assert (answer.status_code, answer.json()["code"]) == (422, "provider_not_configured")
        assert len(answer.text) < 1500
    assert await stored(database) == []


async def test_an_organisation_neither_sees_nor_changes_what_another_has_left(database: Database) -> None:
    async with writing(database) as connection:
        keys = [(await api_keys.create(connection, name, "test"))[1] for name in ("acme", "umbra")]
    transport = httpx.ASGITransport(create_app(database=database, service=job_service(database)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        acme, umbra = ({"x-api-key": key} for key in keys)
        for path, method in ((f"{KEYS}/groq", "PUT"), (KEYS, "GET"), (ENVIRONMENT, "GET"), (PUBLIC, "GET")):
            assert (await client.request(method, path)).status_code == 401
        await client.put(f"{KEYS}/groq", json={"api_key": CANARY}, headers=acme)
        assert (await client.get(KEYS, headers=umbra)).json() == []
        unknown, others = [await client.delete(f"{KEYS}/{name}", headers=umbra) for name in ("openai", "groq")]
        assert (others.status_code, others.json()["code"]) == (unknown.status_code, unknown.json()["code"])
        refused = await client.post(JOBS_PATH, json=body_with(True), headers=umbra)
        assert refused.json()["code"] == "provider_not_configured"
        await client.put(f"{KEYS}/groq", json={"api_key": "test-key"}, headers=umbra)
        await client.delete(f"{KEYS}/groq", headers=umbra)
        assert len((await client.get(KEYS, headers=acme)).json()) == 1
    ((organisation, _, name, sealed),) = await stored(database)
    assert VAULT.unseal(sealed, context_of(SecretKind.PROVIDER, organisation, name)).get_secret_value() == CANARY


# --- what a job may use ----------------------------------------------------------------------------------------------


def body_with(use_byok: bool | None, provider: str = "groq") -> dict[str, Any]:
    changes = {"prompt_learning.use_byok": use_byok, "prompt_learning.policy.provider": provider}
    meta = {"prompt_learning.gepa.mutation.llm_provider": provider, "prompt_learning.gepa.mutation.llm_model": "m"}
    return post_body(overrides={**changes, **meta})


async def test_a_job_that_must_use_own_keys_needs_them(client: httpx.AsyncClient) -> None:
    for path in ("", "/estimate"):
        for use_byok, expected in ((True, 422), (False, 200), (None, 200)):
            answer = await client.post(f"{JOBS_PATH}{path}", json=body_with(use_byok))
            assert answer.status_code == expected, answer.text
            if expected == 422:
                assert answer.json()["code"] == "provider_not_configured"
                assert "PUT /api/provider-keys/groq" in answer.json()["detail"]
    await client.put(f"{KEYS}/groq", json={"api_key": CANARY})
    for use_byok in (True, False, None):
        assert (await client.post(JOBS_PATH, json=body_with(use_byok))).status_code == 200


async def test_a_job_must_not_use_a_key_that_it_excludes(client: httpx.AsyncClient) -> None:
    """The server has no key for openai, and no address for it here: only own keys and addresses make it callable."""
    answer = await client.post(JOBS_PATH, json=body_with(False, "openai"))
    assert (answer.status_code, answer.json()["code"]) == (422, "provider_not_configured")


async def test_a_key_that_cannot_be_opened_is_told_when_a_job_is_created(
    client: httpx.AsyncClient, database: Database
) -> None:
    async with writing(database) as connection:
        await secrets.put(connection, Vault(b"z" * 32), "default", SecretKind.PROVIDER, "groq", CANARY)
    answer = await client.post(JOBS_PATH, json=body_with(None))
    assert (answer.status_code, answer.json()["code"]) == (500, "secret_unreadable")
    assert "PROMPTJOBS_SECRET_KEY" in answer.json()["detail"]


# --- task apps -------------------------------------------------------------------------------------------------------


async def test_a_key_that_a_client_has_sealed_is_opened_and_stored_sealed(
    client: httpx.AsyncClient, database: Database
) -> None:
    box = await sealed_box(client, CANARY.encode())
    answer = await client.post(ENVIRONMENT, json={"name": "ENVIRONMENT_API_KEY", "ciphertext_b64": box})
    assert answer.status_code == 200
    entry = EnvironmentKeyObject.model_validate_json(answer.content)
    assert entry.name == "ENVIRONMENT_API_KEY"
    listed = await client.get(ENVIRONMENT)
    assert [EnvironmentKeyObject.model_validate(each) for each in listed.json()] == [entry]
    ((organisation, kind, name, sealed),) = await stored(database)
    assert VAULT.unseal(sealed, f"environment:{organisation}:{name}").get_secret_value() == CANARY
    assert kind == "environment"
    for text in (answer.text, listed.text, sealed):
        assert CANARY not in text
        assert box[:40] not in text
    assert (await client.get(KEYS)).json() == [], "it is no provider's"


async def test_a_sealed_key_that_is_sent_again_keeps_its_id(client: httpx.AsyncClient) -> None:
    bodies = [
        {"name": "ENVIRONMENT_API_KEY", "ciphertext_b64": await sealed_box(client, key)} for key in (b"one", b"two")
    ]
    first, second = [(await client.post(ENVIRONMENT, json=body)).json() for body in bodies]
    assert (second["id"], second["created_at"]) == (first["id"], first["created_at"])
    assert (await client.delete(f"{ENVIRONMENT}/ENVIRONMENT_API_KEY")).status_code == 204
    assert (await client.get(ENVIRONMENT)).json() == []
    assert (await client.delete(f"{ENVIRONMENT}/ENVIRONMENT_API_KEY")).status_code == 404


async def test_a_box_that_is_not_for_us_or_holds_no_key_is_refused(
    client: httpx.AsyncClient, database: Database
) -> None:
    other = base64.b64encode(SealedBox(PublicKey(b"\x09" * 32)).encrypt(b"k")).decode()
    held = [await sealed_box(client, wrong) for wrong in (b"", b"two words", b"line\n", b"\xff", b"x" * 4097)]
    for box in ("", "no base64", base64.b64encode(b"short").decode(), other, "A" * 9000, None, 7, *held):
        answer = await client.post(ENVIRONMENT, json={"name": "ENVIRONMENT_API_KEY", "ciphertext_b64": box})
        assert (answer.status_code, answer.json()["param"]) == (422, "ciphertext_b64"), (box, answer.text)
    assert await stored(database) == []


async def test_only_the_key_of_task_apps_can_be_left(client: httpx.AsyncClient) -> None:
    box = await sealed_box(client, b"key")
    for name in ("OPENAI_API_KEY", "", None, "environment_api_key"):
        answer = await client.post(ENVIRONMENT, json={"name": name, "ciphertext_b64": box})
        assert (answer.status_code, answer.json()["param"]) == (422, "name")


async def test_the_public_key_stays_the_same(client: httpx.AsyncClient) -> None:
    first, second = [(await client.get(PUBLIC)).json() for _ in range(2)]
    assert first == second
    assert first["alg"] == "libsodium.sealedbox.v1"
    assert len(base64.b64decode(first["public_key"])) == 32


# --- the key that a job brings ---------------------------------------------------------------------------------------


async def test_the_key_that_a_job_brings_is_stored_sealed_for_that_job_alone(database: Database) -> None:
    job_id = await created_job(database)
    async with reading(database) as connection:
        found = (await connection.exec_driver_sql("SELECT task_app_key FROM jobs")).scalar_one()
    assert found.startswith("v1.")
    assert TASK_APP_KEY not in found
    opened = open_task_app_key(VAULT, found, job_id)
    assert opened is not None
    assert opened.get_secret_value() == TASK_APP_KEY
    with pytest.raises(SecretUnreadable):
        open_task_app_key(VAULT, found, "pl_" + "0" * 32)


def test_a_key_that_an_earlier_version_has_stored_is_read_as_it_is() -> None:
    opened = open_task_app_key(VAULT, "a-clear-key", "pl_1")
    assert opened is not None
    assert opened.get_secret_value() == "a-clear-key"
    assert open_task_app_key(VAULT, None, "pl_1") is None
