"""Scores of candidates that were measured on different seeds, made comparable: a seed's difficulty is taken out."""

from collections.abc import Mapping
from dataclasses import dataclass

ROUNDS = 4
"""Of the alternating fit; the effects settle after two or three."""

SHRINKAGE = 1.0
"""A seed's effect is pulled to 0 as by so many candidates that did as well on it as on all the others."""


@dataclass(frozen=True, slots=True)
class Adjusted:
    """mean: what the candidate would have scored on all of the seeds, in [0, 1]. seeds: so many it was measured on."""

    mean: float
    seeds: int


def adjusted_scores(known: Mapping[str, Mapping[int, float]]) -> dict[str, Adjusted]:
    """By candidate, from its scores by seed; candidates without any are left out.

    The model is score = candidate + seed, fitted by turns. A candidate that was measured on hard seeds alone is thus
    not taken for a bad one, as far as others were measured on them too.
    """
    scored = {name: scores for name, scores in known.items() if scores}
    if not scored:
        return {}
    effects = dict.fromkeys((seed for scores in scored.values() for seed in scores), 0.0)
    level = dict.fromkeys(scored, 0.0)
    for _ in range(ROUNDS):
        for name, scores in scored.items():
            level[name] = sum(score - effects[seed] for seed, score in scores.items()) / len(scores)
        sums, counts = dict.fromkeys(effects, 0.0), dict.fromkeys(effects, 0)
        for name, scores in scored.items():
            own = level[name]
            for seed, score in scores.items():
                sums[seed] += score - own
                counts[seed] += 1
        effects = {seed: sums[seed] / (counts[seed] + SHRINKAGE) for seed in effects}
        middle = sum(effects.values()) / len(effects)
        effects = {seed: effect - middle for seed, effect in effects.items()}
    for name, scores in scored.items():
        level[name] = sum(score - effects[seed] for seed, score in scores.items()) / len(scores)
    return {name: Adjusted(min(1.0, max(0.0, level[name])), len(scores)) for name, scores in scored.items()}
