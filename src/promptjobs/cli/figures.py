"""Scores with their seeds, failures by kind, spending with its caps: each in a few words.

A job of an earlier version has no seeds, kinds or spending: they are left out then.
"""

from collections.abc import Mapping
from typing import Any

from promptjobs.cli.text import cost, score


def seeded(value: float | None, seeds: int | None) -> str:
    """ "0.710 (20 seeds)"."""
    if value is None or seeds is None:
        return score(value)
    return f"{score(value)} ({seeds:,} {'seed' if seeds == 1 else 'seeds'})"


def best_and_baseline(progress: Mapping[str, Any]) -> tuple[str, str]:
    best = seeded(progress["best_score"], progress.get("best_score_seeds"))
    return best, seeded(progress["baseline_score"], progress.get("baseline_score_seeds"))


def failed(stats: Mapping[str, Any]) -> str:
    """ "7 failed: 5 provider, 2 task app"; rollouts that the judge gave no score come after those."""
    kinds = {kind: count for kind, count in stats.get("failures", {}).items() if count}
    unjudged = kinds.pop("judge", 0)
    by_kind = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in kinds.items())
    said = f"{stats['failed_rollouts']:,} failed" + (f": {by_kind}" if by_kind else "")
    return f"{said}; {unjudged:,} without the judge's score" if unjudged else said


def spent(spend: Mapping[str, Any]) -> str:
    """ "$0.0123 of $0.0500": what was paid, with what may come to it, and the cap over it."""
    if spend["unpriced_calls"] and not spend["usd"]:
        return "unknown"
    cap = spend["caps"]["total_usd"]
    said = cost(spend["usd"]) if cap is None else f"{cost(spend['usd'])} of {cost(cap)}"
    if spend["unpriced_calls"]:
        said = f"at least {said}, {spend['unpriced_calls']:,} calls have no known price"
    open_usd = spend["held_usd"] + spend["unsettled_usd"]
    return f"{said}, and up to {cost(open_usd)} not settled" if open_usd else said


def parts_spent(spend: Mapping[str, Any]) -> str:
    """What the categories have paid: "policy $0.0100, proposal $0.0023"; those that paid nothing are left out."""
    paid = {name: each["usd"] for name, each in spend["categories"].items() if each["usd"]}
    return ", ".join(f"{name} {cost(usd)}" for name, usd in paid.items())
