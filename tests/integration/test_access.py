"""Keys: made, used, revoked; who is let in with which, and when none is needed."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from promptjobs.api import auth
from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.api.auth import Access
from promptjobs.api.rate_limits import RateLimits
from promptjobs.db import api_keys
from promptjobs.db.api_keys import Purpose, StoredKey
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading, writing
from promptjobs.errors import InvalidRequest, KeyNotFound
from tests.fakes.recorded_jobs import created_job, job_service, post_body

UNKNOWN_KEY = "pj_" + "x" * 43


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def served(
    database: Database,
    *,
    is_local: bool = True,
    rate: float = 1000.0,
    clock: Callable[[], float] | None = None,
    hosts: frozenset[str] = frozenset(),
) -> AsyncIterator[httpx.AsyncClient]:
    clock = clock or Clock()
    access = Access(
        database, RateLimits(rate, 10, clock), is_open_without_keys=is_local, allowed_hosts=hosts, clock=clock
    )
    app = create_app(database=database, service=job_service(database), access=access)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        yield client


async def made(database: Database, organisation: str = "acme", purpose: Purpose = Purpose.API) -> tuple[StoredKey, str]:
    async with writing(database) as connection:
        return await api_keys.create(connection, organisation, "a test's", purpose)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# --- keys ------------------------------------------------------------------------------------------------------------


async def test_a_key_is_found_by_what_was_shown_once_and_stored_only_as_its_digest(database: Database) -> None:
    stored, key = await made(database)
    async with writing(database) as connection:
        found = await api_keys.find(connection, api_keys.digest_of(key))
        rows = (await connection.exec_driver_sql("SELECT api_keys::text FROM api_keys")).scalars().all()
    assert found is not None
    assert (found.id, found.organisation, found.purpose) == (stored.id, "acme", Purpose.API)
    assert len(key) >= len(api_keys.PREFIX) + 256 / 6
    assert all(key not in row and key[api_keys.SHOWN :] not in row for row in rows)


async def test_a_revoked_key_is_not_found_and_revoking_it_again_changes_nothing(database: Database) -> None:
    stored, key = await made(database)
    async with writing(database) as connection:
        first = await api_keys.revoke(connection, stored.id)
        assert await api_keys.revoke(connection, stored.id) == first
        assert await api_keys.find(connection, api_keys.digest_of(key)) is None
        assert not await api_keys.are_any(connection)
        with pytest.raises(KeyNotFound):
            await api_keys.revoke(connection, "key_nobody")


@pytest.mark.parametrize("organisation", ["", "a b", "-a", "a" * 101, "ä", "a\n"])
async def test_an_organisation_has_a_plain_name(database: Database, organisation: str) -> None:
    with pytest.raises(InvalidRequest):
        await made(database, organisation)


async def test_an_operators_own_key_is_known_from_the_start_and_stays_revoked(database: Database) -> None:
    key = "an-operators-own-key-of-forty-characters"
    async with writing(database) as connection:
        await api_keys.adopt(connection, key)
        await api_keys.adopt(connection, key)
        [stored] = await api_keys.read_all(connection)
        assert stored.organisation == "default"
        await api_keys.revoke(connection, stored.id)
        await api_keys.adopt(connection, key)
        assert await api_keys.find(connection, api_keys.digest_of(key)) is None
        with pytest.raises(InvalidRequest):
            await api_keys.adopt(connection, "short")


async def test_the_use_of_a_key_is_noted(database: Database) -> None:
    _, key = await made(database)
    async with writing(database) as connection:
        await api_keys.find(connection, api_keys.digest_of(key))
    async with reading(database) as connection:
        [stored] = await api_keys.read_all(connection, "acme")
    assert stored.last_used_at is not None


# --- who is let in ---------------------------------------------------------------------------------------------------


async def test_a_service_that_only_this_machine_reaches_needs_no_key_until_there_is_one(database: Database) -> None:
    clock = Clock()
    async with served(database, clock=clock) as client:
        assert (await client.get(JOBS_PATH)).status_code == 200
        assert (await client.get(JOBS_PATH, headers={"x-api-key": "whatever"})).status_code == 200
        _, key = await made(database, "default")
        clock.now += auth.KEPT_SECONDS
        assert code(await client.get(JOBS_PATH)) == (401, "missing_api_key")
        assert (await client.get(JOBS_PATH, headers={"x-api-key": key})).status_code == 200


async def test_revoking_the_last_key_opens_nothing(database: Database) -> None:
    clock = Clock()
    stored, _ = await made(database)
    async with writing(database) as connection:
        await api_keys.revoke(connection, stored.id)
    async with served(database, clock=clock) as client:
        assert code(await client.get(JOBS_PATH)) == (401, "missing_api_key")


async def test_any_other_service_needs_a_key_whether_or_not_there_is_one(database: Database) -> None:
    async with served(database, is_local=False) as client:
        answer = await client.get(JOBS_PATH)
        assert code(answer) == (401, "missing_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_both_headers_carry_a_key(database: Database) -> None:
    _, key = await made(database)
    async with served(database, is_local=False) as client:
        for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key} "}):
            assert (await client.get(JOBS_PATH, headers=headers)).status_code == 200
        both = {"x-api-key": key, "authorization": "Bearer something-else"}
        assert (await client.get(JOBS_PATH, headers=both)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": UNKNOWN_KEY},
        {"authorization": f"Bearer {UNKNOWN_KEY}"},
        {"x-api-key": "short"},
        {"x-api-key": "x" * 5000},
        {"x-api-key": "' OR 1=1 --" + "x" * 40},
    ],
)
async def test_a_key_that_is_not_known_is_told_nothing_more(database: Database, headers: dict[str, str]) -> None:
    async with served(database, is_local=False) as client:
        assert code(await client.get(JOBS_PATH, headers=headers)) == (401, "invalid_api_key")


@pytest.mark.parametrize("value", ["Basic abc", "Bearer", "Bearer ", ""])
async def test_a_header_without_a_key_is_a_missing_key(database: Database, value: str) -> None:
    async with served(database, is_local=False) as client:
        assert code(await client.get(JOBS_PATH, headers={"authorization": value})) == (401, "missing_api_key")


async def test_a_revoked_key_is_refused_as_soon_as_what_was_known_is_old(database: Database) -> None:
    clock = Clock()
    stored, key = await made(database)
    async with served(database, is_local=False, clock=clock) as client:
        assert (await client.get(JOBS_PATH, headers={"x-api-key": key})).status_code == 200
        async with writing(database) as connection:
            await api_keys.revoke(connection, stored.id)
        clock.now += auth.KEPT_SECONDS
        assert code(await client.get(JOBS_PATH, headers={"x-api-key": key})) == (401, "invalid_api_key")


async def test_a_key_for_metrics_opens_nothing_of_an_organisation(database: Database) -> None:
    _, key = await made(database, purpose=Purpose.METRICS)
    async with served(database, is_local=False) as client:
        assert code(await client.get(JOBS_PATH, headers={"x-api-key": key})) == (403, "key_not_allowed")


# --- whose jobs ------------------------------------------------------------------------------------------------------


async def test_another_organisations_job_looks_like_one_that_does_not_exist(database: Database) -> None:
    _, ours = await made(database, "ours")
    _, theirs = await made(database, "theirs")
    async with served(database, is_local=False) as client:
        created = await client.post(JOBS_PATH, json=post_body(), headers={"x-api-key": ours})
        job_id = created.json()["job_id"]
        unknown = "pl_" + "0" * 32
        answers = [
            (await client.get(f"{JOBS_PATH}/{each}", headers={"x-api-key": theirs})).json()
            for each in (job_id, unknown)
        ]
        for answer, each in zip(answers, (job_id, unknown), strict=True):
            answer.pop("request_id")
            assert answer.pop("job_id") == each
            assert answer.pop("detail") == f"there is no job {each!r}"
        assert answers[0] == answers[1]
        assert (await client.get(f"{JOBS_PATH}/{job_id}", headers={"x-api-key": ours})).status_code == 200


async def test_jobs_from_before_there_were_keys_belong_to_the_organisation_default(database: Database) -> None:
    job_id = await created_job(database)
    _, own = await made(database, "default")
    _, other = await made(database, "acme")
    async with served(database, is_local=False) as client:
        statuses = [
            (await client.get(f"{JOBS_PATH}/{job_id}", headers={"x-api-key": key})).status_code for key in (own, other)
        ]
    assert statuses == [200, 404]


# --- browsers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "header"),
    [
        ({"host": "evil.example"}, "Host"),
        ({"host": "127.0.0.1.evil.example:8700"}, "Host"),
        ({"host": "[::1].evil"}, "Host"),
        ({"origin": "https://evil.example"}, "Origin"),
        ({"origin": "null"}, "Origin"),
        ({"origin": "http://localhost.evil.example"}, "Origin"),
    ],
)
async def test_a_page_in_a_browser_cannot_use_a_service_that_needs_no_key(
    database: Database, headers: dict[str, str], header: str
) -> None:
    async with served(database) as client:
        answer = await client.get(JOBS_PATH, headers=headers)
        assert code(answer) == (403, "host_not_allowed")
        assert answer.json()["header"] == header


@pytest.mark.parametrize("host", ["127.0.0.1:8700", "[::1]:8700", "LOCALHOST", "app.localhost:1", "own.example"])
async def test_this_machines_own_names_and_the_operators_are_answered(database: Database, host: str) -> None:
    async with served(database, hosts=frozenset({"own.example"})) as client:
        assert (await client.get(JOBS_PATH, headers={"host": host})).status_code == 200


async def test_with_keys_the_name_does_not_matter(database: Database) -> None:
    _, key = await made(database)
    async with served(database) as client:
        headers = {"x-api-key": key, "host": "prompts.example.com", "origin": "https://dashboard.example.com"}
        assert (await client.get(JOBS_PATH, headers=headers)).status_code == 200


# --- rates -----------------------------------------------------------------------------------------------------------


async def test_an_organisation_that_asks_too_much_is_told_when_to_try_again_and_others_are_not_slowed(
    database: Database,
) -> None:
    (_, ours), (_, theirs) = await made(database, "ours"), await made(database, "theirs")
    async with served(database, is_local=False, rate=0.2) as client:
        answers = [await client.get(JOBS_PATH, headers={"x-api-key": ours}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert code(answers[-1]) == (429, "rate_limited")
        assert answers[-1].headers["retry-after"] == "5"
        assert (await client.get(JOBS_PATH, headers={"x-api-key": theirs})).status_code == 200


async def test_guessing_keys_is_slowed_down_by_address(database: Database) -> None:
    async with served(database, is_local=False, rate=0.2) as client:
        statuses = [(await client.get(JOBS_PATH, headers={"x-api-key": f"pj_{n:043}"})).status_code for n in range(4)]
    assert statuses == [401, 401, 429, 429]
