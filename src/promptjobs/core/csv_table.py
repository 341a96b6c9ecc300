"""Writes tables as CSV for spreadsheets: a line for each row, and no cell that one would take for a formula."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Cells are texts, numbers, booleans, or None, which is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_cell, headers))
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    """Only text can be a formula: a spreadsheet shows it as it is behind an apostrophe. A row is one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    line = " ".join(re.split(r"[\r\n]+", value))
    return f"'{line}" if value.startswith(FORMULA) else line
