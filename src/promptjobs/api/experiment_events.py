"""Routes of an experiment's events, those of all its jobs on one connection."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from promptjobs.api.events import OneStream
from promptjobs.api.experiment_channel import END, Seqs, cursor_of
from promptjobs.api.parameters import ExperimentId, TheDatabase, TheHub
from promptjobs.db import experiment_events
from promptjobs.db.experiment_events import Member
from promptjobs.db.transactions import reading
from promptjobs.errors import InvalidRequest
from promptjobs.errors.experiments import ExperimentNotFound

router = APIRouter(tags=["experiments"])

MAX_CURSOR = 8_000
"""Characters: more than those of two hundred jobs with a million events each."""


@router.get(
    "/{experiment_id}/events/stream",
    response_class=Response,
    summary="Follow the events of all jobs of an experiment",
    responses={
        200: {
            "description": "Server-sent events: those of all its jobs, then new ones as they happen.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": "id: 1:1\nevent: prompt.learning.created\n"
                    'data: {"seq": 1, …, "experiment_id": "exp_…", "position": 1, "label": "gepa"}\n\n',
                }
            },
        },
        204: {"description": "The experiment is over, and the cursor is its last event: nothing will follow."},
    },
)
async def stream_experiment_events(
    experiment_id: ExperimentId,
    database: TheDatabase,
    hub: TheHub,
    _: OneStream,
    cursor: Annotated[
        str, Query(max_length=MAX_CURSOR, description="The `id` of an event, behind which the stream begins.")
    ] = "",
    last_event_id: Annotated[
        str | None, Header(description="Where a broken stream resumes; it goes before `cursor`.")
    ] = None,
) -> Response:
    """History first, job by job. Each `data:` line is a whole event of a job, with its `experiment_id`, `position` and
    `label`; each job's come in order, at least once. The event `experiment.completed`, `….failed` or `….cancelled`
    comes alone and ends the stream. A comment is sent every 15 seconds."""
    param, text = ("Last-Event-ID", last_event_id) if last_event_id else ("cursor", cursor)
    async with reading(database) as connection:
        jobs = await experiment_events.members(connection, experiment_id)
    if not jobs:
        raise ExperimentNotFound(experiment_id)
    seqs = _seqs(text, jobs) if text else {}
    if seqs is None:
        raise InvalidRequest("expected the id of an event of this experiment's stream", param)
    if text == END:
        return Response(status_code=204)
    return hub.experiments.response(experiment_id, seqs)


def _seqs(text: str, jobs: Sequence[Member]) -> Seqs | None:
    """None for what is no place in this experiment's stream: what follows that would be waited for without end."""
    if text == END:
        return {} if all(job.is_final for job in jobs) else None
    last_seqs = {job.position: job.last_seq for job in jobs}
    seqs = cursor_of(text) if len(text) <= MAX_CURSOR else None
    is_known = seqs is not None and all(seq <= last_seqs.get(position, 0) for position, seq in seqs.items())
    return seqs if is_known else None
