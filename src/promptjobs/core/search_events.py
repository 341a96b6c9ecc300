"""The events that jobs of every algorithm have, by the names and fields that clients of the API read."""

from collections.abc import Mapping, Sequence
from typing import Any

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import EventFact
from promptjobs.core.prompt import PromptTemplate, full_text, render
from promptjobs.core.result import (
    Finalist,
    OptimizationResult,
    attempted_json,
    messages_json,
    modules_json,
    optimized_json,
    prompt_json,
)
from promptjobs.core.trial import Phase, Trial


def shown_score(score: float | None) -> str:
    return "unknown" if score is None else f"{score:.3f}"


def phase_changed(before: Phase, after: Phase) -> EventFact:
    return EventFact(
        "prompt.learning.phase.changed", f"from {before} to {after}", {"from_phase": before, "to_phase": after}
    )


def pattern_found(algorithm: str, template: PromptTemplate) -> EventFact:
    return EventFact(
        f"prompt.learning.{algorithm}.baseline.messages",
        "the baseline prompt was gathered from the task app's own messages",
        {"prompt": template.to_json(), "messages": [m.to_json() for m in render(template)]},
    )


def trial_results(trial: Trial) -> EventFact:
    return EventFact(
        "prompt.learning.trial.results",
        f"trial {trial.n}: {shown_score(trial.score)} on {len(trial.known_scores)} seeds, {trial.failed} failed",
        {
            "trial": trial.n,
            "candidate_id": trial.candidate_id,
            "phase": trial.phase,
            "mean": trial.score,
            "completed": len(trial.known_scores),
            "failed": trial.failed,
            "reused": trial.reused,
            "total": len(trial.seeds),
        },
        "info" if trial.score is not None else "warning",
    )


def progress(data: Mapping[str, Any]) -> EventFact:
    text = f"{data['rollouts_completed']} of {data['rollouts_total']} rollouts, best {shown_score(data['best_score'])}"
    return EventFact("prompt.learning.progress", text, data)


def validation_scored(finalist: Finalist, baseline_accuracy: float | None) -> EventFact:
    name = "the baseline" if finalist.candidate.is_baseline else f"candidate {finalist.candidate.n}"
    return EventFact(
        "prompt.learning.validation.scored",
        f"{name} scores {shown_score(finalist.accuracy)} on the validation seeds",
        {
            **finalist.to_json(),
            "objectives": {"reward": finalist.accuracy},
            "baseline_val_accuracy": baseline_accuracy,
            "content": full_text(render(finalist.candidate.template)),
        },
    )


def closing_events(result: OptimizationResult) -> list[EventFact]:
    """What follows the last evaluation: the validation's summary, the best prompt, the top prompts, all results."""
    facts = []
    if result.finalists:
        base = result.validation.baseline_score if result.validation else None
        facts += [validation_scored(finalist, base.mean if base else None) for finalist in result.finalists]
        facts.append(
            EventFact(
                "prompt.learning.validation.summary",
                f"{len(result.finalists)} candidates were validated",
                {
                    "baseline": base.mean if base else None,
                    "results": [finalist.to_json() for finalist in result.finalists],
                },
            )
        )
    if result.best is not None and result.best.prompt is not None:
        facts.append(_best_prompt(result))
        facts += _top_prompts(result)
    facts.append(_final_results(result))
    return facts


def _best_prompt(result: OptimizationResult) -> EventFact:
    return EventFact(
        "prompt.learning.best.prompt",
        f"the best prompt scores {shown_score(result.best_score)}",
        {
            "candidate_id": result.best.candidate_id if result.best else None,
            "best_score": result.best_score,
            "best_prompt": prompt_json(result.best),
            "best_prompt_messages": messages_json(result.best),
            **modules_json(result.best),
        },
    )


def _top_prompts(result: OptimizationResult) -> list[EventFact]:
    train = {member.candidate.candidate_id: member.score for member in result.archive} if result.train else {}
    ranked = result.finalists or (Finalist(0, result.best, {}, ()),) if result.best else ()
    return [
        EventFact(
            "prompt.learning.top.prompt.content",
            f"the prompt of rank {finalist.rank + 1}",
            {
                "rank": finalist.rank + 1,
                "candidate_id": finalist.candidate.candidate_id,
                "train_accuracy": train.get(finalist.candidate.candidate_id),
                "val_accuracy": finalist.accuracy,
                "template": prompt_json(finalist.candidate),
                "full_text": full_text(render(finalist.candidate.template)),
            },
        )
        for finalist in ranked
    ]


def _final_results(result: OptimizationResult) -> EventFact:
    return EventFact(
        "prompt.learning.final.results",
        f"best {shown_score(result.best_score)}, baseline {shown_score(result.baseline_score)}",
        {
            "attempted_candidates": attempted_json(result),
            "optimized_candidates": optimized_json(result),
            "best_prompt": prompt_json(result.best),
            "best_score": result.best_score,
            "baseline_score": result.baseline_score,
            "validation": [finalist.to_json() for finalist in result.finalists],
            "test": result.test.to_json() if result.test else None,
            "version_tree": _version_tree(result),
        },
    )


def _version_tree(result: OptimizationResult) -> list[dict[str, Any]]:
    members: Sequence[Candidate] = [member.candidate for member in result.archive]
    return [{"candidate_id": c.candidate_id, "parents": list(c.parents), "generation": c.generation} for c in members]
