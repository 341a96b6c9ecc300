"""Routes of a job's events: pages, and the stream."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from promptjobs.api import schemas
from promptjobs.api.auth import Access, TheOrganisation
from promptjobs.api.parameters import MAX_NUMBER, JobId, TheDatabase, TheHub
from promptjobs.api.wire import event_json, event_page
from promptjobs.db import events, jobs
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors import InvalidRequest

router = APIRouter(tags=["events"])

MAX_EVENTS = 10_000
FETCHED_AT_A_TIME = 1000
PAGE_BYTES = 32 * 1024 * 1024
"""A page ends early beyond this; `has_more` says so."""

SinceSeq = Annotated[int, Query(ge=0, le=MAX_NUMBER, description="Only events with a higher number.")]


@router.get("/{job_id}/events", response_model=schemas.EventList, summary="Read a page of events")
async def list_events(
    job_id: JobId,
    database: TheDatabase,
    since_seq: SinceSeq = 0,
    limit: Annotated[int, Query(ge=1, description=f"At most; more than {MAX_EVENTS} are cut to that.")] = 1000,
) -> Response:
    """In order, without a gap. Ask again with `since_seq` = `next_seq` for what follows."""
    rows, has_more, next_seq = await _page(database, job_id, since_seq, min(limit, MAX_EVENTS))
    return Response(event_page(rows, has_more, next_seq), media_type="application/json")


async def _page(database: Database, job_id: str, seq: int, limit: int) -> tuple[list[bytes], bool, int]:
    found: list[bytes] = []
    size = 0
    async with reading(database) as connection:
        while True:
            wanted = min(FETCHED_AT_A_TIME, limit - len(found))
            rows = await events.read_after(connection, job_id, seq, wanted + 1)
            if not rows and not found:
                await jobs.require(connection, job_id)
            page = [event_json(row) for row in rows[:wanted]]
            found += page
            size += sum(map(len, page))
            seq = rows[len(page) - 1].seq if page else seq
            if len(rows) <= wanted or len(found) >= limit or size >= PAGE_BYTES:
                return found, len(rows) > wanted, seq


async def _one_stream(request: Request, organisation: TheOrganisation) -> AsyncIterator[None]:
    """Counts the stream until its last byte is sent. Raises RateLimited."""
    access: Access = request.app.state.access
    with access.limits.stream(organisation):
        yield


OneStream = Annotated[None, Depends(_one_stream)]


@router.get(
    "/{job_id}/events/stream",
    response_class=Response,
    summary="Follow the events of a job",
    responses={
        200: {
            "description": "Server-sent events: all of the job's, in order, then new ones as they happen.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'id: 1\nevent: prompt.learning.created\ndata: {"seq": 1, …}\n\n',
                }
            },
        },
        204: {"description": "The job is over, and the cursor is its last event: nothing will follow."},
    },
)
async def stream_events(
    job_id: JobId,
    database: TheDatabase,
    hub: TheHub,
    _: OneStream,
    since_seq: SinceSeq = 0,
    last_event_id: Annotated[
        str | None, Header(description="Where a broken stream resumes; it goes before `since_seq`.")
    ] = None,
) -> Response:
    """History first. Each `data:` line is a whole event; the terminal one comes alone and ends the stream. A comment is
    sent every 15 seconds."""
    seq = _cursor(last_event_id) if last_event_id else since_seq
    async with reading(database) as connection:
        end = await jobs.stream_end(connection, job_id)
    if end.is_final and seq >= end.last_seq:
        return Response(status_code=204)
    if seq > end.last_seq:
        raise InvalidRequest(f"the job has {end.last_seq} events so far, got {seq}", "since_seq")
    return hub.response(job_id, seq)


def _cursor(last_event_id: str) -> int:
    if not (last_event_id.isascii() and last_event_id.isdigit()) or len(last_event_id) > len(str(MAX_NUMBER)):
        raise InvalidRequest("expected the id of an event of this job", "Last-Event-ID")
    return int(last_event_id)
