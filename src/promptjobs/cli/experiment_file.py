"""An experiment as a command sends it: its file, and what options change in every job."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptjobs.errors import OptionInvalid
from promptjobs.errors.client import ConfigFileInvalid
from promptjobs.sdk.config_files import SECTION
from promptjobs.sdk.experiment_files import experiment_of
from promptjobs.sdk.shapes import Json


def experiment_from(path: Path, overrides: Mapping[str, Any], parallelism: int | None = None) -> Json:
    """The file's experiment with these changes. Raises ConfigFileInvalid, and OptionInvalid."""
    experiment = experiment_of(path)
    if SECTION in experiment and "jobs" not in experiment:
        raise ConfigFileInvalid(str(path), "is the config of one job, and no experiment: `promptjobs run` takes it")
    if parallelism is not None:
        experiment["parallelism"] = parallelism
    return with_overrides(experiment, overrides)


def with_overrides(experiment: Json, overrides: Mapping[str, Any]) -> Json:
    """overrides: by dotted path, for each job. Raises OptionInvalid where a job has one of the same path already."""
    if not overrides:
        return experiment
    jobs = experiment.get("jobs")
    if not isinstance(jobs, list) or not all(isinstance(job, Mapping) for job in jobs):
        return experiment  # the service says what is wrong with it
    return {**experiment, "jobs": [_changed(job, overrides) for job in jobs]}


def _changed(job: Mapping[str, Any], overrides: Mapping[str, Any]) -> Json:
    own = job.get("config_overrides") or {}
    if not isinstance(own, Mapping):
        return dict(job)
    if twice := own.keys() & overrides.keys():
        raise OptionInvalid("--set", f"{min(twice)} is set by a job of the file, too")
    return {**job, "config_overrides": {**own, **overrides}}
