"""Candidates, refused proposals, the archive and the lineage as the JSON that clients read."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from promptjobs.core.archive import Candidate, candidate_to_json
from promptjobs.core.asks import FailureReason
from promptjobs.core.result import messages_json, modules_json
from promptjobs.db.archive import ArchiveMember, StoredArchive
from promptjobs.db.candidates import DUPLICATE, JudgedCandidate, Standing
from promptjobs.db.events import EventRow
from promptjobs.db.seed_scores import ByPhase, Cost, PhaseScores, search_scores

Json = dict[str, Any]
Failures = Mapping[tuple[str, int], FailureReason]


def candidate_object(
    judged: JudgedCandidate, by_phase: ByPhase, failures: Failures, cost: Cost, stages: Json | None
) -> Json:
    """A candidate; sections and messages are null for the task app's own messages before their pattern is known.

    failures: by candidate and seed. stages: of a MIPRO candidate.
    """
    candidate, shown = judged.candidate, search_scores(by_phase)
    scores = {phase: _phase(candidate.candidate_id, found, failures) for phase, found in by_phase.items()}
    return {
        **candidate_to_json(candidate),
        "status": judged.status,
        "rejection": None if judged.rejection is None else judged.rejection.to_json(),
        "is_pareto": judged.is_pareto,
        "is_best": judged.is_best,
        "score": shown.mean,
        "num_seeds": len(shown.scores),
        "scores": scores,
        "rollouts": cost.rollouts,
        "tokens": cost.tokens,
        "cost_usd": cost.cost_usd,
        **_prompt(candidate),
        "sections": None if candidate.prompt is None else candidate.prompt.to_json()["sections"],
        "stages": stages,
        "created_at": judged.created_at,
    }


def _prompt(candidate: Candidate) -> Json:
    return {"messages": messages_json(candidate), "modules": modules_json(candidate).get("modules")}


def _phase(candidate_id: str, found: PhaseScores, failures: Failures) -> Json:
    """A rollout that has a score while its seed has none was given none by the judge."""
    reasons = [(seed, failures.get((candidate_id, seed), FailureReason.JUDGE_FAILED)) for seed in sorted(found.failed)]
    return {
        "mean": found.mean,
        "num_seeds": len(found.scores),
        "num_failed": len(found.failed),
        "seed_scores": _seed_scores(found.scores),
        "failures": [{"seed": seed, "reason": reason} for seed, reason in reasons],
    }


def _seed_scores(scores: Mapping[int, float]) -> list[Json]:
    return [{"seed": seed, "score": scores[seed]} for seed in sorted(scores)]


def refused_object(event: EventRow) -> Json:
    """A proposal that never became a candidate. Its text stands in the completion that proposed it, if at all."""
    data = orjson.loads(event.data)
    return {
        "n": event.seq,
        "code": data.get("reason", DUPLICATE),
        "reason": event.message,
        "detail": data.get("detail", ""),
        "parent_id": data.get("parent_id"),
        "duplicate_of": data.get("candidate_id"),
        "section": data.get("section"),
        "stage_id": data.get("stage_id"),
        "module_id": data.get("module_id"),
        "iteration": data.get("iteration"),
        "config": data.get("config"),
        "created_at": event.created_at,
    }


# --- the archive -----------------------------------------------------------------------------------------------------


def archive_object(archive: StoredArchive, standing: Standing) -> Json:
    return {
        "is_published": archive.is_published,
        "best_candidate_id": standing.best_id,
        "members": [_member(member, standing) for member in archive.members],
        "seeds": [{"seed": seed, "score": best, "candidate_ids": won} for seed, best, won in archive.winners()],
    }


def _member(member: ArchiveMember, standing: Standing) -> Json:
    return {
        **candidate_to_json(member.candidate),
        "score": member.score,
        "num_seeds": member.num_seeds,
        "is_pareto": member.is_pareto,
        "is_best": member.candidate.candidate_id == standing.best_id,
        "seed_scores": _seed_scores(member.known),
        **_prompt(member.candidate),
    }


# --- the lineage -----------------------------------------------------------------------------------------------------


def lineage_object(found: Sequence[JudgedCandidate], scores: Mapping[str, ByPhase], truncated: bool) -> Json:
    """Nodes in the order of their numbers: whoever is a parent comes before his children."""
    return {
        "nodes": [_node(each, search_scores(scores[each.candidate.candidate_id])) for each in found],
        "edges": [
            {"parent": parent, "child": each.candidate.candidate_id}
            for each in found
            for parent in each.candidate.parents
        ],
        "truncated": truncated,
    }


def _node(judged: JudgedCandidate, scores: PhaseScores) -> Json:
    candidate = judged.candidate
    return {
        "candidate_id": candidate.candidate_id,
        "n": candidate.n,
        "operator": candidate.operator,
        "generation": candidate.generation,
        "score": scores.mean,
        "num_seeds": len(scores.scores),
        "status": judged.status,
        "is_pareto": judged.is_pareto,
        "is_best": judged.is_best,
    }
