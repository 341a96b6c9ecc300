"""Gathers what a report tells from what a job has recorded and published."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.api.wire import job_object
from promptjobs.core.archive import Candidate
from promptjobs.core.rejections import REFUSED_WORDS, WORDS, CandidateStatus
from promptjobs.core.report import CurvePoint, FrontLine, ReportFacts, SetFigures, SpendingLine
from promptjobs.core.seed_sets import SeedSet, measured_sets
from promptjobs.core.verdict import Estimate
from promptjobs.db import candidates, jobs, results
from promptjobs.db.archive import StoredArchive, read_archive
from promptjobs.db.candidates import Standing, read_standing
from promptjobs.db.jobs import JobRow
from promptjobs.db.results import CurveEvent, curve_step
from promptjobs.db.seed_scores import ByPhase, all_scores, read_scores

Json = Mapping[str, Any]

SETS = {"train": SeedSet.SEARCH, "validation_summary": SeedSet.VALIDATION, "test": SeedSet.TEST}
"""Where a published payload has its comparisons of best and baseline, in the order in which they weigh."""

SEED_LISTS = ("bootstrap", "online", "train", "front", "feedback", "reference", "validation", "test")


async def read_facts(connection: AsyncConnection, job_id: str) -> ReportFacts:
    """Raises JobNotFound."""
    row = await jobs.read(connection, job_id)
    standing = await read_standing(connection, job_id)
    archive = await read_archive(connection, job_id, standing)
    baseline = await candidates.read_baseline(connection, job_id)
    best = (await candidates.read_by_ids(connection, job_id, [standing.best_id or ""])).get(standing.best_id or "")
    curve = await results.read_curve(connection, job_id)
    statuses = await candidates.count_statuses(connection, job_id, standing.is_over)
    refused = await candidates.count_refused(connection, job_id)
    compared = [each.candidate_id for each in (best, baseline) if each is not None]
    scores = await read_scores(connection, job_id, compared)
    job = job_object(row)
    stats = job["metadata"].get("stats") if standing.is_over else job["progress"]
    return ReportFacts(
        job_id=job_id,
        algorithm=row.algorithm,
        status=row.status,
        is_over=standing.is_over,
        settings=_settings(row, job),
        figures=list(_figures(row, best, baseline, scores)),
        best=best,
        baseline=baseline,
        has_front=standing.algorithm == "gepa",
        front=_front(archive, standing),
        curve=list(_curve(curve)),
        proposals={
            status if code is None else f"{status}: {WORDS[code]}": count
            for (status, code), count in statuses.items()
            if status is not CandidateStatus.BASELINE
        },
        refused=_in_words(refused),
        rollouts=(stats or {}).get("total_rollouts", 0),
        failures=job["failures_by_reason"] or {},
        spending=list(_spending(row)),
        finish_reason=row.finish_reason,
        finish_detail=job["finish_detail"],
        error=row.error,
        warnings=orjson.loads(row.warnings),
    )


def _in_words(refused: Mapping[str, int]) -> Counter[str]:
    """Codes of the same words are one; a code that is not known here stands for itself."""
    found: Counter[str] = Counter()
    for code, count in refused.items():
        found[REFUSED_WORDS.get(code, code)] += count
    return found


def _settings(row: JobRow, job: Json) -> dict[str, str]:
    """What was run, as far as readers compare jobs by it."""
    config = orjson.loads(row.config)
    search, meta = config[row.algorithm], config[row.algorithm]["meta_model"]
    seeds = ((name, search.get(f"{name}_seeds")) for name in SEED_LISTS)
    caps = {name: cap for name, cap in job["spend"]["caps"].items() if cap is not None}
    return {
        "Algorithm": row.algorithm,
        "Policy model": f"{job['policy']['provider']}/{job['policy']['model']}",
        "Meta-model": f"{meta['provider']}/{meta['model']}",
        "Task app": str(job["task_app_url"]),
        "Rollout budget": str(job["rollout_budget"]),
        "Seeds": ", ".join(f"{len(found)} {name}" for name, found in seeds if found),
        "Caps": ", ".join(f"{name} {cap:g}" for name, cap in caps.items()) or "none",
        "Random seed": str(search["rng_seed"]),
        "Created": _shown(row.created_at),
        "Started": _shown(row.started_at),
        "Finished": _shown(row.finished_at),
    }


def _shown(moment: datetime | None) -> str:
    return "–" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


# --- the figures -----------------------------------------------------------------------------------------------------


def _figures(
    row: JobRow, best: Candidate | None, baseline: Candidate | None, scores: Mapping[str, ByPhase]
) -> Iterator[SetFigures]:
    """As they were published; before that, of all that is measured so far."""
    if row.best_snapshot is not None:
        payload = orjson.loads(row.best_snapshot)
        for name, shown in SETS.items():
            if payload[name] is not None:
                yield _set(shown, payload[name])
        return
    ours, theirs = ({} if each is None else all_scores(scores[each.candidate_id]) for each in (best, baseline))
    for name, measured in measured_sets(orjson.loads(row.config), ours, theirs).items():
        yield _set(name, measured.to_json())


def _set(name: str, measured: Json) -> SetFigures:
    return SetFigures(name, *(_estimate(measured[each]) for each in ("best", "baseline", "difference")))


def _estimate(found: Json | None) -> Estimate | None:
    return None if found is None else Estimate(found["mean"], found["low"], found["high"], found["n"])


def _front(archive: StoredArchive, standing: Standing) -> list[FrontLine]:
    """The front of GEPA; all of MIPRO's members, which has none."""
    members = [m for m in archive.members if m.is_pareto or standing.algorithm != "gepa"]
    won = [candidate_id for _, _, winners in archive.winners() for candidate_id in winners]
    return [FrontLine(m.candidate, m.score, m.num_seeds, won.count(m.candidate.candidate_id)) for m in members]


def _curve(found: list[CurveEvent]) -> Iterator[CurvePoint]:
    for event in found:
        step = curve_step(orjson.loads(event.data))
        if step is not None:
            yield CurvePoint(*step, None if event.candidate is None else event.candidate.n)


def _spending(row: JobRow) -> Iterator[SpendingLine]:
    if row.categories is None:
        return
    spent = row.categories
    for category, account in spent.accounts.items():
        settled = account.settled
        yield SpendingLine(
            category, float(settled.usd), settled.tokens, spent.calls[category], spent.unpriced[category]
        )
