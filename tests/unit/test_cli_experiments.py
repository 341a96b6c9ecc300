"""The commands on experiments, against a service that answers as ours does: what is sent, told, and the exit codes."""

import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from rich.console import Console
from tests.fakes.event_streams import URL
from tests.fakes.shown_experiments import (
    EXPERIMENT,
    GROUPS,
    comparison,
    counted,
    experiment,
    experiment_ending,
    experiment_stream,
    group,
    job_comparison,
    job_ending,
    job_event,
    job_id,
    label,
    placed_job,
    progress_event,
    results,
    row,
    spread,
    unstarted_row,
)
from typer.testing import CliRunner, Result

from promptjobs.api.experiment_result_schemas import ExperimentResultsObject
from promptjobs.api.experiment_schemas import ExperimentObject
from promptjobs.cli.app import app
from promptjobs.cli.exits import EXIT_CODES
from promptjobs.cli.experiment_cells import clock, letter, signed
from promptjobs.cli.experiment_display import ExperimentBars, ExperimentLines
from promptjobs.cli.experiment_tables import WHOLE, print_results
from promptjobs.sdk.experiment_following import ExperimentEvent
from promptjobs.sdk.experiment_requests import EXPERIMENTS_PATH

ALL_URL = f"{URL}{EXPERIMENTS_PATH}"
ONE_URL = f"{ALL_URL}/{EXPERIMENT}"
STREAM = f"{ONE_URL}/events/stream"
RESULTS = f"{ONE_URL}/results"
COMMANDS = ("submit", "estimate", "watch", "status", "list", "cancel", "delete", "results", "compare")
EVENTS = [progress_event(1, 1, 20), job_ending(1, 2), experiment_ending()]


def call(*arguments: str, columns: int = 200) -> Result:
    return CliRunner().invoke(app, ["experiment", *arguments], env={"COLUMNS": str(columns)})


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "job.toml").write_text('[prompt_learning]\nalgorithm = "gepa"\n')
    path = tmp_path / "experiment.toml"
    path.write_text('name = "one"\n[[jobs]]\nconfig = "job.toml"\n[matrix]\nseed = [0, 1]\n')
    return str(path)


@pytest.fixture
def service():
    """Routes of a service whose experiment is completed."""
    with respx.mock(assert_all_called=False) as routes:
        routes.post(ALL_URL).respond(json=experiment(status="queued", counts=counted(queued=4)))
        routes.get(ALL_URL).respond(json=[{key: each for key, each in experiment().items() if key != "jobs"}])
        routes.get(ONE_URL).respond(json=experiment())
        routes.get(STREAM).respond(content=experiment_stream(*EVENTS))
        routes.get(RESULTS).respond(json=results())
        yield routes


def printed(found: dict[str, Any], width: int = 200, *, with_jobs: bool = False) -> str:
    out = Console(file=io.StringIO(), width=width)
    print_results(out, found, with_job_comparisons=with_jobs)
    return str(out.file.getvalue())  # type: ignore[attr-defined]


def test_what_the_tests_show_is_what_the_service_answers():
    told = ExperimentObject.model_fields
    assert set(experiment()) == set(told)
    ExperimentResultsObject.model_validate_json(json.dumps(results()))


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_tells_the_exit_codes(command: str):
    assert EXIT_CODES in " ".join(call(command, "--help").output.split())


def test_submit_sends_the_file_with_its_configs_and_what_options_change(service: respx.MockRouter, file: str):
    result = call("submit", file, "--url", URL, "--set", "prompt_learning.policy.model=m", "--parallelism", "8")
    assert result.exit_code == 0
    assert json.loads(service.calls.last.request.content) == {
        "name": "one",
        "jobs": [
            {
                "config": {"prompt_learning": {"algorithm": "gepa"}},
                "config_overrides": {"prompt_learning.policy.model": "m"},
            }
        ],
        "matrix": {"seed": [0, 1]},
        "parallelism": 8,
    }
    for command in ("watch", "results", "cancel"):
        assert f"promptjobs experiment {command} {EXPERIMENT} --url {URL}\n" in result.stdout
    as_json = call("submit", file, "--url", URL, "--json")
    assert (json.loads(as_json.stdout)["experiment_id"], as_json.stdout.count("\n")) == (EXPERIMENT, 1)


