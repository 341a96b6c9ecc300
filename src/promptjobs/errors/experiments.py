"""What cannot be done with experiments."""

from promptjobs.errors.base import PromptjobsError
from promptjobs.errors.requests import NotFound


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
