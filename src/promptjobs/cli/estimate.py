"""Prints what a job is expected to take and cost."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptjobs.cli.text import cost, one_line
from promptjobs.sdk.shapes import Estimate

NAMES = {
    "bootstrap": "bootstrap rollouts",
    "policy": "search rollouts",
    "validation": "validation rollouts",
    "test": "test rollouts",
    "proposal": "proposals",
    "judge": "judge",
}
CAPS = {
    "cost_budget": "on cost",
    "rollout_cost_budget": "on the cost of rollouts",
    "proposal_cost_budget": "on the cost of proposals",
    "token_budget": "on tokens",
}


def print_estimate(out: Console, estimate: Estimate) -> None:
    """A line for each purpose, the whole below, and then which limit would end the job early."""
    phases = [f"{name} {count:,}" for name, count in estimate["rollouts"].items() if name != "total" and count]
    out.print(Text(f"{estimate['rollouts']['total']:,} rollouts ({', '.join(phases)})", "bold"), soft_wrap=True)
    out.print(_table(estimate))
    for line, style in _remarks(estimate):
        out.print(Text(one_line(line, 1000), style), soft_wrap=True)


def _table(estimate: Estimate) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("for", no_wrap=True)
    for name in ("calls", "at most", "tokens", "at most", "cost", "at most"):
        table.add_column(name, justify="right", no_wrap=True)
    calls, tokens, usd = (estimate[name] for name in ("calls", "tokens", "cost_usd"))
    for category, count in calls["by_category"].items():
        if count["at_most"]:
            row = _row(count, tokens["by_category"][category], usd["by_category"][category])
            table.add_row(NAMES.get(category, category), *row)
    table.add_row("in all", *_row(calls, tokens, usd), style="bold")
    return table


def _row(calls: Mapping[str, Any], tokens: Mapping[str, Any], usd: Mapping[str, Any]) -> list[str]:
    counts = [f"{part[name]:,}" for part in (calls, tokens) for name in ("expected", "at_most")]
    return [*counts, cost(usd["expected"]), cost(usd["at_most"])]


def _remarks(estimate: Estimate) -> list[tuple[str, str]]:
    """What there is to say, each with its style."""
    said = []
    if estimate["unpriced_models"]:
        models = ", ".join(estimate["unpriced_models"])
        said.append((f"No price is known of {models}: give one in prompt_learning.prices", "yellow"))
    caps = {cap: _limit(cap, limit) for cap, limit in estimate["caps"].items()}
    stopped_by = estimate["stopped_by"]
    if stopped_by is not None:
        said.append((f"The limit {caps[stopped_by]} is expected to end the job early ({stopped_by})", "yellow"))
    if held := [words for cap, words in caps.items() if cap != stopped_by]:
        said.append((f"Never passed: the limit {', the limit '.join(held)}", ""))
    if not caps:
        said.append(("Nothing limits what it may spend: `termination_config.max_cost_usd` would", "dim"))
    said.append((f"Assumed: {'; '.join(estimate['assumptions'])}", "dim"))
    return said


def _limit(cap: str, limit: float) -> str:
    amount = f"{limit:,.0f}" if cap == "token_budget" else cost(limit)
    return f"{CAPS.get(cap, cap)} of {amount}"
