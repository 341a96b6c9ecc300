"""What a person reads about a job is what the service has measured, and nothing in it can harm a terminal."""

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.fakes.event_streams import JOB, event
from tests.fakes.shown_jobs import MESSAGES, MODULES, SPEND, STATS, estimate, job, measured, mipro_job

from promptjobs.cli.display import Bar, Lines
from promptjobs.cli.show import counters, jobs_table, print_job, print_more
from promptjobs.cli.text import cost, duration, one_line, readable_json
from promptjobs.sdk.addresses import DEFAULT_URL
from promptjobs.sdk.events import Event


def with_snapshot(**changes: Any) -> dict[str, Any]:
    return job(best_snapshot=job()["best_snapshot"] | changes)


def printed(shown: dict[str, Any], width: int = 80) -> str:
    out = Console(file=io.StringIO(), width=width)
    print_job(out, shown)
    return str(out.file.getvalue())  # type: ignore[attr-defined]


def test_scores_are_shown_with_n_interval_and_paired_difference():
    rows = [line.split() for line in printed(job()).splitlines()]
    for name, n in (("test", "100"), ("validation", "60"), ("train", "40")):
        row = [name, n, "0.250", "[0.12,", "0.38]", "0.550", "[0.40,", "0.70]", "+0.300", "[+0.10,", "+0.50]"]
        assert row in rows


def test_a_difference_on_fewer_seeds_than_its_means_says_so():
    assert "Differences are paired" not in printed(job(), 200)
    train = measured(20) | {"difference": estimate(0.5, -0.1, 0.9, 6)}
    assert "paired, here on the 6 train seeds that both have" in printed(with_snapshot(train=train), 200)


def test_a_single_seed_has_a_score_and_no_interval():
    one = {"mean": 0.5, "low": None, "high": None, "n": 1, "confidence": 0.95}
    told = printed(with_snapshot(test={"seeds": 1, "best": one, "baseline": one, "difference": one}))
    assert "on 1 held-out test seeds, and one seed tells nothing of chance" in told.replace("\n", " ")
    assert ["test", "1", "0.500", "0.500", "+0.500"] in [line.split() for line in told.splitlines()]


def test_rules_are_no_wider_than_a_narrow_terminal_where_the_output_has_no_width():
    assert max(len(line) for line in printed(job(), 200).splitlines() if line.startswith("───")) == 80


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "baseline → best: 0.250 → 0.550 on 100 held-out test seeds, a clear gain"),
        ({"test": None}, "0.250 → 0.550 on 60 held-out validation seeds, a clear gain"),
        ({"test": None, "validation_summary": None}, "on 40 train seeds, which are not held out"),
        ({"test": None, "train": None}, "on 60 validation seeds, which are not held out"),
        ({"test": measured(9, low=-0.1)}, "on 9 held-out test seeds, too few to tell the difference from chance"),
        ({"test": measured(9, low=-0.5, high=-0.1)}, "on 9 held-out test seeds, clearly worse"),
        ({"is_baseline_best": True}, "No candidate was better than the baseline"),
        ({"test": None, "validation_summary": None, "train": None}, "was not measured beside the baseline"),
        (
            {"test": None, "validation_summary": None, "train": None, "is_baseline_best": True},
            "Nothing was measured: the prompt is the one it started from",
        ),
    ],
)
def test_verdict_rests_on_the_most_trustworthy_seeds(changes: dict[str, Any], told: str):
    assert told in printed(with_snapshot(**changes), 200)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_prompt_can_be_copied_as_json_at_any_width(width: int):
    lines = printed(job(), width).splitlines()
    first = lines.index("[")
    assert json.loads("\n".join(lines[first : lines.index("]") + 1])) == MESSAGES


def test_result_fits_a_narrow_terminal():
    scores = printed(job()).partition("baseline → best")[2]
    assert max(map(len, scores.splitlines())) <= 80


