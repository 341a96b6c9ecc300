"""The events that jobs of every algorithm have, by the names and fields that clients of the API read."""

from collections.abc import Mapping, Sequence
from typing import Any

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import EventFact
from promptjobs.core.prompt import PromptTemplate, full_text, render
from promptjobs.core.result import (
    Finalist,
    Measured,
    Member,
    OptimizationResult,
    attempted_json,
    final_scores_json,
    instance_scores_json,
    messages_json,
    modules_json,
    named_text,
    optimized_json,
    prompt_json,
)
from promptjobs.core.stats import Statistics
from promptjobs.core.trial import Phase, Trial
from promptjobs.core.verdict import Estimate


def shown_score(score: float | None) -> str:
    return "unknown" if score is None else f"{score:.3f}"


def score_on(score: float | None, seeds: int) -> str:
    """A score with the number of seeds that it rests on."""
    return "unknown" if score is None else f"{score:.3f} on {seeds} {'seed' if seeds == 1 else 'seeds'}"


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


def rollouts_started(seeds: Sequence[int]) -> EventFact:
    """seeds: on which the search learns."""
    return EventFact(
        "prompt.learning.rollouts.start",
        f"the rollouts begin: {len(seeds)} seeds to learn from",
        {"train_seeds": list(seeds)},
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
            "num_seeds": len(trial.known_scores),
            "completed": len(trial.known_scores),
            "failed": trial.failed,
            "reused": trial.reused,
            "total": len(trial.seeds),
        },
        "info" if trial.score is not None else "warning",
    )


def progress(data: Mapping[str, Any]) -> EventFact:
    best = score_on(data["best_score"], data["best_score_seeds"])
    text = f"{data['rollouts_completed']} of {data['rollouts_total']} rollouts, best {best}"
    return EventFact("prompt.learning.progress", text, data)


def validation_scored(finalist: Finalist, baseline: Estimate | None) -> EventFact:
    """baseline: its score on the same seeds."""
    name = "the baseline" if finalist.candidate.is_baseline else f"candidate {finalist.candidate.n}"
    return EventFact(
        "prompt.learning.validation.scored",
        f"{name} scores {shown_score(finalist.accuracy)} on {len(finalist.scores)} validation seeds",
        {
            **finalist.to_json(),
            "objectives": {"reward": finalist.accuracy},
            "baseline_val_accuracy": baseline.mean if baseline else None,
            "baseline_val_num_seeds": baseline.n if baseline else 0,
            "content": full_text(render(finalist.candidate.template)),
        },
    )


def usage_recorded(stats: Statistics) -> EventFact:
    """What all answers have cost, as far as their prices are known. Calls that came to nothing are not among them: the
    ledger knows those too. There is no sandbox, so it costs nothing."""
    return EventFact(
        "prompt.learning.usage.recorded",
        f"{stats.total_tokens} tokens, ${stats.spent_usd:.6g}",
        {
            "total_usd": stats.spent_usd,
            "usd_tokens": stats.spent_usd,
            "sandbox_usd": 0.0,
            "total_tokens": stats.total_tokens,
            "is_complete": stats.total_cost_usd is not None,
        },
    )


def closing_events(result: OptimizationResult, stats: Statistics) -> list[EventFact]:
    """What follows the last evaluation: what was used, the validation's summary, the best prompt, the top prompts, all
    results."""
    facts = [usage_recorded(stats)]
    if result.finalists:
        base = result.validation.baseline_score if result.validation else None
        facts += [validation_scored(finalist, base) for finalist in result.finalists]
        facts.append(
            EventFact(
                "prompt.learning.validation.summary",
                f"{len(result.finalists)} candidates were validated",
                {
                    "baseline": _baseline_json(result.validation),
                    "baseline_num_seeds": base.n if base else 0,
                    "results": [finalist.to_json() for finalist in result.finalists],
                },
            )
        )
    if result.best is not None and result.best.prompt is not None:
        facts.append(_best_prompt(result))
        facts += _top_prompts(result)
    facts.append(_final_results(result))
    return facts


def _baseline_json(validation: Measured | None) -> dict[str, Any]:
    """An object, and no number: clients ask it for its `accuracy` and its `seeds`."""
    known = dict(validation.baseline) if validation else {}
    score = validation.baseline_score if validation else None
    objectives = {"reward": score.mean} if score else {}
    return {
        "accuracy": score.mean if score else None,
        "num_seeds": score.n if score else 0,
        "objectives": objectives,
        **instance_scores_json(known),
    }


def _best_prompt(result: OptimizationResult) -> EventFact:
    return EventFact(
        "prompt.learning.best.prompt",
        f"the best prompt scores {score_on(result.best_score, result.best_score_seeds)}",
        {
            "candidate_id": result.best.candidate_id if result.best else None,
            "best_score": result.best_score,
            "best_score_seeds": result.best_score_seeds,
            "best_prompt": prompt_json(result.best),
            "best_prompt_messages": messages_json(result.best),
            **modules_json(result.best),
        },
    )


def _top_prompts(result: OptimizationResult) -> list[EventFact]:
    train = {member.candidate.candidate_id: member for member in result.archive} if result.train else {}
    ranked = result.finalists or (Finalist(0, result.best, {}, ()),) if result.best else ()
    return [_top_prompt(finalist, train.get(finalist.candidate.candidate_id)) for finalist in ranked]


def _top_prompt(finalist: Finalist, member: Member | None) -> EventFact:
    """member: the same candidate in the archive, where that is ranked by train seeds."""
    return EventFact(
        "prompt.learning.top.prompt.content",
        f"the prompt of rank {finalist.rank + 1}",
        {
            "rank": finalist.rank + 1,
            "candidate_id": finalist.candidate.candidate_id,
            "train_accuracy": member.score if member else None,
            "train_num_seeds": member.seeds if member else 0,
            "val_accuracy": finalist.accuracy,
            "val_num_seeds": len(finalist.scores),
            "template": prompt_json(finalist.candidate),
            "full_text": named_text(finalist.candidate.template),
        },
    )


def _final_results(result: OptimizationResult) -> EventFact:
    return EventFact(
        "prompt.learning.final.results",
        f"best {score_on(result.best_score, result.best_score_seeds)}, "
        f"baseline {score_on(result.baseline_score, result.baseline_score_seeds)}",
        {
            "attempted_candidates": attempted_json(result),
            "optimized_candidates": optimized_json(result),
            "best_prompt": prompt_json(result.best),
            **final_scores_json(result),
            "validation": [finalist.to_json() for finalist in result.finalists],
            "test": result.test.to_json() if result.test else None,
            "version_tree": _version_tree(result),
        },
    )


def _version_tree(result: OptimizationResult) -> list[dict[str, Any]]:
    members: Sequence[Candidate] = [member.candidate for member in result.archive]
    return [{"candidate_id": c.candidate_id, "parents": list(c.parents), "generation": c.generation} for c in members]


def not_taken_over(origin: Mapping[str, str | None], why: str) -> EventFact:
    """A prompt of another job that does not fit the baseline, which was not known when the job was created."""
    return EventFact(
        "prompt.learning.warm_start.refused",
        f"a prompt of warm_start does not fit: {why}",
        {"origin": dict(origin), "reason": why},
        "warning",
    )
