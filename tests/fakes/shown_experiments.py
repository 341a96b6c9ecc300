"""Experiments, their results and their events as the API shows them, with round figures."""

import json
from typing import Any

from tests.fakes.event_streams import event
from tests.fakes.shown_jobs import estimate

EXPERIMENT = "exp_0f1e2d3c4b5a69788796a5b4c3d2e1f0"
TIME = "2026-05-04T09:30:00+00:00"
GROUPS = ("gepa · model=demo-policy", "mipro · model=demo-policy")


def job_id(position: int) -> str:
    return f"pl_{position:032x}"


def label(position: int) -> str:
    """Two jobs of each group."""
    return f"{GROUPS[(position - 1) // 2]}, seed={(position - 1) % 2}"


def placed_job(position: int, status: str = "succeeded", **changes: Any) -> dict[str, Any]:
    """A job as an experiment lists it."""
    group = GROUPS[(position - 1) // 2]
    told = {
        "policy": "demo/demo-policy",
        "rollouts_completed": 400,
        "total_rollouts": 800,
        "best_score": 0.5,
        "baseline_score": 0.25,
        "total_tokens": 100_000,
        "total_cost_usd": 0.125,
        "progress_pct": 50.0,
    }
    whole = {
        "job_id": job_id(position),
        "position": position,
        "label": label(position),
        "group": group,
        "settings": {"algorithm": group.split()[0], "model": "demo-policy", "seed": (position - 1) % 2},
        "algorithm": group.split()[0],
        "status": status,
        "error": None,
        "finish_reason": "rollout_budget",
        "created_at": TIME,
        "started_at": TIME,
        "finished_at": TIME,
        "status_json": told,
    }
    return whole | changes


def experiment(**changes: Any) -> dict[str, Any]:
    whole = {
        "experiment_id": EXPERIMENT,
        "id": EXPERIMENT,
        "organisation": "default",
        "name": "GEPA against MIPRO",
        "description": None,
        "status": "completed",
        "parallelism": 4,
        "num_jobs": 4,
        "counts": counted(succeeded=4),
        "progress_pct": 100.0,
        "eta_seconds": None,
        "total_tokens": 400_000,
        "total_cost_usd": 0.5,
        "created_at": TIME,
        "started_at": TIME,
        "finished_at": TIME,
        "updated_at": TIME,
        "cancel_requested_at": None,
        "metadata": {},
        "jobs": [placed_job(position) for position in range(1, 5)],
    }
    return whole | changes


def counted(**counts: int) -> dict[str, int]:
    names = ("pending", "queued", "running", "paused", "succeeded", "failed", "cancelled")
    return {name: counts.get(name, 0) for name in names}


# --- results ---------------------------------------------------------------------------------------------------------


def row(position: int, **changes: Any) -> dict[str, Any]:
    job = placed_job(position)
    measured = {
        "best": estimate(0.55, 0.45, 0.65, 100),
        "baseline": estimate(0.25, 0.17, 0.34, 100),
        "difference": estimate(0.3, 0.2, 0.4, 100),
    }
    whole = {
        **{name: job[name] for name in ("position", "label", "job_id", "algorithm", "settings", "group", "status")},
        "policy": "demo/demo-policy",
        "seed": (position - 1) % 2,
        "baseline_score": 0.25,
        "best_score": 0.55,
        "lift": 0.3,
        "search": None,
        "validation": None,
        "test": measured,
        "eval_set": "test",
        "eval_n": 100,
        "trials": 31,
        "trials_tried": 29,
        "rollouts": 1000,
        "failed_rollouts": 0,
        "total_tokens": 123_456,
        "total_cost_usd": 0.0625,
        "unpriced_calls": 0,
        "seconds": 7.5,
        "finish_reason": "rollout_budget",
        "error": None,
        "is_baseline_best": False,
        "note": None,
        "num_variants": 20,
        "variants": [],
    }
    return whole | changes


def unstarted_row(position: int, **changes: Any) -> dict[str, Any]:
    """Of a job of which nothing is known."""
    nothing = dict.fromkeys(
        ("baseline_score", "best_score", "lift", "test", "eval_set", "trials", "rollouts", "total_tokens",
         "total_cost_usd", "seconds", "finish_reason")
    )  # fmt: skip
    return row(position) | nothing | {"status": "queued", "eval_n": 0, "note": "it has not started"} | changes


def spread(mean: float | None, sd: float | None, n: int = 2) -> dict[str, Any]:
    return {"mean": mean, "sd": sd, "n": n}


def group(name: str, **changes: Any) -> dict[str, Any]:
    whole = {
        "group": name,
        "settings": {"algorithm": name.split()[0], "model": "demo-policy"},
        "num_jobs": 2,
        "num_finished": 2,
        "eval_set": "test",
        "best": spread(0.55, 0.0125),
        "baseline": spread(0.25, 0.0),
        "lift": spread(0.3, 0.0125),
        "tokens": spread(123_456.0, 789.0),
        "cost_usd": spread(0.0625, 0.0125),
        "seconds": spread(7.5, 0.5),
    }
    return whole | changes


def comparison(first: str, second: str, **changes: Any) -> dict[str, Any]:
    whole = {
        "first": first,
        "second": second,
        "seeds": "test",
        "num_seeds": 100,
        "difference": estimate(0.05, -0.05, 0.15, 100),
        "wins": 12,
        "losses": 7,
        "ties": 81,
        "p_value": 0.25,
        "p_adjusted": 0.5,
        "test": "mcnemar_exact",
        "winner": None,
        "seeds_needed": 640,
        "note": None,
    }
    return whole | changes


def job_comparison(first: int, second: int, **changes: Any) -> dict[str, Any]:
    named = {"first_label": label(first), "second_label": label(second)}
    return comparison(job_id(first), job_id(second)) | named | changes


def results(**changes: Any) -> dict[str, Any]:
    shown = experiment()
    runs = {"first_runs": 2, "second_runs": 2, "runs_needed": 12, "test": "runs_and_seeds_t"}
    whole = {
        "experiment": {name: shown[name] for name in ("experiment_id", "name", "status", "num_jobs", "counts")},
        "jobs": [row(position) for position in range(1, 5)],
        "groups": [group(name) for name in GROUPS],
        "comparisons": [job_comparison(1, 2)],
        "group_comparisons": [comparison(*GROUPS) | runs],
    }
    return whole | changes


# --- events ----------------------------------------------------------------------------------------------------------


def job_event(position: int, seq: int, kind: str = "progress", **data: Any) -> dict[str, Any]:
    """An event of a job, as the experiment's stream has it."""
    place = {"experiment_id": EXPERIMENT, "job_id": job_id(position), "position": position, "label": label(position)}
    return event(seq, f"event {seq} of job {position}", **data) | {"type": f"prompt.learning.{kind}"} | place


def progress_event(position: int, seq: int, done: int) -> dict[str, Any]:
    return job_event(position, seq, rollouts_completed=done, rollouts_total=800, best_score=0.5)


def job_ending(position: int, seq: int, status: str = "succeeded", **data: Any) -> dict[str, Any]:
    outcome = {"succeeded": "complete"}.get(status, status)
    scores = {"best_score": 0.5, "best_score_seeds": 60, "baseline_score": 0.25, "baseline_score_seeds": 60}
    return job_event(position, seq, f"gepa.{outcome}", **{"status": status, "error": None, **scores, **data})


def experiment_ending(status: str = "completed") -> dict[str, Any]:
    counts = counted(succeeded=4)
    said = {"experiment_id": EXPERIMENT, "status": status, "counts": counts, "message": f"the experiment is {status}"}
    return {"type": f"experiment.{status}"} | said


def experiment_stream(*events: dict[str, Any]) -> bytes:
    parts = []
    seqs: dict[int, int] = {}
    for each in events:
        if "position" in each:
            seqs[each["position"]] = each["seq"]
        cursor = (
            ".".join(f"{position}:{seq}" for position, seq in sorted(seqs.items())) if "position" in each else "end"
        )
        parts.append(f"id: {cursor}\nevent: {each['type']}\ndata: {json.dumps(each)}\n\n")
    return (": connected\n\n" + "".join(parts)).encode()
