"""Prints jobs: what came out of one, and a table of many."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from promptjobs.cli.figures import best_and_baseline, failed, parts_spent, spent
from promptjobs.cli.text import cost, duration, one_line, readable_json, score, tried
from promptjobs.sdk.addresses import DEFAULT_URL
from promptjobs.sdk.job_requests import JOBS_PATH
from promptjobs.sdk.shapes import TERMINAL_STATUSES, Job

STYLE_OF_STATUS = {
    "succeeded": "bold green",
    "failed": "bold red",
    "cancelled": "bold yellow",
    "paused": "yellow",
    "running": "cyan",
}

WIDE = 100
"""Columns from which on the table of jobs has room for the policy's model."""

RULE = 80
"""Columns of a rule at most: output that is no terminal is as wide as its longest line."""


def print_job(out: Console, job: Job) -> None:
    """The outcome of a job that is over, the state of any other."""
    out.print()
    out.print(_headline(job), soft_wrap=True)
    if job["error"]:
        out.print(Text(one_line(job["error"], 2000), "red"), soft_wrap=True)
    elif detail := job["metadata"].get("stats", {}).get("finish_detail"):
        out.print(Text(one_line(detail, 2000), "yellow"), soft_wrap=True)
    snapshot = job["best_snapshot"]
    if snapshot is not None:
        # The prompt is long: what comes after it is still on the screen at the end.
        out.print()
        shown = snapshot["modules"] if "modules" in snapshot else snapshot["messages"]
        print_prompt(out, shown, is_baseline=snapshot["is_baseline_best"])
        for line in stages(snapshot):
            out.print(Text(line, "dim"), soft_wrap=True)
        out.print()
        print_scores(out, snapshot)
    if job["status"] in TERMINAL_STATUSES and (stats := job["metadata"].get("stats")):
        out.print()
        out.print(_counters(counters(stats, snapshot)))
    elif job["progress"]:
        out.print(Text(_state(job["progress"])), soft_wrap=True)
        if spend := job.get("spend"):
            out.print(Text(f"spent: {spent(spend)}"), soft_wrap=True)


def _headline(job: Job) -> Text:
    line = Text.assemble("job ", (job["job_id"], "bold"), " ", (job["status"], STYLE_OF_STATUS.get(job["status"], "")))
    reason = job["finish_reason"]
    if reason and reason != job["status"]:
        line.append(f" ({reason})", "dim")
    line.append(f" · {job['algorithm']} · {job['policy']['provider']}/{one_line(job['policy']['model'])}")
    return line


def _state(progress: Mapping[str, Any]) -> str:
    done = f"{progress['rollouts_completed']}/{progress['rollouts_total']} rollouts"
    best, baseline = best_and_baseline(progress)
    told = f"{progress['phase']}: {done}, best {best}, baseline {baseline}, {tried(progress)}"
    return f"{told}, {failed(progress)}" if progress.get("failed_rollouts") else told


# --- scores ----------------------------------------------------------------------------------------------------------


def print_scores(out: Console, snapshot: Mapping[str, Any]) -> None:
    """From the baseline to the best on held-out seeds; below, all that was measured, with 95 % intervals."""
    measured = _measured(snapshot)
    out.print(_verdict(snapshot, measured), soft_wrap=True)
    if not measured:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("seeds", no_wrap=True)
    table.add_column("n", justify="right", overflow="fold")
    for name in ("baseline", "best", "difference"):
        table.add_column(name, no_wrap=True)
    for place, (name, figures) in enumerate(measured.items()):
        best, baseline, difference = figures["best"], figures["baseline"], figures["difference"]
        scores = _interval(baseline), _interval(best), _interval(difference, "+")
        table.add_row(name, _seeds(baseline, best), *scores, style="bold" if place == 0 else "")
    out.print(table)
    out.print(Text(f"Means with 95 % intervals. {_pairs(measured)}{_roles(snapshot)}", "dim"))


def _seeds(baseline: Mapping[str, Any] | None, best: Mapping[str, Any] | None) -> str:
    """On how many seeds the two scores rest: one number where it is the same."""
    counts = [estimate["n"] if estimate else 0 for estimate in (baseline, best)]
    return "/".join(dict.fromkeys(map(str, counts)))