def test_an_estimate_is_of_each_job_and_of_all(service: respx.MockRouter, file: str):
    amounts = {
        "calls": {"expected": 400, "at_most": 800},
        "tokens": {"expected": 1_000_000, "at_most": 4_000_000},
        "cost_usd": {"expected": None, "at_most": None},
        "assumptions": ["nothing fails"],
        "unpriced_models": ["groq/m"],
    }
    job = {"estimate": amounts | {"rollouts": {"optimization": 300, "test": 20, "total": 320}}}
    place = {name: placed_job(1)[name] for name in ("position", "label", "group", "settings", "algorithm")}
    whole = amounts | {"num_jobs": 1, "parallelism": 4, "rollouts": 320, "jobs": [place | job]}
    route = service.post(f"{ALL_URL}/estimate").respond(json=whole)
    told = call("estimate", file, "--url", URL, "--set", "a.b=1")
    assert told.exit_code == 0
    assert json.loads(route.calls.last.request.content)["jobs"][0]["config_overrides"] == {"a.b": 1}
    assert "1 job, 4 at a time: 320 rollouts in all" in told.stdout
    assert re.search(rf"1  {re.escape(label(1))} +320  1,000,000  4,000,000  unknown  unknown", told.stdout)
    assert "No price is known of groq/m" in told.stdout
    assert json.loads(call("estimate", file, "--url", URL, "--json").stdout) == whole


def test_an_option_that_the_file_sets_too_is_refused(service: respx.MockRouter, tmp_path: Path):
    path = tmp_path / "experiment.toml"
    path.write_text('name = "n"\n[[jobs]]\nconfig_overrides = { "a.b" = 1 }\n[jobs.config]\nx = 1\n')
    result = call("submit", str(path), "--url", URL, "--set", "a.b=2")
    assert (result.exit_code, service.calls.call_count) == (2, 0)
    assert "a.b is set by a job of the file, too" in result.stderr


def test_a_config_that_cannot_be_read_is_told_before_anything_is_sent(service: respx.MockRouter, file: str):
    Path(file).with_name("job.toml").unlink()
    result = call("submit", file, "--url", URL)
    assert (result.exit_code, service.calls.call_count) == (2, 0)
    assert "job.toml" in result.stderr


@pytest.mark.parametrize("arguments", [("watch", EXPERIMENT), ("submit", "FILE", "--watch")])
def test_following_ends_with_the_results(service: respx.MockRouter, file: str, arguments: tuple[str, ...]):
    wanted = [file if each == "FILE" else each for each in arguments]
    told = call(*wanted, "--url", URL)
    assert told.exit_code == 0
    assert "1 ✓ gepa · model=demo-policy, seed=0 · best 0.500 (60 seeds) · baseline 0.250 (60 seeds)" in told.stdout
    assert told.stdout.index("best 0.500") < told.stdout.index("experiment GEPA against MIPRO")
    as_json = call(*wanted, "--url", URL, "--json")
    assert [json.loads(line) for line in as_json.stdout.split("\n") if line] == [*EVENTS, results()]


def test_a_broken_connection_is_told_and_goes_on_where_it_was(service: respx.MockRouter):
    first = experiment_stream(progress_event(1, 1, 20))
    streams = [httpx.Response(200, content=first), httpx.Response(200, content=experiment_stream(*EVENTS))]
    route = service.get(STREAM).mock(side_effect=streams)
    told = call("watch", EXPERIMENT, "--url", URL)
    assert told.exit_code == 0
    assert "the connection broke" in told.stdout
    assert told.stdout.count("seed=0 runs") == 1
    assert route.calls[1].request.headers["last-event-id"] == "1:1"


@pytest.mark.parametrize(
    ("status", "counts", "code"),
    [
        ("completed", {"succeeded": 4}, 0),
        ("completed", {"succeeded": 3, "failed": 1}, 1),
        ("failed", {"failed": 4}, 1),
        ("completed", {"succeeded": 3, "cancelled": 1}, 4),
        ("cancelled", {"succeeded": 1, "cancelled": 3}, 4),
        ("cancelled", {"failed": 1, "cancelled": 3}, 1),
    ],
)
def test_the_exit_code_is_the_worst_that_has_happened_to_a_job(
    service: respx.MockRouter, status: str, counts: dict[str, int], code: int
):
    over = results()["experiment"] | {"status": status, "counts": counted(**counts)}
    service.get(RESULTS).respond(json=results(experiment=over))
    assert call("watch", EXPERIMENT, "--url", URL).exit_code == code


