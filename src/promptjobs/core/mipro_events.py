"""The events of a MIPRO job, by the names and fields that clients of the API read."""

from collections.abc import Mapping, Sequence
from typing import Any

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import EventFact, Fact
from promptjobs.core.config import MiproJobConfig
from promptjobs.core.mipro_space import Choice, Instruction, Stage
from promptjobs.core.pools import PoolChange
from promptjobs.core.prompt_compiler import Compiled
from promptjobs.core.proposers.reflection import Refused
from promptjobs.core.result import (
    instance_objectives_json,
    instance_scores_json,
    messages_json,
    prompt_json,
    stages_json,
)
from promptjobs.core.screening import Screening
from promptjobs.core.search_events import score_on, shown_score
from promptjobs.core.trial import Trial

Payload = Mapping[str, Mapping[str, Any]]


def started(config: MiproJobConfig, budget: int) -> list[Fact]:
    mipro = config.mipro
    planned = mipro.num_iterations * mipro.num_evaluations_per_iteration
    data = {
        "num_iterations": mipro.num_iterations,
        "num_trials_per_iteration": mipro.num_evaluations_per_iteration,
        "batch_size": mipro.batch_size,
        "rollout_budget": budget,
        "bootstrap_seeds": len(mipro.bootstrap_seeds),
        "online_seeds": len(mipro.online_seeds),
        "validation_seeds": len(mipro.validation_seeds),
        "test_seeds": len(mipro.test_seeds),
        "reference_seeds": len(mipro.reference_seeds),
        "stages": [{"stage_id": stage.stage_id, "module_id": stage.module_id} for stage in mipro.stages],
        "edges": [list(edge) for edge in mipro.edges],
        "parallel_risk": mipro.parallel_risk,
        "turn_order": mipro.turn_order,
        "policy": {"provider": config.policy.provider, "model": config.policy.model},
        "meta_model": {"provider": mipro.meta_model.provider, "model": mipro.meta_model.model},
    }
    text = f"MIPRO starts: {planned} trials of {mipro.batch_size} seeds planned, at most {budget} rollouts"
    return [EventFact("mipro.job.started", text, data), EventFact("prompt.learning.mipro.start", text, data)]


def bootstrapped(candidate: Candidate, trial: Screening, demos: Mapping[str, int], rollouts: int) -> list[Fact]:
    known = {seed: score for seed, score in zip(trial.seeds, trial.scores, strict=True) if score is not None}
    mean = sum(known.values()) / len(known) if known else None
    examples = ", ".join(f"{count} for {stage}" for stage, count in demos.items())
    return [
        EventFact(
            "mipro.bootstrap.progress",
            f"bootstrap: {len(known)} of {len(trial.seeds)} rollouts answered; examples: {examples}",
            {
                "completed": len(known),
                "total": len(trial.seeds),
                "score": mean,
                "num_seeds": len(known),
                "demos": sum(demos.values()),
                "demos_by_stage": dict(demos),
            },
        ),
        EventFact(
            "prompt.learning.mipro.baseline",
            f"the baseline scores {shown_score(mean)} on {len(known)} of {len(trial.seeds)} seeds",
            {
                "candidate_id": candidate.candidate_id,
                "accuracy": mean,
                "num_seeds": len(known),
                "baseline_score": mean,
                "baseline_score_seeds": len(known),
                "objectives": {"reward": mean},
                **instance_scores_json(known),
                "instance_objectives": instance_objectives_json(known.values()),
                "rollouts_completed": rollouts,
                "prompt": prompt_json(candidate),
                "messages": messages_json(candidate),
            },
        ),
    ]


def iteration_started(iteration: int, seeds: Sequence[int], plan: Mapping[str, Any], generates: bool) -> EventFact:
    return EventFact(
        "mipro.iteration.start",
        f"iteration {iteration + 1} of {plan['num_iterations']}: minibatches of {len(seeds)} seeds",
        {"iteration": iteration, **plan, "batch_size": len(seeds), "seeds": list(seeds), "generates": generates},
    )


def generation_skipped(iteration: int) -> EventFact:
    return EventFact(
        "mipro.iteration.skip_generation",
        f"iteration {iteration + 1} searches among the instructions that are there",
        {"iteration": iteration},
    )