def test_counters_add_up_to_what_was_done():
    assert dict(counters(STATS)) == {
        "rollouts": "1,141 (optimization 701, validation 240, test 200), "
        "7 failed: 5 provider, 2 task app, 19 scores reused",
        "proposals": "15, 3 refused, 16 calls",
        "tokens": "385,773 (rollouts 368,180, proposals 17,593)",
        "cost": "unknown",
        "time": "6.9 s",
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "$0.0123 of $0.0500 (policy $0.0100, proposal $0.0023)"),
        ({"caps": {"total_usd": None}, "categories": {}}, "$0.0123"),
        ({"unsettled_usd": 0.001, "categories": {}}, "$0.0123 of $0.0500, and up to $0.0010 not settled"),
        (
            {"unpriced_calls": 1_200, "categories": {}},
            "at least $0.0123 of $0.0500, 1,200 calls have no known price",
        ),
        ({"unpriced_calls": 3, "usd": 0.0, "categories": {}}, "unknown"),
    ],
)
def test_cost_is_what_the_ledger_says_with_its_cap_and_what_is_open(changes: dict[str, Any], told: str):
    assert dict(counters(STATS | {"spend": SPEND | changes}))["cost"] == told


def test_rollouts_without_the_judges_score_are_told_apart_from_those_that_failed():
    failures = {"provider": 0, "task_app": 0, "parse": 3, "prompt": 0, "judge": 4}
    told = dict(counters(STATS | {"failed_rollouts": 3, "failures": failures}))["rollouts"]
    assert told.endswith("), 3 failed: 3 parse; 4 without the judge's score, 19 scores reused")


def test_scores_on_different_numbers_of_seeds_say_so():
    test = measured(100) | {"baseline": estimate(0.25, 0.125, 0.375, 98)}
    assert any(line.split()[:2] == ["test", "98/100"] for line in printed(with_snapshot(test=test), 90).splitlines())


def test_job_that_ended_by_its_failures_says_which():
    said = "9 of 21 rollouts failed: 9 provider_error; the last provider_error: HTTP 500"
    stats = STATS | {"finish_detail": said}
    text = printed(job(finish_reason="max_error_rate", metadata={"stats": stats}), 200)
    assert "(max_error_rate)" in text
    assert said in text


def test_running_job_shows_what_it_has_spent_and_what_has_failed():
    failures = {"provider": 1, "task_app": 0, "parse": 1, "prompt": 0, "judge": 0}
    progress = event(1, **PROGRESS)["data"] | {"failed_rollouts": 2, "failures": failures}
    changes = {"finish_reason": None, "best_snapshot": None, "metadata": {}, "progress": progress}
    text = printed(job(status="running", spend=SPEND, **changes), 200)
    assert ", 1 proposal, 2 failed: 1 provider, 1 parse" in text.splitlines()[-2]
    assert "spent: $0.0123 of $0.0500" in text.splitlines()


def test_result_of_a_program_shows_each_prompt_and_what_it_is_made_of():
    lines = printed(mipro_job(), 120).splitlines()
    first = lines.index("[")
    assert json.loads("\n".join(lines[first : lines.index("]") + 1])) == MODULES
    assert "plan: instructions 3 and 7, 1 example of seed 8" in lines
    assert "solve: the baseline's instruction, no examples" in lines
    told = {name: rest.strip() for name, _, rest in (line.partition(" ") for line in lines)}
    assert (told["trials"], told["proposals"]) == ("30", "12 instructions, 16 calls")
    assert told["examples"] == "2 for plan, 0 for solve"


def test_failed_job_shows_its_error_and_what_it_has_used():
    text = printed(job(status="failed", finish_reason="errors", error="the task app is away", best_snapshot=None))
    assert "failed (errors)" in text
    assert "the task app is away" in text
    assert "1,141" in text


