"""What a MIPRO search believes of its candidates: their configurations, their scores, the surrogate's estimates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from promptjobs.core.archive import Candidate
from promptjobs.core.limits import COMMON_SHARE
from promptjobs.core.mipro_space import Choice, Instruction, Stage
from promptjobs.core.screening import Screening
from promptjobs.core.seed_effects import Adjusted, adjusted_scores
from promptjobs.core.tpe import Sampler, TpeSettings

if TYPE_CHECKING:
    from promptjobs.core.mipro import Mipro

RANKINGS = 10
"""Candidates that are told with an update of the model."""


class Beliefs:
    """choices: the configuration of each candidate; several may compile to the same prompt, the first one counts.

    measured: the candidates that have scores, with the difficulty of the seeds taken out.
    """

    def __init__(self, search: "Mipro") -> None:
        self.search = search
        config = search.mipro
        planned = config.num_iterations * config.num_evaluations_per_iteration
        self._dimensions = search.space.dimensions()
        settings = TpeSettings(**config.tpe.model_dump())
        self._sampler = Sampler(self._dimensions, settings, config.rng_seed, planned)
        self.choices: dict[str, dict[str, int]] = {}
        self.measured: dict[str, Adjusted] = {}
        self._values: dict[str, float] = {}
        self._foretold: dict[str, dict[int, float]] = {}

    # --- configurations ----------------------------------------------------------------------------------------------

    def know(self, candidate: Candidate, choice: Choice) -> bool:
        """A candidate that was not suggested here: the baseline, or an earlier search's. False where it is taken."""
        self.extend()
        is_new = self.claim(choice)
        if is_new:
            self.choices[candidate.candidate_id] = dict(choice)
        return is_new

    def extend(self) -> bool:
        """Take in what the banks have gained; returns whether they have."""
        before, self._dimensions = self._dimensions, self.search.space.dimensions()
        self._sampler.extend(self._dimensions)
        return before != self._dimensions

    def suggest(self) -> dict[str, int] | None:
        """The model's next configuration, under way from now on; None where every one is taken."""
        ranked = self._sampler.suggest_ranked(1)
        return ranked[0] if ranked else None

    def claim(self, choice: Choice) -> bool:
        """Put a configuration under way; False where it is taken."""
        return self._sampler.claim(self._whole(choice))

    def withdraw(self, choice: Choice) -> None:
        """It is not measured now: it may be suggested again."""
        self._sampler.withdraw(self._whole(choice))

    def discard(self, choice: Choice) -> None:
        """It is never measured."""
        self._sampler.discard(self._whole(choice))

    def _whole(self, choice: Choice) -> dict[str, int]:
        """With every slot there is now; what a choice does not name is left as it is."""
        return {**dict.fromkeys(self._dimensions, 0), **choice}

    # --- scores ------------------------------------------------------------------------------------------------------

    def take(self, candidate: Candidate, found: Screening) -> None:
        """A trial's scores, those foretold among them."""
        if found.is_foretold:
            scores = zip(found.seeds, found.scores, strict=True)
            told = self._foretold.setdefault(candidate.candidate_id, {})
            told |= {seed: score for seed, score in scores if score is not None and seed in found.foretold}
        self.refresh()

    def refresh(self) -> None:
        """Tell the surrogate what is known now: every new score also says something about the seeds of the others."""
        search = self.search
        known: dict[str, dict[int, float]] = {}
        for candidate_id in self.choices:
            answers = search.evaluations.known.get(candidate_id, {})
            scores = {seed: answer.score for seed, answer in answers.items() if answer.score is not None}
            known[candidate_id] = {**self._foretold.get(candidate_id, {}), **scores}
        self.measured = adjusted_scores(known)
        choices = [self._whole(self.choices[name]) for name in self.measured]
        found = zip(choices, self.measured.values(), strict=True)
        self._sampler.rebase([(choice, one.mean, float(one.seeds)) for choice, one in found])
        # Rounded, so that what comes of it is the same on every machine.
        means = [round(belief.mean, 9) for belief in self._sampler.estimates(choices)]
        self._values = dict(zip(self.measured, means, strict=True))

    # --- what is believed --------------------------------------------------------------------------------------------

    def value(self, candidate_id: str) -> float:
        """What the model believes of a candidate that was measured."""
        return self._values[candidate_id]

    def estimate_of(self, candidate: Candidate) -> float | None:
        """The same; None where it was not measured."""
        return self._values.get(candidate.candidate_id)

    def seeds_of(self, candidate_id: str) -> int:
        """On how many seeds a candidate was measured; those whose scores were foretold are not among them."""
        answers = self.search.evaluations.known.get(candidate_id, {})
        return sum(answer.score is not None for answer in answers.values())

    def ranked(self) -> list[str]:
        """Candidates that were measured, best first by the model's estimate; ties by age."""
        candidates = self.search.candidates
        return sorted(self._values, key=lambda name: (-self._values[name], candidates[name].n))

    def best(self) -> str:
        """The candidate that the model believes in most; from the opening on there is one."""
        return self.ranked()[0]

    def rival(self, seeds: Sequence[int]) -> dict[int, float]:
        """The scores of the best candidate that is known on these seeds."""
        for name in self.ranked():
            scores = self.search.evaluations.scores(name, seeds)
            if len(scores) >= COMMON_SHARE * len(seeds):
                return scores
        return {}

    def scores_with(self, stage: Stage, made: Instruction) -> list[float]:
        """The scores of the candidates that hold an instruction."""
        slot, option = stage.option(made)
        return [self.measured[name].mean for name in self.measured if self.choices[name].get(slot, 0) == option]

    def rankings(self) -> list[dict[str, Any]]:
        """The best candidates as the model sees them now."""
        return [
            {
                "candidate_id": name,
                "estimate": self._values[name],
                "mean": self.measured[name].mean,
                "num_seeds": self.seeds_of(name),
            }
            for name in self.ranked()[:RANKINGS]
        ]

    def state(self) -> dict[str, Any]:
        """The sampler's, as JSON."""
        return self._sampler.state()