def iteration_complete(iteration: int, trials: int, best: float | None, seeds: int) -> EventFact:
    """best: the best estimate; seeds: so many that candidate was measured on."""
    return EventFact(
        "mipro.iteration.complete",
        f"iteration {iteration + 1} is complete: {trials} trials so far, best estimate {score_on(best, seeds)}",
        {"iteration": iteration, "cumulative": trials, "best_estimate": best, "best_num_seeds": seeds},
    )


def instruction_proposed(made: Instruction) -> EventFact:
    return EventFact(
        "mipro.instruction.proposed",
        f"instruction {made.instruction_id} of {made.stage_id}: {_line(made.text)}",
        {
            "iteration": made.iteration,
            "stage_id": made.stage_id,
            "module_id": made.module_id,
            "instruction_id": made.instruction_id,
            "instruction_text": made.text,
            "instruction_lines": [made.text],
            "demo_indices": [],
            "proposal_id": f"{made.stage_id}:{made.instruction_id}",
            "transforms": [transform.to_json() for transform in made.transforms],
        },
    )


def refused(stage: Stage, iteration: int, refusal: Refused) -> EventFact:
    return EventFact(
        "prompt.learning.proposal.refused",
        f"a proposal for {stage.stage_id} is refused: {refusal.reason}",
        {
            "iteration": iteration,
            "stage_id": stage.stage_id,
            "module_id": stage.config.module_id,
            "reason": refusal.reason.name.lower(),
            "detail": refusal.detail,
        },
        "warning",
    )


def trial_refused(iteration: int, choice: Choice, reason: str, detail: str) -> EventFact:
    return EventFact(
        "mipro.trial.refused",
        f"a configuration is not run: {detail}",
        {"iteration": iteration, "config": dict(choice), "reason": reason, "detail": detail},
        "warning",
    )


def trial_duplicate(iteration: int, choice: Choice, known: Candidate) -> EventFact:
    return EventFact(
        "mipro.trial.duplicate",
        f"a configuration makes the prompt of candidate {known.n} again: it is not evaluated twice",
        {"iteration": iteration, "config": dict(choice), "candidate_id": known.candidate_id, "trial": known.n},
    )


def trial_started(
    iteration: int,
    number: int,
    candidate: Candidate,
    payload: Payload,
    compiled: Compiled,
    origin: Mapping[str, str | None] | None = None,
) -> list[EventFact]:
    """origin: the candidate of another job that it is taken from."""
    data = {
        "iteration": iteration,
        "trial": number,
        "candidate_id": candidate.candidate_id,
        "version_id": candidate.candidate_id,
        "stage_payloads": dict(payload),
        "prompt_tokens": compiled.tokens,
        "misses": [miss.to_json() for miss in compiled.misses],
        **({} if origin is None else {"origin": dict(origin)}),
    }
    missed = f", {len(compiled.misses)} transforms did not apply" if compiled.misses else ""
    level = "warning" if compiled.misses else "info"
    text = f"trial {number}: candidate {candidate.n}{missed}"
    return [
        EventFact("mipro.tpe.selected", f"trial {number} was chosen", {"iteration": iteration, "trial": number}),
        EventFact("mipro.trial.started", text, data, level),
    ]


def trial_complete(
    iteration: int,
    number: int,
    candidate: Candidate,
    found: Screening,
    payload: Payload,
    estimate: float | None,
    seeds: int,
) -> EventFact:
    """estimate: what the model believes of the candidate; seeds: so many it was measured on in all."""
    known = len(found.known_scores)
    return EventFact(
        "mipro.trial.complete",
        f"trial {number}: {shown_score(found.score)} on {known} seeds, estimate {shown_score(estimate)}",
        {
            "iteration": iteration,
            "trial": number,
            "candidate_id": candidate.candidate_id,
            "version_id": candidate.candidate_id,
            "minibatch_score": found.score,
            "num_seeds": known,
            "num_instances": len(found.seeds),
            "estimate": estimate,
            "estimate_num_seeds": seeds,
            "is_foretold": found.is_foretold,
            "stage_payloads": dict(payload),
        },
        "info" if known else "warning",
    )


