"""Reads the best prompts of the jobs of an experiment, as many as may be shown."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import ARRAY, FromClause, Text, column, func, literal, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.experiment_results import Variant
from promptjobs.core.result import messages_json
from promptjobs.db.archive import FRONT_TYPES
from promptjobs.db.history import candidate_from
from promptjobs.db.models import CandidateRow, Event, Snapshot

Json = Mapping[str, Any]
Pair = tuple[str, str]
"""A job and a candidate of it."""

MAX_VARIANTS = 1_000
"""Of all jobs together: of many jobs each shows fewer."""

MAX_CHARACTERS = 8_000_000
"""Of all messages together. Once they are used up, further variants are left out, the lowest ranks first."""

PAYLOADS_AT_ONCE = 8
"""A payload may be large, and is only looked through."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A job with its candidates of note. snapshot_id: of what it has published, which best_id is then of."""

    job_id: str
    snapshot_id: str | None
    best_id: str | None
    baseline_id: str | None

    def variant(
        self, rank: int, name: str, score: float, num_seeds: int, messages: Sequence[Mapping[str, str]] | None
    ) -> Variant:
        is_best, is_baseline = name == self.best_id, name == self.baseline_id
        return Variant(rank, name, score, num_seeds, is_best, is_baseline, messages)


@dataclass(frozen=True, slots=True)
class Ranked:
    """total: of the archive, of which `variants` are the first."""

    total: int
    variants: Sequence[Variant]


async def read_variants(connection: AsyncConnection, jobs: Sequence[Marked], wanted: int) -> dict[str, Ranked]:
    """By job, the best of its archive: as it was published; before that, as its search told of it last.

    wanted: of each job, at most; fewer where there are so many jobs, or their prompts are so long.
    """
    most = min(wanted, max(1, MAX_VARIANTS // max(1, len(jobs))))
    published = {job.snapshot_id: job for job in jobs if job.snapshot_id is not None}
    found = {}
    async for snapshot_id, payload in _payloads(connection, list(published)):
        job = published[snapshot_id]
        # In a thread, so that others are served between one payload and the next.
        ranked = (await asyncio.to_thread(orjson.loads, payload))["optimized_candidates"]
        found[job.job_id] = Ranked(len(ranked), list(_published(job, ranked[:most])))
    going = {job.job_id: job for job in jobs if job.snapshot_id is None and job.best_id is not None}
    return within(found | await _read_told(connection, going, most), MAX_CHARACTERS)


async def _payloads(connection: AsyncConnection, snapshot_ids: Sequence[str]) -> AsyncIterator[tuple[str, str]]:
    for start in range(0, len(snapshot_ids), PAYLOADS_AT_ONCE):
        part = snapshot_ids[start : start + PAYLOADS_AT_ONCE]
        query = select(Snapshot.id, Snapshot.payload).where(Snapshot.id.in_(part))
        for row in await connection.execute(query):
            yield row.id, row.payload


def _published(job: Marked, ranked: Sequence[Json]) -> Iterator[Variant]:
    for rank, item in enumerate(ranked, 1):
        score = item["score"]
        yield job.variant(rank, item["candidate_id"], score["accuracy"], score["num_seeds"], item["messages"])


async def _read_told(connection: AsyncConnection, jobs: Mapping[str, Marked], most: int) -> dict[str, Ranked]:
    """GEPA's front, or the configurations that MIPRO's model ranks first, by the newest event of them."""
    told = {job_id: _ranked(orjson.loads(data)) for job_id, data in await _newest_fronts(connection, list(jobs))}
    pairs = {(job_id, name) for job_id, ranked in told.items() for name, _, _ in ranked[:most]}
    messages = await _read_messages(connection, pairs)
    found = {}
    for job_id, ranked in told.items():
        listed = enumerate(ranked[:most], 1)
        shown = [jobs[job_id].variant(rank, *item, messages.get((job_id, item[0]))) for rank, item in listed]
        found[job_id] = Ranked(len(ranked), shown)
    return found


async def _newest_fronts(connection: AsyncConnection, job_ids: Sequence[str]) -> list[tuple[str, str]]:
    wanted = each(job_ids)
    newest = (
        select(Event.data)
        .where(Event.job_id == wanted.c.job_id, Event.type.in_(FRONT_TYPES))
        .order_by(Event.seq.desc())
        .limit(1)
        .lateral("newest")
    )
    query = select(wanted.c.job_id, newest.c.data).select_from(wanted).join(newest, true())
    return [(row.job_id, row.data) for row in await connection.execute(query)]


def _ranked(data: Json) -> list[tuple[str, float, int]]:
    """Candidates with their scores and how many seeds those rest on, best first."""
    if "frontier" in data:
        scores, seeds = data["frontier_scores"], data["frontier_num_seeds"]
        found = [(name, scores[name], seeds[name]) for name in data["frontier"]]
    else:
        found = [(each["candidate_id"], each["estimate"], each["num_seeds"]) for each in data["rankings"]]
    return sorted(found, key=lambda each: -each[1])


async def _read_messages(connection: AsyncConnection, pairs: set[Pair]) -> dict[Pair, list[dict[str, str]] | None]:
    wanted = each_pair(pairs)
    table = CandidateRow.__table__
    same = (wanted.c.job_id == table.c.job_id) & (wanted.c.candidate_id == table.c.candidate_id)
    query = select(table).join(wanted, same)
    rows = (await connection.execute(query)).mappings()
    return {(row["job_id"], row["candidate_id"]): messages_json(candidate_from(dict(row))) for row in rows}


def within(found: Mapping[str, Ranked], characters: int) -> dict[str, Ranked]:
    """As many variants as have so many characters in all, by rank: the best of every job goes before the second of
    any."""
    left, kept = characters, dict.fromkeys(found, 0)
    for job_id, variant in _by_rank(found):
        left -= sum(len(message["content"]) for message in variant.messages or ())
        if left < 0:
            break
        kept[job_id] += 1
    return {job_id: Ranked(ranked.total, ranked.variants[: kept[job_id]]) for job_id, ranked in found.items()}


def _by_rank(found: Mapping[str, Ranked]) -> Iterator[tuple[str, Variant]]:
    listed = [(job_id, variant) for job_id, ranked in found.items() for variant in ranked.variants]
    return iter(sorted(listed, key=lambda each: each[1].rank))


# --- what is asked for at once ----------------------------------------------------------------------------------------


def each(job_ids: Sequence[str]) -> FromClause:
    """A table `wanted` of one column, job_id."""
    unnested = func.unnest(literal(list(job_ids), ARRAY(Text)))
    return unnested.table_valued(column("job_id", Text), name="wanted").render_derived()


def each_pair(pairs: set[Pair]) -> FromClause:
    """A table `wanted` of job_id and candidate_id."""
    ordered = sorted(pairs)
    jobs, candidates = (literal([pair[part] for pair in ordered], ARRAY(Text)) for part in (0, 1))
    names = (column("job_id", Text), column("candidate_id", Text))
    return func.unnest(jobs, candidates).table_valued(*names, name="wanted").render_derived()
