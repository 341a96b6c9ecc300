"""What cannot be done with experiments, and with plots."""

from collections.abc import Sequence

from promptjobs.errors.access import RateLimited
from promptjobs.errors.base import PromptjobsError
from promptjobs.errors.requests import InvalidRequest, NotFound


class ExperimentNotFound(NotFound):
    code = "experiment_not_found"

    def __init__(self, experiment_id: str) -> None:
        super().__init__(f"there is no experiment {experiment_id!r}")
        self.experiment_id = experiment_id


class ExperimentConflict(PromptjobsError):
    """The experiment's status does not allow what was asked."""

    status = 409
    code = "experiment_conflict"

    def __init__(self, experiment_id: str, status: str, wanted: str) -> None:
        super().__init__(f"experiment {experiment_id!r} is {status}: it cannot {wanted}")
        self.experiment_id, self.experiment_status, self.wanted = experiment_id, status, wanted


class JobInExperiment(PromptjobsError):
    """A job of an experiment is deleted with the experiment: without it, the experiment's results would be others."""

    status = 409
    code = "job_in_experiment"

    def __init__(self, job_id: str, experiment_id: str) -> None:
        super().__init__(f"job {job_id!r} belongs to experiment {experiment_id!r}, and is deleted with it")
        self.job_id, self.experiment_id = job_id, experiment_id


class PlotsUnavailable(PromptjobsError):
    """The service was installed without what draws its plots."""

    status = 501
    code = "plots_not_installed"

    def __init__(self) -> None:
        super().__init__(
            "this service draws no plots: pip install 'promptjobs[plots]' where it runs, and start it again"
        )


class PlotNotFound(NotFound):
    code = "plot_not_found"

    def __init__(self, plot: str, known: Sequence[str]) -> None:
        super().__init__(f"there is no plot {plot!r}; there are {', '.join(known)}")
        self.plot, self.known = plot, list(known)


class PlotsBusy(RateLimited):
    """So many pictures wait to be drawn that one more is not taken."""

    code = "plots_busy"

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(retry_after_seconds, "plots")


class PlotInterrupted(PromptjobsError):
    """The process that drew a picture has not come to its end."""

    status = 503
    code = "plot_interrupted"

    def __init__(self, cause: str) -> None:
        super().__init__(f"the plot could not be drawn: {cause}; try again")
        self.cause = cause


class PlotDefect(PromptjobsError):
    """What draws pictures has failed of something that is its own; `trace` says where."""

    code = "plot_defect"

    def __init__(self, trace: str) -> None:
        super().__init__("the plot could not be drawn, for a defect; the server's log says more")
        self.trace = trace


class OverrideIneffective(InvalidRequest):
    """A job would run as if one of its overrides were not there; path: of the override, dotted. position: from 1."""

    code = "override_ineffective"

    def __init__(self, path: str, why: str, param: str, position: int, label: str) -> None:
        super().__init__(f"job {position} ({label!r}): {param} would have no effect: {why}")
        self.param, self.path, self.why, self.position, self.label = param, path, why, position, label
