"""What the package offers: two clients with the same methods, and nothing loaded before it is used."""

import inspect
import re
import subprocess
import sys
from typing import Any, get_args

import pytest
from fastapi.routing import APIRoute

import promptjobs
from promptjobs import AsyncClient, Client
from promptjobs.db.events import TERMINAL_TYPES
from promptjobs.db.experiments import ExperimentStatus
from promptjobs.db.jobs import JobStatus
from promptjobs.sdk import experiment_requests, plot_requests
from promptjobs.sdk.events import TERMINAL
from promptjobs.sdk.experiment_requests import Compared, ComparedSeeds, TableFormat
from promptjobs.sdk.experiment_shapes import (
    EXPERIMENT_TERMINAL_STATUSES,
    Experiment,
    ExperimentEstimate,
    ExperimentJob,
    ExperimentResults,
    GroupComparison,
    GroupRow,
    JobComparison,
    JobEstimate,
    ResultRow,
    Summary,
)
from promptjobs.sdk.shapes import TERMINAL_STATUSES, Job


def methods(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_") and callable(value)}


def parameters(method: Any) -> list[tuple[str, Any, Any, Any]]:
    found = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default, each.annotation) for each in found]


def test_both_clients_have_the_same_methods():
    assert methods(Client).keys() == methods(AsyncClient).keys()
    assert len(methods(Client)) > 40


@pytest.mark.parametrize("name", sorted(methods(Client)))
def test_a_method_takes_and_gives_the_same_in_both_clients(name: str):
    one, other = methods(Client)[name], methods(AsyncClient)[name]
    assert parameters(one) == parameters(other)
    given = inspect.signature(one).return_annotation
    answered = inspect.signature(other).return_annotation
    assert str(answered).replace("AsyncIterator", "Iterator") == str(given)
    is_iterator = "Iterator[" in str(given)
    assert inspect.iscoroutinefunction(other) is not is_iterator


def test_constructors_take_the_same():
    names = [[name for name, *_ in parameters(kind.__init__)] for kind in (Client, AsyncClient)]
    assert names[0] == names[1]


@pytest.mark.parametrize("module", ["promptjobs", "promptjobs.core.config", "promptjobs.errors"])
def test_the_service_loads_no_client(module: str):
    check = f"import {module}, sys; print([name for name in ('httpx', 'promptjobs.sdk') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_client_loads_nothing_of_the_service():
    check = (
        "import sys, promptjobs; promptjobs.Client; promptjobs.AsyncClient;"
        "print(sorted(name for name in sys.modules if name.startswith('promptjobs.')"
        " and not name.startswith(('promptjobs.sdk', 'promptjobs.errors'))),"
        " [name for name in ('pydantic', 'fastapi', 'sqlalchemy', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_every_name_that_is_offered_is_there():
    for name in promptjobs.__all__:
        assert getattr(promptjobs, name) is not None
    assert set(promptjobs.__all__) <= set(dir(promptjobs))
    with pytest.raises(AttributeError, match="no_such_name"):
        promptjobs.no_such_name  # noqa: B018 - the access is what is tested


def test_what_the_service_calls_final_the_client_calls_final():
    assert {status.value for status in JobStatus if status.is_terminal} == TERMINAL_STATUSES
    assert all(TERMINAL.fullmatch(name) for name in TERMINAL_TYPES)
    assert {status.value for status in ExperimentStatus if status.is_terminal} == EXPERIMENT_TERMINAL_STATUSES


def test_a_job_has_the_fields_that_the_service_documents():
    from promptjobs.api.job_schemas import JobObject

    assert Job.__annotations__.keys() == JobObject.model_fields.keys()


def test_experiments_have_the_fields_that_the_service_documents():
    from promptjobs.api import experiment_result_schemas, experiment_schemas

    for shape, documented in (
        (Experiment, experiment_schemas.ExperimentObject),
        (ExperimentJob, experiment_schemas.ExperimentJob),
        (ExperimentEstimate, experiment_schemas.ExperimentEstimate),
        (JobEstimate, experiment_schemas.JobEstimate),
        (ExperimentResults, experiment_result_schemas.ExperimentResultsObject),
        (ResultRow, experiment_result_schemas.ResultRow),
        (GroupRow, experiment_result_schemas.GroupRow),
        (Summary, experiment_result_schemas.SummaryObject),
        (JobComparison, experiment_result_schemas.JobComparisonObject),
        (GroupComparison, experiment_result_schemas.GroupComparisonObject),
    ):
        assert shape.__annotations__.keys() == documented.model_fields.keys(), shape


ID = "an id"


def test_the_client_asks_at_every_route_of_experiments_and_plots():
    from promptjobs.api.app import EXPERIMENTS_PATH, JOBS_PATH, OF_EXPERIMENTS
    from promptjobs.api.plots import experiments_router, jobs_router

    of_experiments = [*(part.router for part in OF_EXPERIMENTS), experiments_router]
    routers = [(EXPERIMENTS_PATH, each) for each in of_experiments] + [(JOBS_PATH, jobs_router)]
    routes = {
        (method, re.sub(r"\{\w+\}", "an%20id", prefix + route.path))
        for prefix, router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    requests = (
        experiment_requests.create({}, None),
        experiment_requests.estimate({}),
        experiment_requests.experiments(None, None).first,
        experiment_requests.experiment(ID),
        experiment_requests.cancel(ID, None),
        experiment_requests.delete(ID),
        experiment_requests.results(ID, None, None),
        experiment_requests.compare_jobs(ID, "a", "b", None),
        experiment_requests.stream(ID, ""),
        plot_requests.plots(ID),
        plot_requests.plot(ID, ID, "svg"),
        plot_requests.experiment_plots(ID),
        plot_requests.experiment_plot(ID, ID, "png"),
    )
    assert {(each.method, each.path) for each in requests} == routes


@pytest.mark.parametrize(
    ("said", "offered"),
    [("format", TableFormat), ("compare", Compared), ("seeds", ComparedSeeds)],
)
def test_the_client_offers_the_words_that_the_service_takes(said: str, offered: Any):
    from promptjobs.api.experiment_results import ComparedSeeds as Seeds
    from promptjobs.api.experiment_results import ResultFormat
    from promptjobs.core.experiment_comparisons import Compare

    taken = {"format": set(ResultFormat) - {ResultFormat.JSON}, "compare": set(Compare), "seeds": set(Seeds)}
    assert set(get_args(offered)) == taken[said]
