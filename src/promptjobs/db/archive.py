"""Queries of the archive: what a finished job has published of it, or what a running one has told last."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.archive import Candidate
from promptjobs.db.candidates import Standing, read_by_ids
from promptjobs.db.models import Event, Job, Snapshot
from promptjobs.db.seed_scores import PhaseScores, read_scores

FRONT_TYPES = ("prompt.learning.gepa.frontier_updated", "mipro.tpe.rankings")

Ranked = dict[str, tuple[float, int, bool, Mapping[int, float]]]
"""By candidate: score, number of seeds, whether it is on the front, known scores by seed."""


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """score: what it is ranked by, and on how many seeds that rests. known: its scores by seed."""

    candidate: Candidate
    score: float
    num_seeds: int
    is_pareto: bool
    known: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class StoredArchive:
    """members: best first. eps: within this much of a seed's best score a member is among its winners."""

    is_published: bool
    members: Sequence[ArchiveMember]
    eps: float

    def winners(self) -> list[tuple[int, float, list[str]]]:
        """Each seed with the best score that a member has there, and the members that reach it."""
        found = []
        for seed in sorted({seed for member in self.members for seed in member.known}):
            scores = [(m.candidate.candidate_id, m.known[seed]) for m in self.members if seed in m.known]
            best = max(score for _, score in scores)
            found.append((seed, best, [each for each, score in scores if score >= best - self.eps]))
        return found


async def read_archive(connection: AsyncConnection, job_id: str, standing: Standing) -> StoredArchive:
    """As it was published; while there is nothing published, as the search told of it last."""
    query = (
        select(Job.config, Snapshot.payload)
        .outerjoin(Snapshot, Snapshot.id == Job.best_snapshot_id)
        .where(Job.id == job_id)
    )
    row = (await connection.execute(query)).one()
    config: str = row[0]
    payload: str | None = row[1]
    search = orjson.loads(config)[standing.algorithm]
    found = await _told(connection, job_id, search) if payload is None else _published(payload)
    candidates = await read_by_ids(connection, job_id, list(found))
    is_front = "pareto_eps" in search
    members = [
        ArchiveMember(candidates[each], score, seeds, is_pareto and is_front, known)
        for each, (score, seeds, is_pareto, known) in found.items()
        if each in candidates
    ]
    members.sort(key=lambda member: (-member.score, member.candidate.n))
    return StoredArchive(payload is not None, members, search["pareto_eps"] if is_front else 0.0)


def _published(payload: str) -> Ranked:
    return {
        item["candidate_id"]: (
            item["score"],
            item["num_seeds"],
            item["is_pareto"],
            dict(zip(item["seeds"], item["instance_scores"], strict=True)),
        )
        for item in orjson.loads(payload)["archive"]
    }


async def _told(connection: AsyncConnection, job_id: str, search: Mapping[str, Any]) -> Ranked:
    """GEPA's front, or the configurations that MIPRO's model ranks first, by the newest event of them."""
    query = (
        select(Event.data)
        .where(Event.job_id == job_id, Event.type.in_(FRONT_TYPES))
        .order_by(Event.seq.desc())
        .limit(1)
    )
    text = (await connection.execute(query)).scalar_one_or_none()
    if text is None:
        return {}
    data = orjson.loads(text)
    if "frontier" in data:
        seeds = search["front_seeds"]
        ranked = [(each, data["frontier_scores"][each], data["frontier_num_seeds"][each]) for each in data["frontier"]]
    else:
        seeds = search["validation_seeds"] or search["online_seeds"]
        ranked = [(each["candidate_id"], each["estimate"], each["num_seeds"]) for each in data["rankings"]]
    by_phase = await read_scores(connection, job_id, [each for each, _, _ in ranked])
    known = {each: _on(seeds, by_phase[each].values()) for each, _, _ in ranked}
    return {each: (score, count, True, known[each]) for each, score, count in ranked}


def _on(seeds: Sequence[int], phases: Collection[PhaseScores]) -> dict[int, float]:
    """The known scores on these seeds, whatever they were measured for."""
    every = {seed: score for phase in phases for seed, score in phase.scores.items()}
    return {seed: every[seed] for seed in seeds if seed in every}