def test_running_job_shows_how_far_it_is():
    progress = event(1, **PROGRESS)["data"]
    text = printed(job(status="running", finish_reason=None, best_snapshot=None, metadata={}, progress=progress))
    assert "optimization: 240/1000 rollouts, best 0.575 (20 seeds), baseline –, 1 proposal" in text


@pytest.mark.parametrize(
    ("url", "status", "expected"),
    [
        (DEFAULT_URL, "succeeded", f"promptjobs show {JOB}  #"),
        ("http://host:1", "succeeded", f"promptjobs show {JOB} --url http://host:1  #"),
        (DEFAULT_URL, "running", f"promptjobs watch {JOB}  #"),
    ],
)
def test_commands_that_show_more_reach_the_same_service(url: str, status: str, expected: str):
    out = Console(file=io.StringIO(), width=40)
    print_more(out, url, job(status=status), started_by="promptjobs serve --data-dir /somewhere")
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert expected in text
    assert f"JOB={url}/api/prompt-learning/online/jobs/{JOB}\n" in text
    assert "curl $JOB/snapshots/snap_1" in text
    assert "promptjobs serve --data-dir /somewhere" in text


@pytest.mark.parametrize(("width", "is_wide"), [(80, False), (120, True)])
def test_table_of_jobs_cuts_nothing_but_leaves_the_policy_out_where_it_is_narrow(width: int, is_wide: bool):
    out = Console(file=io.StringIO(), width=width)
    now = datetime(2026, 5, 4, 10, 29, tzinfo=UTC)
    long = job(status="succeeded", rollout_budget=12_000, progress={"rollouts_completed": 11_000})
    out.print(jobs_table([long, job(status="queued", best_score=None)], width, now))
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    policy = ["demo/demo-policy"] if is_wide else []
    assert [line.split() for line in lines if JOB in line] == [
        [JOB, "succeeded", "11000/12000", "0.550", "(60)", "59m", *policy],
        [JOB, "queued", "0/1000", "–", "59m", *policy],
    ]


# --- while it runs ---------------------------------------------------------------------------------------------------

PROGRESS = {
    "phase": "optimization",
    "rollouts_completed": 240,
    "rollouts_total": 1000,
    "best_score": 0.575,
    "best_score_seeds": 20,
    "baseline_score": None,
    "baseline_score_seeds": 0,
    "trials_tried": 1,
}


def parsed(seq: int, **changes: Any) -> Event:
    return Event.parse(json.dumps({**event(seq, **PROGRESS), "type": "prompt.learning.progress", **changes}).encode())


