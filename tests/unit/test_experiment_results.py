"""Rows, groups, comparisons, CSV and Markdown of an experiment's results, from facts alone."""

import csv
import io
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from promptjobs.core.csv_table import csv_table
from promptjobs.core.experiment_comparisons import (
    NO_SEEDS,
    ONE_RUN,
    ONE_SEED,
    Compare,
    ExperimentResults,
    compare_groups,
    compare_jobs,
    compared,
    leading,
)
from promptjobs.core.experiment_groups import Summary, groups_of
from promptjobs.core.experiment_results import JobResult, Variant, row_json
from promptjobs.core.experiment_tables import results_csv, results_markdown
from promptjobs.core.result import Measured
from promptjobs.core.seed_sets import SeedSet, seed_sets
from promptjobs.core.verdict import paired_difference, score_estimate
from promptjobs.db.experiment_variants import Ranked, within

SEARCH, VALIDATION, TEST = SeedSet
HOSTILE = "=cmd|' /C calc'!A0"


def scored(mean: float, n: int = 20, first: int = 0, draw: int = 0) -> dict[int, float]:
    """Scores of 0 and 1 by seed, with about this mean."""
    rng = random.Random(f"{mean} {draw}")
    return {first + at: float(rng.random() < mean) for at in range(n)}


def job(position: int, **changes: Any) -> JobResult:
    whole: dict[str, Any] = {
        "job_id": f"pl_{position:032x}",
        "position": position,
        "label": f"job {position}",
        "group": f"group {position}",
        "settings": {"seed": position},
        "algorithm": "gepa",
        "status": "succeeded",
        "is_over": True,
        "policy": "demo/demo-policy",
        "seed": position,
        "finish_reason": "rollout_budget",
        "error": None,
        "seconds": 10.0 * position,
        "trials": 9,
        "trials_tried": 4,
        "rollouts": 100,
        "failed_rollouts": 2,
        "total_tokens": 1_000 * position,
        "cost_usd": 0.01 * position,
        "best_id": "c_1",
        "baseline_id": "c_0",
        "measured": {TEST: Measured(20, scored(0.8, draw=position), scored(0.4))},
    }
    return JobResult(**{**whole, **changes})


def on_test(position: int, scores: Mapping[int, float], **changes: Any) -> JobResult:
    return job(position, measured={TEST: Measured(len(scores), scores, scored(0.4))}, **changes)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_tells_by_the_last_set_on_which_the_best_was_measured() -> None:
    best, baseline = scored(0.8), scored(0.5)
    measured = {
        SEARCH: Measured(20, scored(0.9), scored(0.3)),
        VALIDATION: Measured(25, best, baseline),
        TEST: Measured(20, {}, scored(0.4)),
    }
    found = row_json(job(1, measured=measured))
    assert found["eval_set"] == "validation"
    assert (found["best_score"], found["eval_n"]) == (score_estimate(list(best.values())).mean, 20)
    assert found["baseline_score"] == score_estimate(list(baseline.values())).mean
    lift = paired_difference(best, baseline)
    assert lift is not None
    assert (found["lift"], found["validation"]["difference"]) == (lift.mean, lift.to_json())
    assert (found["test"]["best"], found["test"]["difference"]) == (None, None)


def test_what_is_not_known_is_null_and_a_note_says_why() -> None:
    nothing: dict[str, Any] = {"measured": {}, "best_id": None, "baseline_id": None}
    waiting = job(1, status="queued", is_over=False, seconds=None, finish_reason=None, **nothing)
    for each, note in (
        (waiting, "it has not started"),
        (job(2, status="cancelled", seconds=None, **nothing), "it was cancelled before it started"),
        (job(3, status="running", is_over=False, **nothing), "nothing is measured yet"),
        (job(4, status="failed", error="gone", **nothing), "it was over (failed) before anything was measured: gone"),
        (job(5, status="running", is_over=False), "figures so far"),
        (job(6, unpriced_calls=3), "the price of 3 calls is not known"),
        (job(7, measured={SEARCH: Measured(9, scored(0.5), scored(0.5))}), "no held-out seeds were measured"),
        (job(7, measured={VALIDATION: Measured(9, scored(0.5), scored(0.5))}), "no held-out seeds were measured"),
        (job(8, measured={TEST: Measured(9, scored(0.5), {})}), "the baseline has no score on these seeds"),
        (job(9), None),
    ):
        assert each.note == note
        row = row_json(each)
        assert row["note"] == note
        assert (row["best_score"] is None) == (not each.measured)
    assert row_json(job(6, unpriced_calls=3))["total_cost_usd"] is None
    assert row_json(waiting)["is_baseline_best"] is None
    assert row_json(job(1, best_id="c_0"))["is_baseline_best"] is True