def minibatch(iteration: int, number: int, candidate: Candidate, found: Screening, best: float | None) -> list[Fact]:
    """What clients read of a candidate that was measured: the same figures under both names."""
    scores = [
        {"seed": seed, "score": score}
        for seed, score in zip(found.seeds, found.scores, strict=True)
        if score is not None
    ]
    mean, known = found.score, len(found.known_scores)
    return [
        EventFact(
            "mipro.trial.minibatch",
            f"trial {number} scores {shown_score(mean)} on {known} seeds",
            {
                "iteration": iteration,
                "trial": number,
                "candidate_id": candidate.candidate_id,
                "minibatch_score": mean,
                "num_seeds": known,
                "num_instances": len(found.seeds),
            },
            "info" if known else "warning",
        ),
        EventFact(
            "prompt.learning.proposal.scored",
            f"candidate {candidate.n} scores {score_on(mean, known)}",
            {
                "version_id": candidate.candidate_id,
                "candidate_id": candidate.candidate_id,
                "score": mean,
                "accuracy": mean,
                "num_seeds": known,
                "objectives": {} if mean is None else {"reward": mean},
                "accepted": mean is not None and best is not None and mean >= best,
                "generation": candidate.generation,
                "parent_id": candidate.parents[0] if candidate.parents else None,
                "is_pareto": False,
                "mutation_type": candidate.operator,
                "stages": stages_json(candidate.template),
                "instance_scores": [each["score"] for each in scores],
                "instance_objectives": instance_objectives_json(each["score"] for each in scores),
                "seeds_evaluated": [each["seed"] for each in scores],
                "seed_scores": scores,
            },
        ),
    ]


def full_evaluated(iteration: int, number: int, candidate: Candidate, trial: Trial) -> EventFact:
    return EventFact(
        "mipro.fulleval.complete",
        f"candidate {candidate.n} scores {shown_score(trial.score)} on {len(trial.known_scores)} validation seeds",
        {
            "iteration": iteration,
            "trial": number,
            "candidate_id": candidate.candidate_id,
            "score": trial.score,
            "seeds": list(trial.seeds),
            "num_seeds": len(trial.known_scores),
        },
        "info" if trial.score is not None else "warning",
    )


def new_incumbent(
    iteration: int,
    number: int,
    candidate: Candidate,
    own: Mapping[str, Any],
    full: float | None,
    estimate: float,
    seeds: int,
    rollouts: int,
) -> EventFact:
    """number: of the trial that showed it. own: the candidate's own trial, as the history has it. seeds: so many it
    was measured on by now."""
    return EventFact(
        "mipro.new_incumbent",
        f"candidate {candidate.n} is the best so far: estimate {score_on(estimate, seeds)}",
        {
            "iteration": iteration,
            "trial": number,
            "candidate_id": candidate.candidate_id,
            "minibatch_score": own["minibatch_score"],
            "full_score": full,
            "best_score": estimate,
            "best_score_seeds": seeds,
            "rollouts_completed": rollouts,
            "num_seeds": own["seeds"],
            "cumulative_trials": number,
        },
    )


def sampler_updated(iteration: int, number: int, ranked: Sequence[Mapping[str, Any]]) -> list[EventFact]:
    data = {"iteration": iteration, "trial": number, "rankings": list(ranked)}
    return [
        EventFact("mipro.tpe.update", f"the model has learnt from {number} trials", data),
        EventFact("mipro.tpe.rankings", f"the {len(ranked)} best candidates by the model's estimate", data),
    ]


def exhausted(iteration: int, trials: int) -> EventFact:
    return EventFact(
        "mipro.optimization.exhausted",
        f"every configuration has been measured after {trials} trials",
        {"iteration": iteration, "trials": trials},
    )


def budget_updated(data: Mapping[str, Any]) -> EventFact:
    return EventFact(
        "mipro.budget.update", f"{data['total_tokens']} tokens, ${data['total_cost_usd']:.6g} so far", data
    )


def pool_changed(change: PoolChange) -> EventFact:
    return EventFact(
        "mipro.adaptive_pool",
        f"the pool has {change.size} seeds: {len(change.added)} joined, {len(change.removed)} left",
        change.to_json(),
    )


def stopping(reason: str, detail: str | None) -> EventFact:
    return EventFact(
        "prompt.learning.mipro.termination.triggered",
        f"the search ends: {detail or reason}",
        {"reason": reason, "detail": detail},
    )


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:100] + "…"
