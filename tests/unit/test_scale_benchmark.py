"""The logic of the scale benchmark: which run is shown, what a target says, and jobs that the service accepts."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The benchmarks are scripts that import each other by name."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def figure(name, rate):
    from scale_rollouts import Figure

    return Figure(name, rate, None, 700.0, 100.0, {"service": 0.9, "postgres": 1.4, "task app": 0.1})


def test_of_several_runs_the_one_with_the_median_rate_is_shown():
    from scale_rollouts import middle

    runs = [figure("a", 3.0), figure("a", 1.0), figure("a", 2.0), figure("b", 5.0)]
    assert middle(runs) == [figure("a", 2.0), figure("b", 5.0)]


def test_the_ideal_is_slots_over_latency_and_unknown_without_one():
    from scale_rollouts import Cell

    assert Cell("", 0.05, 64).ideal == pytest.approx(1280)
    assert Cell("", 0.0, 64).ideal is None


@pytest.mark.parametrize(
    ("found", "is_least", "is_met"), [(85.0, True, True), (84.9, True, False), (85.1, False, False)]
)
def test_a_target_says_whether_it_is_met(found, is_least, is_met):
    from scale import Target

    target = Target("rate", found, 85.0, is_least, "%")
    assert (target.is_met, str(target).startswith("met")) == (is_met, is_met)


@pytest.mark.parametrize(("seeds", "concurrent"), [(100, 1), (9_000, 500)])
def test_its_jobs_fit_their_budget_and_score_every_seed_at_the_start(seeds, concurrent):
    from promptjobs.core.config import resolve
    from promptjobs.core.limits import check_budget, opening_seeds
    from scale_jobs import MOST_SEEDS, job_body

    assert seeds <= MOST_SEEDS
    body = job_body("http://127.0.0.1:1", seeds=seeds, concurrent=concurrent)
    config = resolve(body["algorithm"], body["config_body"], {}).config
    check_budget(config)
    assert (len(opening_seeds(config.gepa)), config.search.max_concurrent) == (seeds, concurrent)
