"""The report on a job, as Markdown: what was run, what came of it and how sure that is, what it has cost."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from promptjobs.core.archive import Candidate
from promptjobs.core.markdown import bullets, fenced, inline, table
from promptjobs.core.prompt import Message, render
from promptjobs.core.seed_sets import are_held_out
from promptjobs.core.verdict import CONFIDENCE, Estimate

FEW_SEEDS = 10
"""An interval over fewer seeds says little, whatever it is."""

MANY_FAILURES = 0.1
MAX_POINTS, MAX_FRONT = 40, 50
BAR = 20
MAX_DIFF_LINES = 4_000
"""Comparing longer prompts line by line would take seconds."""


@dataclass(frozen=True, slots=True)
class SetFigures:
    """The best prompt and the baseline on one set of seeds. name: of the set. difference: paired, over shared seeds."""

    name: str
    best: Estimate | None
    baseline: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True, slots=True)
class FrontLine:
    """wins: on how many seeds nobody of the front is better."""

    candidate: Candidate
    score: float
    num_seeds: int
    wins: int


@dataclass(frozen=True, slots=True)
class CurvePoint:
    rollouts: int
    score: float
    candidate_n: int | None


@dataclass(frozen=True, slots=True)
class SpendingLine:
    category: str
    usd: float
    tokens: int
    calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """All that a report tells. Texts are as they were given, by whomever; times as they are to be shown.

    settings: what was run, by name. best, baseline: None where there is none. proposals, refused, failures: how often
    by what. has_front: whether `front` is a Pareto front. is_over: whether nothing will follow.
    """

    job_id: str
    algorithm: str
    status: str
    is_over: bool
    settings: Mapping[str, str]
    figures: Sequence[SetFigures] = ()
    best: Candidate | None = None
    baseline: Candidate | None = None
    has_front: bool = True
    front: Sequence[FrontLine] = ()
    curve: Sequence[CurvePoint] = ()
    proposals: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    rollouts: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    spending: Sequence[SpendingLine] = ()
    finish_reason: str | None = None
    finish_detail: str | None = None
    error: str | None = None
    warnings: Sequence[str] = ()

    @property
    def is_baseline_best(self) -> bool:
        return self.best is not None and self.best.is_baseline

    @property
    def held_out(self) -> SetFigures | None:
        """What the outcome is told by: the test, else the validation, else the seeds that the search was steered by."""
        compared = [each for each in self.figures if each.difference is not None]
        return compared[-1] if compared else None


def report(facts: ReportFacts) -> str:
    """The whole report; each part stands only where there is something to tell."""
    parts = [f"# Report on job {inline(facts.job_id)}", _opening(facts), *_outcome(facts), *_prompts(facts)]
    parts += [*_front(facts), *_curve(facts), *_proposals(facts), *_failures(facts), *_spending(facts)]
    parts += ["## What was run", table(["", ""], facts.settings.items())]
    if facts.warnings:
        parts += ["## Warnings", bullets(map(inline, facts.warnings))]
    return "\n\n".join(parts) + "\n"


def _opening(facts: ReportFacts) -> str:
    if not facts.is_over:
        return f"**The job is {inline(facts.status)}: these are its figures so far.**"
    why = f" It ended by {inline(facts.finish_reason)}" if facts.finish_reason else ""
    why += f": {inline(facts.finish_detail)}." if facts.finish_detail and why else "." if why else ""
    failed = f"\n\nIts error: {inline(facts.error)}" if facts.error else ""
    return f"The {inline(facts.algorithm)} job has {_ended(facts.status)}.{why}{failed}"


def _ended(status: str) -> str:
    return "been cancelled" if status == "cancelled" else inline(status)


# --- the outcome -----------------------------------------------------------------------------------------------------


def _outcome(facts: ReportFacts) -> Iterator[str]:
    yield "## Outcome"
    if not facts.figures:
        yield "Nothing was measured."
        return
    yield _said(facts)
    rows = [
        [each.name, _estimate(each.baseline), _estimate(each.best), _difference(each.difference)]
        for each in facts.figures
    ]
    yield table(["Seeds", "Baseline", "Best", "Difference"], rows)
    yield (
        f"In brackets: intervals of {CONFIDENCE:.0%} confidence, and the number of seeds. Differences are paired: over "
        "the seeds that both prompts have a score on."
    )
    if doubts := list(_doubts(facts)):
        yield bullets(doubts)


def _said(facts: ReportFacts) -> str:
    found = facts.held_out
    if facts.is_baseline_best:
        return "**No prompt was found that is better than the baseline.**"
    if found is None or found.difference is None:
        return "The best prompt and the baseline have no seeds in common, so they cannot be compared."
    return f"**{inline(found.name)}: the best prompt scores {_difference(found.difference)} against the baseline.**"


def _doubts(facts: ReportFacts) -> Iterator[str]:
    """What speaks against reading too much into the figures."""
    found = facts.held_out
    if found is not None and found.difference is not None and not facts.is_baseline_best:
        gain = found.difference
        if gain.low is None or gain.high is None or gain.low <= 0.0 <= gain.high:
            yield "The interval of the difference holds 0: it may be chance."
        if gain.n < FEW_SEEDS:
            yield f"The difference rests on {gain.n} {'seed' if gain.n == 1 else 'seeds'} only."
    if not are_held_out([each.name for each in facts.figures]):
        yield "No seeds were held out: the search was steered by those that the scores are of, which flatters the best."
    failed = sum(facts.failures.values())
    if facts.rollouts and failed > MANY_FAILURES * facts.rollouts:
        yield f"{failed} of {facts.rollouts} rollouts failed; scores are of those that were answered."
    if any(line.unpriced_calls for line in facts.spending):
        yield "The price of some calls is not known: what was spent is more than is shown."


def _estimate(found: Estimate | None) -> str:
    return "–" if found is None else f"{found.mean:.3f} {_interval(found, '.3f')}"


def _difference(found: Estimate | None) -> str:
    return "–" if found is None else f"{found.mean:+.3f} {_interval(found, '+.3f')}"


def _interval(found: Estimate, form: str) -> str:
    span = found.span(form)
    return f"(n = {found.n})" if span is None else f"({span}, n = {found.n})"


# --- the prompts -----------------------------------------------------------------------------------------------------


def _prompts(facts: ReportFacts) -> Iterator[str]:
    best, baseline = facts.best, facts.baseline
    if best is None or best.prompt is None:
        return
    yield "## The best prompt"
    yield f"Candidate {best.n}, {inline(best.candidate_id)}: by {inline(best.operator)}, generation {best.generation}."
    for module, messages in _modules(best):
        if module:
            yield f"### Module {inline(module)}"
        for message in messages:
            yield f"{inline(message.role)}:"
            yield fenced(message.content)
    if baseline is None or baseline.prompt is None or facts.is_baseline_best:
        return
    yield "## What it changes in the baseline"
    before, after = _lines(baseline), _lines(best)
    if len(before) + len(after) > MAX_DIFF_LINES:
        yield "The prompts are too long to be compared line by line here."
        return
    changed = difflib.unified_diff(before, after, "baseline", "best", lineterm="")
    yield fenced("\n".join(changed), "diff")


def _modules(candidate: Candidate) -> Iterator[tuple[str, Sequence[Message]]]:
    for module in candidate.template.modules:
        yield module, render(candidate.template.part(module))


def _lines(candidate: Candidate) -> list[str]:
    lines: list[str] = []
    for module, messages in _modules(candidate):
        for message in messages:
            lines += [f"[{module} {message.role}]" if module else f"[{message.role}]", *message.content.split("\n")]
    return lines


# --- how it came about -----------------------------------------------------------------------------------------------


def _front(facts: ReportFacts) -> Iterator[str]:
    if not facts.front:
        return
    yield "## The Pareto front" if facts.has_front else "## The leading configurations"
    rows = [
        [str(c.n), c.operator, str(c.generation), f"{line.score:.3f}", str(line.num_seeds), str(line.wins)]
        for line in facts.front[:MAX_FRONT]
        for c in (line.candidate,)
    ]
    yield table(["Candidate", "By", "Generation", "Score", "Seeds", "Best on"], rows)
    if len(facts.front) > MAX_FRONT:
        yield f"And {len(facts.front) - MAX_FRONT} more."


def _curve(facts: ReportFacts) -> Iterator[str]:
    if not facts.curve:
        return
    yield "## Learning curve"
    rows = [
        [str(p.rollouts), f"{p.score:.3f}", "" if p.candidate_n is None else str(p.candidate_n), _bar(p.score)]
        for p in facts.curve[-MAX_POINTS:]
    ]
    yield table(["Rollouts", "Best score", "Candidate", ""], rows)
    if len(facts.curve) > MAX_POINTS:
        yield f"The latest {MAX_POINTS} of {len(facts.curve)} steps."


def _bar(score: float) -> str:
    return "█" * round(BAR * min(1.0, max(0.0, score)))


def _proposals(facts: ReportFacts) -> Iterator[str]:
    if not (facts.proposals or facts.refused):
        return
    yield "## Proposals"
    if facts.proposals:
        yield table(["What became of them", "Candidates"], _counted(facts.proposals))
    if facts.refused:
        yield "Refused before they were tried:"
        yield table(["Why", "Proposals"], _counted(facts.refused))


def _failures(facts: ReportFacts) -> Iterator[str]:
    if facts.failures:
        yield "## Failures"
        yield f"Of {facts.rollouts} rollouts, {sum(facts.failures.values())} have no score."
        yield table(["Reason", "Rollouts"], _counted(facts.failures))


def _counted(counts: Mapping[str, int]) -> list[list[str]]:
    return [[name, str(count)] for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))]


def _spending(facts: ReportFacts) -> Iterator[str]:
    lines = [line for line in facts.spending if line.calls or line.tokens]
    if not lines:
        return
    yield "## Spending"
    sums = (sum(getattr(line, name) for line in lines) for name in ("usd", "tokens", "calls", "unpriced_calls"))
    usd, tokens, calls, unpriced = sums
    rows = [_spent(line) for line in [*lines, SpendingLine("all", usd, tokens, calls, unpriced)]]
    yield table(["For", "USD", "Tokens", "Calls"], rows)


def _spent(line: SpendingLine) -> list[str]:
    """A sum that leaves calls out does not look like one of all calls."""
    usd = f"{line.usd:.6f}"
    if line.unpriced_calls:
        usd = f"at least {usd}" if line.usd else "unknown"
    return [line.category, usd, f"{line.tokens:,}", f"{line.calls:,}"]
