"""Reads an experiment: a TOML file, or the content of one, with the files of its jobs' configs put in their places."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptjobs.sdk.config_files import read_config

ExperimentSource = Mapping[str, Any] | Path | str
"""An experiment as it is sent, or the path of its TOML file. The `config` of a job may be the path of a TOML file."""


def experiment_of(source: ExperimentSource) -> dict[str, Any]:
    """What is sent. Paths of configs are relative to the experiment's file; in a mapping, to the working directory.

    Raises ConfigFileInvalid, which names the file at fault.
    """
    if isinstance(source, Mapping):
        return _whole(source, Path())
    path = Path(source)
    return _whole(read_config(path), path.parent)


def _whole(experiment: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What is no list of jobs is left for the service to refuse, which says what is wrong with it."""
    jobs = experiment.get("jobs")
    if not isinstance(jobs, list | tuple):
        return dict(experiment)
    configs: dict[Path, dict[str, Any]] = {}
    return {**experiment, "jobs": [_with_config(job, folder, configs) for job in jobs]}


def _with_config(job: Any, folder: Path, configs: dict[Path, dict[str, Any]]) -> Any:
    """configs: what has been read, since many jobs may name one file."""
    named = job.get("config") if isinstance(job, Mapping) else None
    if not isinstance(named, str | Path):
        return job
    path = folder / named
    if path not in configs:
        configs[path] = read_config(path)
    return {**job, "config": configs[path]}