def test_lines_are_sparing_with_progress_but_tell_every_new_phase():
    out, clock = Console(file=io.StringIO(), width=200), iter([0.0, 1.0, 2.9, 3.1, 3.2, 3.3])
    lines = Lines(out, lambda: next(clock))
    for done in range(5):
        lines.show(parsed(done + 1, data=PROGRESS | {"rollouts_completed": done}))
    lines.show(parsed(9, data=PROGRESS | {"phase": "validation"}))
    found = [line.strip().partition(" rollouts")[0] for line in out.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert found == ["optimization: 0/1000", "optimization: 3/1000", "validation: 240/1000"]


@pytest.mark.parametrize(
    ("kind", "level", "is_told"),
    [
        ("prompt.learning.gepa.new_best", "info", True),
        ("mipro.new_incumbent", "info", True),
        ("mipro.trial.refused", "warning", True),
        ("mipro.trial.complete", "info", False),
        ("something.of.a.later.version", "error", True),
        ("something.of.a.later.version", "info", False),
    ],
)
def test_notable_events_have_a_line_with_their_time(kind: str, level: str, is_told: bool):
    out = Console(file=io.StringIO(), width=200)
    lines = Lines(out)
    lines.show(parsed(1, type="prompt.learning.created"))
    lines.show(
        parsed(2, type=kind, level=level, message="it [bold]is[/] so", created_at="2026-05-04T09:30:02.623456+00:00")
    )
    told = out.file.getvalue()  # type: ignore[attr-defined]
    assert told == ("     2.5 s  it [bold]is[/] so\n" if is_told else "")


def test_proposals_are_told_as_a_batch_when_it_is_over():
    out = Console(file=io.StringIO(), width=200)
    lines = Lines(out)
    kinds = [("mipro.instruction.proposed", "plan"), ("mipro.instruction.proposed", "solve")] * 2
    refused = ("prompt.learning.proposal.refused", "solve")
    for seq, (kind, stage) in enumerate([*kinds, refused, refused, ("mipro.instruction.proposed", "plan")], 1):
        lines.show(parsed(seq, type=kind, level="warning", message="a proposal is refused", data={"stage_id": stage}))
    assert out.file.getvalue() == ""  # type: ignore[attr-defined]
    lines.show(parsed(8, type="mipro.trial.started"))
    lines.show(parsed(9, type="mipro.trial.started"))
    assert [line.partition(" s  ")[2] for line in out.file.getvalue().splitlines()] == [  # type: ignore[attr-defined]
        "a proposal is refused (2 times)",
        "5 new instructions: 3 for plan, 2 for solve",
    ]


def test_search_by_trials_tells_how_many_of_them_are_done():
    out = Console(file=io.StringIO(), width=200)
    trials = {"num_iterations": 4, "transformations_tried": 7, "transformations_planned": 20}
    Lines(out).show(parsed(1, data=PROGRESS | trials))
    assert out.file.getvalue().rstrip().endswith("baseline – · 7 of 20 trials")  # type: ignore[attr-defined]


def test_pause_is_told_and_so_is_the_first_progress_after_it():
    out, clock = Console(file=io.StringIO(), width=200), iter([0.0, 0.1, 0.2])
    lines = Lines(out, lambda: next(clock))
    lines.show(parsed(1))
    lines.show(parsed(2, type="prompt.learning.paused", message="the job is paused", data={}))
    lines.show(parsed(3, type="prompt.learning.resumed", message="the job goes on", data={}))
    lines.show(parsed(4))
    told = [line.partition(" s  ")[2] or line for line in out.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert [line.strip().partition(":")[0] for line in told] == [
        "optimization",
        "the job is paused",
        "the job goes on",
        "optimization",
    ]


def test_bar_of_a_paused_job_says_so_until_it_goes_on():
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with Bar(out) as bar:
        bar.show(parsed(1))
        bar.show(parsed(2, type="prompt.learning.paused", message="the job was told to wait", data={}))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "the job was told to wait" in text
    assert "paused ━" in text


def test_bar_shows_rollouts_scores_and_what_breaks():
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with Bar(out) as bar:
        bar.show(parsed(1))
        bar.show(parsed(2, type="prompt.learning.gepa.new_best", message="candidate 1 is the best so far"))
        bar.show_break("connection reset", 2)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "240/1000 rollouts" in text
    assert "best 0.575 (20 seeds) · baseline – · 1 proposal" in text
    assert "candidate 1 is the best so far" in text
    assert "the connection broke (connection reset); coming back, attempt 2" in text


# --- text from elsewhere ---------------------------------------------------------------------------------------------


@given(st.text())
def test_a_line_holds_no_control_characters(text: str):
    line = one_line(text, 50)
    assert len(line) <= 50
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in line)


@given(st.dictionaries(st.text(), st.text()))
def test_readable_json_is_json_without_escape_sequences(value: dict[str, str]):
    text = readable_json(value)
    assert json.loads(text) == value
    assert not any((ord(letter) < 32 and letter != "\n") or 127 <= ord(letter) < 160 for letter in text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 00 s"), (125.4, "2 min 05 s"), (3725, "1 h 02 min")],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"), [(None, "unknown"), (0.0, "$0.0000"), (0.01234, "$0.0123"), (1234.5, "$1,234.50")]
)
def test_costs_keep_what_matters(usd: float | None, text: str):
    assert cost(usd) == text
