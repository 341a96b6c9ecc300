"""The requests for plots of jobs and experiments."""

from typing import Literal

from promptjobs.sdk.answers import Json, Reply, checked, read_list
from promptjobs.sdk.experiment_requests import experiment_path
from promptjobs.sdk.job_requests import job_path
from promptjobs.sdk.requests import Request, query_of

PlotFormat = Literal["svg", "png"]

ACCEPTED = {"accept": "image/*, application/json"}


def plots(job_id: str) -> Request[list[Json]]:
    return Request("GET", job_path(job_id, "plots"), read_list)


def plot(job_id: str, name: str, form: PlotFormat) -> Request[bytes]:
    return Request("GET", job_path(job_id, "plots", name), _read_picture, query=query_of(format=form), headers=ACCEPTED)


def experiment_plots(experiment_id: str) -> Request[list[Json]]:
    return Request("GET", experiment_path(experiment_id, "plots"), read_list)


def experiment_plot(experiment_id: str, name: str, form: PlotFormat) -> Request[bytes]:
    path = experiment_path(experiment_id, "plots", name)
    return Request("GET", path, _read_picture, query=query_of(format=form), headers=ACCEPTED)


def _read_picture(reply: Reply) -> bytes:
    return checked(reply).content