def test_the_sets_are_those_that_a_job_publishes() -> None:
    gepa = {"front_seeds": [1, 2], "validation_seeds": [7, 8, 9], "test_seeds": [5], "pareto_source": "train"}
    held_out = seed_sets({"algorithm": "gepa", "gepa": gepa})
    assert held_out == {SEARCH: (1, 2), VALIDATION: (7, 8, 9), TEST: (5,)}
    steered = seed_sets({"algorithm": "gepa", "gepa": gepa | {"pareto_source": "validation", "front_seeds": [7, 8]}})
    assert steered == {SEARCH: (), VALIDATION: (7, 8), TEST: (5,)}
    mipro = {"online_seeds": [1, 2], "validation_seeds": [], "test_seeds": []}
    assert seed_sets({"algorithm": "mipro", "mipro": mipro}) == {SEARCH: (), VALIDATION: (1, 2), TEST: ()}
    with_validation = seed_sets({"algorithm": "mipro", "mipro": mipro | {"validation_seeds": [3]}})
    assert with_validation == {SEARCH: (1, 2), VALIDATION: (3,), TEST: ()}


# --- groups ----------------------------------------------------------------------------------------------------------


def test_groups_have_means_and_standard_deviations_over_their_jobs() -> None:
    settings = {"model": "m", "prompt_learning.gepa.rng_seed": 0}
    jobs = [job(at, group="m", settings={**settings, "seed": at}) for at in (1, 2, 3)]
    jobs.append(job(4, group="m", settings={**settings, "seed": 4}, status="running", is_over=False, measured={}))
    alone = job(5, group="alone", settings={"model": "n", "seed": 5})
    first, second = (group.to_json() for group in groups_of([jobs[0], alone, *jobs[1:]]))
    bests = [each.shown.best.mean for each in jobs[:3] if each.shown.best]
    assert first["best"] == {"mean": pytest.approx(np.mean(bests)), "sd": pytest.approx(np.std(bests, ddof=1)), "n": 3}
    assert first["seconds"] == {"mean": 20.0, "sd": 10.0, "n": 3}
    assert first["tokens"]["mean"] == 2_000
    assert (first["group"], first["num_jobs"], first["num_finished"]) == ("m", 4, 3)
    assert (first["settings"], second["settings"]) == ({"model": "m"}, {"model": "n"})
    assert (second["best"]["sd"], second["best"]["n"]) == (None, 1)
    assert Summary.of([None]) == Summary(None, None, 0)


def test_a_group_never_mixes_sets_of_seeds() -> None:
    early = job(1, group="g", status="running", is_over=False, measured={SEARCH: Measured(9, scored(0.9), scored(0.1))})
    done = job(2, group="g")
    [group] = groups_of([early, done])
    assert done.shown.best is not None
    assert (group.eval_set, group.best) == (TEST, Summary(done.shown.best.mean, None, 1))


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_the_leader_is_compared_with_all_others_and_all_pairs_count() -> None:
    jobs = [on_test(at, dict.fromkeys(range(40), 1.0 if at == 2 else 0.0)) for at in (1, 2, 3, 4)]
    jobs.append(job(5, measured={}, status="failed"))
    assert leading(jobs) is jobs[1]
    found = compare_jobs(jobs, Compare.LEADER)
    assert [(each.first.position, each.second.position) for each in found] == [(2, 1), (2, 3), (2, 4)]
    for each in found:
        assert each.found.p_value is not None
        assert each.p_adjusted == pytest.approx(6 * each.found.p_value)
        assert each.winner is jobs[1]
    assert len(compare_jobs(jobs, Compare.ALL)) == 6
    assert compare_jobs(jobs, Compare.NONE) == []
    assert compare_jobs(jobs[-1:], Compare.LEADER) == []


