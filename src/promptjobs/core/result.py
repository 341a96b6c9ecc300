"""The result of an optimization, and the snapshot payload that is made of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from promptjobs.core.archive import Candidate, candidate_to_json
from promptjobs.core.prompt import PromptTemplate, render
from promptjobs.core.transform import diff
from promptjobs.core.verdict import Estimate, paired_difference, score_estimate

ONLY_STAGE = "main"
"""What clients are told as the stage of a prompt that is not divided into modules."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The winner and the baseline on one set of seeds. Scores are those of the rollouts that were answered."""

    seeds: int
    best: Mapping[int, float]
    baseline: Mapping[int, float]

    @property
    def best_score(self) -> Estimate | None:
        return score_estimate(list(self.best.values())) if self.best else None

    @property
    def baseline_score(self) -> Estimate | None:
        return score_estimate(list(self.baseline.values())) if self.baseline else None

    def to_json(self) -> dict[str, Any]:
        best, baseline = self.best_score, self.baseline_score
        lift = paired_difference(dict(self.best), dict(self.baseline))
        return {
            "seeds": self.seeds,
            "best": best and best.to_json(),
            "baseline": baseline and baseline.to_json(),
            "difference": lift and lift.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Member:
    """A candidate of the archive. score: what it is ranked by; seeds: so many that rests on. known: its scores on those
    of the front's seeds that have one, by seed.
    """

    candidate: Candidate
    score: float
    seeds: int
    known: Mapping[int, float]
    is_pareto: bool


@dataclass(frozen=True, slots=True)
class Finalist:
    """A candidate on the validation seeds. rank 0 is the winner."""

    rank: int
    candidate: Candidate
    scores: Mapping[int, float]
    seeds: tuple[int, ...]

    @property
    def accuracy(self) -> float | None:
        return sum(self.scores.values()) / len(self.scores) if self.scores else None

    def to_json(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "candidate_id": self.candidate.candidate_id,
            "is_baseline": self.candidate.is_baseline,
            "accuracy": self.accuracy,
            "num_seeds": len(self.scores),
            "estimate": score_estimate(list(self.scores.values())).to_json() if self.scores else None,
            **instance_scores_json({seed: self.scores[seed] for seed in self.seeds if seed in self.scores}),
        }


@dataclass(frozen=True, slots=True)
class Attempt:
    """A candidate that was proposed and scored, accepted or not. seeds: so many the score rests on."""

    candidate: Candidate
    score: float | None
    seeds: int
    accepted: bool


@dataclass(frozen=True, slots=True)
class OptimizationResult:
    """What a search has found. detail: why it has ended, in words, where finish_reason does not say it all.

    train is measured where the front uses train seeds, validation where validation seeds were opened (or are the
    front), test once at the end. best is None where the job ended before its baseline was known. extra: what only
    this algorithm has, as JSON; it stands in the snapshot beside the rest.
    """

    best: Candidate | None
    baseline: Candidate | None
    train: Measured | None
    validation: Measured | None
    test: Measured | None
    archive: Sequence[Member]
    finalists: Sequence[Finalist]
    attempts: Sequence[Attempt]
    lineage: Sequence[str]
    finish_reason: str
    detail: str | None
    progress: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def basis(self) -> Measured | None:
        """What best_score rests on: validation where it was measured, else the front."""
        return self.validation if self.validation is not None and self.validation.best else self.train

    @property
    def best_score(self) -> float | None:
        return mean_of(self.basis)

    @property
    def best_score_seeds(self) -> int:
        return seeds_of(self.basis)

    @property
    def baseline_score(self) -> float | None:
        found = self.basis.baseline_score if self.basis else None
        return found.mean if found else None

    @property
    def baseline_score_seeds(self) -> int:
        return len(self.basis.baseline) if self.basis else 0


def mean_of(measured: Measured | None) -> float | None:
    """The winner's mean score."""
    found = measured.best_score if measured else None
    return found.mean if found else None


def seeds_of(measured: Measured | None) -> int:
    """How many seeds the winner's mean score rests on."""
    return len(measured.best) if measured else 0


def final_scores_json(result: OptimizationResult | None) -> dict[str, Any]:
    """What the winner and the baseline have scored, each with the number of seeds that it rests on."""
    train, validation, test = (result.train, result.validation, result.test) if result else (None, None, None)
    return {
        "baseline_score": result.baseline_score if result else None,
        "baseline_score_seeds": result.baseline_score_seeds if result else 0,
        "best_score": result.best_score if result else None,
        "best_score_seeds": result.best_score_seeds if result else 0,
        "best_train_score": mean_of(train),
        "best_train_score_seeds": seeds_of(train),
        "best_validation_score": mean_of(validation),
        "best_validation_score_seeds": seeds_of(validation),
        "best_test_score": mean_of(test),
        "best_test_score_seeds": seeds_of(test),
    }


def instance_scores_json(scores: Mapping[int, float]) -> dict[str, Any]:
    """Scores and, in the same order, their seeds. What is not known is left out: clients calculate with these lists."""
    return {"instance_scores": list(scores.values()), "seeds": list(scores)}


def instance_objectives_json(scores: Iterable[float]) -> list[dict[str, float]]:
    """The same scores in the form that clients read where there may be further objectives."""
    return [{"reward": score} for score in scores]


def named_text(template: PromptTemplate) -> str:
    """A prompt as one text in which each section says its role and its name."""
    return "\n\n".join(f"[{section.role} | {section.name}]\n{section.content}" for section in template.sections)


def stages_json(template: PromptTemplate) -> dict[str, dict[str, str]]:
    """The instruction of each module, by its id: its first section. A prompt that is not divided is one stage."""
    parts = {module or ONLY_STAGE: template.part(module).sections for module in template.modules}
    return {stage: {"instruction": sections[0].content} for stage, sections in parts.items() if sections}


def prompt_length(candidate: Candidate) -> int:
    """Characters of what is sent, placeholders as they are; 0 while the prompt is not known."""
    return 0 if candidate.prompt is None else sum(len(section.content) for section in candidate.prompt.sections)


def prompt_json(candidate: Candidate | None) -> dict[str, Any] | None:
    return None if candidate is None or candidate.prompt is None else candidate.prompt.to_json()


def messages_json(candidate: Candidate | None) -> list[dict[str, str]] | None:
    """The prompt as ready messages, with its placeholders."""
    if candidate is None or candidate.prompt is None:
        return None
    return [message.to_json() for message in render(candidate.prompt)]


def modules_json(candidate: Candidate | None) -> dict[str, Any]:
    """The messages of each module, beside all of them; nothing for a prompt that is not divided."""
    if candidate is None or candidate.prompt is None:
        return {}
    prompt = candidate.prompt
    modules = [
        {"module_id": module, "messages": [message.to_json() for message in render(prompt.part(module))]}
        for module in prompt.modules
        if module
    ]
    return {"modules": modules} if modules else {}


def archive_json(result: OptimizationResult) -> list[dict[str, Any]]:
    return [
        {
            **candidate_to_json(member.candidate),
            "score": member.score,
            "num_seeds": member.seeds,
            "is_pareto": member.is_pareto,
            "payload_kind": "template",
            "object": {"type": "template", "data": prompt_json(member.candidate)},
            **instance_scores_json(member.known),
            "messages": messages_json(member.candidate),
            **modules_json(member.candidate),
        }
        for member in result.archive
    ]


def attempted_json(result: OptimizationResult) -> list[dict[str, Any]]:
    """Every scored proposal as a change to the baseline, in the shape that clients of the API read.

    The messages that a proposal adds, worked examples, are the `demos` beside its `text_replacements`.
    """
    listed = []
    for attempt in result.attempts:
        if attempt.score is None:
            continue
        prompt = attempt.candidate.template
        changes = diff(result.baseline.template, prompt).to_json() if result.baseline and result.baseline.prompt else {}
        listed.append(
            {
                **candidate_to_json(attempt.candidate),
                "accuracy": attempt.score,
                "num_seeds": attempt.seeds,
                "objectives": {"reward": attempt.score},
                "accepted": attempt.accepted,
                "prompt_length": prompt_length(attempt.candidate),
                "object": changes,
            }
        )
    return listed


def optimized_json(result: OptimizationResult) -> list[dict[str, Any]]:
    """The archive, best first, with the score as an object."""
    ranked = sorted(result.archive, key=lambda member: (-member.score, member.candidate.n))
    return [
        {
            "rank": rank,
            "candidate_id": member.candidate.candidate_id,
            "score": {
                "accuracy": member.score,
                "num_seeds": member.seeds,
                "prompt_length": prompt_length(member.candidate),
                "instance_scores": list(member.known.values()),
            },
            "objectives": {"reward": member.score},
            "payload_kind": "template",
            "object": {"type": "template", "data": prompt_json(member.candidate)},
            "messages": messages_json(member.candidate),
            **modules_json(member.candidate),
            **instance_scores_json(member.known),
        }
        for rank, member in enumerate(ranked, 1)
    ]


def snapshot_payload(result: OptimizationResult, stats: Mapping[str, Any]) -> dict[str, Any]:
    """What a user exports. `messages` and `best_prompt_messages` are the same: clients read either."""
    changed = result.best is not None and result.best.prompt and result.baseline and result.baseline.prompt
    return {
        "messages": messages_json(result.best),
        **modules_json(result.best),
        "best_prompt": prompt_json(result.best),
        "best_prompt_messages": messages_json(result.best),
        "best_candidate_id": result.best and result.best.candidate_id,
        **final_scores_json(result),
        "baseline_prompt_messages": messages_json(result.baseline),
        "is_baseline_best": result.best is not None and result.best.is_baseline,
        "transformation": diff(result.baseline.template, result.best.template).to_json() if changed else None,  # type: ignore[union-attr]
        "train": result.train and result.train.to_json(),
        "validation": [finalist.to_json() for finalist in result.finalists],
        "validation_summary": result.validation and result.validation.to_json(),
        "test": result.test and result.test.to_json(),
        "archive": archive_json(result),
        "attempted_candidates": attempted_json(result),
        "optimized_candidates": optimized_json(result),
        "lineage": list(result.lineage),
        "finish_reason": result.finish_reason,
        "detail": result.detail,
        **result.extra,
        **stats,
        "stats": dict(stats),
    }
