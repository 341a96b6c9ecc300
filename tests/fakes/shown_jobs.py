"""Jobs as the API shows them, with round figures."""

from typing import Any

from tests.fakes.event_streams import JOB

MESSAGES = [
    {"role": "system", "content": "Answer in one word.\n" + "long " * 60},
    {"role": "user", "content": "{text}"},
]


def estimate(mean: float, low: float, high: float, n: int) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "n": n, "confidence": 0.95}


def measured(n: int, *, low: float = 0.1, high: float = 0.5) -> dict[str, Any]:
    return {
        "seeds": n,
        "baseline": estimate(0.25, 0.125, 0.375, n),
        "best": estimate(0.55, 0.4, 0.7, n),
        "difference": estimate(0.3, low, high, n),
    }


SPEND = {
    "usd": 0.0123,
    "tokens": 390_000,
    "calls": 1170,
    "unpriced_calls": 0,
    "held_usd": 0.0,
    "held_tokens": 0,
    "unsettled_usd": 0.0,
    "unsettled_tokens": 0,
    "categories": {"policy": {"usd": 0.01}, "proposal": {"usd": 0.0023}, "judge": {"usd": 0.0}},
    "caps": {"total_usd": 0.05, "rollout_usd": None, "proposal_usd": None, "tokens": None},
}

STATS = {
    "total_rollouts": 1141,
    "bootstrap_rollouts_executed": 0,
    "optimization_rollouts_executed": 701,
    "validation_rollouts_executed": 240,
    "test_rollouts_executed": 200,
    "failed_rollouts": 7,
    "failures": {"provider": 5, "task_app": 2, "parse": 0, "prompt": 0, "judge": 0},
    "reused_rollouts": 19,
    "trials_tried": 15,
    "transformations_evaluated": 12,
    "mutation_calls": 16,
    "total_tokens": 385_773,
    "rollout_tokens_used": 368_180,
    "mutation_tokens_used": 17_593,
    "total_cost_usd": None,
    "finish_detail": None,
    "total_time_seconds": 6.9,
}


def job(**changes: Any) -> dict[str, Any]:
    snapshot = {
        "messages": MESSAGES,
        "is_baseline_best": False,
        "train": measured(40),
        "validation_summary": measured(60),
        "test": measured(100),
    }
    whole = {
        "job_id": JOB,
        "algorithm": "gepa",
        "status": "succeeded",
        "finish_reason": "rollout_budget",
        "error": None,
        "policy": {"provider": "demo", "model": "demo-policy"},
        "best_snapshot_id": "snap_1",
        "best_snapshot": snapshot,
        "best_score": 0.55,
        "best_score_seeds": 60,
        "best_prompt_messages": MESSAGES,
        "warnings": [],
        "metadata": {"stats": STATS},
        "progress": None,
        "rollout_budget": 1000,
        "created_at": "2026-05-04T09:30:00+00:00",
    }
    return whole | changes


MODULES = [
    {"module_id": "plan", "messages": [{"role": "system", "content": "Make a plan."}, *MESSAGES[1:]]},
    {"module_id": "solve", "messages": [{"role": "system", "content": "Solve it."}, *MESSAGES[1:]]},
]


def mipro_job(**changes: Any) -> dict[str, Any]:
    """Of a program of two stages; its snapshot has what a search among configurations adds."""
    parts = {
        "plan": {"module_id": "m", "instruction_ids": [3, 7], "instruction_text": "…", "demo_indices": [1]},
        "solve": {"module_id": "m", "instruction_ids": [], "instruction_text": "", "demo_indices": []},
    }
    snapshot = job()["best_snapshot"] | {
        "modules": MODULES,
        "best_candidate": {"trial_num": 9, "stage_payloads": parts},
        "bootstrap": {"baseline_score": 0.25, "few_shot_examples": {"plan": [{"seed": 4}, {"seed": 8}], "solve": []}},
        "instruction_bank": [{}] * 12,
        "total_trials": 30,
    }
    return job(algorithm="mipro", best_snapshot=snapshot, **changes)