def test_a_pair_has_the_same_figures_whichever_pairs_are_shown() -> None:
    jobs = [on_test(at, scored(mean)) for at, mean in enumerate((0.9, 0.6, 0.5, 0.2), 1)]
    of_all = [each.to_json() for each in compare_jobs(jobs, Compare.ALL)]
    of_leader = [each.to_json() for each in compare_jobs(jobs, Compare.LEADER)]
    assert len(of_leader) == 3
    assert all(each in of_all for each in of_leader)


def test_equals_have_no_winner_and_the_first_of_them_leads() -> None:
    jobs = [on_test(at, scored(0.5)) for at in (1, 2)]
    assert leading(jobs) is jobs[0]
    [each] = compare_jobs(jobs, Compare.LEADER)
    assert (each.winner, each.found.p_value, each.found.seeds_needed) == (None, 1.0, None)


def test_who_was_measured_on_held_out_seeds_leads_before_who_was_not() -> None:
    early = job(1, measured={SEARCH: Measured(9, dict.fromkeys(range(9), 1.0), {})}, is_over=False)
    assert leading([early, job(2)]) == job(2)


def test_jobs_are_compared_on_the_last_set_that_both_have_in_common() -> None:
    ours = {VALIDATION: Measured(9, scored(0.9), {}), TEST: Measured(9, scored(0.9, first=100), {})}
    theirs = {VALIDATION: Measured(9, scored(0.2), {}), TEST: Measured(9, scored(0.2, first=500), {})}
    one, other = job(1, measured=ours), job(2, measured=theirs)
    assert compared(one, other).seeds is VALIDATION
    apart = compared(one, other, TEST).to_json()
    assert (apart["seeds"], apart["num_seeds"], apart["note"]) == ("test", 0, NO_SEEDS)
    assert (apart["difference"], apart["p_value"], apart["winner"]) == (None, None, None)
    never = compared(one, job(3, measured={}))
    assert (never.seeds, never.note) == (None, NO_SEEDS)
    single = compared(on_test(1, {1: 0.5}), on_test(2, {1: 0.25}))
    assert (single.note, single.winner) == (ONE_SEED, None)


def group_jobs(group: str, mean: float, settings: Mapping[str, Any], start: int) -> list[JobResult]:
    rng = np.random.default_rng(start)
    return [
        on_test(
            start + at,
            {seed: float(np.clip(rng.normal(mean, 0.05), 0, 1)) for seed in range(30)},
            group=group,
            settings={**settings, "seed": at},
        )
        for at in range(3)
    ]


def test_groups_are_compared_over_their_runs_with_who_leads_and_where_one_setting_differs() -> None:
    jobs = [
        *group_jobs("gepa a", 0.9, {"algorithm": "gepa", "model": "a"}, 1),
        *group_jobs("gepa b", 0.7, {"algorithm": "gepa", "model": "b"}, 11),
        *group_jobs("mipro a", 0.5, {"algorithm": "mipro", "model": "a"}, 21),
        *group_jobs("mipro b", 0.5, {"algorithm": "mipro", "model": "b"}, 31),
    ]
    found = compare_groups(groups_of(jobs), Compare.LEADER)
    assert {(each.first.group, each.second.group) for each in found} == {
        *(("gepa a", other) for other in ("gepa b", "mipro a", "mipro b")),
        ("gepa b", "mipro b"),
        ("mipro a", "mipro b"),
    }
    assert len(compare_groups(groups_of(jobs), Compare.ALL)) == 6
    assert compare_groups(groups_of(jobs), Compare.NONE) == []
    won = next(each for each in found if each.second.group == "mipro a")
    assert won.winner is not None
    assert (won.winner.group, won.found.our_runs, won.found.num_seeds) == ("gepa a", 3, 30)
    same = next(each for each in found if each.first.group == "mipro a")
    assert same.winner is None


