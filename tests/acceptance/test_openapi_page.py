"""The page at /docs needs nothing but this service, and its policy lets nothing else in."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from promptjobs.api.app import create_app
from promptjobs.db.session import Database
from tests.fakes.recorded_jobs import job_service

pytestmark = pytest.mark.slow


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    database = Database.open("postgresql://127.0.0.1:9/none")
    transport = httpx.ASGITransport(create_app(database=database, service=job_service(database)))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def test_everything_the_page_loads_is_served_here(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    types = {}
    for address in loaded:
        answer = await client.get(f"/{address}")
        assert answer.status_code == 200, address
        assert answer.headers["x-content-type-options"] == "nosniff"
        types[address.split("?")[0].rpartition("/")[2]] = answer.headers["content-type"].split(";")[0]
    assert types == {
        "favicon.png": "image/png",
        "swagger-ui.css": "text/css",
        "swagger-ui-bundle.js": "text/javascript",
        "start.js": "text/javascript",
    }


async def test_the_page_holds_no_script_and_its_policy_allows_none(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    policy = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert re.findall(r"<script[^>]*>([^<]+)</script>", page.text) == []
    assert "http" not in page.text.replace("</html>", "")


async def test_files_that_never_change_are_kept_by_browsers(client: httpx.AsyncClient) -> None:
    bundle = await client.get("/docs/static/swagger-ui-bundle.js?1")
    assert bundle.headers["cache-control"].startswith("public, max-age=")
    for changing in ("/docs", "/docs/static/start.js"):
        assert (await client.get(changing)).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["redoc.standalone.js", "..%2f__init__.py", "core.py", "%00"])
async def test_no_other_file_is_served(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/docs/static/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
