"""Families of simulated search spaces: what each configuration is really worth, drawn anew for each seed."""

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from promptjobs.core.asks import digest

Floats = NDArray[np.float64]
Config = dict[str, int]

LOWEST, HIGHEST = 0.02, 0.98
_CLIMBS = 60


@dataclass(frozen=True, slots=True)
class Instance:
    """A space and its truth. worth: a configuration's probability of success. best: the highest there is."""

    dimensions: dict[str, int]
    worth: Callable[[Mapping[str, int]], float]
    best: float


def _clipped(value: float) -> float:
    return min(HIGHEST, max(LOWEST, value))


def _instance(
    sizes: Sequence[int], raw: Callable[[Sequence[int]], float], best: Sequence[int] | None = None
) -> Instance:
    """best: the best point where it is known; else it is looked for."""
    dimensions = {f"d{n}": size for n, size in enumerate(sizes)}
    point = _best_point(sizes, raw) if best is None else best
    return Instance(
        dimensions, lambda config: _clipped(raw([config[name] for name in dimensions])), _clipped(raw(point))
    )


def _best_point(sizes: Sequence[int], raw: Callable[[Sequence[int]], float]) -> Sequence[int]:
    """By looking at every point of a small space; by climbing from many starts in others."""
    if math.prod(sizes) <= 5_000:
        return max(itertools.product(*map(range, sizes)), key=raw)
    rng = random.Random(0)
    return max((_climb(sizes, raw, [rng.randrange(size) for size in sizes]) for _ in range(_CLIMBS)), key=raw)


def _climb(sizes: Sequence[int], raw: Callable[[Sequence[int]], float], point: list[int]) -> list[int]:
    best = raw(point)
    while True:
        before = best
        for at, size in enumerate(sizes):
            for option in range(size):
                kept, point[at] = point[at], option
                value = raw(point)
                if value > best:
                    best = value
                else:
                    point[at] = kept
        if best == before:
            return point


def _normal(rng: np.random.Generator, sd: float, *shape: int) -> Floats:
    return rng.normal(0.0, sd, shape)


def _effects(
    rng: np.random.Generator, sizes: Sequence[int], alone: float, pair: float
) -> Callable[[Sequence[int]], float]:
    """Normal effects of options and of pairs of options around .5; alone and pair are their standard deviations."""
    singles = [_normal(rng, alone, size).tolist() for size in sizes]
    pairs = {
        (i, j): _normal(rng, pair, sizes[i], sizes[j]).tolist() for i, j in itertools.combinations(range(len(sizes)), 2)
    }

    def raw(point: Sequence[int]) -> float:
        value = 0.5 + sum(effects[option] for effects, option in zip(singles, point, strict=True))
        return float(value + sum(table[point[i]][point[j]] for (i, j), table in pairs.items()) if pair else value)

    return raw


def additive(rng: np.random.Generator) -> Instance:
    """8 dimensions of 5 options whose effects add up."""
    sizes = [5] * 8
    return _instance(sizes, _effects(rng, sizes, 0.02, 0.0))


def pairwise(rng: np.random.Generator) -> Instance:
    """8 dimensions of 4 options that matter mostly in pairs."""
    sizes = [4] * 8
    return _instance(sizes, _effects(rng, sizes, 0.01, 0.0125))


def needle(rng: np.random.Generator) -> Instance:
    """81 configurations, one of which is 30 points better than the others, which are nearly equal."""
    sizes = [3] * 4
    values = 0.4 + _normal(rng, 0.01, *sizes)
    point = tuple(int(rng.integers(3)) for _ in sizes)
    values[point] = 0.7
    return _instance(sizes, lambda at: float(values[tuple(at)]))


def mipro(rng: np.random.Generator) -> Instance:
    """Instructions of three modules (10 options each) and demonstrations of two (20 each), effects and interactions."""
    sizes = [10, 10, 10, 20, 20]
    return _instance(sizes, _effects(rng, sizes, 0.014, 0.007))


def single(rng: np.random.Generator) -> Instance:
    """One module: 10 instructions and 20 demonstration sets, of which two thirds of the variance add up."""
    sizes = [10, 20]
    return _instance(sizes, _effects(rng, sizes, 0.03, 0.03))


def slots(rng: np.random.Generator) -> Instance:
    """Two stages of three instruction slots and a demonstration slot: instructions speak of topics, and what has been
    said is not worth saying again, in whichever slot; each instruction costs a little; both stages have to succeed."""
    banks, topics = 13, 4
    sizes = [banks, banks, banks, 8] * 2
    topic = rng.integers(0, topics, (2, banks)).tolist()
    gain = (rng.normal(0.35, 0.5, (2, banks))).tolist()
    demos = (rng.normal(0.0, 0.35, (2, 8))).tolist()
    base = rng.normal(0.6, 0.2, 2).tolist()

    def stage(which: int, options: Sequence[int], demo: int) -> float:
        by_topic: dict[int, list[float]] = {}
        for option in {option for option in options if option}:
            by_topic.setdefault(topic[which][option], []).append(gain[which][option])
        said = sum(max(gains) + 0.2 * (sum(gains) - max(gains)) for gains in by_topic.values())
        length = 0.08 * sum(option > 0 for option in options)
        logit = base[which] + said - length + (demos[which][demo] if demo else 0.0)
        return 1 / (1 + math.exp(-logit))

    return _instance(sizes, lambda at: stage(0, at[:3], at[3]) * stage(1, at[4:7], at[7]))


def sparse(rng: np.random.Generator) -> Instance:
    """A large bank, 6 dimensions of 41 options: most options hurt, one in ten helps, option 0 does nothing."""
    sizes = [41] * 6
    effects = []
    for size in sizes:
        helps = rng.random(size) < 0.1
        effect = np.where(helps, rng.gamma(2.0, 0.015, size), -rng.gamma(2.0, 0.02, size))
        effect[0] = 0.0
        effects.append(effect.tolist())
    best = [int(np.argmax(effect)) for effect in effects]
    return _instance(sizes, lambda at: 0.55 + sum(effects[d][option] for d, option in enumerate(at)), best)


def unstructured(rng: np.random.Generator) -> Instance:
    """512 configurations that have nothing to do with each other."""
    sizes = [8] * 3
    values = 0.5 + _normal(rng, 0.06, *sizes)
    return _instance(sizes, lambda at: float(values[tuple(at)]))


def clusters(rng: np.random.Generator) -> Instance:
    """4 dimensions of 12 options that are paraphrases of three ideas each: ideas interact, wordings hardly matter."""
    sizes = [12] * 4
    idea = [rng.integers(0, 3, size).tolist() for size in sizes]
    raw_ideas = _effects(rng, [3] * 4, 0.03, 0.03)
    wording = [_normal(rng, 0.007, size).tolist() for size in sizes]

    def raw(at: Sequence[int]) -> float:
        return raw_ideas([idea[d][o] for d, o in enumerate(at)]) + float(sum(wording[d][o] for d, o in enumerate(at)))

    return _instance(sizes, raw)


FAMILIES: dict[str, Callable[[np.random.Generator], Instance]] = {
    family.__name__: family
    for family in (additive, pairwise, needle, mipro, single, slots, sparse, unstructured, clusters)
}


def instance(family: str, seed: int) -> Instance:
    return FAMILIES[family](np.random.default_rng(int.from_bytes(digest("family", family, seed))))
