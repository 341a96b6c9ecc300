"""What clients read of each event: its fields, and what their values may be. A checker of whole streams."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

Json = dict[str, Any]
Check = Callable[[Any], bool]

LEVELS = {"info", "warning", "error"}
TERMINAL = {
    f"prompt.learning.{algorithm}.{end}"
    for algorithm in ("gepa", "mipro")
    for end in ("complete", "failed", "cancelled")
}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_score(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_prompt(value: Any) -> bool:
    return bool(value["sections"]) and all(is_text(each["role"]) and "name" in each for each in value["sections"])


def is_reward(value: Any) -> bool:
    return value == {} or (list(value) == ["reward"] and is_score(value["reward"]))


def is_share(value: Any) -> bool:
    return is_score(value)


def or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def all_are(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def is_true_or_false(value: Any) -> bool:
    return isinstance(value, bool)


def is_anything(_: Any) -> bool:
    return True


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def has(**checks: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(name in value and checks[name](value[name]) for name in checks)


SCORES = all_are(is_score)
IDS = all_are(is_text)
SEEDS = all_are(is_count)
SEED_SCORES = all_are(has(seed=is_count, score=is_score))
STAGES: Check = lambda value: bool(value) and all(is_text(each["instruction"]) for each in value.values())  # noqa: E731

BASELINE: Mapping[str, Check] = {
    "accuracy": is_score,
    "objectives": is_reward,
    "baseline_score": is_score,
    "instance_scores": SCORES,
    "instance_objectives": all_are(is_reward),
    "prompt": is_prompt,
}
FINALIST: Mapping[str, Check] = {"rank": is_count, "accuracy": or_none(is_score), "instance_scores": SCORES}

COMMON: Mapping[str, Mapping[str, Check]] = {
    "prompt.learning.created": {},
    "prompt.learning.rollouts.start": {"train_seeds": SEEDS},
    "prompt.learning.trial.results": {"mean": or_none(is_score), "completed": is_count, "total": is_count},
    "prompt.learning.proposal.scored": {
        "version_id": is_text,
        "candidate_id": is_text,
        "score": or_none(is_score),
        "accuracy": or_none(is_score),
        "objectives": is_reward,
        "accepted": is_true_or_false,
        "generation": is_count,
        "parent_id": or_none(is_text),
        "is_pareto": is_true_or_false,
        "mutation_type": is_text,
        "stages": STAGES,
        "instance_scores": SCORES,
        "seed_scores": SEED_SCORES,
    },
    "prompt.learning.progress": {
        "rollouts_completed": is_count,
        "rollouts_total": is_count,
        "rollouts_remaining": is_count,
        "percent_rollouts": is_share,
        "percent_overall": is_share,
        "trials_completed": is_count,
        "transformations_tried": is_count,
        "transformations_planned": is_count,
        "percent_transformations": is_share,
        "rollout_tokens_used": is_count,
        "rollout_tokens_budget": or_none(is_count),
        "best_score": or_none(is_score),
        "baseline_score": or_none(is_score),
        "phase": is_text,
    },
    "prompt.learning.phase.changed": {"from_phase": is_text, "to_phase": is_text},
    "prompt.learning.usage.recorded": {"total_usd": is_number, "usd_tokens": is_number, "sandbox_usd": is_number},
    "prompt.learning.validation.scored": {
        **FINALIST,
        "objectives": is_reward,
        "is_baseline": is_true_or_false,
        "baseline_val_accuracy": or_none(is_score),
    },
    "prompt.learning.validation.summary": {
        "baseline": has(accuracy=or_none(is_score), seeds=SEEDS),
        "results": all_are(has(**FINALIST)),
    },
    "prompt.learning.best.prompt": {"best_score": is_score, "best_prompt": is_prompt},
    "prompt.learning.top.prompt.content": {
        "rank": lambda rank: rank >= 1,
        "train_accuracy": or_none(is_score),
        "val_accuracy": or_none(is_score),
        "template": is_prompt,
        "full_text": lambda text: text.startswith("[") and " | " in text.splitlines()[0],
    },
    "prompt.learning.final.results": {
        "attempted_candidates": all_are(has(accuracy=is_score, objectives=is_reward, object=is_object)),
        "optimized_candidates": all_are(
            has(
                score=has(accuracy=is_score, prompt_length=is_count, instance_scores=SCORES),
                payload_kind=is_text,
                object=has(type=is_text, data=is_prompt),
                instance_scores=SCORES,
            )
        ),
        "best_prompt": is_prompt,
        "best_score": is_score,
        "validation": all_are(has(**FINALIST)),
        "version_tree": is_anything,
    },
}
END: Mapping[str, Check] = {
    "best_score": is_score,
    "baseline_score": is_score,
    "best_prompt": is_prompt,
    "finish_reason": is_text,
    "reason_terminated": is_text,
    "total_candidates": is_count,
}
GEPA: Mapping[str, Mapping[str, Check]] = {
    **COMMON,
    "prompt.learning.gepa.start": {"rollout_budget": is_count, "train_seeds": SEEDS},
    "prompt.learning.gepa.baseline": BASELINE,
    "gepa.transformation.proposed": {
        "generation": is_count,
        "mutation_type": is_text,
        "operator": is_text,
        "transformation_id": is_text,
        "parent_id": is_text,
        "transformation_text": is_text,
        "transformation_dict": is_object,
        "mutation_params": is_object,
    },
    "prompt.learning.gepa.frontier_updated": {
        "frontier": IDS,
        "added": IDS,
        "removed": IDS,
        "frontier_size": is_count,
        "best_score": is_score,
        "frontier_scores": lambda scores: all(map(is_score, scores.values())),
        "frontier_objectives": all_are(is_reward),
    },
    "prompt.learning.gepa.new_best": {
        "version_id": is_text,
        "best_score": is_score,
        "reward": is_score,
        "previous_best_score": is_score,
        "improvement": is_number,
    },
    "prompt.learning.gepa.generation.complete": {
        "generation": is_count,
        "best_accuracy": is_score,
        "candidates_proposed": is_count,
        "candidates_accepted": is_count,
    },
    "prompt.learning.gepa.termination.triggered": {"reason": is_text},
    "prompt.learning.gepa.complete": END,
}
TRIAL: Mapping[str, Check] = {"iteration": is_count, "trial": is_count}
MIPRO: Mapping[str, Mapping[str, Check]] = {
    **COMMON,
    "mipro.job.started": {"num_iterations": is_count, "num_trials_per_iteration": is_count},
    "prompt.learning.mipro.baseline": BASELINE,
    "mipro.bootstrap.progress": {},
    "mipro.iteration.start": {
        "iteration": is_count,
        "num_iterations": is_count,
        "num_trials_per_iteration": is_count,
        "batch_size": is_count,
        "max_trials": or_none(is_count),
        "max_rollouts": is_count,
        "max_wall_clock_seconds": or_none(is_number),
    },
    "mipro.instruction.proposed": {
        "iteration": is_count,
        "stage_id": is_text,
        "module_id": is_text,
        "instruction_id": is_anything,
        "instruction_text": is_text,
        "instruction_lines": IDS,
        "demo_indices": is_anything,
        "proposal_id": is_text,
    },
    "mipro.trial.started": TRIAL,
    "mipro.trial.minibatch": {
        **TRIAL,
        "minibatch_score": or_none(is_score),
        "num_seeds": is_count,
        "num_instances": is_count,
    },
    "mipro.trial.complete": {
        **TRIAL,
        "minibatch_score": or_none(is_score),
        "num_seeds": is_count,
        "num_instances": is_count,
    },
    "mipro.fulleval.complete": {**TRIAL, "score": or_none(is_score), "seeds": SEEDS, "num_seeds": is_count},
    "mipro.new_incumbent": {
        **TRIAL,
        "minibatch_score": or_none(is_score),
        "best_score": is_score,
        "num_seeds": is_count,
        "cumulative_trials": is_count,
    },
    "mipro.iteration.complete": {"iteration": is_count, "cumulative": is_count},
    "mipro.budget.update": {
        "total_tokens": is_count,
        "policy_tokens": is_count,
        "total_cost_usd": is_number,
        "max_token_limit": or_none(is_count),
        "max_spend_usd": or_none(is_number),
    },
    "mipro.tpe.selected": {},
    "mipro.tpe.rankings": {},
    "mipro.tpe.update": {},
    "mipro.baseline.test": {"test_score": is_score, "accuracy": is_score, "seeds": SEEDS},
    "mipro.topk.evaluated": {
        "rank": is_count,
        "train_score": is_score,
        "test_score": is_score,
        "accuracy": is_score,
        "lift_absolute": is_number,
        "lift_percent": or_none(is_number),
        "instruction_text": is_anything,
        "instruction_lines": is_anything,
        "instruction_indices": is_anything,
        "demo_indices": is_anything,
        "stage_payloads": is_object,
        "test_per_seed": is_object,
        "test_seed_scores": SEED_SCORES,
    },
    "mipro.job.completed": {"best_score": is_score, "best_full_score": is_score},
    "prompt.learning.mipro.termination.triggered": {"reason": is_text},
    "prompt.learning.mipro.complete": END,
}
"""By algorithm: the events that every job which succeeds has, with the fields that clients read of them."""


def check_stream(events: Sequence[Json]) -> None:
    """What holds for the events of any job that is over."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events if event["type"] in TERMINAL] == [events[-1]["type"]]
    for event in events:
        assert is_text(event["type"])
        assert is_text(event["message"])
        assert event["level"] in LEVELS
        assert isinstance(event["data"], dict)
    assert all(before["created_at"] <= after["created_at"] for before, after in pairwise(events))


