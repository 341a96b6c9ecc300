"""Turns what a run has come to into the job's end: snapshot, artifacts, metadata, terminal event."""

import uuid
from collections.abc import Mapping
from typing import Any

from promptjobs.core.archive import candidate_to_json
from promptjobs.core.config import JobConfig
from promptjobs.core.lanes import Cause
from promptjobs.core.result import (
    OptimizationResult,
    instance_scores_json,
    mean_of,
    messages_json,
    modules_json,
    prompt_json,
    snapshot_payload,
)
from promptjobs.core.stats import Statistics
from promptjobs.db.publishing import Ending, NewArtifact, NewSnapshot, Spent

STATUS = {Cause.CANCEL: "cancelled", Cause.ERRORS: "failed", Cause.BUG: "failed"}
"""Every other stop leaves a result that is as good as it could get: the job has succeeded."""

EVENT = {"succeeded": "complete", "failed": "failed", "cancelled": "cancelled"}
MESSAGE = {"succeeded": "the job has succeeded", "failed": "the job has failed", "cancelled": "the job was cancelled"}


def ending_of(
    config: JobConfig,
    result: OptimizationResult | None,
    statistics: Statistics,
    spent: Spent,
    stopped: Cause | None = None,
    error: str | None = None,
) -> Ending:
    """The end of a run. result is None where there is nothing to publish: then the job has failed or was cancelled.

    So has one that was stopped before anything was measured: its baseline is no result.
    error: what the job's user is to read; only of use where the job has failed.
    """
    status = STATUS.get(stopped, "succeeded") if stopped else "succeeded"
    reason = result.finish_reason if result else str(stopped or "error")
    if status == "succeeded" and (result is None or result.best_score is None):
        status, error = "failed", f"the job ended before its baseline was measured: {error or reason}"
    reason = "cancelled" if status == "cancelled" else reason
    figures = statistics_json(result, statistics, spent)
    snapshots, artifacts = _products(config, result, figures)
    best = snapshots[0] if snapshots else None
    event = {
        "status": status,
        "finish_reason": reason,
        "reason_terminated": reason,
        "error": error if status == "failed" else None,
        "best_score": result.best_score if result else None,
        "baseline_score": result.baseline_score if result else None,
        "best_prompt": prompt_json(result.best) if result else None,
        "best_prompt_messages": messages_json(result.best) if result else None,
        **modules_json(result.best if result else None),
        "best_snapshot_id": best.id if best else None,
        "total_candidates": statistics.trials_tried + 1,
        "stats": figures,
    }
    said = f"{MESSAGE[status]}: {error if status == 'failed' and error else reason}"
    return Ending(
        status=status,
        finish_reason=reason,
        error=error if status == "failed" else None,
        event_type=f"prompt.learning.{config.algorithm}.{EVENT[status]}",
        event_message=said,
        event_data=event,
        metadata=_metadata(config, result, best, figures),
        best_score=result.best_score if result else None,
        best_train_score=mean_of(result.train) if result else None,
        best_validation_score=mean_of(result.validation) if result else None,
        best_snapshot_id=best.id if best else None,
        snapshots=snapshots,
        artifacts=artifacts,
    )


def statistics_json(result: OptimizationResult | None, statistics: Statistics, spent: Spent) -> dict[str, Any]:
    """`metadata.stats`: the counters and the scores, by the names that clients read."""
    validation = result.validation if result else None
    return {
        **statistics.to_json(),
        "abandoned_rollouts": spent.abandoned,
        "metered_calls": spent.calls,
        "metered_cost_usd": spent.call_cost_usd,
        "baseline_score": result.baseline_score if result else None,
        "best_score": result.best_score if result else None,
        "best_train_score": mean_of(result.train) if result else None,
        "best_validation_score": mean_of(validation) if result else None,
        "best_test_score": mean_of(result.test) if result else None,
        "eval_seeds_n": validation.seeds if validation else 0,
        "total_time_seconds": round(spent.seconds, 3),
    }


def _products(
    config: JobConfig, result: OptimizationResult | None, figures: Mapping[str, Any]
) -> tuple[list[NewSnapshot], list[NewArtifact]]:
    """The best prompt first, then every other member of the front, each a snapshot with an artifact that names it."""
    if result is None or result.best is None or result.best.prompt is None:
        return [], []
    payload = snapshot_payload(result, figures)
    payload["policy"] = {"provider": config.policy.provider, "model": config.policy.model}
    snapshots = [NewSnapshot(_new_id("snap"), "best_prompt", result.best_score, payload)]
    for member in result.archive:
        if member.is_pareto and member.candidate != result.best:
            part = {
                **candidate_to_json(member.candidate),
                "messages": messages_json(member.candidate),
                **modules_json(member.candidate),
                "best_prompt": prompt_json(member.candidate),
                "score": member.score,
                **instance_scores_json(member.known),
            }
            snapshots.append(NewSnapshot(_new_id("snap"), f"candidate_{member.candidate.n}", member.score, part))
    artifacts = [NewArtifact(_new_id("art"), s.id, s.label, "prompt", s.score) for s in snapshots]
    return snapshots, artifacts


def _metadata(
    config: JobConfig, result: OptimizationResult | None, best: NewSnapshot | None, figures: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "algorithm": config.algorithm,
        "task_app_url": config.task_app.url,
        "policy": {"provider": config.policy.provider, "model": config.policy.model},
        "prompt_best_score": result.best_score if result else None,
        "prompt_best_train_score": mean_of(result.train) if result else None,
        "prompt_best_validation_score": mean_of(result.validation) if result else None,
        "prompt_best_snapshot_id": best.id if best else None,
        "prompt_best_snapshot": best.payload if best else None,
        "stats": dict(figures),
    }


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
