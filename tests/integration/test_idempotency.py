"""Idempotency-Key over HTTP: a request is carried out once, whatever is repeated, killed or lost in between."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.api.bodies import JsonResponse, json_object
from promptjobs.api.idempotency import Idempotent
from promptjobs.api.parameters import TheDatabase
from promptjobs.db.models import BalanceRow, IdempotencyKey, SavedConfig
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, whole, writing
from promptjobs.errors import DatabaseUnavailable, InvalidConfig, JobConflict
from tests.fakes.recorded_jobs import job_service, post_body
from tests.fakes.served import in_process

pytestmark = pytest.mark.slow

Body = Annotated[dict[str, Any], Depends(json_object)]
KEY = {"Idempotency-Key": "9f1c"}
SECRET = "whsec_only-shown-once"


class Notes:
    """A noun with a route that creates it. Each test says what happens in the middle of the work."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.fails_with: Exception | None = None
        self.router = APIRouter()
        for path, name in (("/notes/{shelf}", "create_note"), ("/papers/{shelf}", "create_paper")):
            self.router.add_api_route(path, self.create, methods=["POST"], response_model=None, name=name)

    async def create(self, shelf: str, body: Body, database: TheDatabase, idempotent: Idempotent) -> Response:
        async def make_response() -> Response:
            async with writing(database) as connection:
                values = {"organisation": "default", "name": f"{shelf}-{body['name']}", "algorithm": "gepa"}
                await connection.execute(insert(SavedConfig).values(**values, config_body="{}"))
            self.reached.set()
            await self.go_on.wait()
            if self.fails_with is not None:
                raise self.fails_with
            async with reading(database) as connection:
                number = await connection.scalar(select(func.count()).select_from(SavedConfig))
            return JsonResponse({"name": body["name"], "number": number, "secret": SECRET}, 201)

        return await idempotent.run(make_response)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
async def client(database: Database, notes: Notes) -> AsyncIterator[httpx.AsyncClient]:
    service = create_app(database=database, service=job_service(database))
    service.api.include_router(notes.router, prefix="/api")
    async with in_process(service, raises=False) as client:
        yield client


async def post(client: httpx.AsyncClient, name: str = "one", shelf: str = "a", **headers: str) -> httpx.Response:
    return await client.post(f"/api/notes/{shelf}", json={"name": name}, headers={**KEY, **headers})


async def counted(database: Database, model: type[SavedConfig] | type[IdempotencyKey] = SavedConfig) -> int:
    async with reading(database) as connection:
        return await connection.scalar(select(func.count()).select_from(model)) or 0


async def set_age(database: Database, age: str) -> None:
    async with writing(database) as connection:
        await connection.execute(
            text("UPDATE idempotency_keys SET created_at = clock_timestamp() - CAST(:age AS text)::interval"),
            {"age": age},
        )


async def test_a_repeated_request_has_the_first_answer_and_does_nothing(
    client: httpx.AsyncClient, database: Database
) -> None:
    first, second = await post(client), await post(client)
    assert (first.status_code, first.json()["number"]) == (201, 1)
    assert (second.status_code, second.content) == (201, first.content)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert await counted(database) == 1


async def test_twenty_identical_requests_at_once_do_it_once_and_all_have_that_answer(
    client: httpx.AsyncClient, database: Database
) -> None:
    answers = await asyncio.gather(*(post(client) for _ in range(20)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 19
    assert await counted(database) == 1


async def test_the_same_body_written_otherwise_is_the_same_request(client: httpx.AsyncClient) -> None:
    headers = {**KEY, "content-type": "application/json"}
    first = await client.post("/api/notes/a", content=b'{"name":"one","more":1}', headers=headers)
    second = await client.post("/api/notes/a", content=b'{ "more": 1,\n "name": "one" }', headers=headers)
    assert second.headers["idempotency-replayed"] == "true"
    assert second.content == first.content


@pytest.mark.parametrize("other", ["/api/notes/a", "/api/notes/b", "/api/notes/a?x=1"])
async def test_a_key_that_comes_with_another_request_is_refused(
    client: httpx.AsyncClient, database: Database, other: str
) -> None:
    await post(client)
    name = "two" if other == "/api/notes/a" else "one"
    answer = await client.post(other, json={"name": name}, headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert answer.json()["param"] == "Idempotency-Key"
    assert await counted(database) == 1


@pytest.mark.slow
async def test_a_request_that_is_under_way_is_waited_for_a_second(
    client: httpx.AsyncClient, database: Database, notes: Notes
) -> None:
    notes.go_on.clear()
    first = asyncio.create_task(post(client))
    await notes.reached.wait()
    refused = await post(client)
    assert (refused.status_code, refused.json()["code"]) == (409, "request_in_progress")
    assert int(refused.headers["retry-after"]) >= 1
    second = asyncio.create_task(post(client))
    notes.go_on.set()
    assert (await second).content == (await first).content
    assert await counted(database) == 1


async def test_keys_of_other_organisations_and_routes_are_other_keys(
    client: httpx.AsyncClient, database: Database
) -> None:
    await post(client)
    answer = await client.post("/api/papers/b", json={"name": "one"}, headers=KEY)
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (201, False)
    async with writing(database) as connection:
        await connection.execute(text("UPDATE idempotency_keys SET organisation = 'other'"))
    answer = await post(client, "two")
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (201, False)


async def test_a_refusal_that_would_be_met_again_is_kept_and_its_work_is_not(
    client: httpx.AsyncClient, database: Database, notes: Notes
) -> None:
    notes.fails_with = InvalidConfig("is wrong", "name")
    first = await post(client)
    notes.fails_with = None
    second = await post(client)
    assert (first.status_code, second.status_code, second.content) == (422, 422, first.content)
    assert await counted(database) == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (JobConflict("pl_0", "running", "be forked"), 409),
        (DatabaseUnavailable("the database went away"), 503),
        (RuntimeError("a defect"), 500),
    ],
)
async def test_an_outcome_that_may_change_leaves_nothing_so_that_a_retry_carries_it_out(
    client: httpx.AsyncClient, database: Database, notes: Notes, error: Exception, status: int
) -> None:
    notes.fails_with = error
    assert (await post(client)).status_code == status
    assert (await counted(database), await counted(database, IdempotencyKey)) == (0, 0)
    notes.fails_with = None
    answer = await post(client)
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (201, False)


async def test_a_connection_that_dies_before_the_commit_leaves_neither_work_nor_key(
    client: httpx.AsyncClient, database: Database, notes: Notes
) -> None:
    notes.go_on.clear()
    killed = asyncio.create_task(post(client))
    await notes.reached.wait()
    async with reading(database) as connection:
        kill = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks JOIN pg_database d ON d.oid = pg_locks.database "
            "WHERE locktype = 'advisory' AND granted AND d.datname = current_database()"
        )
        assert list(await connection.scalars(text(kill))) == [True]
    notes.go_on.set()
    assert (await killed).status_code == 503
    assert (await counted(database), await counted(database, IdempotencyKey)) == (0, 0)
    assert (await post(client)).status_code == 201


