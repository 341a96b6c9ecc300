"""What the demo can run: one job, or an experiment of many."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.text import Text

from promptjobs.cli.demo_job import OFFLINE, DemoOptions, calls_planned, demo_config, overrides_of
from promptjobs.cli.experiment_file import with_overrides
from promptjobs.cli.experiment_outcome import follow_experiment, print_experiment_outcome
from promptjobs.cli.outcome import Terminal, follow_job, print_outcome, tell_warnings
from promptjobs.clients.providers import Providers
from promptjobs.sdk.addresses import DEFAULT_URL
from promptjobs.sdk.client import Client
from promptjobs.sdk.config_files import SECTION
from promptjobs.sdk.experiment_files import experiment_of
from promptjobs.sdk.experiment_shapes import EXPERIMENT_TERMINAL_STATUSES, ExperimentResults
from promptjobs.sdk.shapes import TERMINAL_STATUSES, Job, Json
from promptjobs.settings import provider_environment

EXPERIMENT = "experiment_demo.toml"
INTERRUPTED = "the demo was interrupted"


@dataclass(slots=True)
class JobRun:
    """A job of the demo's plan for the algorithm."""

    options: DemoOptions
    terminal: Terminal
    name: str = "job"

    def introduce(self, say: Console) -> None:
        options = self.options
        overrides = overrides_of(options, DEFAULT_URL)
        if options.provider != OFFLINE:
            Providers(provider_environment()).get(options.provider)
        _say_title(say, options.plan.title)
        if options.provider == OFFLINE:
            _say_offline(say, "two")
            return
        writer = options.meta_model or options.model
        say.print(
            Text(
                f"it sends up to {calls_planned(options, overrides)} calls, one ticket each, to {options.model} of "
                f"{options.provider}, and a few dozen to {writer}, which writes prompts; Ctrl-C ends it",
                "yellow",
            ),
            soft_wrap=True,
        )

    def create(self, client: Client, task_app_url: str) -> str:
        config = demo_config(self.options.algorithm)
        job = client.create(config, overrides=overrides_of(self.options, task_app_url))
        tell_warnings(self.terminal, job)
        return job["job_id"]

    def follow(self, client: Client, created_id: str) -> Job:
        return follow_job(self.terminal, client, created_id)

    def cancel(self, client: Client, created_id: str) -> bool:
        return client.cancel(created_id, INTERRUPTED)["status"] in TERMINAL_STATUSES

    def show(self, outcome: Job, url: str, started_by: str | None = None) -> None:
        print_outcome(self.terminal, url, outcome, started_by)


@dataclass(slots=True)
class ExperimentRun:
    """The packaged experiment."""

    terminal: Terminal
    name: str = "experiment"

    def introduce(self, say: Console) -> None:
        experiment = demo_experiment(DEFAULT_URL)
        _say_title(say, f"{experiment['name']}, {experiment['description']}")
        _say_offline(say, "three")

    def create(self, client: Client, task_app_url: str) -> str:
        return client.create_experiment(demo_experiment(task_app_url))["experiment_id"]

    def follow(self, client: Client, created_id: str) -> ExperimentResults:
        return follow_experiment(self.terminal, client, client.experiment(created_id))

    def cancel(self, client: Client, created_id: str) -> bool:
        return client.cancel_experiment(created_id, INTERRUPTED)["status"] in EXPERIMENT_TERMINAL_STATUSES

    def show(self, outcome: ExperimentResults, url: str, started_by: str | None = None) -> None:
        print_experiment_outcome(self.terminal, url, outcome, started_by)


def demo_experiment(task_app_url: str) -> Json:
    """The packaged experiment, with its task app's address; the same files stand among the examples."""
    path = Path(str(files("promptjobs.demo"))) / EXPERIMENT
    return with_overrides(experiment_of(path), {f"{SECTION}.task_app_url": task_app_url})


def _say_title(say: Console, title: str) -> None:
    say.print(Text.assemble(("promptjobs demo", "bold"), f": {title}"), soft_wrap=True)


def _say_offline(say: Console, models: str) -> None:
    said = f"offline: {models} small models on this machine, no key, and nothing leaves it"
    say.print(Text(said, "dim"), soft_wrap=True)
