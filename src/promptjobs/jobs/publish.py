"""Turns what a run has come to into the job's end: snapshot, artifacts, metadata, terminal event."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from promptjobs.core.archive import candidate_to_json
from promptjobs.core.asks import FailureReason
from promptjobs.core.config import JobConfig
from promptjobs.core.lanes import Cause
from promptjobs.core.ledger import Cap, Caps
from promptjobs.core.result import (
    OptimizationResult,
    final_scores_json,
    instance_scores_json,
    mean_of,
    messages_json,
    modules_json,
    prompt_json,
    snapshot_payload,
)
from promptjobs.core.stats import Statistics
from promptjobs.core.stops import StopReason
from promptjobs.db.publishing import Ending, NewArtifact, NewSnapshot, Spent
from promptjobs.jobs.spending import spending_json

STATUS = {Cause.CANCEL: "cancelled", Cause.ERRORS: "failed", Cause.BUG: "failed"}
"""Every other stop leaves a result that is as good as it could get: the job has succeeded."""

EVENT = {"succeeded": "complete", "failed": "failed", "cancelled": "cancelled"}
MESSAGE = {"succeeded": "the job has succeeded", "failed": "the job has failed", "cancelled": "the job was cancelled"}

ERROR_STOPS = frozenset({StopReason.MAX_ERROR_RATE, StopReason.MAX_CONSECUTIVE_ERRORS})
"""Ends that are told with the words of the failures behind them."""

EXAMPLE_CHARACTERS = 300


def ending_of(
    config: JobConfig,
    result: OptimizationResult | None,
    statistics: Statistics,
    spent: Spent,
    stopped: Cause | None = None,
    said: str | None = None,
) -> Ending:
    """The end of a run. result is None where there is nothing to publish: then the job has failed or was cancelled.

    So has one that was stopped before anything was measured: its baseline is no result.
    said: with what words it was stopped; where it has failed, its user reads them as its error.
    """
    reason, detail = _why(result, spent, stopped, said)
    status = STATUS.get(stopped, "succeeded") if stopped else "succeeded"
    error = (detail or reason) if status == "failed" else None
    if status == "succeeded" and (result is None or result.best_score is None):
        status, error = "failed", f"the job ended before its baseline was measured: {_in_words(reason, detail)}"
    if result is not None:
        result = replace(result, finish_reason=reason, detail=detail)
    figures = statistics_json(config, result, statistics, spent, reason, detail)
    snapshots, artifacts = _products(config, result, figures)
    best = snapshots[0] if snapshots else None
    event = {
        "status": status,
        "finish_reason": reason,
        "reason_terminated": reason,
        "detail": detail,
        "error": error,
        **final_scores_json(result),
        "best_prompt": prompt_json(result.best) if result else None,
        "best_prompt_messages": messages_json(result.best) if result else None,
        **modules_json(result.best if result else None),
        "best_snapshot_id": best.id if best else None,
        "total_candidates": statistics.trials_tried + 1,
        "stats": figures,
    }
    return Ending(
        status=status,
        finish_reason=reason,
        error=error,
        event_type=f"prompt.learning.{config.algorithm}.{EVENT[status]}",
        event_message=f"{MESSAGE[status]}: {error or _in_words(reason, detail)}",
        event_data=event,
        metadata=_metadata(config, result, best, figures),
        best_score=result.best_score if result else None,
        best_train_score=mean_of(result.train) if result else None,
        best_validation_score=mean_of(result.validation) if result else None,
        best_snapshot_id=best.id if best else None,
        snapshots=snapshots,
        artifacts=artifacts,
    )


def _why(
    result: OptimizationResult | None, spent: Spent, stopped: Cause | None, said: str | None
) -> tuple[str, str | None]:
    """The finish reason, and what there is to say about it."""
    match stopped:
        case Cause.MONEY | Cause.SPENT if said:
            # The words begin with the cap that does not hold a further call, which is what the job ended by.
            cap, _, words = said.partition(": ")
            return Cap(cap).value, words
        case Cause.CANCEL:
            return "cancelled", None
        case None:
            reason = result.finish_reason if result else "error"
            detail = result.detail if result else said
            if reason in ERROR_STOPS:
                detail = _with_example(detail, spent.last_failures)
            return reason, detail
        case _:
            return result.finish_reason if result else stopped.value, said


def _with_example(words: str | None, last_failures: Mapping[FailureReason, str]) -> str:
    """Of each kind of failure that has something to say the latest words, after what is said already."""
    told = [f"the last {reason}: {detail[:EXAMPLE_CHARACTERS]}" for reason, detail in last_failures.items() if detail]
    return "; ".join([*([words] if words else []), *told])


def _in_words(reason: str, detail: str | None) -> str:
    return f"{reason}: {detail}" if detail else reason


def statistics_json(
    config: JobConfig,
    result: OptimizationResult | None,
    statistics: Statistics,
    spent: Spent,
    finish_reason: str,
    detail: str | None,
) -> dict[str, Any]:
    """`metadata.stats`: the counters, the scores and the spending, by the names that clients read."""
    validation = result.validation if result else None
    return {
        **statistics.to_json(),
        "finish_reason": finish_reason,
        "finish_detail": detail,
        "abandoned_rollouts": spent.abandoned,
        "metered_calls": spent.calls,
        "metered_cost_usd": spent.call_cost_usd,
        "spend": spending_json(spent.spending, Caps.of(config)),
        "final_balance_usd": None if spent.balance_usd is None else float(spent.balance_usd),
        "balance_type": "unlimited" if spent.balance_usd is None else "prepaid",
        **final_scores_json(result),
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
    snapshots = [NewSnapshot(_new_id("snap"), "best_prompt", result.best_score, result.best_score_seeds, payload)]
    for member in result.archive:
        if member.is_pareto and member.candidate != result.best:
            part = {
                **candidate_to_json(member.candidate),
                "messages": messages_json(member.candidate),
                **modules_json(member.candidate),
                "best_prompt": prompt_json(member.candidate),
                "score": member.score,
                "num_seeds": member.seeds,
                **instance_scores_json(member.known),
            }
            label = f"candidate_{member.candidate.n}"
            snapshots.append(NewSnapshot(_new_id("snap"), label, member.score, member.seeds, part))
    artifacts = [NewArtifact(_new_id("art"), s.id, s.label, "prompt", s.score, s.score_seeds) for s in snapshots]
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
        "stats": dict(figures),
    }


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
