"""Experiments as clients ask for them, and made through the service."""

from collections.abc import Mapping
from typing import Any

from promptjobs.db.balances import DEFAULT_ORGANISATION
from promptjobs.db.session import Database
from promptjobs.jobs.experiments import ExperimentRequest, ExperimentService, ExperimentView
from promptjobs.jobs.service import JobService
from tests.fakes.config_bodies import BOOTSTRAP, ONLINE, PROMPT, body
from tests.fakes.recorded_jobs import job_service

GEPA_BUDGET = 400


def two_search_config(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A config that both algorithms can run by: with a section of each, and without an algorithm of its own.

    changes: values at paths below `prompt_learning`.
    """
    both = {
        "initial_prompt": PROMPT,
        "gepa.rollout.budget": GEPA_BUDGET,
        "mipro.seeds": {"bootstrap": list(BOOTSTRAP), "online": list(ONLINE)},
    }
    made = body({**both, **(changes or {})})
    del made["prompt_learning"]["algorithm"]
    return made


def experiment_request(**changes: Any) -> ExperimentRequest:
    """Two algorithms by two seeds, four jobs; `changes` are fields of the request."""
    fields = {
        "name": "gepa against mipro",
        "jobs": [{"config": two_search_config()}],
        "matrix": {"algorithm": ["gepa", "mipro"], "seed": [1, 2]},
    }
    return ExperimentRequest(**{**fields, **changes})


def experiment_service(where: Database | JobService) -> ExperimentService:
    jobs = where if isinstance(where, JobService) else job_service(where)
    return ExperimentService(jobs.database, jobs)


async def new_experiment(
    where: Database | JobService, organisation: str = DEFAULT_ORGANISATION, **changes: Any
) -> ExperimentView:
    """where: a database, or the service that makes the jobs. changes: fields of the request."""
    return await experiment_service(where).create(experiment_request(**changes), organisation)
