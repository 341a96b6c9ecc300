"""Plots over HTTP: of jobs and experiments that go on, are over or have not begun; and where the extra is missing."""

import importlib.machinery
import sys
from importlib.machinery import ModuleSpec
from typing import Any

import httpx
import pytest

from promptjobs import AsyncClient
from promptjobs.api import plot_experiment_figures, plot_facts, plots
from promptjobs.api.app import EXPERIMENTS_PATH, JOBS_PATH, create_app
from promptjobs.api.plot_schemas import ExperimentPlot, JobPlot
from promptjobs.db import candidates, experiments
from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors.client import NotFoundError
from promptjobs.plots.figures import CostScatter, CurveBundle, Distribution, GroupBars, LearningCurve, Picture
from tests.fakes.experiments import new_experiment
from tests.fakes.gathered_experiments import gathered
from tests.fakes.recorded_jobs import created_job, job_service, searched_job
from tests.fakes.recorded_searches import recorded_search
from tests.fakes.served import in_process

slow = pytest.mark.slow


def of_job(job_id: str, name: str = "", query: str = "") -> str:
    return f"{JOBS_PATH}/{job_id}/plots{'/' if name else ''}{name}{query}"


def of_experiment(experiment_id: str, name: str = "", query: str = "") -> str:
    return f"{EXPERIMENTS_PATH}/{experiment_id}/plots{'/' if name else ''}{name}{query}"


async def figures_of(database: Database, job_id: str, name: JobPlot) -> Any:
    """What the plot is drawn from."""
    async with reading(database) as connection:
        standing = await candidates.read_standing(connection, job_id)
        facts = await plot_facts.read_facts(connection, job_id, standing)
        return await plots.OF_JOB[name](connection, facts)


async def figures_of_experiment(database: Database, experiment_id: str, name: ExperimentPlot) -> Any:
    async with reading(database) as connection:
        row = await experiments.read(connection, experiment_id)
        facts = await plot_experiment_figures.read_facts(connection, row)
        return await plots.OF_EXPERIMENT[name](connection, facts)


async def test_plots_are_listed_and_others_are_not_found(client: httpx.AsyncClient, database: Database) -> None:
    job_id, experiment = await created_job(database), await new_experiment(database)
    listed = (await client.get(of_job(job_id))).json()
    assert [each["name"] for each in listed] == [each.value for each in JobPlot]
    listed = (await client.get(of_experiment(experiment.row.id))).json()
    assert [each["name"] for each in listed] == [each.value for each in ExperimentPlot]
    missing = await client.get(of_job(job_id, "learning-curves"))
    assert (missing.status_code, missing.json()["code"]) == (404, "plot_not_found")
    assert missing.json()["known"] == [each.value for each in JobPlot]
    assert (await client.get(of_experiment(experiment.row.id, "pareto-front"))).json()["code"] == "plot_not_found"
    assert (await client.get(of_job(job_id, "pareto-front", "?format=pdf"))).status_code == 422
    for unknown in (
        of_job(f"pl_{'0' * 32}"),
        of_job(f"pl_{'0' * 32}", "pareto-front"),
        of_experiment(f"exp_{'0' * 32}"),
    ):
        assert (await client.get(unknown)).status_code == 404


