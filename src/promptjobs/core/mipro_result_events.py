"""The events that tell how a MIPRO job has come out, by the names and fields that clients of the API read."""

from typing import Any

from promptjobs.core.asks import EventFact, Fact
from promptjobs.core.mipro_events import Payload
from promptjobs.core.result import OptimizationResult, final_scores_json
from promptjobs.core.search_events import score_on, shown_score


def tested(result: OptimizationResult, payload: Payload) -> list[Fact]:
    """The winner on the held-out seeds, with what it gained over the baseline there."""
    test, best = result.test, result.best
    if test is None or best is None or test.best_score is None:
        return []
    score = test.best_score.mean
    baseline = test.baseline_score.mean if test.baseline_score else None
    lift = None if baseline is None else score - baseline
    facts: list[Fact] = [
        EventFact(
            "mipro.baseline.test",
            f"the baseline scores {shown_score(baseline)} on {len(test.baseline)} test seeds",
            {
                "test_score": baseline,
                **_reward_json(baseline),
                "num_seeds": len(test.baseline),
                "seeds": [*test.baseline],
            },
        ),
        EventFact(
            "mipro.topk.evaluated",
            f"the winner scores {shown_score(score)} on {len(test.best)} test seeds",
            {
                "rank": 1,
                "candidate_id": best.candidate_id,
                "train_score": result.best_score,
                "train_num_seeds": result.best_score_seeds,
                "test_score": score,
                **_reward_json(score),
                "test_seeds": [*test.best],
                "num_seeds": len(test.best),
                "test_num_seeds": len(test.best),
                "lift_absolute": lift,
                "lift_percent": 100 * lift / baseline if lift is not None and baseline else None,
                "stage_payloads": dict(payload),
                "instruction_lines": [line for each in payload.values() for line in each["instruction_lines"]],
                "instruction_text": "\n".join(each["instruction_text"] for each in payload.values()),
                "instruction_indices": [i for each in payload.values() for i in each["instruction_ids"]],
                "demo_indices": [i for each in payload.values() for i in each["demo_indices"]],
                "test_per_seed": {str(seed): value for seed, value in test.best.items()},
                "test_seed_scores": [{"seed": seed, "score": value} for seed, value in test.best.items()],
            },
        ),
    ]
    return facts


def _reward_json(score: float | None) -> dict[str, Any]:
    """A score by the names under which clients of either era look for one."""
    return {"accuracy": score, "objectives": {} if score is None else {"reward": score}}


def job_completed(result: OptimizationResult, full: float | None, minibatch_score: float | None) -> EventFact:
    return EventFact(
        "mipro.job.completed",
        f"best {score_on(result.best_score, result.best_score_seeds)}, "
        f"baseline {score_on(result.baseline_score, result.baseline_score_seeds)}",
        {
            **final_scores_json(result),
            "best_full_score": full,
            "best_minibatch_score": minibatch_score,
            "finish_reason": result.finish_reason,
        },
    )
