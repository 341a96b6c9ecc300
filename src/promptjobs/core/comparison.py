"""Who of two is better, and how sure that is: prompts over the seeds that both have a score on.

A p-value and the interval beside it are of one kind: where the test says that two differ, the interval leaves out 0.
Scores of 0 and 1 are counts, whose differences are tested by McNemar's exact test, which is a little stricter than
their interval; everything else by Student's t of pairs, with which the interval agrees to the letter.
Sources: McNemar 1947; Connor 1987, "Sample size for testing differences in proportions for the paired-sample design";
Holm 1979, "A simple sequentially rejective multiple test procedure".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, gammaln, nctdtr, ndtri, stdtr, stdtrit, xlog1py, xlogy

from promptjobs.core.verdict import CONFIDENCE, Estimate, paired_difference

ALPHA = 1 - CONFIDENCE
POWER = 0.8
MAX_NEEDED = 1_000_000
"""A difference that needs more seeds than this is none that could be shown."""

MOST_COUNTED = 1_000
"""Seeds that are no ties: the power to tell two apart by fewer is counted out, beyond that it is calculated."""

TIE = 1e-9
"""Scores that differ by less are the same; so are differences."""

Z_TEST, Z_POWER = float(ndtri(1 - ALPHA / 2)), float(ndtri(POWER))


class Method(StrEnum):
    """How a p-value was found. SIGN: where all differences are of one size, so that their spread tells nothing."""

    MCNEMAR = "mcnemar_exact"
    SIGN = "sign_exact"
    PAIRED_T = "paired_t"
    RUNS_AND_SEEDS_T = "runs_and_seeds_t"
    PERMUTATION = "permutation_exact"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours against theirs, over num_seeds common seeds. difference: ours − theirs. wins: seeds on which ours is better.

    p_value: two-sided, None where nothing can be tested. seeds_needed: for 80 % power at the observed difference and
    spread; None where there is no difference, or no number of seeds that could show it.
    """

    num_seeds: int
    difference: Estimate | None
    wins: int
    losses: int
    ties: int
    p_value: float | None
    method: Method | None
    seeds_needed: int | None


NOTHING = Comparison(0, None, 0, 0, 0, None, None, None)


