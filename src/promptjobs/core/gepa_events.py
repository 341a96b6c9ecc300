"""The events of a GEPA job, by the names and fields that clients of the API read."""

from collections.abc import Mapping, Sequence

from promptjobs.core.archive import Archive, Candidate, FrontChange
from promptjobs.core.asks import CandidateFact, EventFact, Fact
from promptjobs.core.config import GepaJobConfig
from promptjobs.core.guards import Violation
from promptjobs.core.pools import PoolChange
from promptjobs.core.proposers.reflection import Refused
from promptjobs.core.result import (
    instance_objectives_json,
    instance_scores_json,
    messages_json,
    prompt_json,
    stages_json,
)
from promptjobs.core.search_events import score_on, shown_score
from promptjobs.core.transform import diff


def started(config: GepaJobConfig, budget: int) -> EventFact:
    gepa = config.gepa
    return EventFact(
        "prompt.learning.gepa.start",
        f"GEPA starts: {budget} rollouts, {gepa.lanes} lanes",
        {
            "rollout_budget": budget,
            "train_seeds": list(gepa.train_seeds),
            "front_seeds": len(gepa.front_seeds),
            "feedback_seeds": len(gepa.feedback_seeds),
            "validation_seeds": len(gepa.validation_seeds),
            "test_seeds": len(gepa.test_seeds),
            "pareto_source": gepa.pareto_source,
            "lanes": gepa.lanes,
            "turn_order": gepa.turn_order,
            "policy": {"provider": config.policy.provider, "model": config.policy.model},
            "meta_model": {"provider": gepa.meta_model.provider, "model": gepa.meta_model.model},
        },
    )


def baseline(candidate: Candidate, seeds: Sequence[int], scores: Sequence[float | None], rollouts: int) -> EventFact:
    known = {seed: score for seed, score in zip(seeds, scores, strict=True) if score is not None}
    mean = sum(known.values()) / len(known) if known else None
    return EventFact(
        "prompt.learning.gepa.baseline",
        f"the baseline scores {shown_score(mean)} on {len(known)} of {len(seeds)} seeds",
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
    )


def introduced(
    child: Candidate,
    parent: Candidate,
    changed: Sequence[str],
    number: int,
    origin: Mapping[str, str | None] | None = None,
) -> list[Fact]:
    """A new candidate, and the event that shows what it changes; number: of finished proposals.

    origin: the candidate of another job that it is taken from.
    """
    name = changed[0] if changed else child.template.sections[0].name
    event = EventFact(
        "gepa.transformation.proposed",
        f"a new text for {', '.join(map(repr, changed))}, from candidate {parent.n}",
        {
            "generation": child.generation,
            "mutation_type": child.operator,
            "operator": child.operator,
            "transformation_id": child.candidate_id,
            "candidate_id": child.candidate_id,
            "parent_id": parent.candidate_id,
            "parents": list(child.parents),
            "transformation_text": child.template.section(name).content,
            "transformation_dict": diff(parent.template, child.template).to_json(),
            "mutation_params": {"section": name, "sections": list(changed), "draw": number},
            **({} if origin is None else {"origin": dict(origin)}),
        },
    )
    return [CandidateFact(child), event]


def refused(parent: Candidate, section: str, refusal: Refused) -> EventFact:
    return EventFact(
        "prompt.learning.proposal.refused",
        f"a proposal for {section!r} is refused: {refusal.reason}",
        {
            "parent_id": parent.candidate_id,
            "section": section,
            "reason": refusal.reason.name.lower(),
            "detail": refusal.detail,
        },
        "warning",
    )


def violated(parent: Candidate, violation: Violation) -> EventFact:
    return EventFact(
        "prompt.learning.proposal.refused",
        f"a new candidate is refused: {violation.reason}",
        {"parent_id": parent.candidate_id, "reason": violation.reason.name.lower(), "detail": violation.detail},
        "warning",
    )