def test_an_experiment_that_goes_on_is_shown_by_its_jobs(service: respx.MockRouter):
    jobs = [placed_job(1), placed_job(2, "running"), placed_job(3, "queued")]
    counts = counted(succeeded=1, running=1, queued=1)
    shown = experiment(
        status="running", counts=counts, jobs=jobs, progress_pct=40.0, eta_seconds=90.0, finished_at=None
    )
    service.get(ONE_URL).respond(json=shown)
    told = call("status", EXPERIMENT, "--url", URL)
    assert told.exit_code == 0
    assert "running · 1 queued, 1 running, 1 succeeded · 4 at a time" in told.stdout
    assert "40 % done, about 1 min 30 s left; 400,000 tokens, $0.5000" in told.stdout
    assert f"2  {label(2)}" in told.stdout
    assert json.loads(call("status", EXPERIMENT, "--url", URL, "--json").stdout) == shown


def test_experiments_are_listed(service: respx.MockRouter):
    told = call("list", "--url", URL, "--status", "completed")
    assert dict(service.calls.last.request.url.params)["status"] == "completed"
    assert re.search(rf"{EXPERIMENT} +GEPA against MIPRO +completed +4/4", told.stdout)
    assert json.loads(call("list", "--url", URL, "--json").stdout)[0]["experiment_id"] == EXPERIMENT
    service.get(ALL_URL).respond(json=[])
    assert call("list", "--url", URL).stdout == "no experiments\n"


@pytest.mark.parametrize(
    ("status", "told"),
    [("running", "is asked to end; its jobs publish the best they have"), ("cancelled", "is cancelled")],
)
def test_cancelling_tells_what_will_happen(service: respx.MockRouter, status: str, told: str):
    route = service.post(f"{ONE_URL}/cancel").respond(json=experiment(status=status))
    result = call("cancel", EXPERIMENT, "--url", URL, "--reason", "enough")
    assert (result.exit_code, result.stdout) == (0, f"experiment {EXPERIMENT} {told}\n")
    assert json.loads(route.calls.last.request.content) == {"reason": "enough"}


def test_a_deleted_experiment_is_told(service: respx.MockRouter):
    service.delete(ONE_URL).respond(204)
    assert call("delete", EXPERIMENT, "--url", URL).stdout == f"experiment {EXPERIMENT} is deleted\n"
    as_json = call("delete", EXPERIMENT, "--url", URL, "--json")
    assert json.loads(as_json.stdout) == {"experiment_id": EXPERIMENT, "deleted": True}


GONE = httpx.Response(404, json={"code": "experiment_not_found", "detail": "there is no experiment 'pl_1'"})
RUNS = httpx.Response(409, json={"code": "experiment_conflict", "detail": "it is running"})


@pytest.mark.parametrize(
    ("command", "answer", "code", "told"),
    [
        ("watch", GONE, 2, "This is the id of a job"),
        ("results", GONE, 2, "This is the id of a job"),
        ("delete", RUNS, 2, "cancel it first"),
        ("status", httpx.ConnectError("Connection refused"), 3, "Start one with"),
    ],
)
def test_a_refused_command_is_one_line_that_says_what_to_do(
    service: respx.MockRouter, command: str, answer: Any, code: int, told: str
):
    for route in (service.get(ONE_URL), service.delete(ONE_URL), service.get(RESULTS)):
        route.mock(side_effect=[answer] * 5)
    result = call(command, EXPERIMENT, "--url", URL)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (code, "", 1)
    assert told in result.stderr


def test_the_config_of_a_job_is_told_to_be_no_experiment(service: respx.MockRouter, file: str):
    result = call("submit", str(Path(file).with_name("job.toml")), "--url", URL)
    assert (result.exit_code, service.calls.call_count) == (2, 0)
    assert "`promptjobs run` takes it" in result.stderr


# --- results ---------------------------------------------------------------------------------------------------------


