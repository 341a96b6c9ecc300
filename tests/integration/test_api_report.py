"""Reports over HTTP: of jobs that are over, that go on, that failed; as Markdown and as a page."""

import base64
import hashlib
import re

import httpx
import pytest

from promptjobs.api.app import JOBS_PATH
from promptjobs.core.asks import CandidateFact
from promptjobs.db.session import Database
from tests.fakes.recorded_jobs import candidate, created_job, progress, running_job, searched_job
from tests.fakes.recorded_searches import recorded_search

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script>\n```\n[x](javascript:alert(1))\n`````\n<img src=x onerror=alert(1)>"


STEERED_BY_THREE = {
    "prompt_learning.gepa.evaluation.train_seeds": [10, 11, 12, 13],
    "prompt_learning.gepa.evaluation.validation_seeds": [1, 2, 3],
}


def report_of(job_id: str, query: str = "") -> str:
    return f"{JOBS_PATH}/{job_id}/report{query}"


@pytest.mark.parametrize(
    "name", ["failures", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mipro_stages", "race_merges"))]
)
async def test_a_finished_job_is_reported_by_what_it_has_published(
    client: httpx.AsyncClient, database: Database, name: str
) -> None:
    search = await recorded_search(database, name)
    assert search.result is not None
    assert search.result.best is not None
    await search.publish()
    answer = await client.get(report_of(search.job_id))
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    text = answer.text
    for section in search.result.best.template.sections:
        assert f"```\n{section.content}\n```" in text
    test = search.result.test
    assert test is not None
    assert test.best_score is not None
    assert f"{test.best_score.mean:.3f} ({test.best_score.low:.3f} to {test.best_score.high:.3f}, n = 3)" in text
    assert f"It ended by {search.result.finish_reason}" in text
    assert "| Policy model | groq/llama-3.1-8b-instant |" in text
    front = [m for m in search.result.archive if m.is_pareto or search.config.algorithm == "mipro"]
    for member in front:
        assert f"| {member.candidate.n} | {member.candidate.operator} |" in text


async def test_a_job_that_goes_on_is_reported_as_it_stands(client: httpx.AsyncClient, database: Database) -> None:
    job = await searched_job(database, overrides=STEERED_BY_THREE)
    text = (await client.get(report_of(job.job_id))).text
    assert "**The job is running: these are its figures so far.**" in text
    assert "| validation | 0.250 (0.000 to 1.000, n = 2) | 0.750 (0.000 to 1.000, n = 2) | +0.500" in text
    assert "rests on 2 seeds only" in text
    assert "Answer with care." in text
    assert "| 8 | 0.750 | 1 |" in text
    assert "| pending | 1 |" in text


async def test_a_job_that_was_never_run_has_a_report(client: httpx.AsyncClient, database: Database) -> None:
    job_id = await created_job(database)
    assert "**The job is queued" in (await client.get(report_of(job_id))).text
    await client.post(f"{JOBS_PATH}/{job_id}/cancel")
    text = (await client.get(report_of(job_id))).text
    assert "The gepa job has been cancelled." in text
    assert "Nothing was measured." in text


async def test_a_job_that_failed_is_reported_with_its_error(client: httpx.AsyncClient, database: Database) -> None:
    job = await searched_job(database)
    connection = await database.connect()
    await connection.execute(
        "UPDATE jobs SET status = 'failed', finish_reason = 'error', error = $2 WHERE id = $1",
        job.job_id,
        "the *task app* is <gone>",
    )
    await connection.close()
    text = (await client.get(report_of(job.job_id))).text
    assert "The gepa job has failed. It ended by error." in text
    assert r"Its error: the \*task app\* is \<gone\>" in text
    assert "| undecided | 1 |" in text


FORMS = (
    ("", None, "text/markdown"),
    ("", "*/*", "text/markdown"),
    ("", "text/html,*/*;q=0.8", "text/html"),
    ("?format=html", None, "text/html"),
    ("?format=markdown", "text/html", "text/markdown"),
)


async def test_the_form_is_chosen_by_the_query_then_by_accept(client: httpx.AsyncClient, database: Database) -> None:
    job_id = await created_job(database)
    for query, accept, kind in FORMS:
        answer = await client.get(report_of(job_id, query), headers={"accept": accept} if accept else {})
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert "Accept" in answer.headers["vary"].split(", ")


async def test_a_wrong_form_and_an_unknown_job_are_refused(client: httpx.AsyncClient, database: Database) -> None:
    job_id = await created_job(database)
    assert (await client.get(report_of(job_id, "?format=pdf"))).status_code == 422
    assert (await client.get(report_of(f"pl_{'0' * 32}"))).status_code == 404


async def test_a_page_runs_and_loads_nothing_that_a_prompt_holds(client: httpx.AsyncClient, database: Database) -> None:
    job = await running_job(database, metadata={"note": HOSTILE})
    hostile = [CandidateFact(candidate(0, HOSTILE)), CandidateFact(candidate(1, f"{HOSTILE} more", ["c_0"]))]
    await job.write([*hostile, progress(0.5, "c_1")])
    answer = await client.get(report_of(job.job_id, "?format=html"))
    html = answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert not re.search(r"<(script|img|a|iframe|link|svg|object)\b", html)
    policy = answer.headers["content-security-policy"]
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    markdown = (await client.get(report_of(job.job_id))).text
    assert f"``````\n{HOSTILE} more\n``````" in markdown
