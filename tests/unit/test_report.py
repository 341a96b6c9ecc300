"""The report: what it tells of a job, how sure it is of it, and that texts of others stay texts."""

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from promptjobs.api.report_page import CONTENT_SECURITY_POLICY, STYLE, page
from promptjobs.core.archive import Candidate
from promptjobs.core.prompt import PromptTemplate, Section
from promptjobs.core.report import (
    MAX_DIFF_LINES,
    CurvePoint,
    FrontLine,
    ReportFacts,
    SetFigures,
    SpendingLine,
    report,
)
from promptjobs.core.verdict import Estimate, paired_difference, score_estimate

HOSTILE = (
    "</code></pre><script>alert(1)</script>\n```\n# out of the fence\n[x](javascript:alert(1))\n"
    "<img src=x onerror=alert(1)>\n````\n<style>body{display:none}</style>"
)


def prompt(system: str, **more: str) -> PromptTemplate:
    sections = [Section("system", "system", system, 0), Section("user", "user", "{query}", 1)]
    sections += [Section(f"{m}.s", "system", text, 2, module=m) for m, text in more.items()]
    return PromptTemplate(tuple(sections), {"query": True})


BASELINE = Candidate("c_0", 0, prompt("Answer.\nBe kind."), "c_0")
BEST = Candidate("c_7", 7, prompt("Answer.\nBe exact."), "c_0", ("c_0",), "reflection", 2)


def figures(name: str, best: dict[int, float], baseline: dict[int, float]) -> SetFigures:
    return SetFigures(
        name,
        score_estimate(list(best.values())),
        score_estimate(list(baseline.values())),
        paired_difference(best, baseline),
    )


CLEAR = figures("validation", {s: 0.8 + 0.01 * (s % 3) for s in range(20)}, dict.fromkeys(range(20), 0.5))
FACTS = ReportFacts(
    job_id="pl_1",
    algorithm="gepa",
    status="succeeded",
    is_over=True,
    settings={"Policy model": "groq/llama"},
    figures=[CLEAR],
    best=BEST,
    baseline=BASELINE,
    front=[FrontLine(BEST, 0.81, 12, 9), FrontLine(BASELINE, 0.5, 12, 3)],
    curve=[CurvePoint(12, 0.5, 0), CurvePoint(90, 0.81, 7)],
    proposals={"accepted": 3, "rejected: it did not score better": 8},
    refused={"the reply holds no fenced text": 2},
    rollouts=200,
    failures={"provider_timeout": 4},
    spending=[SpendingLine("policy", 0.01, 1000, 200, 0), SpendingLine("judge", 0.0, 0, 0, 0)],
    finish_reason="rollout_budget",
    finish_detail="nothing is left",
    warnings=["unknown field 'x' is ignored"],
)


def test_a_report_tells_the_whole_of_a_job() -> None:
    text = report(FACTS)
    headings = [line for line in text.split("\n") if line.startswith("#")]
    assert headings == [
        "# Report on job pl_1",
        "## Outcome",
        "## The best prompt",
        "## What it changes in the baseline",
        "## The Pareto front",
        "## Learning curve",
        "## Proposals",
        "## Failures",
        "## Spending",
        "## What was run",
        "## Warnings",
    ]
    assert "The gepa job has succeeded. It ended by rollout_budget: nothing is left." in text
    assert "**validation: the best prompt scores +0.310 (+0.306 to +0.313, n = 20) against the baseline.**" in text
    assert "| validation | 0.500 (0.299 to 0.701, n = 20) | 0.810 (0.806 to 0.813, n = 20) |" in text
    assert "```\nAnswer.\nBe exact.\n```" in text
    assert "-Be kind.\n+Be exact.\n" in text
    assert "| 7 | reflection | 2 | 0.810 | 12 | 9 |" in text
    assert f"| 90 | 0.810 | 7 | {'█' * 16} |" in text
    assert "| policy | 0.010000 | 1,000 | 200 |" in text
    assert "judge" not in text
    assert "it may be chance" not in text


def test_the_same_facts_make_the_same_report() -> None:
    assert report(FACTS) == report(replace(FACTS))


def doubtful(**changes: Any) -> str:
    return report(replace(FACTS, **changes))


def test_doubts_are_told() -> None:
    thin = figures("test", {1: 1.0, 2: 0.0, 3: 1.0}, {1: 0.0, 2: 0.0, 3: 1.0})
    text = doubtful(figures=[CLEAR, thin])
    assert "**test: the best prompt scores +0.333" in text, "the test goes before the validation"
    assert "The interval of the difference holds 0: it may be chance." in text
    assert "rests on 3 seeds only" in text
    one = doubtful(figures=[figures("validation", {1: 1.0}, {1: 0.5})])
    assert "it may be chance" in one
    assert "rests on 1 seed only" in one
    for alone in ("search", "validation"):
        assert "No seeds were held out" in doubtful(figures=[replace(CLEAR, name=alone)])
    assert "No seeds were held out" not in doubtful(figures=[replace(CLEAR, name="search"), CLEAR])
    assert "30 of 200 rollouts failed" in doubtful(failures={"task_app_error": 30})
    assert "The price of some calls is not known" in doubtful(spending=[SpendingLine("policy", 0.0, 9, 3, 1)])