def test_results_have_other_forms_and_files(service: respx.MockRouter, tmp_path: Path):
    route = service.get(RESULTS).respond(text="# Results\n", headers={"content-type": "text/markdown"})
    told = call("results", EXPERIMENT, "--url", URL, "--format", "markdown", "--compare", "all", "--variants", "0")
    assert told.stdout == "# Results\n"
    assert dict(route.calls.last.request.url.params) == {"format": "markdown", "compare": "all", "variants": "0"}
    output = tmp_path / "results.md"
    told = call("results", EXPERIMENT, "--url", URL, "--format", "markdown", "--output", str(output))
    assert (told.exit_code, told.stdout, output.read_text()) == (0, "", "# Results\n")


@pytest.mark.parametrize("arguments", [("--format", "csv", "--json"), ("--output", "x.txt"), ("--format", "xml")])
def test_options_that_do_not_go_together_are_refused(service: respx.MockRouter, arguments: tuple[str, ...]):
    result = call("results", EXPERIMENT, "--url", URL, *arguments)
    assert (result.exit_code, service.calls.call_count) == (2, 0)


def test_results_as_json_are_the_services(service: respx.MockRouter):
    assert json.loads(call("results", EXPERIMENT, "--url", URL, "--json").stdout) == results()


def test_a_wide_table_has_every_figure_of_a_job_in_one_line():
    (line,) = [line for line in printed(results(), WHOLE).splitlines() if line.startswith(f" 2  {label(2)}")]
    assert re.split(r"  +", line.strip())[2:] == [
        *("succeeded", "demo/demo-policy", "0.250", "0.550", "+0.300 [+0.20, +0.40]", "100 test"),
        *("31", "1,000", "123,456", "$0.0625", "7.5 s", "rollout budget"),
    ]


def test_a_narrow_terminal_gets_the_same_figures_in_two_tables_that_fit():
    told = printed(results(), 80)
    tables = [line for line in told.splitlines() if line.startswith((" 2", " A", " B"))]
    assert max(map(len, tables)) <= 80
    assert f" 2 ✓ {label(2)}  0.250 0.550 +0.300 [+0.20, +0.40]" in told
    assert re.search(r" 2 demo/demo-policy +31 +1,000 +123,456 +\$0\.0625 +8 s +rollout budget", told)
    assert "Scores are means over 100 test seeds" in told


def test_seeds_that_differ_between_jobs_have_a_column():
    other = row(2, eval_set="validation", eval_n=60, validation=row(2)["test"], test=None)
    told = printed(results(jobs=[row(1), other]), 80)
    assert "100 test" in told
    assert "60 validation" in told


def test_jobs_without_a_result_are_shown_with_the_reason():
    failed = row(2, status="failed", error="the task app\nis gone", finish_reason="error")
    told = printed(results(jobs=[row(1), failed, unstarted_row(3), row(4, is_baseline_best=True)]), 80)
    assert "2: the task app is gone" in told
    assert "3: it has not started" in told
    assert "The baseline stays the best prompt of job 4." in told
    assert re.search(r" 2 .* failed, error", told)
    assert re.search(r" 3 .* queued", told)


def test_jobs_with_the_same_note_share_a_line():
    told = printed(results(jobs=[row(each, note="figures so far") for each in (1, 2, 3)]))
    assert "1, 2, 3: figures so far\n" in told


def test_a_lift_that_rests_on_fewer_seeds_than_the_scores_says_so():
    test = row(1)["test"]
    fewer = test | {"difference": test["difference"] | {"n": 8}}
    told = printed(results(jobs=[row(1, test=fewer), row(2)]))
    assert "1: the lift is over the 8 seeds on which baseline and best both have a score\n" in told
    assert "2: the lift" not in told


def test_a_group_with_a_job_without_a_score_says_of_how_many_its_scores_are():
    told = printed(results(groups=[group(GROUPS[0], best=spread(0.5, None, 1)), group(GROUPS[1])]))
    assert "A: scores of 1 of its 2 jobs; the others have none on test seeds" in told
    assert "B: scores" not in told


def test_a_job_that_has_no_score_has_not_kept_its_baseline():
    failed = row(1, status="failed", error="all failed", best_score=None, eval_set=None, is_baseline_best=True)
    told = printed(results(jobs=[failed], groups=[]))
    assert "baseline stays" not in told
    assert "Scores are means" not in told