def check_data(events: Sequence[Json], table: Mapping[str, Mapping[str, Check]]) -> None:
    """That every type of the table occurs, and that each of its events has the fields, with values that may be."""
    for event_type, checks in table.items():
        told = [event["data"] for event in events if event["type"] == event_type]
        assert told, f"no event {event_type}"
        for data in told:
            wrong = {
                name: data.get(name, "missing") for name in checks if name not in data or not checks[name](data[name])
            }
            assert not wrong, (event_type, wrong)


def check_progress(events: Sequence[Json]) -> None:
    """Counters grow, and never pass what they count towards."""
    told = [event["data"] for event in events if event["type"] == "prompt.learning.progress"]
    for data in told:
        assert data["rollouts_completed"] <= data["rollouts_total"]
        assert data["rollouts_total"] > 0
        assert data["rollouts_completed"] + data["rollouts_remaining"] == data["rollouts_total"]
        assert data["transformations_tried"] <= data["transformations_planned"]
        if data["phase"] == "validation":
            assert 0 <= data["validation_candidate"] <= data["validation_total"]
    for before, after in pairwise(told):
        assert before["rollouts_completed"] <= after["rollouts_completed"]
    for data in (event["data"] for event in events if event["type"] == "prompt.learning.trial.results"):
        assert data["completed"] <= data["total"]
