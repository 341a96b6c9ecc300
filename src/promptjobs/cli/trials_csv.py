"""Trials as CSV: a row each."""

from collections.abc import Iterable

from promptjobs.core.csv_table import csv_table
from promptjobs.sdk.shapes import Trial

COLUMNS = (
    *("n", "candidate_id", "phase", "is_baseline", "score", "num_seeds", "failed", "generation", "created_at"),
    "tokens",
)


def trials_csv(trials: Iterable[Trial]) -> str:
    """trials: with their rollouts, or the tokens are unknown. num_seeds: of those with a score."""
    return csv_table(COLUMNS, map(_row, trials))


def _row(trial: Trial) -> tuple[object, ...]:
    return (
        trial["n"],
        trial["candidate_id"],
        trial["phase"],
        trial["is_baseline"],
        trial["score"],
        sum(score is not None for score in trial["scores"]),
        trial["failed"],
        trial["generation"],
        trial["created_at"],
        trial["metadata"].get("tokens"),
    )
