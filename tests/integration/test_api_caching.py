"""ETags of what does not change any more, compression beside them, and the pages of what was published."""

import gzip

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from promptjobs.api.app import JOBS_PATH, create_app
from promptjobs.api.caching import compressed
from promptjobs.db.session import Database
from tests.fakes.recorded_jobs import job_service, searched_job
from tests.fakes.recorded_searches import RecordedSearch, recorded_search

pytestmark = pytest.mark.slow

PATHS = (
    "/candidates", "/candidates/{best}", "/proposals/refused", "/archive", "/lineage", "/trials", "/trials/1",
    "/rollouts", "/rollouts?include=calls", "/completions", "/snapshots", "/snapshots/{snapshot}", "/artifacts",
    "/learning-curve", "/report", "/report?format=html",
)  # fmt: skip


async def finished(database: Database, client: httpx.AsyncClient) -> tuple[RecordedSearch, list[str]]:
    """A published job, and the addresses of all that it has left."""
    search = await recorded_search(database, "failures")
    await search.publish()
    at = f"{JOBS_PATH}/{search.job_id}"
    snapshot = (await client.get(at)).json()["best_snapshot_id"]
    best = (await client.get(f"{at}/archive")).json()["best_candidate_id"]
    return search, [at + path.format(best=best, snapshot=snapshot) for path in PATHS]


async def test_what_a_finished_job_has_left_is_sent_once(client: httpx.AsyncClient, database: Database) -> None:
    _, addresses = await finished(database, client)
    tags = set()
    for address in addresses:
        first = await client.get(address)
        tag = first.headers["etag"]
        assert first.status_code == 200, address
        assert tag.startswith('W/"')
        assert first.headers["cache-control"] == "private, no-cache"
        again = await client.get(address, headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b""), address
        assert (again.headers["etag"], again.headers["cache-control"]) == (tag, "private, no-cache")
        policy = "content-security-policy"
        assert again.headers[policy] == first.headers[policy], "a browser takes a 304's policy for the page it has kept"
        tags.add(tag)
    assert len(tags) == len(addresses)


async def test_tags_are_compared_weakly(client: httpx.AsyncClient, database: Database) -> None:
    search, _ = await finished(database, client)
    address = f"{JOBS_PATH}/{search.job_id}/lineage"
    tag = (await client.get(address)).headers["etag"]
    strong = tag.removeprefix("W/")
    held = {tag: 304, strong: 304, "*": 304, f'"x", {tag}': 304, 'W/"x"': 200, "": 200, '"*"': 200, tag[:-2]: 200}
    for sent, status in held.items():
        assert (await client.get(address, headers={"if-none-match": sent})).status_code == status, sent


async def test_a_job_that_goes_on_has_no_tags(client: httpx.AsyncClient, database: Database) -> None:
    job = await searched_job(database)
    for path in PATHS:
        if "{" not in path:
            answer = await client.get(f"{JOBS_PATH}/{job.job_id}{path}", headers={"if-none-match": "*"})
            assert answer.status_code == 200, path
            assert "etag" not in answer.headers


async def test_compressed_answers_keep_their_tags(database: Database, client: httpx.AsyncClient) -> None:
    search, _ = await finished(database, client)
    address = f"{JOBS_PATH}/{search.job_id}/candidates"
    plain = await client.get(address, headers={"accept-encoding": "identity"})
    app = compressed(create_app(database=database, service=job_service(database)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as zipped:
        answer = await zipped.get(address, headers={"accept-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        assert "accept-encoding" in answer.headers["vary"].lower()
        assert int(answer.headers["content-length"]) < len(plain.content) / 3
        assert answer.content == plain.content
        assert answer.headers["etag"] == plain.headers["etag"]
        tag = answer.headers["etag"]
        again = await zipped.get(address, headers={"accept-encoding": "gzip", "if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("media_type", "size", "is_compressed"),
    [("application/json", 20_000, True), ("application/json", 5_000, False), ("text/event-stream", 20_000, False)],
)
async def test_short_answers_and_streams_are_sent_as_they_are(media_type: str, size: int, is_compressed: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type.encode())]})
        await send({"type": "http.response.body", "body": b"x" * size})

    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(compressed(app)), base_url="http://localhost") as client,
        client.stream("GET", "/", headers={"accept-encoding": "gzip"}) as answer,
    ):
        body = b"".join([part async for part in answer.aiter_raw()])
    assert ("content-encoding" in answer.headers) == is_compressed
    assert (gzip.decompress(body) if is_compressed else body) == b"x" * size


async def test_published_lists_are_paged(client: httpx.AsyncClient, database: Database) -> None:
    search, _ = await finished(database, client)
    at = f"{JOBS_PATH}/{search.job_id}"
    whole = (await client.get(f"{at}/snapshots")).json()
    artifacts = (await client.get(f"{at}/artifacts")).json()["artifacts"]
    assert len(whole) == len(artifacts) > 2
    for path, every in (("snapshots", whole), ("artifacts", artifacts)):
        found, url = [], f"{at}/{path}?limit=1"
        while url:
            answer = await client.get(url)
            page = answer.json() if path == "snapshots" else answer.json()["artifacts"]
            assert len(page) == 1
            found += page
            url = answer.links.get("next", {}).get("url", "")
        assert found == every
        wrong = await client.get(f"{at}/{path}?after=snap_0")
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")
        assert (await client.get(f"{at}/{path}?after=%00")).status_code == 422
