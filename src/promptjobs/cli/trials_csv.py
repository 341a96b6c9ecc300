"""Writes trials as CSV for spreadsheets: a row each, and no cell that one would take for a formula."""

import csv
import io
import re
from collections.abc import Iterable

from promptjobs.sdk.shapes import Trial

COLUMNS = (
    *("n", "candidate_id", "phase", "is_baseline", "score", "num_seeds", "failed", "generation", "created_at"),
    "tokens",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def trials_csv(trials: Iterable[Trial]) -> str:
    """trials: with their rollouts, or the tokens are unknown. num_seeds: of those with a score."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in _row(trial)] for trial in trials)
    return out.getvalue()


def _row(trial: Trial) -> tuple[object, ...]:
    return (
        trial["n"],
        trial["candidate_id"],
        trial["phase"],
        str(trial["is_baseline"]).lower(),
        trial["score"],
        sum(score is not None for score in trial["scores"]),
        trial["failed"],
        trial["generation"],
        trial["created_at"],
        trial["metadata"].get("tokens"),
    )


def _cell(value: object) -> object:
    """Only text can be a formula: a spreadsheet shows it as it is behind an apostrophe. A row is one line."""
    if not isinstance(value, str):
        return value
    line = " ".join(re.split(r"[\r\n]+", value))
    return f"'{line}" if value.startswith(FORMULA) else line
