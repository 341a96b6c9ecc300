"""The tables of an experiment's groups, and of which of two groups or jobs is better."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptjobs.cli.experiment_cells import NONE, Row, estimate, letter, p_value, signed, with_columns
from promptjobs.cli.text import cost, duration, one_line, score

WIDE = 130
"""Columns from which on a group's figures stand in one line, and those that are compared are called by their names."""


def group_tables(groups: Sequence[Row], width: int) -> Iterator[Table]:
    """A line for each group: the mean over its jobs, and their standard deviation. width: of the terminal."""
    is_wide = width >= WIDE
    names = (("", "left"), ("group", "fold"), ("jobs", "right"))
    scores = (("baseline" if is_wide else "base", "right"), ("best", "right"), ("lift", "right"))
    taken = (("tokens", "right"), ("cost", "right"), ("time", "right"))
    first = with_columns((*names, *scores, *(taken if is_wide else ())))
    second = with_columns((("", "left"), *taken))
    for index, group in enumerate(groups):
        called = Text(letter(index), "bold")
        name = (called, Text(one_line(group["group"])), f"{group['num_finished']}/{group['num_jobs']}")
        # The baseline is one prompt: its mean says nearly all where there is little room.
        baseline = group["baseline"] if is_wide else {**group["baseline"], "sd": None}
        figures = (_spread(baseline, score), _spread(group["best"], score), _spread(group["lift"], signed))
        spent = (
            _spread(group["tokens"], _whole), _spread(group["cost_usd"], cost), _spread(group["seconds"], duration),
        )  # fmt: skip
        first.add_row(*name, *figures, *(spent if is_wide else ()))
        second.add_row(called, *spent)
    yield first
    if not is_wide:
        yield second


def group_notes(groups: Sequence[Row]) -> Iterator[str]:
    """Which scores are not those of all the group's jobs: one that was cancelled early has none on the last seeds."""
    for index, group in enumerate(groups):
        known = group["best"]["n"]
        if group["eval_set"] is not None and known < group["num_finished"]:
            jobs = f"{known} of its {group['num_jobs']} jobs"
            yield f"{letter(index)}: scores of {jobs}; the others have none on {group['eval_set']} seeds"


def _spread(part: Row | None, written: Callable[[float], str]) -> str:
    """ "0.593 ± 0.012"; of one job alone there is no deviation."""
    if part is None or part["mean"] is None:
        return NONE
    return written(part["mean"]) if part["sd"] is None else f"{written(part['mean'])} ± {_bare(written(part['sd']))}"


def _bare(text: str) -> str:
    return text.lstrip("+$")


def _whole(value: float) -> str:
    return f"{value:,.0f}"


# --- comparisons -----------------------------------------------------------------------------------------------------


def print_comparisons(out: Console, title: str, found: Sequence[Row], calls: Mapping[str, tuple[str, str]]) -> None:
    """calls: by id how the table above calls what is compared, and its name."""
    out.print()
    said = f"{title}: the first less the second, on seeds that both have, with 95 % intervals"
    out.print(Text(said, "bold"), soft_wrap=True)
    is_wide = out.width >= WIDE
    pair = ("first", "fold"), ("second", "fold")
    rest = ("difference", "left"), ("seeds", "right"), ("p", "right"), ("", "fold")
    table = with_columns((*(pair if is_wide else (("", "left"),)), *rest))
    for each in found:
        first, second = (calls.get(each[side], (one_line(each[side]), "")) for side in ("first", "second"))
        seeds = f"{each['num_seeds']} {each['seeds']}" if each["num_seeds"] else NONE
        names = (_called(first), _called(second)) if is_wide else (Text(f"{first[0]} – {second[0]}", "bold"),)
        figures = (estimate(each["difference"]), seeds, p_value(each["p_adjusted"]), _verdict(each, calls))
        table.add_row(*names, *figures)
    out.print(table)
    out.print(
        Text("Each interval is of its pair alone; p is corrected for how many pairs there are (Holm).", "dim"),
        soft_wrap=True,
    )


def _called(names: tuple[str, str]) -> Text:
    return Text.assemble((f"{names[0]} ", "bold"), names[1])


def _verdict(comparison: Row, calls: Mapping[str, tuple[str, str]]) -> Text:
    winner = comparison["winner"]
    if winner is not None:
        return Text(f"{calls.get(winner, (one_line(winner), ''))[0]} is better", "green")
    if comparison["note"] is not None:
        return Text(one_line(comparison["note"]), "dim")
    needed = [
        f"{comparison[name]:,} {unit}"
        for name, unit in (("runs_needed", "jobs of each"), ("seeds_needed", "seeds"))
        if comparison.get(name) is not None
    ]
    return Text(f"not told apart; {' or '.join(needed)} would" if needed else "not told apart", "dim")