def test_the_job_that_scored_highest_is_one_with_held_out_scores(service: respx.MockRouter):
    lucky = row(2, eval_set="search", best_score=0.99, search=row(2)["test"], test=None)
    service.get(RESULTS).respond(json=results(jobs=[row(1), lucky]))
    assert f"promptjobs show {job_id(1)} " in call("watch", EXPERIMENT, "--url", URL).stdout


def test_a_difference_on_one_seed_has_no_interval():
    one = row(1)["test"] | {"difference": {"mean": 0.5, "low": None, "high": None, "n": 1, "confidence": 0.95}}
    assert re.search(r"0\.550  \+0\.500 +1 test", printed(results(jobs=[row(1, test=one, eval_n=1)])))


def test_groups_show_mean_and_deviation_over_their_jobs():
    told = printed(results())
    assert re.search(r"A +gepa · model=demo-policy +2/2 +0\.250 ± 0\.000 +0\.550 ± 0\.013 +\+0\.300 ± 0\.013", told)
    alone = group(GROUPS[1], best=spread(0.5, None, 1), lift=spread(None, None, 0))
    told = printed(results(groups=[group(GROUPS[0]), alone]))
    assert re.search(r"B +mipro · model=demo-policy +2/2 +0\.250 ± 0\.000 +0\.500 +–", told)


def test_groups_of_one_job_each_are_not_repeated_as_groups():
    told = printed(results(groups=[group(name, num_jobs=1) for name in GROUPS], group_comparisons=[]))
    assert "By group" not in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "not told apart; 12 jobs of each or 640 seeds would"),
        ({"winner": GROUPS[1], "p_adjusted": 0.0004}, "< 0.001  B is better"),
        ({"seeds_needed": None, "runs_needed": None}, "not told apart\n"),
        ({"difference": None, "p_adjusted": None, "num_seeds": 0, "note": "no seeds in common"}, "no seeds in common"),
    ],
)
def test_groups_are_compared_by_their_letters(changes: dict[str, Any], told: str):
    found = comparison(*GROUPS, runs_needed=12) | changes
    lines = [line.rstrip() + "\n" for line in printed(results(group_comparisons=[found]), 120).splitlines()]
    (line,) = [line for line in lines if line.startswith(" A – B")]
    assert told in line


def test_jobs_are_compared_where_that_is_asked_for(service: respx.MockRouter):
    assert "Job against job" not in call("results", EXPERIMENT, "--url", URL).stdout
    told = call("results", EXPERIMENT, "--url", URL, "--compare", "leader").stdout
    assert "Job against job" in told
    assert re.search(rf"1 {re.escape(label(1))} +2 {re.escape(label(2))}", told)


@pytest.mark.parametrize(("first", "second"), [("1", "2"), (label(1), job_id(2))])
def test_two_jobs_are_named_by_number_label_or_id(service: respx.MockRouter, first: str, second: str):
    route = service.get(f"{ONE_URL}/comparison").respond(json=job_comparison(1, 2))
    told = call("compare", EXPERIMENT, first, second, "--url", URL, "--seeds", "test")
    assert told.exit_code == 0
    asked = {"first": job_id(1), "second": job_id(2), "seeds": "test"}
    assert dict(route.calls.last.request.url.params) == asked
    assert f"{label(1)} – {label(2)}: +0.050 [-0.05, +0.15]" in told.stdout
    assert "They are not told apart (p = 0.250, mcnemar exact); about 640 seeds would tell" in told.stdout
    assert "better on 12, worse on 7, the same on 81" in told.stdout


def test_a_job_that_the_experiment_does_not_have_is_refused(service: respx.MockRouter):
    result = call("compare", EXPERIMENT, "1", "17", "--url", URL)
    assert result.exit_code == 2
    assert "SECOND: no job of the experiment has the number, label or id '17'" in result.stderr


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"winner": job_id(2), "p_value": 0.01}, f"{label(2)} is better (p = 0.010, mcnemar exact)."),
        ({"difference": None, "num_seeds": 0}, f"{label(1)} and {label(2)} were measured on no test seeds in common"),
    ],
)
def test_a_comparison_says_who_is_better_or_why_nobody_is(
    service: respx.MockRouter, changes: dict[str, Any], told: str
):
    service.get(f"{ONE_URL}/comparison").respond(json=job_comparison(1, 2, **changes))
    assert told in call("compare", EXPERIMENT, "1", "2", "--url", URL).stdout


