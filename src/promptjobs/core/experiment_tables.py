"""The results of an experiment as texts: CSV for spreadsheets, a row for each job, and Markdown for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from promptjobs.core.comparison import ALPHA, POWER, Comparison
from promptjobs.core.csv_table import csv_table
from promptjobs.core.experiment_comparisons import (
    ExperimentResults,
    GroupComparison,
    JobComparison,
    leading,
)
from promptjobs.core.experiment_groups import GroupResult, Summary
from promptjobs.core.experiment_results import Figures, JobResult, Variant, counted_jobs, last_set, mean_of
from promptjobs.core.markdown import bullets, fenced, inline, table
from promptjobs.core.run_comparison import RunComparison
from promptjobs.core.seed_sets import SeedSet
from promptjobs.core.verdict import CONFIDENCE, Estimate

NONE = "–"
FIRST = ("position", "label", "job_id", "algorithm", "group", "status", "policy", "seed")
SCORES = ("eval_set", "eval_n", "baseline_score", "best_score", "lift", "lift_low", "lift_high")
COUNTS = ("trials", "trials_tried", "rollouts", "failed_rollouts", "total_tokens", "total_cost_usd", "unpriced_calls")
LAST = ("seconds", "finish_reason", "error", "is_baseline_best", "best_candidate_id", "note")
OF_SETS = tuple(
    f"{name}_{figure}" for name in SeedSet for figure in ("best", "best_low", "best_high", "best_n", "baseline")
)


# --- CSV -------------------------------------------------------------------------------------------------------------


def results_csv(jobs: Sequence[JobResult]) -> str:
    """What is not known is an empty cell, and `note` says why. The settings have a column each, `settings.<name>`."""
    names = list(dict.fromkeys(name for job in jobs for name in job.settings))
    headers = [*FIRST, *(f"settings.{name}" for name in names), *SCORES, *OF_SETS, *COUNTS, *LAST]
    return csv_table(headers, (list(_cells(job, names)) for job in jobs))


def _cells(job: JobResult, names: Sequence[str]) -> Iterator[object]:
    yield from (getattr(job, name) for name in FIRST)
    for name in names:
        yield _plain(job.settings.get(name))
    shown = job.shown
    yield from (job.eval_set, shown.best.n if shown.best else 0, mean_of(shown.baseline), mean_of(shown.best))
    yield from _ends(shown.difference)
    for each in SeedSet:
        figures = job.on(each)
        yield from _ends(figures.best)
        yield figures.best.n if figures.best else None
        yield mean_of(figures.baseline)
    yield from (getattr(job, name) for name in COUNTS)
    yield from (job.seconds, job.finish_reason, job.error, job.is_baseline_best, job.best_id, job.note)


def _ends(found: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if found is None else (found.mean, found.low, found.high)


def _plain(value: Any) -> object:
    return value if value is None or isinstance(value, str | int | float) else str(value)


# --- Markdown --------------------------------------------------------------------------------------------------------


def results_markdown(found: ExperimentResults) -> str:
    """The whole page; each part stands only where there is something to tell."""
    experiment = found.experiment
    parts = [f"# Results of {inline(experiment['name'])}", _opening(experiment), *_leader(found), *_jobs(found.jobs)]
    parts += [*_groups(found), *_comparisons(found), *_variants(found.jobs)]
    return "\n\n".join(parts) + "\n"


def _opening(experiment: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in experiment["counts"].items() if count)
    told = f"Experiment {inline(experiment['experiment_id'])} is {inline(experiment['status'])}"
    return f"{told}: {counted_jobs(experiment['num_jobs'])}, {counts}."


def _leader(found: ExperimentResults) -> Iterator[str]:
    best, name = leading(found.jobs), last_set(found.jobs)
    if best is None or name is None:
        yield "Nothing has been measured."
        return
    said = f"**On the {name} seeds {inline(best.label)} has the best prompt: {_estimate(best.on(name).best)}.**"
    others = [each for each in found.comparisons if best in (each.first, each.second)]
    if others:
        worse = sum(each.winner is best for each in others)
        said += f" It is better than {worse} of {len(others)} others beyond what chance would explain."
    yield said


def _jobs(jobs: Sequence[JobResult]) -> Iterator[str]:
    yield "## Jobs"
    headers = ["#", "Job", "Policy", "Seed", "Status", "Baseline", "Best", "Lift", "Eval set", "Eval N", "Trials"]
    headers += ["Rollouts", "Tokens", "USD", "Seconds", "Ended by"]
    yield table(headers, (_row(job) for job in jobs))
    yield (
        f"In brackets: intervals of {CONFIDENCE:.0%} confidence. Eval N: on how many seeds of the eval set the best "
        "prompt has a score. The lift is paired: over the seeds that best prompt and baseline both have a score on."
    )
    if notes := [f"{job.position}. {inline(job.label)}: {inline(job.note)}" for job in jobs if job.note]:
        yield f"Why figures are missing ({NONE}), or not what they seem:"
        yield bullets(notes)


def _row(job: JobResult) -> list[str]:
    shown: Figures = job.shown
    failed = f" ({job.failed_rollouts} failed)" if job.failed_rollouts else ""
    return [
        str(job.position),
        f"{job.label} (baseline)" if job.is_baseline_best else job.label,
        job.policy,
        str(job.seed),
        job.status,
        NONE if shown.baseline is None else f"{shown.baseline.mean:.3f}",
        _estimate(shown.best),
        _difference(shown.difference),
        job.eval_set or NONE,
        str(shown.best.n) if shown.best else NONE,
        f"{job.trials:,}",
        f"{job.rollouts:,}{failed}",
        f"{job.total_tokens:,}",
        _usd(job.total_cost_usd),
        NONE if job.seconds is None else f"{job.seconds:,.1f}",
        job.finish_reason or NONE,
    ]


def _groups(found: ExperimentResults) -> Iterator[str]:
    if all(len(group.jobs) < 2 for group in found.groups):
        return
    yield "## Groups: the same config, other random seeds"
    headers = ["Group", "Jobs", "Finished", "Eval set", "Baseline", "Best", "Lift", "Tokens", "USD", "Seconds"]
    yield table(headers, map(_group_row, found.groups))
    yield "Mean ± standard deviation over the jobs. Spending is of those that are over."


def _group_row(group: GroupResult) -> list[str]:
    spent = group.spent
    return [
        group.group,
        str(len(group.jobs)),
        str(group.num_finished),
        group.eval_set or NONE,
        _summary(group.baseline, ".3f"),
        _summary(group.best, ".3f"),
        _summary(group.lift, "+.3f", ".3f"),
        _summary(spent["tokens"], ",.0f"),
        _summary(spent["cost_usd"], ".6f"),
        _summary(spent["seconds"], ",.1f"),
    ]


def _summary(found: Summary, form: str, spread: str | None = None) -> str:
    if found.mean is None:
        return NONE
    if found.sd is None:
        return f"{found.mean:{form}}"
    return f"{found.mean:{form}} ± {found.sd:{spread or form}}"


def _comparisons(found: ExperimentResults) -> Iterator[str]:
    if found.comparisons:
        yield "## Jobs compared"
        yield table([*COMPARED, "Seeds needed"], map(_compared_row, found.comparisons))
    if found.group_comparisons:
        yield "## Groups compared"
        yield table([*COMPARED, "Seeds needed", "Runs needed"], map(_compared_groups_row, found.group_comparisons))
        yield "Groups are compared over their runs and over the seeds: as other runs on other seeds would show it."
    if found.comparisons or found.group_comparisons:
        yield (
            "Differences are first − second, on the seeds that both have a score on. Adjusted p-values (Holm) count "
            f"all pairs that could have been picked; below {ALPHA:.2g} one is better. Seeds needed: to find such a "
            f"difference with {POWER:.0%} power."
        )


COMPARED = ("First", "Second", "Seeds", "Difference", "Wins–losses–ties", "p", "p adjusted", "Better")


def _compared_row(each: JobComparison) -> list[str]:
    better = "undecided" if each.winner is None else each.winner.label
    names = [each.first.label, each.second.label]
    return [
        *names,
        *_figures(each.seeds, each.found, each.p_adjusted, each.note, better),
        _number(each.found.seeds_needed),
    ]


def _compared_groups_row(each: GroupComparison) -> list[str]:
    better = "undecided" if each.winner is None else each.winner.group
    names = [each.first.group, each.second.group]
    needed = [_number(each.found.seeds_needed), _number(each.found.runs_needed)]
    return [*names, *_figures(each.seeds, each.found, each.p_adjusted, each.note, better), *needed]


def _figures(
    seeds: SeedSet | None, found: Comparison | RunComparison, adjusted: float | None, note: str | None, better: str
) -> list[str]:
    counted = f"{found.wins}–{found.losses}–{found.ties}"
    tested = note if found.p_value is None and note is not None else better
    shown = NONE if seeds is None else f"{found.num_seeds} {seeds}"
    return [shown, _difference(found.difference), counted, _p(found.p_value), _p(adjusted), tested]


# --- prompts ---------------------------------------------------------------------------------------------------------


def _variants(jobs: Sequence[JobResult]) -> Iterator[str]:
    shown = [job for job in jobs if job.variants]
    if not shown:
        return
    yield "## Prompts, best first"
    for job in shown:
        yield f"### {job.position}. {inline(job.label)}"
        for variant in job.variants:
            yield _variant(variant)
            for message in variant.messages or ():
                yield f"{inline(message['role'])}:"
                yield fenced(message["content"])


def _variant(variant: Variant) -> str:
    marks = [mark for mark, holds in (("best", variant.is_best), ("baseline", variant.is_baseline)) if holds]
    said = f" ({', '.join(marks)})" if marks else ""
    return (
        f"**{variant.rank}.** Candidate {inline(variant.candidate_id)}{said}: {variant.score:.3f} on "
        f"{variant.num_seeds} seeds"
    )


# --- figures ---------------------------------------------------------------------------------------------------------


def _estimate(found: Estimate | None) -> str:
    return NONE if found is None else f"{found.mean:.3f}{_interval(found, '.3f')}"


def _difference(found: Estimate | None) -> str:
    return NONE if found is None else f"{found.mean:+.3f}{_interval(found, '+.3f')}"


def _interval(found: Estimate, form: str) -> str:
    span = found.span(form)
    return "" if span is None else f" ({span})"


def _p(found: float | None) -> str:
    if found is None:
        return NONE
    return "< 0.001" if found < 0.001 else f"{found:.3f}"


def _number(found: int | None) -> str:
    return NONE if found is None else f"{found:,}"


def _usd(found: float | None) -> str:
    return NONE if found is None else f"{found:.6f}"
