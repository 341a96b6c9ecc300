"""The route of a job's report, as Markdown or as a page."""

import asyncio
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from promptjobs.api.caching import NOT_CHANGED, conditional
from promptjobs.api.parameters import JobId, TheDatabase
from promptjobs.api.report_facts import read_facts
from promptjobs.api.report_page import CONTENT_SECURITY_POLICY, page
from promptjobs.core.report import report
from promptjobs.db.transactions import reading

router = APIRouter(tags=["results"])


class ReportFormat(StrEnum):
    MARKDOWN = "markdown"
    HTML = "html"


Format = Annotated[
    ReportFormat | None,
    Query(alias="format", description="Default: a page where `Accept` names `text/html`, else Markdown."),
]


@router.get(
    "/{job_id}/report",
    response_class=Response,
    summary="Read a report on a job",
    responses={
        **NOT_CHANGED,
        200: {
            "description": "The report.",
            "content": {
                "text/markdown": {"schema": {"type": "string"}, "example": "# Report on job pl\\_5b0f…\n"},
                "text/html": {"schema": {"type": "string"}},
            },
        },
    },
)
async def show_report(request: Request, job_id: JobId, database: TheDatabase, report_format: Format = None) -> Response:
    """What was run, what came of it and how sure that is, the best prompt and what it changes, and what it has cost.

    Of a job that goes on, its figures so far.
    """
    async with reading(database) as connection:
        facts = await read_facts(connection, job_id)
    is_page = report_format is ReportFormat.HTML or (
        report_format is None and "text/html" in request.headers.get("accept", "")
    )
    # Prompts may be long, and comparing them takes its time: others are served meanwhile.
    text = await asyncio.to_thread(report, facts)
    if not is_page:
        answer = Response(text, media_type="text/markdown", headers={"vary": "Accept"})
    else:
        html = await asyncio.to_thread(page, text, f"Report on job {job_id}")
        headers = {"vary": "Accept", "content-security-policy": CONTENT_SECURITY_POLICY}
        answer = Response(html, media_type="text/html", headers=headers)
    return conditional(request, answer, is_over=facts.is_over)