def _pairs(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """What tells why a difference is not that of the two means: it is taken on the seeds that both have."""
    fewer = [
        f"{figures['difference']['n']} {name} seeds"
        for name, figures in measured.items()
        if figures["difference"]
        and {figures["difference"]["n"]} != {figures[side]["n"] for side in ("best", "baseline")}
    ]
    return f"Differences are paired, here on the {' and '.join(fewer)} that both have. " if fewer else ""


def _measured(snapshot: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What was measured, the most trustworthy first."""
    parts = {"test": snapshot["test"], "validation": snapshot["validation_summary"], "train": snapshot["train"]}
    return {name: part for name, part in parts.items() if part is not None}


def _is_validation_held_out(snapshot: Mapping[str, Any]) -> bool:
    """Where no train seeds were scored, it was the validation seeds that guided the search."""
    return snapshot["validation_summary"] is not None and snapshot["train"] is not None


def _roles(snapshot: Mapping[str, Any]) -> str:
    roles = []
    if snapshot["train"] is not None:
        roles.append("train seeds guided the search")
    if snapshot["validation_summary"] is not None:
        chose = "chose the winner" if _is_validation_held_out(snapshot) else "guided the search"
        roles.append(f"validation seeds {chose}")
    if snapshot["test"] is not None:
        roles.append("test seeds were opened once, at the end")
    said = "; ".join(roles)
    return f"{said[:1].upper()}{said[1:]}."


def _verdict(snapshot: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]]) -> Text:
    if not measured and snapshot["is_baseline_best"]:
        return Text("Nothing was measured: the prompt is the one it started from.", "yellow")
    if snapshot["is_baseline_best"]:
        return Text("No candidate was better than the baseline: the best prompt is the one it started from.", "yellow")
    name, figures = next(iter(measured.items()), ("", {}))
    if not figures.get("best") or not figures.get("baseline"):
        return Text("The best prompt was not measured beside the baseline.", "yellow")
    is_held_out = name == "test" or _is_validation_held_out(snapshot)
    n = figures["best"]["n"]
    where = f"{n} held-out {name} seeds" if is_held_out else f"{n} {name} seeds, which are not held out"
    scores = Text.assemble(score(figures["baseline"]["mean"]), " → ", (score(figures["best"]["mean"]), "bold green"))
    return Text.assemble("baseline → best: ", scores, f" on {where}", _significance(figures["difference"]))


def _significance(difference: Mapping[str, Any] | None) -> Text:
    if difference is None:
        return Text("")
    if difference["low"] is None or difference["high"] is None:
        return Text(", and one seed tells nothing of chance", "yellow")
    if difference["low"] > 0:
        return Text(", a clear gain", "green")
    if difference["high"] < 0:
        return Text(", clearly worse", "red")
    return Text(", too few to tell the difference from chance", "yellow")


def _interval(estimate: Mapping[str, Any] | None, sign: str = "") -> str:
    if estimate is None:
        return "–"
    low, high = estimate["low"], estimate["high"]
    if low is None or high is None:  # one seed tells no spread
        return f"{estimate['mean']:{sign}.3f}"
    return f"{estimate['mean']:{sign}.3f} [{low:{sign}.2f}, {high:{sign}.2f}]"


# --- prompt and counters ---------------------------------------------------------------------------------------------


def print_prompt(out: Console, messages: Sequence[Mapping[str, Any]], *, is_baseline: bool) -> None:
    """Between two rules, with nothing at the sides and no line broken: what is copied is valid JSON.

    messages: or of a program its modules, each with its messages.
    """
    title = "the baseline prompt, which stays" if is_baseline else "the best prompt, as messages"
    width = min(out.width, RULE)
    out.print(Rule(Text(title, "bold"), style="green"), width=width)
    out.print(Text(readable_json(messages)), soft_wrap=True)
    out.print(Rule(style="green"), width=width)


def stages(snapshot: Mapping[str, Any]) -> list[str]:
    """What each stage's prompt is made of; none where the search had no stages to choose for."""
    candidate = snapshot.get("best_candidate")
    if candidate is None:
        return []
    pools = snapshot["bootstrap"]["few_shot_examples"]
    return [
        f"{stage}: {_instructions(part['instruction_ids'])}, "
        f"{_examples([pools[stage][index]['seed'] for index in part['demo_indices']])}"
        for stage, part in candidate["stage_payloads"].items()
    ]


def _instructions(ids: Sequence[int]) -> str:
    if not ids:
        return "the baseline's instruction"
    return f"{'instruction' if len(ids) == 1 else 'instructions'} {' and '.join(map(str, ids))}"


def _examples(seeds: Sequence[int]) -> str:
    if not seeds:
        return "no examples"
    many = len(seeds) > 1
    return f"{len(seeds)} {'examples' if many else 'example'} of seed{'s' if many else ''} {', '.join(map(str, seeds))}"


def _counters(named: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in named:
        table.add_row(name, value)
    return table


def counters(stats: Mapping[str, Any], snapshot: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """What a job has used, by name. snapshot: with the banks, where a search by trials has chosen from such."""
    phases = [
        (name, stats[f"{name}_rollouts_executed"]) for name in ("bootstrap", "optimization", "validation", "test")
    ]
    by_phase = ", ".join(f"{name} {count:,}" for name, count in phases if count)
    rollouts = f"{stats['total_rollouts']:,}" + (f" ({by_phase})" if by_phase else "")
    apart = f"{failed(stats)}, {stats['reused_rollouts']:,} scores reused"
    tokens = f"rollouts {stats['rollout_tokens_used']:,}, proposals {stats['mutation_tokens_used']:,}"
    return [
        ("rollouts", f"{rollouts}, {apart}"),
        *_tried(stats, snapshot),
        ("tokens", f"{stats['total_tokens']:,} ({tokens})"),
        ("cost", _paid(stats)),
        ("time", duration(stats["total_time_seconds"])),
    ]


def _paid(stats: Mapping[str, Any]) -> str:
    """By the ledger, which knows the calls that a crash repeated too."""
    spend = stats.get("spend")
    if spend is None:
        return cost(stats["total_cost_usd"])
    parts = parts_spent(spend)
    return f"{spent(spend)} ({parts})" if parts else spent(spend)


def _tried(stats: Mapping[str, Any], snapshot: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    calls = f"{stats['mutation_calls']:,} calls"
    if snapshot is None or "instruction_bank" not in snapshot:
        refused = stats["trials_tried"] - stats["transformations_evaluated"]
        return [("proposals", f"{stats['trials_tried']:,}, {refused:,} refused, {calls}")]
    pools = snapshot["bootstrap"]["few_shot_examples"]
    examples = ", ".join(f"{len(pool)} for {stage}" for stage, pool in pools.items())
    return [
        ("trials", f"{snapshot['total_trials']:,}"),
        ("proposals", f"{len(snapshot['instruction_bank']):,} instructions, {calls}"),
        ("examples", examples),
    ]


# --- where to look next ----------------------------------------------------------------------------------------------


def url_option(url: str) -> str:
    """What a command needs to reach the same service."""
    return "" if url == DEFAULT_URL else f" --url {url}"


def print_more(out: Console, url: str, job: Job, started_by: str | None = None, *, needs_key: bool = False) -> None:
    """Commands for a shell that show more. started_by: what has to run first, where the service is gone by now."""
    snapshot, where = job["best_snapshot_id"], f"{job['job_id']}{url_option(url)}"
    is_over = job["status"] in TERMINAL_STATUSES
    curl = 'curl -H "X-API-Key: $PROMPTJOBS_API_KEY"' if needs_key else "curl"
    commands = [
        *([(started_by, "starts the service again")] if started_by else []),
        (f"promptjobs show {where}", "this result again") if is_over else (f"promptjobs watch {where}", "follow it"),
        *([(f"promptjobs export {where} --format openai", "the best prompt as a program")] if snapshot else []),
        (f"JOB={url}{JOBS_PATH}/{job['job_id']}", ""),
        (f"{curl} $JOB", "the job"),
        (f'{curl} "$JOB/events?limit=100"', "its events"),
        (f"{curl} $JOB/trials", "what was evaluated"),
        *([(f"{curl} $JOB/snapshots/{snapshot}", "the snapshot with the best prompt")] if snapshot else []),
        (f"{curl} $JOB/artifacts", "its artifacts"),
    ]
    out.print()
    out.print(Text("See more:", "bold"))
    for command, meaning in commands:
        out.print(Text.assemble(f"  {command}", (f"  # {meaning}" if meaning else "", "dim")), soft_wrap=True)


# --- many jobs -------------------------------------------------------------------------------------------------------


def jobs_table(jobs: Sequence[Job], width: int, now: datetime | None = None) -> Table:
    """In the order in which they come. width: of the terminal, where ids are never cut; now: what ages refer to."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("job", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in ("rollouts", "best (n)", "age"):
        table.add_column(name, justify="right", no_wrap=True)
    is_wide = width >= WIDE
    if is_wide:
        table.add_column("policy", overflow="ellipsis", no_wrap=True)
    for job in jobs:
        progress = job["progress"]
        done = progress["rollouts_completed"] if progress else 0
        policy = Text(one_line(f"{job['policy']['provider']}/{job['policy']['model']}"))
        table.add_row(
            job["job_id"],
            Text(job["status"], STYLE_OF_STATUS.get(job["status"], "")),
            f"{done}/{job['rollout_budget']}",
            _best(job),
            age(datetime.fromisoformat(job["created_at"]), now or datetime.now(UTC)),
            *([policy] if is_wide else []),
        )
    return table


def _best(job: Job) -> str:
    """The best score, and behind it the number of seeds that it rests on."""
    value, seeds = job["best_score"], job.get("best_score_seeds")
    return score(value) if value is None or seeds is None else f"{score(value)} ({seeds})"


def age(then: datetime, now: datetime) -> str:
    seconds = max(0, int((now - then).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