def test_groups_of_one_job_each_are_not_compared_and_a_single_run_is_said_to_be_one() -> None:
    assert compare_groups(groups_of([job(1), job(2)]), Compare.ALL) == []
    jobs = [*group_jobs("many", 0.9, {"model": "a"}, 1), on_test(9, scored(0.2, 30), group="one")]
    [each] = compare_groups(groups_of(jobs), Compare.LEADER)
    assert (each.note, each.found.p_value, each.winner) == (ONE_RUN, None, None)


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_the_best_prompt_of_every_job_goes_before_the_second_of_any() -> None:
    def ranked(*lengths: int) -> Ranked:
        texts = [[{"role": "system", "content": "x" * length}] for length in lengths]
        return Ranked(9, [Variant(at, f"c_{at}", 0.5, 1, False, False, text) for at, text in enumerate(texts, 1)])

    found = {"a": ranked(10, 10, 10), "b": ranked(30, 30), "c": Ranked(0, ())}
    for characters, kept in ((1_000, (3, 2, 0)), (50, (2, 1, 0)), (40, (1, 1, 0)), (39, (1, 0, 0)), (0, (0, 0, 0))):
        shown = within(found, characters)
        assert tuple(len(each.variants) for each in shown.values()) == kept
        assert [each.total for each in shown.values()] == [9, 9, 0]


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", HOSTILE])
def test_no_cell_of_a_csv_is_a_formula(cell: str) -> None:
    [header, row] = csv.reader(io.StringIO(csv_table([cell], [[cell]])))
    assert header == row
    assert row[0].startswith("'")


def test_the_csv_has_one_line_for_each_job_and_empty_cells_for_what_is_not_known() -> None:
    jobs = [
        job(1, label=HOSTILE, settings={"model": "a\nb", HOSTILE: 3, "seeds": [1]}, error="two\nlines"),
        job(2, measured={}, seconds=None, unpriced_calls=1, is_over=False, status="queued"),
    ]
    text = results_csv(jobs)
    assert len(text.splitlines()) == 3
    first, second = csv.DictReader(io.StringIO(text))
    assert first["label"] == f"'{HOSTILE}"
    assert (first["settings.model"], first[f"settings.{HOSTILE}"], first["settings.seeds"]) == ("a b", "3", "[1]")
    assert jobs[0].shown.best is not None
    assert float(first["best_score"]) == float(first["test_best"]) == jobs[0].shown.best.mean
    assert float(first["lift_low"]) <= float(first["lift"]) <= float(first["lift_high"])
    assert (first["is_baseline_best"], first["eval_n"], first["trials"]) == ("false", "20", "9")
    assert [second[name] for name in ("best_score", "lift", "seconds", "total_cost_usd", "settings.model")] == [""] * 5
    assert second["note"] == "it has not started; the price of 1 call is not known"


EXPERIMENT = {
    "experiment_id": "exp_1",
    "name": "a | b",
    "status": "completed",
    "num_jobs": 6,
    "counts": {"succeeded": 6},
}


def test_the_page_tells_jobs_groups_comparisons_and_prompts_and_nothing_is_not_available() -> None:
    message = {"role": "system", "content": "Answer.\n```\n| not a cell |"}
    variant = Variant(1, "c_1", 0.75, 12, True, False, [message])
    jobs = [
        *(job(at, group="one", label="one | more", variants=[variant], num_variants=1) for at in (1, 2, 3)),
        *(job(at, group="two") for at in (4, 5)),
        job(6, group="two", measured={}, seconds=None, status="cancelled", finish_reason=None, best_id=None),
    ]
    page = results_markdown(ExperimentResults.of(EXPERIMENT, jobs, Compare.LEADER))
    for part in (
        "# Results of a \\| b",
        "## Jobs",
        "## Groups",
        "## Jobs compared",
        "## Groups compared",
        "## Prompts",
    ):
        assert part in page
    assert "6. job 6: it was cancelled before it started" in page
    assert "````\nAnswer.\n```\n| not a cell |\n````" in page
    assert "one \\| more" in page
    assert "± " in page
    for word in ("N/A", "None", "nan"):
        assert word not in page
    rows = [line for line in page.split("\n") if line.startswith("| 1 |")]
    assert len(rows) == 1
    assert rows[0].count(" – ") == 0


def test_a_page_of_nothing_says_so() -> None:
    nothing = job(1, measured={}, seconds=None, status="queued", is_over=False, best_id=None, finish_reason=None)
    page = results_markdown(ExperimentResults.of(EXPERIMENT, [nothing], Compare.ALL))
    assert "Nothing has been measured." in page
    assert "it has not started" in page
    assert "compared" not in page
