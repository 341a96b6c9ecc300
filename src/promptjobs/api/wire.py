"""Rows as the JSON that clients read: one function for each shape."""

from collections.abc import Sequence
from typing import Any

import orjson

from promptjobs.core.archive import Candidate
from promptjobs.core.ledger import Account, Caps
from promptjobs.core.prompt import Message, PromptTemplate, full_text, render
from promptjobs.db.events import EventRow
from promptjobs.db.jobs import ConfigRow, JobRow
from promptjobs.db.results import (
    CurveEvent,
    MeanScore,
    StoredArtifact,
    StoredRollout,
    StoredSnapshot,
    StoredTrial,
    curve_step,
)

Json = dict[str, Any]

FIGURES = (
    "best_score_seeds",
    "baseline_score_seeds",
    "best_train_score_seeds",
    "best_validation_score_seeds",
    "best_test_score_seeds",
    "finish_detail",
    "failures",
    "failures_by_reason",
)
"""What a job says beside its scores: on how many seeds they rest, why it ended, and what has failed."""

MEAN_SCORE = "gepa.transformation.mean_score"
"""The metric that clients draw."""


# --- jobs ------------------------------------------------------------------------------------------------------------


def job_object(row: JobRow, *, is_listed: bool = False) -> Json:
    """A job. While it runs, what is best comes from its progress; once it is over, from what it has published.

    A listed job leaves out the snapshot's content, which may be large.
    """
    # As it is stored, also by another version: one job that cannot be run here must not hide the others.
    config = orjson.loads(row.config)
    search = config[config["algorithm"]]
    progress = None if row.progress is None else orjson.loads(row.progress)
    best_score = row.best_score if row.status.is_terminal or progress is None else progress["best_score"]
    messages = _best_messages(row)
    metadata = orjson.loads(row.metadata)
    if is_listed:
        metadata.pop("prompt_best_snapshot", None)
    elif row.best_snapshot is not None:
        metadata["prompt_best_snapshot"] = orjson.Fragment(row.best_snapshot)
    return {
        "job_id": row.id,
        "id": row.id,
        "algorithm": row.algorithm,
        "status": row.status,
        "organisation": row.organisation,
        "parent_id": row.parent_id,
        "config_name": row.config_name,
        "experiment_id": row.experiment_id,
        "experiment_label": row.experiment_label,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "updated_at": row.updated_at,
        "cancel_requested_at": row.cancel_requested_at,
        "pause_requested_at": row.pause_requested_at,
        "paused_at": row.paused_at,
        "best_score": best_score,
        "best_train_score": row.best_train_score,
        "best_validation_score": row.best_validation_score,
        "best_prompt": None if messages is None else full_text(messages),
        "best_prompt_messages": messages,
        "best_snapshot_id": row.best_snapshot_id,
        "best_snapshot": None if row.best_snapshot is None else _snapshot_content(row.best_snapshot),
        "error": row.error,
        "finish_reason": row.finish_reason,
        "warnings": orjson.Fragment(row.warnings),
        "metadata": metadata,
        "progress": progress,
        "iteration": None if progress is None else progress["generation"],
        "policy": {"provider": config["policy"]["provider"], "model": config["policy"]["model"]},
        "task_app_url": config["task_app"]["url"],
        "rollout_budget": search["rollout_budget"],
        "spend": _spend(row, Caps.stored(search)),
        **_figures(row, progress, metadata),
    }


def _figures(row: JobRow, progress: Json | None, metadata: Json) -> Json:
    """Null where it is not known: a job that nobody has run has no figures, and in its metadata only the client's."""
    is_published = row.status.is_terminal and row.started_at is not None
    found = metadata.get("stats") if is_published else progress
    return {name: (found or {}).get(name) for name in FIGURES}


def _spend(row: JobRow, caps: Caps) -> Json:
    """What the job has spent so far; by category where that was read, which it is not for lists."""
    shown = {
        **_account(row.spent.account),
        "calls": row.spent.calls,
        "unpriced_calls": row.spent.unpriced_calls,
        "caps": caps.to_json(),
        "balance_type": "unlimited" if row.balance_usd is None else "prepaid",
        "balance_usd": None if row.balance_usd is None else float(row.balance_usd),
    }
    if row.categories is not None:
        calls = row.categories.calls
        accounts = row.categories.accounts.items()
        shown["categories"] = {name: {**_account(account), "calls": calls[name]} for name, account in accounts}
    return shown


def _account(account: Account) -> Json:
    return {
        "usd": float(account.settled.usd),
        "held_usd": float(account.held.usd),
        "unsettled_usd": float(account.unsettled.usd),
        "tokens": account.settled.tokens,
    }


def _best_messages(row: JobRow) -> tuple[Message, ...] | None:
    if row.best_snapshot_id is not None:
        published = None if row.best_messages is None else orjson.loads(row.best_messages)
        return None if published is None else tuple(Message(each["role"], each["content"]) for each in published)
    return None if row.best_prompt is None else render(PromptTemplate.from_json(orjson.loads(row.best_prompt)))


def _snapshot_content(payload: str) -> Json:
    """The payload, and the same under `payload`: some clients read best_snapshot.messages, others
    best_snapshot.payload.messages, as in the answer of the snapshot's own route."""
    content: Json = orjson.loads(payload)
    return {**content, "payload": orjson.Fragment(payload)}