def compare(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Comparison:
    """ours, theirs: scores in [0, 1] by seed. Seeds that one of them has not, a failed rollout's among them, are left
    out for both."""
    common = [seed for seed in ours if seed in theirs]
    differences = [ours[seed] - theirs[seed] for seed in common]
    if not differences:
        return NOTHING
    wins, losses = sum(d > TIE for d in differences), sum(d < -TIE for d in differences)
    counts = len(common), wins, losses
    are_counts = all(score in (0.0, 1.0) for seed in common for score in (ours[seed], theirs[seed]))
    if are_counts:
        return _by_signs(paired_difference(ours, theirs), *counts, Method.MCNEMAR)
    if max(differences) - min(differences) > TIE:
        return _by_t(differences, paired_difference(ours, theirs), *counts)
    if len(common) == 1:
        return _comparison(paired_difference(ours, theirs), *counts, None, None, None)
    return _by_signs(_of_one_size(differences), *counts, Method.SIGN)


def _comparison(
    difference: Estimate | None,
    n: int,
    wins: int,
    losses: int,
    p_value: float | None,
    method: Method | None,
    needed: int | None,
) -> Comparison:
    return Comparison(n, difference, wins, losses, n - wins - losses, p_value, method, needed)


# --- pairs of right and wrong ----------------------------------------------------------------------------------------


def _by_signs(difference: Estimate | None, n: int, wins: int, losses: int, method: Method) -> Comparison:
    p_value = exact_p(wins, losses)
    return _comparison(difference, n, wins, losses, p_value, method, _signs_needed(wins / n, losses / n))


def exact_p(wins: int, losses: int) -> float:
    """Two-sided, of McNemar's exact test: that of the sign, where ties tell nothing. 1 where all are ties."""
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def _of_one_size(differences: Sequence[float]) -> Estimate:
    """The interval of differences that are all the same: that of so many wins of this size, or of so many ties.

    Student's would have no width, as if nothing else could ever happen.
    """
    n, size = len(differences), math.fsum(differences) / len(differences)
    ones, zeros = dict.fromkeys(range(n), 1.0), dict.fromkeys(range(n), 0.0)
    is_tie = abs(size) <= TIE
    found = paired_difference(zeros if is_tie else ones, zeros)
    if found is None or found.low is None or found.high is None:
        raise ValueError("no differences")
    if is_tie:
        return Estimate(0.0, found.low, found.high, n)
    ends = sorted((size * found.low, size * found.high))
    return Estimate(size, ends[0], ends[1], n)


def _signs_needed(winning: float, losing: float) -> int | None:
    """winning, losing: shares of the seeds. From the test's own power; where there is much to count, from Connor's
    formula, with the correction for continuity that an exact test amounts to."""
    discordant, lift = winning + losing, abs(winning - losing)
    if lift <= TIE:
        return None
    reach = Z_TEST * math.sqrt(discordant) + Z_POWER * math.sqrt(max(0.0, discordant - lift * lift))
    plain = (reach / lift) ** 2
    corrected = plain / 4 * (1 + math.sqrt(1 + 4 / (plain * lift))) ** 2
    counted = corrected * discordant
    if counted > MOST_COUNTED / 2:
        return _countable(corrected)
    rejected = _rejected(max(winning, losing) / discordant, min(MOST_COUNTED, math.ceil(2 * counted + 50)))
    return least(lambda n: _signs_power(n, discordant, rejected), corrected)


@cache
def _limits() -> NDArray[np.float64]:
    """For 0, 1, … seeds that are no ties: so few wins or losses at most make the test's p-value small enough, or -1."""
    found, limit = [], -1
    for m in range(MOST_COUNTED + 1):
        while 2 * float(bdtr(limit + 1, m, 0.5)) < ALPHA:
            limit += 1
        found.append(limit)
    return np.array(found, np.float64)


def _rejected(share: float, most: int) -> NDArray[np.float64]:
    """The chance of a small p-value for 0, 1, … `most` seeds that are no ties, of which this share are wins."""
    limits, counted = _limits()[: most + 1], np.arange(most + 1)
    tails = bdtr(np.maximum(limits, 0), counted, share) + bdtr(np.maximum(limits, 0), counted, 1 - share)
    return np.where(limits < 0, 0.0, tails)


def _signs_power(n: int, discordant: float, rejected: NDArray[np.float64]) -> float:
    """The chance of a small p-value on n seeds, each of which is no tie with this chance. rejected: by how many are."""
    counted = np.arange(min(n + 1, len(rejected)))
    ways = gammaln(n + 1) - gammaln(counted + 1) - gammaln(n - counted + 1)
    chances = np.exp(ways + xlogy(counted, discordant) + xlog1py(n - counted, -discordant))
    return float(chances @ rejected[: len(counted)])


# --- pairs of graded scores ------------------------------------------------------------------------------------------


def _by_t(differences: Sequence[float], found: Estimate | None, n: int, wins: int, losses: int) -> Comparison:
    mean = math.fsum(differences) / n
    spread = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    p_value = t_test_p(mean, spread / math.sqrt(n), n - 1)
    return _comparison(found, n, wins, losses, p_value, Method.PAIRED_T, _pairs_needed(abs(mean), spread))


def t_test_p(mean: float, error: float, freedom: float) -> float:
    """Two-sided. error: standard error, above 0; freedom: degrees of it."""
    return min(1.0, 2 * float(stdtr(freedom, -abs(mean) / error)))


def t_power(mean: float, error: float, freedom: float) -> float:
    """The chance that a two-sided test of Student's t finds a difference that is there."""
    limit, shift = float(stdtrit(freedom, 1 - ALPHA / 2)), abs(mean) / error
    missed, mistaken = float(nctdtr(freedom, shift, limit)), float(nctdtr(freedom, shift, -limit))
    # Far out SciPy has no number for a chance that is next to none.
    return 1 - (0.0 if math.isnan(missed) else missed) + (0.0 if math.isnan(mistaken) else mistaken)


def _pairs_needed(mean: float, spread: float) -> int | None:
    if mean <= TIE:
        return None
    guess = ((Z_TEST + Z_POWER) * spread / mean) ** 2 + Z_TEST**2 / 2
    return least(lambda n: t_power(mean, spread / math.sqrt(n), n - 1), guess)


def least(power: Callable[[int], float], guess: float) -> int | None:
    """The smallest number from 2 on, to MAX_NEEDED, that has the power; `power` rises with it. guess: about where."""
    start = _countable(max(2.0, guess))
    if start is None:
        return None
    low, high, step = 1, start, 1
    while power(high) < POWER:
        if high >= MAX_NEEDED:
            return None
        low, high, step = high, min(MAX_NEEDED, high + step), step * 2
    step = 1
    while low < high - step and power(high - step) >= POWER:
        high, step = high - step, step * 2
    low = max(low, high - step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def _countable(number: float) -> int | None:
    return math.ceil(number - TIE) if number <= MAX_NEEDED else None


# --- many comparisons ------------------------------------------------------------------------------------------------


def holm(p_values: Sequence[float | None], family: int) -> list[float | None]:
    """The p-values adjusted for `family` comparisons, in their order; None stays None, and counts for the family.

    family: of how many comparisons these were picked, at least as many as they are: who leads was picked by looking at
    all pairs. The p-values of those that are not here are taken to be the largest: what is adjusted errs to be large.
    """
    known = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, at) in enumerate(known):
        largest = max(largest, min(1.0, (family - rank) * p))
        adjusted[at] = largest
    return adjusted
