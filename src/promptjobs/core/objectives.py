"""What a rollout is judged by: its score, and what it took to reach it."""

from collections.abc import Iterable
from enum import StrEnum

from promptjobs.core.asks import Answer


class Objective(StrEnum):
    """score: in [0, 1], higher is better. cost (USD), tokens and seconds of a rollout: lower is better."""

    SCORE = "score"
    COST = "cost"
    TOKENS = "tokens"
    SECONDS = "seconds"

    @property
    def is_higher_better(self) -> bool:
        return self is Objective.SCORE


def value(answer: Answer, objective: Objective | str) -> float | None:
    """The answer's own figure, in the objective's unit; None where it has none.

    A failure has no figure at all: what broke early is not cheap. Zero tokens or seconds mean that nobody measured
    them (a call past the interceptor, an answer taken over from an earlier version), for no rollout is that cheap.
    Raises ValueError on an unknown objective.
    """
    if answer.is_failure:
        return None
    match Objective(objective):
        case Objective.SCORE:
            return answer.score
        case Objective.COST:
            return answer.cost_usd
        case Objective.TOKENS:
            tokens = answer.prompt_tokens + answer.completion_tokens + answer.unknown_tokens
            return float(tokens) if tokens else None
        case Objective.SECONDS:
            return answer.seconds or None


def oriented(figure: float, objective: Objective | str) -> float:
    """The figure turned so that higher is better; turned twice it is itself again."""
    return figure if Objective(objective).is_higher_better else -figure


def oriented_value(answer: Answer, objective: Objective | str) -> float | None:
    """What a front compares: `value`, turned so that higher is better."""
    figure = value(answer, objective)
    return None if figure is None else oriented(figure, objective)


def oriented_values(
    answers: Iterable[tuple[int, Answer]], objectives: Iterable[Objective | str]
) -> dict[Objective, dict[int, float]]:
    """What an archive takes: per objective the oriented values by seed, without the unknown ones."""
    pairs = list(answers)
    found: dict[Objective, dict[int, float]] = {}
    for objective in map(Objective, objectives):
        figures = ((seed, oriented_value(answer, objective)) for seed, answer in pairs)
        found[objective] = {seed: figure for seed, figure in figures if figure is not None}
    return found