def test_spending_on_calls_without_a_price_does_not_look_like_nothing():
    lines = [
        SpendingLine("policy", 0.5, 1200, 3, 1),
        SpendingLine("judge", 0.0, 9, 3, 3),
        SpendingLine("test", 0.25, 1, 1, 0),
    ]
    text = report(replace(FACTS, spending=lines))
    assert "| policy | at least 0.500000 | 1,200 | 3 |" in text
    assert "| judge | unknown | 9 | 3 |" in text
    assert "| test | 0.250000 | 1 | 1 |" in text
    assert "| all | at least 0.750000 | 1,210 | 7 |" in text


def test_a_baseline_that_was_not_beaten_is_no_success() -> None:
    text = doubtful(best=BASELINE)
    assert "**No prompt was found that is better than the baseline.**" in text
    assert "What it changes" not in text


def test_prompts_without_common_seeds_are_not_compared() -> None:
    text = doubtful(figures=[figures("validation", {1: 1.0}, {2: 0.5})])
    assert "they cannot be compared" in text


def test_a_job_that_goes_on_says_so() -> None:
    text = doubtful(is_over=False, status="running", finish_reason=None, finish_detail=None)
    assert "**The job is running: these are its figures so far.**" in text


def test_a_job_that_has_found_nothing_has_a_report_too() -> None:
    text = report(ReportFacts("pl_2", "mipro", "failed", True, {"Policy model": "a/b"}, error="it *broke*"))
    assert "The mipro job has failed." in text
    assert r"Its error: it \*broke\*" in text
    assert "Nothing was measured." in text


def test_modules_are_shown_one_by_one() -> None:
    text = doubtful(best=replace(BEST, prompt=prompt("Plan.", solve="Solve it.")), baseline=None)
    assert "### Module solve" in text
    assert "What it changes" not in text


def test_very_long_prompts_are_not_compared() -> None:
    long = replace(BEST, prompt=prompt("\n".join(map(str, range(MAX_DIFF_LINES)))))
    assert "too long to be compared" in doubtful(best=long)


# --- the page --------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The names and attributes of all elements."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


OWN = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "strong", "table", "thead",
    "tbody", "tr", "th", "td", "pre", "code", "ul", "li",
}  # fmt: skip


def hostile_facts() -> ReportFacts:
    """Everything that a client, a model or a task app can have written is hostile."""
    best = replace(BEST, prompt=prompt(HOSTILE, **{HOSTILE: HOSTILE}), candidate_id=HOSTILE, operator=HOSTILE)
    return ReportFacts(
        job_id=HOSTILE,
        algorithm=HOSTILE,
        status=HOSTILE,
        is_over=True,
        settings={HOSTILE: HOSTILE},
        figures=[replace(CLEAR, name=HOSTILE)],
        best=best,
        baseline=replace(BASELINE, prompt=prompt("```\n" + HOSTILE)),
        front=[FrontLine(best, 0.5, 1, 1)],
        curve=[CurvePoint(1, 0.5, 0)],
        proposals={HOSTILE: 1},
        refused={HOSTILE: 1},
        rollouts=1,
        failures={HOSTILE: 1},
        spending=[SpendingLine(HOSTILE, 0.0, 1, 1, 1)],
        finish_reason=HOSTILE,
        finish_detail=HOSTILE,
        error=HOSTILE,
        warnings=[HOSTILE],
    )


@pytest.mark.parametrize("facts", [FACTS, hostile_facts()], ids=["plain", "hostile"])
def test_a_page_has_no_elements_but_our_own(facts: ReportFacts) -> None:
    elements = Elements()
    elements.feed(page(report(facts), f"Report on {facts.job_id}"))
    assert set(elements.names) <= OWN
    assert elements.names.count("style") == elements.names.count("title") == 1
    assert {name for name, _ in elements.attributes} <= {"lang", "charset", "name", "content", "class"}
    assert {value for name, value in elements.attributes if name == "class"} <= {"language-diff"}


def test_raw_html_and_links_of_the_markdown_are_text() -> None:
    elements = Elements()
    elements.feed(page("<b>x</b> [a](javascript:alert(1)) <http://x.y> ![i](http://x)\n\n<script>1</script>", "t"))
    assert set(elements.names) <= OWN


def test_a_page_allows_its_own_styles_alone() -> None:
    html = page("# x", "t")
    assert f"<style>{STYLE}</style>" in html
    assert html.count("<style") == 1
    assert " style=" not in html
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_an_estimate_of_one_seed_has_no_interval() -> None:
    text = doubtful(figures=[SetFigures("test", Estimate(0.5, None, None, 1), None, None)])
    assert "| test | – | 0.500 (n = 1) | – |" in text