def test_letters_go_on_behind_z_nothing_has_no_minus_and_a_clock_is_short():
    assert [letter(index) for index in (0, 25, 26, 27, 51, 52, 199)] == ["A", "Z", "AA", "AB", "AZ", "BA", "GR"]
    assert [signed(value) for value in (-0.0001, 0.0, -0.25)] == ["+0.000", "+0.000", "-0.250"]
    assert [clock(seconds) for seconds in (7.5, 59, 125, 3753)] == ["8 s", "59 s", "2:05", "1:02:33"]


# --- while it runs ---------------------------------------------------------------------------------------------------


def parsed(event: dict[str, Any]) -> ExperimentEvent:
    return ExperimentEvent.parse(json.dumps(event).encode(), "")


def shown_by_lines(*events: dict[str, Any], seconds: float = 0.0) -> list[str]:
    now = [0.0]
    out = Console(file=io.StringIO(), width=200)
    display = ExperimentLines(out, experiment()["jobs"], clock=lambda: now[0])
    for each in events:
        now[0] += seconds
        display.show(parsed(each))
    return str(out.file.getvalue()).splitlines()  # type: ignore[attr-defined]


def test_lines_tell_when_jobs_begin_and_end_and_nothing_twice():
    warned = job_event(2, 2, "stalled") | {"level": "warning"}
    refused = job_event(2, 3, "proposal.refused") | {"level": "warning"}
    events = [progress_event(1, 1, 20), progress_event(1, 2, 40), progress_event(2, 1, 20), warned, refused]
    told = shown_by_lines(*events, job_ending(1, 3), job_ending(2, 4, "failed", error="it\nbroke"), experiment_ending())
    assert [line.partition(" s  ")[2] for line in told] == [
        f"1 {label(1)} runs",
        f"2 {label(2)} runs",
        f"2 {label(2)}: event 2 of job 2",
        f"1 ✓ {label(1)} · best 0.500 (60 seeds) · baseline 0.250 (60 seeds)",
        f"2 ✗ {label(2)}: it broke",
    ]


def test_a_job_that_ends_before_its_start_is_told_in_the_services_words():
    never = job_event(3, 2, "mipro.cancelled", finish_reason="cancelled", best_score=None)
    (line,) = shown_by_lines(never)
    assert line.endswith(f"3 – {label(3)}: event 2 of job 3")


def test_a_line_on_all_jobs_comes_now_and_then():
    told = shown_by_lines(*(progress_event(1, seq, 100 * seq) for seq in range(1, 9)), seconds=2.6)
    summaries = [line.strip() for line in told if "of 4 over" in line]
    assert summaries[0] == "0 of 4 over · 1 running · 3 queued · 6 %"
    assert len(summaries) == 4


def test_paused_jobs_are_said_to_be_so():
    told = shown_by_lines(progress_event(1, 1, 20), job_event(1, 2, "paused"), job_event(1, 3, "resumed"))
    assert [line.rpartition("seed=0 ")[2] for line in told] == ["runs", "is paused", "goes on"]


def test_bars_are_of_running_jobs_and_no_more_than_fit():
    out = Console(file=io.StringIO(), width=80, height=6, force_terminal=True, color_system=None)
    display = ExperimentBars(out, experiment()["jobs"], clock=lambda: 0.0)
    with display:
        for position in range(1, 5):
            display.show(parsed(progress_event(position, 1, 400)))
        assert sorted(display._tasks) == [1, 2]
        display.show(parsed(job_ending(1, 2)))
        assert sorted(display._tasks) == [2, 3]
        display.show_break("it ended", 1)
    said = str(out.file.getvalue())  # type: ignore[attr-defined]
    assert "1 of 4 over · 3 running" in said
    assert "400/800 best 0.500" in said
    assert "the connection broke (it ended)" in said


def test_texts_of_others_cannot_harm_the_terminal():
    evil = "a\x1b[2Jb"
    shown = results(jobs=[row(1, label=evil, policy=evil, error=evil)], groups=[group(evil)])
    assert "\x1b" not in printed(shown)
    assert not any("\x1b" in line for line in shown_by_lines(job_ending(1, 1, "failed", error=evil)))