async def test_an_answer_is_kept_for_a_day_and_then_removed(client: httpx.AsyncClient, database: Database) -> None:
    await post(client)
    await set_age(database, "23 hours 59 minutes")
    assert (await post(client)).headers["idempotency-replayed"] == "true"
    await set_age(database, "24 hours 1 second")
    again = await post(client, "two")
    assert (again.status_code, "idempotency-replayed" in again.headers) == (201, False)
    await set_age(database, "25 hours")
    await client.post("/api/notes/a", json={"name": "three"}, headers={"Idempotency-Key": "other"})
    async with reading(database) as connection:
        assert list(await connection.scalars(select(IdempotencyKey.key))) == ["other"]


async def test_a_secret_in_an_answer_is_not_stored_in_clear(client: httpx.AsyncClient, database: Database) -> None:
    assert SECRET in (await post(client)).text
    async with reading(database) as connection:
        stored = await connection.scalar(select(IdempotencyKey.body))
    assert stored is not None
    assert SECRET.encode() not in stored
    assert SECRET in (await post(client)).text


async def test_twenty_identical_jobs_at_once_are_one_job(client: httpx.AsyncClient) -> None:
    body = post_body()
    answers = await asyncio.gather(*(client.post(JOBS_PATH, json=body, headers=KEY) for _ in range(20)))
    assert {(answer.status_code, answer.json()["job_id"]) for answer in answers} == {(200, answers[0].json()["job_id"])}
    [listed] = (await client.get(JOBS_PATH)).json()
    assert listed["job_id"] == answers[0].json()["job_id"]


@pytest.mark.parametrize("key", [b"", b"x" * 256, "ä".encode(), b"a\tb", b"\xff"])
async def test_a_key_that_is_no_short_printable_text_is_refused(client: httpx.AsyncClient, key: bytes) -> None:
    answer = await client.post("/api/notes/a", json={"name": "one"}, headers=[(b"Idempotency-Key", key)])
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.json()["detail"]


@pytest.mark.parametrize("key", ["x", "y" * 255, "a b~!"])
async def test_any_short_printable_text_is_a_key(client: httpx.AsyncClient, key: str) -> None:
    for is_repeated in (False, True):
        answer = await client.post("/api/notes/a", json={"name": "one"}, headers={"Idempotency-Key": key})
        assert (answer.status_code, "idempotency-replayed" in answer.headers) == (201, is_repeated)


async def test_without_a_key_nothing_is_kept(client: httpx.AsyncClient, database: Database) -> None:
    for name in ("one", "two"):
        answer = await client.post("/api/notes/a", json={"name": name})
        assert (answer.status_code, "idempotency-replayed" in answer.headers) == (201, False)
    assert await counted(database, IdempotencyKey) == 0


async def test_what_fails_within_a_whole_transaction_takes_back_only_its_own_part(database: Database) -> None:
    """A statement that the database refuses would otherwise break all that follows in the transaction."""

    async def add(*organisations: str) -> None:
        async with writing(database) as connection:
            for organisation in organisations:
                await connection.execute(insert(BalanceRow).values(organisation=organisation, usd=1))

    async with whole(database):
        await add("kept")
        with pytest.raises(IntegrityError):
            await add("taken back", "kept")
        await add("kept too")
    async with reading(database) as connection:
        assert set(await connection.scalars(select(BalanceRow.organisation))) == {"kept", "kept too"}