def config_object(row: ConfigRow) -> Json:
    """The config as it was sent, and as it runs."""
    return {
        "sent": orjson.Fragment(row.sent),
        "resolved": orjson.Fragment(row.resolved),
        "warnings": orjson.Fragment(row.warnings),
    }


# --- events ----------------------------------------------------------------------------------------------------------


def event_json(row: EventRow) -> bytes:
    """An event as one line of JSON."""
    return orjson.dumps(
        {
            "seq": row.seq,
            "type": row.type,
            "message": row.message,
            "level": row.level,
            "data": orjson.Fragment(row.data),
            "created_at": row.created_at,
            "job_id": row.job_id,
            "timestamp_ms": int(row.created_at.timestamp() * 1000),
        }
    )


def event_page(rows: Sequence[bytes], has_more: bool, next_seq: int) -> bytes:
    """A page of events in their JSON. next_seq: what to ask for next with `since_seq`."""
    listed = orjson.Fragment(b"[" + b",".join(rows) + b"]")
    return orjson.dumps({"events": listed, "has_more": has_more, "next_seq": next_seq})


# --- results ---------------------------------------------------------------------------------------------------------


def trial_object(stored: StoredTrial, rollouts: Sequence[StoredRollout] | None) -> Json:
    """A trial; with the rollouts behind its scores, where they were asked for.

    metadata_json is metadata under the name that it has in clients' own tables of trials.
    """
    trial = stored.trial
    metadata: Json = {
        "phase": trial.phase,
        "is_baseline": trial.is_baseline,
        "generation": trial.generation,
        "lane": trial.lane,
    }
    body: Json = {
        "n": trial.n,
        "candidate_id": trial.candidate_id,
        "phase": trial.phase,
        "is_baseline": trial.is_baseline,
        "seeds": trial.seeds,
        "scores": trial.scores,
        "score": trial.score,
        "failed": trial.failed,
        "reused": trial.reused,
        "generation": trial.generation,
        "lane": trial.lane,
        "created_at": stored.created_at,
        "metadata": metadata,
        "metadata_json": metadata,
    }
    if rollouts is not None:
        metadata["tokens"] = sum(rollout.tokens for rollout in rollouts)
        body["rollouts"] = [_rollout_outcome(rollout) for rollout in rollouts]
    return body


def _rollout_outcome(rollout: StoredRollout) -> Json:
    return {
        "id": rollout.key.hex(),
        "seed": rollout.seed,
        "score": rollout.score,
        "reason": rollout.reason,
        "detail": rollout.detail,
        "tokens": rollout.tokens,
        "cost_usd": rollout.cost_usd,
        "seconds": rollout.seconds,
        "draw": rollout.draw,
    }


def rollout_object(rollout: StoredRollout) -> Json:
    """A rollout with what its model saw and said."""
    return {
        "candidate_id": rollout.candidate_id,
        **_rollout_outcome(rollout),
        "phase": rollout.phase,
        "is_baseline": rollout.is_baseline,
        "tier": rollout.tier,
        "prompt_tokens": rollout.prompt_tokens,
        "completion_tokens": rollout.completion_tokens,
        "unknown_tokens": rollout.unknown_tokens,
        "attempts": rollout.attempts,
        "created_at": rollout.created_at,
        "body": None if rollout.body is None else orjson.Fragment(rollout.body),
    }


def _messages(candidate: Candidate) -> tuple[Message, ...] | None:
    return None if candidate.prompt is None else render(candidate.prompt)


def metric_point(job_id: str, point: MeanScore) -> Json:
    """A trial's mean score; data.n is the number of rollouts it is taken over."""
    return {
        "name": MEAN_SCORE,
        "value": point.score,
        "step": point.n,
        "created_at": point.created_at,
        "phase": point.phase,
        "job_id": job_id,
        "data": {"n": point.scored, "candidate_id": point.candidate_id},
    }


def curve_point(event: CurveEvent, rollout_budget: int) -> Json | None:
    """The best score after so many rollouts, with the prompt that reached it; None where nothing was scored.

    checkpoint_pct: part of the budget, in [0, 1].
    """
    data = orjson.loads(event.data)
    step = curve_step(data)
    if step is None:
        return None
    rollouts, performance = step
    candidate = event.candidate
    return {
        "rollout_count": rollouts,
        "performance": performance,
        "checkpoint_pct": min(1.0, rollouts / rollout_budget),
        "candidate_id": data["candidate_id"],
        "messages": None if candidate is None else _messages(candidate),
        "metadata": {
            "seq": event.seq,
            "type": event.type,
            "created_at": event.created_at,
            "previous_best_score": data.get("previous_best_score"),
            "improvement": data.get("improvement"),
            "template": None if candidate is None or candidate.prompt is None else candidate.prompt.to_json(),
        },
    }


def snapshot_object(stored: StoredSnapshot) -> Json:
    """A snapshot; with its payload, where that was read."""
    body: Json = {
        "id": stored.id,
        "job_id": stored.job_id,
        "label": stored.label,
        "score": stored.score,
        "num_seeds": stored.score_seeds,
        "created_at": stored.created_at,
    }
    return body if stored.payload is None else {**body, "payload": orjson.Fragment(stored.payload)}


def artifact_object(stored: StoredArtifact) -> Json:
    return {
        "id": stored.id,
        "job_id": stored.job_id,
        "snapshot_id": stored.snapshot_id,
        "label": stored.label,
        "kind": stored.kind,
        "score": stored.score,
        "num_seeds": stored.score_seeds,
        "created_at": stored.created_at,
    }
