"""How the SDK's experiment queue runs a command and reads what it leaves: written anew from its contract."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

PROGRESS = "prompt.learning.progress"
DONE_OF_TOTAL = (
    r"rollouts=\((\d+)/(\d+)\s+rem=\d+\)",
    r"rollouts=(\d+)/(\d+)",
    r"Completed\s+(\d+)\s*/\s*(\d+)\s+rollouts?",
    r"(\d+)\s*/\s*(\d+)\s+rollouts?",
)
BEST = (r"best[_\s]score[:\s]+([\d.]+)", r"best[:\s]+([\d.]+)")


class QueueFailed(Exception):
    """What the queue takes for a failure of the job, whatever the command says."""


def arguments(config: Path, backend: str) -> list[str]:
    """What the queue adds to the command."""
    flags = ["--type", "prompt_learning", "--config", str(config), "--backend", backend]
    return [*flags, "--poll", "--stream-format", "cli"]


def job_id_in(output: str) -> str | None:
    """From the first line that has one."""
    for line in output.splitlines():
        named = re.search(r'"job_id"\s*:\s*"([^"]+)"', line) or re.search(r"(pl_[a-f0-9]+)", line)
        if named is not None:
            return named[1]
    return None


@dataclass
class Status:
    """The figures of the output so far."""

    done: int | None = None
    total: int | None = None
    trials: int | None = None
    best: float | None = None

    @property
    def percent(self) -> float | None:
        return None if self.done is None or not self.total else 100 * self.done / self.total


def status_of(output: str) -> Status:
    """Raises QueueFailed where the queue fails over what it finds."""
    found = Status()
    for pattern in DONE_OF_TOTAL:
        for match in re.finditer(pattern, output, re.IGNORECASE):
            done, total = int(match[1]), int(match[2])
            if 0 <= done <= total and total > 0:
                found.done, found.total = done, total
    for line in output.splitlines():
        if line.startswith("{") and line.endswith("}"):
            _read_event(found, json.loads(line))
    if found.best is None:
        _read_best(found, output)
    if found.done is not None and found.total is not None:
        if found.done == 0:
            raise QueueFailed("it divides by the rollouts that are done")
        if found.done > found.total:
            raise QueueFailed(f"{found.done} of {found.total} rollouts are done")
    return found


def _read_event(found: Status, event: Json) -> None:
    data = event.get("data", {})
    if not isinstance(data, dict):
        raise QueueFailed("an event has no data")
    if event.get("type") == PROGRESS:
        found.done = data.get("rollouts_completed", found.done)
        found.total = data.get("rollouts_total", found.total)
        found.trials = data.get("trials_completed", found.trials)
        found.best = data.get("best_score", found.best)
    if found.best is not None and not 0 <= found.best <= 1:
        raise QueueFailed(f"the best score is {found.best}")


def _read_best(found: Status, output: str) -> None:
    for pattern in BEST:
        match = re.search(pattern, output, re.IGNORECASE)
        if match is not None:
            try:
                score = float(match[1])
            except ValueError:
                continue
            if 0 <= score <= 1:
                found.best = score
                return


@dataclass
class Summary:
    """What the queue keeps as a job's result."""

    stats: Json = field(default_factory=dict)
    curve: list[Json] = field(default_factory=list)
    best: float | None = None
    baseline: float | None = None
    rollouts: int | None = None
    seconds: float | None = None
    artifacts: dict[str, Path] = field(default_factory=dict)


def summary_of(folder: Path) -> Summary:
    """Read out of the newest files. Raises QueueFailed as `status_of` does."""
    found = Summary()
    if path := _newest(folder, "*learning_curve*.json"):
        found.artifacts["learning_curve_path"] = path
        found.curve = [_point(each) for each in json.loads(path.read_text())["curve"]]
        scored = [point["performance"] for point in found.curve if point["performance"] is not None]
        found.baseline, found.best, found.rollouts = scored[0], max(scored), found.curve[-1]["rollout_count"]
    if path := _newest(folder, "*stats*.json"):
        found.artifacts["stats_path"] = path
        found.stats = json.loads(path.read_text())
        found.seconds = found.stats.get("total_time")
        found.rollouts = found.rollouts or found.stats.get("total_rollouts")
    if (found.best is None or found.baseline is None) and (path := _newest(folder, "*_results_*.txt")):
        found.artifacts["results_txt_path"] = path
        text = path.read_text()
        for name in ("baseline", "best"):
            if score := re.search(rf"{name} Score:\s*([\d.]+)", text, re.IGNORECASE):
                setattr(found, name, float(score[1]))
    if path := _newest(folder, "*best_prompt*.json"):
        found.artifacts["best_prompt_path"] = path
    _check(found)
    return found


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, default=None)


def _point(entry: Mapping[str, Any]) -> Json:
    """A first figure of 0 counts as missing, and so does a second one."""
    return {
        "rollout_count": entry.get("rollout_count") or entry.get("rollouts"),
        "performance": entry.get("performance") or entry.get("score") or entry.get("aggregate_score"),
        "checkpoint_pct": entry.get("checkpoint_pct"),
    }


def _check(found: Summary) -> None:
    for score in (found.best, found.baseline):
        if score is not None and not 0 <= score <= 1:
            raise QueueFailed(f"a score is {score}")
    rollouts = (found.rollouts, found.stats.get("total_rollouts"))
    if any(each is not None and not (isinstance(each, int) and each > 0) for each in rollouts):
        raise QueueFailed(f"the rollouts are {rollouts}")
    if found.seconds is not None and found.seconds < 0:
        raise QueueFailed(f"it took {found.seconds} s")


def polled_progress(events: Sequence[Json]) -> Json | None:
    """The last progress, as the queue's poller reads a page of events; it rejects a page for one bad event."""
    last = None
    for event in events:
        if event["seq"] < 0 or not event["type"].strip() or not event["message"].strip():
            raise QueueFailed(f"event {event['seq']} is rejected")
        if event["type"] == PROGRESS:
            last = event["data"]
            done, total = last["rollouts_completed"], last["rollouts_total"]
            shares = (last["percent_rollouts"], last["best_score"])
            if not 0 <= done <= total or total < 1 or any(each is not None and not 0 <= each <= 1 for each in shares):
                raise QueueFailed(f"progress {event['seq']} is rejected")
    return last


def final_figures(job: Json) -> Json:
    """What the queue puts last into its status of a job: those of these figures that the job's metadata has."""
    stats = job["metadata"]["stats"]
    names = (
        *("trials_tried", "total_tokens", "total_rollouts", "optimization_rollouts_executed"),
        *("validation_rollouts_executed", "optimization_trials_evaluated", "validation_trials_evaluated"),
        *("baseline_score", "best_score", "total_time_seconds", "eval_seeds_n", "transformations_evaluated"),
    )
    return {name: stats[name] for name in names if stats.get(name) is not None}