def duplicate(parent: Candidate, known: Candidate) -> EventFact:
    return EventFact(
        "prompt.learning.proposal.refused",
        f"a proposal is candidate {known.n} again: it is not evaluated twice",
        {"parent_id": parent.candidate_id, "candidate_id": known.candidate_id, "reason": "duplicate", "detail": ""},
    )


def raced(child: Candidate, scores: Mapping[int, float], accepted: bool, is_pareto: bool, reason: str) -> EventFact:
    """What a child scored, by seed, and what became of it."""
    mean = sum(scores.values()) / len(scores) if scores else None
    return EventFact(
        "prompt.learning.proposal.scored",
        f"candidate {child.n} scores {score_on(mean, len(scores))}: {reason}",
        {
            "version_id": child.candidate_id,
            "candidate_id": child.candidate_id,
            "score": mean,
            "accuracy": mean,
            "num_seeds": len(scores),
            "objectives": {} if mean is None else {"reward": mean},
            "accepted": accepted,
            "reason": reason,
            "generation": child.generation,
            "parent_id": child.parents[0] if child.parents else None,
            "is_pareto": is_pareto,
            "mutation_type": child.operator,
            "stages": stages_json(child.template),
            "instance_scores": list(scores.values()),
            "instance_objectives": instance_objectives_json(scores.values()),
            "seeds_evaluated": list(scores),
            "seed_scores": [{"seed": seed, "score": score} for seed, score in scores.items()],
        },
    )


def frontier_updated(archive: Archive, change: FrontChange) -> EventFact:
    front, best = archive.front, archive.best()
    return EventFact(
        "prompt.learning.gepa.frontier_updated",
        f"the front holds {len(front)} candidates",
        {
            "frontier": list(front),
            "added": list(change.added),
            "removed": list(change.removed),
            "evicted": list(change.evicted),
            "frontier_size": len(front),
            "frontier_scores": {candidate_id: archive.ranking[candidate_id] for candidate_id in front},
            "frontier_objectives": instance_objectives_json(archive.ranking[candidate_id] for candidate_id in front),
            "frontier_num_seeds": {candidate_id: len(archive.known_scores(candidate_id)) for candidate_id in front},
            "best_score": archive.ranking[best],
            "best_score_seeds": len(archive.known_scores(best)),
        },
    )


def new_best(candidate: Candidate, score: float, seeds: int, previous: float, rollouts: int) -> EventFact:
    """seeds: so many the score rests on."""
    return EventFact(
        "prompt.learning.gepa.new_best",
        f"candidate {candidate.n} is the best so far: {score_on(score, seeds)} (was {previous:.3f})",
        {
            "version_id": candidate.candidate_id,
            "candidate_id": candidate.candidate_id,
            "best_score": score,
            "best_score_seeds": seeds,
            "reward": score,
            "previous_best_score": previous,
            "improvement": score - previous,
            "rollouts_completed": rollouts,
            "generation": candidate.generation,
        },
    )


def generation_complete(generation: int, best: float, seeds: int, proposed_: int, accepted: int) -> EventFact:
    """best: the best score so far; seeds: so many it rests on."""
    return EventFact(
        "prompt.learning.gepa.generation.complete",
        f"generation {generation}: {accepted} of {proposed_} proposals accepted, best {score_on(best, seeds)}",
        {
            "generation": generation,
            "best_accuracy": best,
            "best_num_seeds": seeds,
            "candidates_proposed": proposed_,
            "candidates_accepted": accepted,
        },
    )


def pool_changed(change: PoolChange) -> EventFact:
    return EventFact(
        "prompt.learning.gepa.adaptive_pool",
        f"the pool has {change.size} seeds: {len(change.added)} joined, {len(change.removed)} left",
        change.to_json(),
    )


def stopping(reason: str, detail: str | None) -> EventFact:
    return EventFact(
        "prompt.learning.gepa.termination.triggered",
        f"the search ends: {detail or reason}",
        {"reason": reason, "detail": detail},
    )