class NoMatplotlib(importlib.machinery.PathFinder):
    """Finds everything but matplotlib, as where the extra is not installed."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return None if fullname == "matplotlib" else super().find_spec(fullname, path, target)


async def test_without_the_extra_the_answer_says_how_to_install_it(
    client: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, experiment = await created_job(database), await new_experiment(database)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    others = [NoMatplotlib if each is importlib.machinery.PathFinder else each for each in sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", others)
    of_both = (of_job(job_id), of_experiment(experiment.row.id))
    for path in (*of_both, of_job(job_id, "pareto-front"), of_experiment(experiment.row.id, "cost-vs-score")):
        answer = await client.get(path)
        assert answer.status_code == 501
        assert answer.json()["code"] == "plots_not_installed"
        assert "pip install 'promptjobs[plots]'" in answer.json()["detail"]


@slow
async def test_a_picture_is_sent_so_that_a_browser_can_do_nothing_but_show_it(
    client: httpx.AsyncClient, database: Database
) -> None:
    job = await searched_job(database)
    svg = await client.get(of_job(job.job_id, "learning-curve"))
    assert svg.status_code == 200
    assert svg.headers["content-type"] == "image/svg+xml"
    assert svg.headers["x-content-type-options"] == "nosniff"
    policy = [each.strip() for each in svg.headers["content-security-policy"].split(";")]
    assert {"default-src 'none'", "sandbox", "frame-ancestors 'none'"} <= set(policy)
    assert not any(each.startswith(("script-src", "img-src", "connect-src")) for each in policy)
    assert b"<title>Learning curve: gepa, groq/" in svg.content
    assert "etag" not in svg.headers
    png = await client.get(of_job(job.job_id, "learning-curve", "?format=png"))
    assert png.headers["content-type"] == "image/png"
    assert png.content.startswith(b"\x89PNG")


@slow
async def test_a_finished_jobs_picture_is_the_same_everywhere_and_gone_with_the_job(
    client: httpx.AsyncClient, database: Database
) -> None:
    search = await recorded_search(database, "failures")
    await search.publish()
    first = await client.get(of_job(search.job_id, "pareto-front"))
    again = await client.get(of_job(search.job_id, "pareto-front"), headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    async with in_process(create_app(database=database, service=job_service(database))) as replica:
        other = await replica.get(of_job(search.job_id, "pareto-front"))
    assert (other.content, other.headers["etag"]) == (first.content, first.headers["etag"])
    assert (await client.delete(f"{JOBS_PATH}/{search.job_id}")).status_code == 204
    assert (await client.get(of_job(search.job_id, "pareto-front"))).status_code == 404


@slow
@pytest.mark.parametrize("name", list(JobPlot))
@pytest.mark.parametrize("scenario", ["failures", "mipro_stages", "race_merges"])
async def test_every_plot_of_a_finished_search_is_drawn(
    client: httpx.AsyncClient, database: Database, name: JobPlot, scenario: str
) -> None:
    search = await recorded_search(database, scenario)
    await search.publish()
    answer = await client.get(of_job(search.job_id, name))
    assert answer.status_code == 200
    picture = await figures_of(database, search.job_id, name)
    assert picture.heading.nothing is None


@slow
@pytest.mark.parametrize("scenario", ["failures", "race_merges"])
async def test_what_is_drawn_is_what_was_published(database: Database, scenario: str) -> None:
    search = await recorded_search(database, scenario)
    await search.publish()
    assert search.result is not None
    assert search.result.best is not None
    distribution: Distribution = await figures_of(database, search.job_id, JobPlot.SCORE_DISTRIBUTION)
    published = {"validation": search.result.validation, "test": search.result.test}
    drawn = {each.name.split()[1]: each for each in distribution.sets}
    assert drawn.keys() == {name for name, found in published.items() if found is not None}
    for name, found in published.items():
        if found is not None:
            common = sorted(found.best.keys() & found.baseline.keys())
            assert drawn[name].best == tuple(found.best[seed] for seed in common)
            assert drawn[name].baseline == tuple(found.baseline[seed] for seed in common)
    assert distribution.heading.note.endswith("the best is the baseline") is search.result.best.is_baseline
    curve: LearningCurve = await figures_of(database, search.job_id, JobPlot.LEARNING_CURVE)
    validated = [*curve.validation, *([curve.validation_baseline] if curve.validation_baseline else [])]
    assert max(each.rollouts for each in validated) <= curve.rollouts <= search.config.search.rollout_budget
    assert search.result.validation is not None
    assert search.result.validation.best_score is not None
    assert search.result.validation.best_score.mean in [pytest.approx(each.score) for each in validated]


@pytest.mark.parametrize("name", list(JobPlot))
async def test_a_job_that_has_not_begun_says_so(database: Database, name: JobPlot) -> None:
    picture: Picture = await figures_of(database, await created_job(database), name)
    assert picture.heading.nothing is not None
    assert picture.heading.nothing.startswith("Nothing to show yet: ")


@pytest.mark.parametrize("name", list(ExperimentPlot))
async def test_an_experiment_that_has_not_begun_says_so(database: Database, name: ExperimentPlot) -> None:
    experiment = await new_experiment(database)
    picture: Picture = await figures_of_experiment(database, experiment.row.id, name)
    assert picture.heading.nothing == "Nothing to show yet: none of the jobs has measured anything so far."


@slow
async def test_jobs_are_compared_on_the_last_set_that_any_has_reached(
    client: httpx.AsyncClient, database: Database
) -> None:
    done = await recorded_search(database, "failures")
    await done.publish()
    running = await searched_job(database)
    waiting = await created_job(database)
    experiment_id = await gathered(database, "default", [done.job_id, running.job_id, waiting])
    assert done.result is not None
    assert done.result.test is not None
    assert done.result.test.best_score is not None
    bars: GroupBars = await figures_of_experiment(database, experiment_id, ExperimentPlot.SCORE_BY_GROUP)
    assert [row.label for row in bars.rows] == ["number 1"]
    assert bars.rows[0].mean == pytest.approx(done.result.test.best_score.mean)
    assert (bars.rows[0].low, bars.rows[0].high) == (None, None)
    assert "2 without a score on the test seeds so far" in bars.heading.note
    curves: CurveBundle = await figures_of_experiment(database, experiment_id, ExperimentPlot.LEARNING_CURVES)
    assert [curve.group for curve in curves.curves] == [0, 1]
    assert curves.curves[1].steps == ((4, 0.25), (8, 0.75))
    scatter: CostScatter = await figures_of_experiment(database, experiment_id, ExperimentPlot.COST_VS_SCORE)
    assert scatter.groups == ("number 1", "number 2", "number 3")
    for name in ExperimentPlot:
        answer = await client.get(of_experiment(experiment_id, name))
        assert answer.status_code == 200
        assert "etag" not in answer.headers


@slow
async def test_before_any_test_jobs_are_compared_by_their_search_as_the_results_are(
    client: httpx.AsyncClient, database: Database
) -> None:
    running = await recorded_search(database, "one_lane_train", turns=40)
    experiment_id = await gathered(database, "default", [running.job_id])
    [row] = (await client.get(f"{EXPERIMENTS_PATH}/{experiment_id}/results")).json()["jobs"]
    assert row["eval_set"] == "search"
    bars: GroupBars = await figures_of_experiment(database, experiment_id, ExperimentPlot.SCORE_BY_GROUP)
    assert [(each.scores, each.baselines) for each in bars.rows] == [((row["best_score"],), (row["baseline_score"],))]
    assert "search" in bars.score_label


@slow
async def test_a_cancelled_experiment_with_nothing_measured_keeps_its_picture(
    client: httpx.AsyncClient, database: Database
) -> None:
    experiment = await new_experiment(database)
    await client.post(f"{EXPERIMENTS_PATH}/{experiment.row.id}/cancel")
    first = await client.get(of_experiment(experiment.row.id, "learning-curves", "?format=png"))
    assert first.status_code == 200
    picture = await figures_of_experiment(database, experiment.row.id, ExperimentPlot.LEARNING_CURVES)
    assert picture.heading.nothing == "Nothing to show: none of the jobs has measured anything."
    again = await client.get(
        of_experiment(experiment.row.id, "learning-curves", "?format=png"),
        headers={"if-none-match": first.headers["etag"]},
    )
    assert again.status_code == 304


@slow
async def test_the_python_client_gets_pictures_and_is_told_what_there_are(database: Database) -> None:
    job = await searched_job(database)
    experiment_id = await gathered(database, "default", [job.job_id])
    service = create_app(database=database, service=job_service(database))
    async with in_process(service) as http, AsyncClient("http://localhost", http_client=http) as client:
        assert [each["name"] for each in await client.plots(job.job_id)] == list(JobPlot)
        assert [each["name"] for each in await client.experiment_plots(experiment_id)] == list(ExperimentPlot)
        assert (await client.plot(job.job_id, "wins-and-losses", "png")).startswith(b"\x89PNG")
        assert b"<svg" in await client.experiment_plot(experiment_id, "learning-curves")
        with pytest.raises(NotFoundError, match="there is no plot 'x'"):
            await client.plot(job.job_id, "x")
