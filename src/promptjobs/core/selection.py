"""Whose turn it is: the ways to draw a parent from an archive."""

import random
from typing import Literal, TypeAlias, assert_never

from promptjobs.core.archive import Archive, Candidate

ParentSelection: TypeAlias = Literal["pareto", "current_best", "epsilon_greedy", "top_k_pareto"]


def draw_parent(
    archive: Archive, rng: random.Random, how: ParentSelection, *, epsilon: float = 0.1, top_k: int = 5
) -> Candidate:
    """A member of the archive, which must have one.

    pareto: in proportion to `Archive.weights`. current_best: the first of the ranking. epsilon_greedy: with the
    probability epsilon any member, each as likely, else the best. top_k_pareto: as pareto, among the first top_k of
    the ranking. Only what is named draws from rng. Raises ValueError on an empty archive, epsilon outside [0, 1],
    top_k below 1.
    """
    if not archive.members:
        raise ValueError("an empty archive has no parent to draw")
    match how:
        case "pareto":
            return archive.draw_parent(rng)
        case "current_best":
            return archive.members[archive.best()]
        case "epsilon_greedy":
            if not 0.0 <= epsilon <= 1.0:
                raise ValueError(f"epsilon must be in [0, 1], got {epsilon!r}")
            if rng.random() < epsilon:
                return rng.choice(list(archive.members.values()))
            return archive.members[archive.best()]
        case "top_k_pareto":
            if top_k < 1:
                raise ValueError(f"top_k must be at least 1, got {top_k!r}")
            return archive.draw_parent(rng, frozenset(archive.ranked()[:top_k]))
        case _:
            assert_never(how)
