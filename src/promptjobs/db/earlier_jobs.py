"""What later jobs take from an earlier one: its config as it was sent, its seeds, and its candidates' prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.prompt import PromptTemplate
from promptjobs.db.models import CandidateRow, Job, Snapshot


@dataclass(frozen=True, slots=True)
class EarlierJob:
    """config, config_sent: JSON texts. best: id of the candidate that is best so far; None where there is none yet.

    front: ids of the archive's front, the best one first; of a MIPRO job that is running none.
    """

    id: str
    algorithm: str
    config: str
    config_sent: str
    best: str | None
    front: tuple[str, ...]


async def read(connection: AsyncConnection, organisation: str, job_id: str) -> EarlierJob | None:
    """None where the organisation has no such job. What is best comes from what was published, else from progress."""
    columns = (Job.id, Job.algorithm, Job.config, Job.config_sent, Job.progress, Snapshot.payload)
    query = select(*columns).outerjoin(Snapshot, Snapshot.id == Job.best_snapshot_id)
    found = (await connection.execute(query.where(Job.id == job_id, Job.organisation == organisation))).first()
    if found is None:
        return None
    best, front = _so_far(found.progress) if found.payload is None else _published(orjson.loads(found.payload))
    ids = tuple(dict.fromkeys([*([best] if best else []), *front]))
    return EarlierJob(found.id, found.algorithm, found.config, found.config_sent, best, ids)


def _published(payload: dict[str, Any]) -> tuple[str | None, list[str]]:
    return payload["best_candidate_id"], [each["candidate_id"] for each in payload["archive"] if each["is_pareto"]]


def _so_far(progress: str | None) -> tuple[str | None, list[str]]:
    if progress is None:
        return None, []
    known = orjson.loads(progress)
    return known.get("best_candidate_id"), known.get("front") or []


async def read_prompts(
    connection: AsyncConnection, job_id: str, candidate_ids: Sequence[str]
) -> dict[str, PromptTemplate | None]:
    """The prompts by candidate; None for a candidate without one of its own. Unknown ids are left out."""
    query = select(CandidateRow.candidate_id, CandidateRow.prompt).where(
        CandidateRow.job_id == job_id, CandidateRow.candidate_id.in_(candidate_ids)
    )
    return {
        candidate_id: None if prompt is None else PromptTemplate.from_json(orjson.loads(prompt))
        for candidate_id, prompt in await connection.execute(query)
    }
