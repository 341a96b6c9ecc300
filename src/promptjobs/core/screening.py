"""A screening: the scores of a candidate that it is compared by, some of them foretold by a cheaper model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import EventFact
from promptjobs.core.proxy import Proxy


@dataclass(frozen=True, slots=True)
class Screening:
    """`scores[i]` belongs to `seeds[i]`, None where there is none. foretold: the seeds whose scores are a regression's.

    Foretold scores are good for a comparison and for nothing else: they are no part of a trial.
    """

    seeds: tuple[int, ...]
    scores: tuple[float | None, ...]
    foretold: frozenset[int]

    @property
    def is_foretold(self) -> bool:
        return bool(self.foretold)

    @property
    def known_scores(self) -> tuple[float, ...]:
        return tuple(score for score in self.scores if score is not None)

    @property
    def score(self) -> float | None:
        """Mean over the seeds that have a score, or None."""
        known = self.known_scores
        return sum(known) / len(known) if known else None

    def event(self, proxy: Proxy, candidate: Candidate) -> EventFact:
        """What is told of a screening in the place of a trial."""
        return EventFact(
            "prompt.learning.proxy.screened",
            f"{proxy.config.lo_model} stands in: candidate {candidate.n} may score {self.score or 0.0:.3f}"
            f" on {len(self.known_scores)} of {len(self.seeds)} seeds",
            {
                "candidate_id": candidate.candidate_id,
                "seeds": list(self.seeds),
                "scores": list(self.scores),
                "foretold_seeds": sorted(self.foretold),
                "mean": self.score,
                **proxy.figures(),
            },
        )


def screened(proxy: Proxy, seeds: Sequence[int], hi: Mapping[int, float], lo: Mapping[int, float]) -> Screening:
    """hi's scores where they are known, else what the line makes of lo's."""
    scores = [hi[seed] if seed in hi else proxy.predict(lo[seed]) if seed in lo else None for seed in seeds]
    return Screening(tuple(seeds), tuple(scores), frozenset(lo) - set(hi))
